"""What `neuronetz-gateway doctor` looks at: one module for each part of the gateway, every answer a Check."""
