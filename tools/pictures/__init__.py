"""Takes the pictures of the documentation from the running product."""
