"""How long `authz` may act on a snapshot that `control` has replaced: the times that both of them rely on."""

from __future__ import annotations

# Seconds between two reads of the published snapshot. Redis announces each change, but the message can get lost.
POLL_S = 1.0
# Seconds that a check may take. Envoy waits 5 s (envoy/listener.yaml); a request admitted later than that would leave a
# hold that is never used.
CHECK_TIMEOUT_S = 4.0
