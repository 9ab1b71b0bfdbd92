"""Facts about this machine: env files, server binaries, probes of listening servers, the gateway's public address."""
