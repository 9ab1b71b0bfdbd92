"""The handlers of the routes. Each gets an `Exchange` and writes its response through it."""
