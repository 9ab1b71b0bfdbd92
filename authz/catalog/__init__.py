"""The HTTP side of authz: model lists, model details, health and the playground."""
