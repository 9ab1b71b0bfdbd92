"""What Envoy reads and answers: its clusters, files and local replies, its admin interface, the hold filter."""
