"""The models that the backends host: the snapshot that `control` publishes, and its store in Redis."""
