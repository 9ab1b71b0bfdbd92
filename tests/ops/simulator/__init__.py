"""The simulated Ollama against the real one's transcripts, the real clients, and its own promises."""
