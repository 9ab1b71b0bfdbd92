"""The models of a simulated Ollama: their names, which of them are installed or loaded, and how listings show them."""
