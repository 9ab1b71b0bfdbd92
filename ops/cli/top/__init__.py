"""`top`: what the gateway does now, from the metrics of its services and from its stores."""
