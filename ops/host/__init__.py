"""This machine: env files, the binaries of the real servers, probes of what listens here, the public address."""
