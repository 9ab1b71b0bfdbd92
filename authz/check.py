"""The way of a request through authz, once, in order: key, endpoint, scope, body, model, quota.

Both edges come through here: Envoy's checks with `check`, the catalog pages with `identify` and `refuse`. This is the
one place where what went wrong becomes an answer.
"""

from __future__ import annotations

import asyncio

import structlog
from pydantic import SecretStr

from authz.admit import Admitted, Admitter, NotAdmitted, refusal_headers
from authz.catalog.view import CatalogView
from authz.checked_request import CheckedRequest
from authz.denials import DenialContext, Denials
from authz.keys.authenticate import Authenticator
from authz.keys.last_used import LastUsed
from authz.keys.throttle import FailureThrottle
from authz.policy import candidate_backends, check_scope
from authz.request import read_request
from gateway.catalog.snapshot import Catalog
from gateway.catalog.timing import CHECK_TIMEOUT_S
from gateway.errors import Code, Denied, StoreUnavailable
from gateway.values import Principal
from gateway.wire.surfaces import BY_PATH

log = structlog.get_logger()

# Far more than may wait for the hashing of their keys (`authz.keys.hashing`); what goes beyond fails there.
DETACHED_MAX = 1000


class CheckPipeline:
    """The pipeline and what it stands on."""

    def __init__(
        self,
        authenticator: Authenticator,
        throttle: FailureThrottle,
        last_used: LastUsed,
        catalog: CatalogView,
        admitter: Admitter,
        denials: Denials,
        *,
        prefer_loaded: bool,
    ) -> None:
        self._authenticator = authenticator
        self._throttle = throttle
        self._last_used = last_used
        self._catalog = catalog
        self._admitter = admitter
        self._denials = denials
        self._prefer_loaded = prefer_loaded
        self._detached: set[asyncio.Task[Principal]] = set()

    async def check(self, attempt: CheckedRequest) -> Admitted | NotAdmitted:
        """The decision about one request at Envoy's door. Never raises for anything a caller or a store does."""
        known = DenialContext()
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                decision = await self._decide(attempt, known)
        except (Denied, StoreUnavailable, TimeoutError) as error:
            decision = NotAdmitted(as_denial(error))
        if isinstance(decision, Admitted):
            return decision
        denial = await self._denials.record(attempt, known, decision.denial)
        return NotAdmitted(denial, {**decision.headers, **refusal_headers(denial)})

    async def identify(self, attempt: CheckedRequest) -> Principal:
        """Whose key it is. Raises Denied or StoreUnavailable.

        An address that failed too often is refused before its key costs any work, unless this process knows the key.
        """
        if self._authenticator.knows(attempt.key):
            principal = await self._authenticate(attempt.key, attempt.client_ip)
        else:
            await self._throttle.check(attempt.client_ip)
            principal = await self._authenticate_detached(attempt.key, attempt.client_ip)
        self._last_used.note(principal.key_id)
        return principal

    async def _authenticate_detached(self, key: SecretStr | None, client_ip: str) -> Principal:
        """Whoever leaves, or is sent away, before the work for a wrong key is done has failed all the same.

        Past DETACHED_MAX nothing is left behind for those who leave, so that nobody can pile it up.
        """
        if len(self._detached) >= DETACHED_MAX:
            return await self._authenticate(key, client_ip)
        work = asyncio.create_task(self._authenticate(key, client_ip), name="verdict")
        self._detached.add(work)
        work.add_done_callback(self._on_detached_done)
        return await asyncio.shield(work)

    async def _authenticate(self, key: SecretStr | None, client_ip: str) -> Principal:
        try:
            return await self._authenticator.authenticate(key)
        except Denied:
            await self._throttle.count(client_ip)
            raise

    def _on_detached_done(self, work: asyncio.Task[Principal]) -> None:
        self._detached.discard(work)
        if not work.cancelled():
            work.exception()  # Retrieved here too, in case whoever waited has left.

    def catalog(self) -> Catalog:
        """What the backends host now. Raises StoreUnavailable."""
        return self._catalog.current()

    async def refuse(self, attempt: CheckedRequest, error: Exception, principal: Principal | None) -> Denied:
        """Records that `attempt`, of `principal` if that is known, failed with `error`; returns what to answer."""
        return await self._denials.record(attempt, DenialContext(principal), as_denial(error))

    async def _decide(self, attempt: CheckedRequest, known: DenialContext) -> Admitted | NotAdmitted:
        known.principal = principal = await self.identify(attempt)
        surface = BY_PATH.get(attempt.path)
        if surface is None or attempt.method != "POST":
            raise Denied(Code.ENDPOINT_BLOCKED)
        known.surface = surface
        check_scope(principal, surface)
        request = read_request(surface, attempt.body, attempt.content_encoding)
        known.model, known.stream = request.model, request.asked.stream
        attempts = candidate_backends(principal, request.model, self.catalog(), prefer_loaded=self._prefer_loaded)
        return await self._admitter.admit(attempt, principal, surface, request, attempts)


def as_denial(error: Exception) -> Denied:
    """What a caller is told of `error`: a refusal as it is, anything else as a dependency that is missing."""
    if isinstance(error, Denied):
        return error
    log.warning("unavailable", reason=str(error) or type(error).__name__)
    return Denied(Code.UNAVAILABLE)
