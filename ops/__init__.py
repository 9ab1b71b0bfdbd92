"""Operation of the gateway: the command line, the control loop, the embedded stack and the demo."""
