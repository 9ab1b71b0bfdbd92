"""The simulated Ollama against transcripts of the real one, the official clients, and its own specification."""
