"""Draws the Grafana dashboard of ops/grafana as a picture, from a running gateway and a real Prometheus."""
