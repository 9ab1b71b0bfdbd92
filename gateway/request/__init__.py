"""What a request contains, as far as both services read it. Pure."""
