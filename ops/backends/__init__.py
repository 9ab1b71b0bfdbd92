"""The Ollama backends as operators handle them: the list in the env file, probes, CA files, findings."""
