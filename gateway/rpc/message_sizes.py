"""The largest messages between Envoy and the services, in bytes."""

from __future__ import annotations

# The allowance for headers and metadata in a message that carries a whole body.
MESSAGE_OVERHEAD_BYTES = 1 << 20
# The largest JSON answer that Envoy holds (`$HELD_BYTES_MAX` of envoy/hold_response.wat; a test compares them).
HELD_BYTES_MAX = 16 << 20
# Such an answer comes in one message, together with the read of at most 1 MiB that made it outgrow the limit.
ANSWER_BYTES_MAX = HELD_BYTES_MAX + (2 << 20)
# The headers of a call, which nghttp2 limits to as many by default. A grant is one of them.
HEADER_BYTES_MAX = 64 << 10
