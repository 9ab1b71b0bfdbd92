"""What callers and Envoy see: surfaces, error dialects, header names and timeouts. Pure."""
