"""How tests direct and observe a simulated Ollama: behaviour with faults, records, and the `/_sim/` endpoints."""
