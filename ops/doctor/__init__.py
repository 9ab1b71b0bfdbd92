"""The checks of `neuronetz-gateway doctor`, one module for each part of the gateway. Every result is a Check."""
