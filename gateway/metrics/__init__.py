"""The registry of a process's metrics, and the metrics that several services have. Imports nothing of the kernel.

A service defines its own metrics in its own package, on the same registry. Label values never contain a key, a request
id, a prompt or a secret.
"""
