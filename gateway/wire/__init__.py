"""What callers and Envoy see: surfaces, error dialects and header names. Pure."""
