"""The parts of a request that both authz and the meter read. Pure."""
