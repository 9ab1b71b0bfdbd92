"""The recorded answers of a real Ollama, and the comparison of an answer with one of them."""
