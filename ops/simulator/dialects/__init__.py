"""The wire formats: how each surface reads a request body and writes frames, documents and errors. No I/O."""
