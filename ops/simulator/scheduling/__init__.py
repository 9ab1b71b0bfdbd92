"""When a request gets a model: loads and unloads, the slots of a loaded model and the line in front of them."""
