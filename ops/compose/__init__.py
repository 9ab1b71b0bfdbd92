"""The parts of compose.yaml that are not images: secrets and settings of the services, and scripts that run in them."""
