"""The Ollama backends as operators manage them: the list in the env file, probes, CA files and findings."""
