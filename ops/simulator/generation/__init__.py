"""From a request that a dialect has read to the steps of its answer. Pure: no sockets, no clock, no wire format."""
