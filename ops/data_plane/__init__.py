"""Envoy's configuration: clusters, files, local replies and the hold filter, and the client of its admin interface."""
