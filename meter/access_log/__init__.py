"""Reads Envoy's access log: the denials that Envoy made itself, and the causes of answers that broke off."""
