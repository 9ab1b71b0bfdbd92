"""What the demo and the tests run beside the gateway; nothing here serves production traffic."""
