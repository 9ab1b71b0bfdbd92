"""`make real-ollama`: the recorded requests against a real Ollama, directly and through the gateway."""
