"""Why a key was refused, for the audit row and the log. The caller's answer is the same for every reason."""

from __future__ import annotations

from gateway.errors import Code, Denied
from gateway.values import Principal, Refusal


class KeyRefused(Denied):
    """The denial of every credential that is not a usable key. `owner` is None unless the secret matched.

    Neither the reason nor the owner may influence the answer or the time that it takes.
    """

    def __init__(self, refusal: Refusal, owner: Principal | None = None) -> None:
        super().__init__(Code.INVALID_API_KEY)
        self.reason = str(refusal)
        self.owner = owner
