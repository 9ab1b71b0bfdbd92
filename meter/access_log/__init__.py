"""The records that Envoy writes to its access log: refusals of its own, and who ended a broken stream."""
