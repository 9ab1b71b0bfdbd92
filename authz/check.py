"""The pipeline of one request through authz, in order: key, endpoint, body, policy, quota.

Both edges use it: Envoy's checks call `check`, the catalog pages call `identify` and `deny`. This is the one place
where an error becomes a denial.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from authz import policy
from authz.admit import Admitted, Admitter, Denial, retry_headers
from authz.catalog.view import CatalogView
from authz.checked_request import CheckedRequest
from authz.denials import DenialLog
from authz.keys.authenticate import Authenticator, PresentedKey
from authz.keys.last_used import LastUsed
from authz.keys.refusal import KeyRefused
from authz.keys.throttle import FailureThrottle
from authz.metrics import CHECK_SECONDS, count_request
from authz.request import ReadRequest, read_request
from gateway.catalog.snapshot import Catalog
from gateway.errors import STATUS, Code, Denied, StoreUnavailable
from gateway.record.caller import Caller
from gateway.record.request import RequestRecord
from gateway.values import Principal, Refusal
from gateway.wire.management import blocked_sentence
from gateway.wire.surfaces import BY_PATH, Surface
from gateway.wire.timeouts import CHECK_TIMEOUT_S

log = structlog.get_logger()

# At most this many verifications outlive their caller. It is far above the number of keys that may wait for hashing
# (`authz.keys.hashing`); the rest fails there.
DETACHED_MAX = 1000


class CheckPipeline:
    """The steps of a check and what they need.

    `body_bytes_ceiling` bounds the limits of tenants and keys. `model_refusal_status` is the status of
    model_not_allowed. `timeout_s` is the deadline of a check. `detached_max` bounds the verifications that outlive
    their caller.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        throttle: FailureThrottle,
        last_used: LastUsed,
        catalog: CatalogView,
        admitter: Admitter,
        denials: DenialLog,
        *,
        prefer_loaded: bool,
        body_bytes_ceiling: int = 32 * 1024 * 1024,
        model_refusal_status: int = STATUS[Code.MODEL_NOT_ALLOWED],
        timeout_s: float = CHECK_TIMEOUT_S,
        detached_max: int = DETACHED_MAX,
    ) -> None:
        self._authenticator = authenticator
        self._throttle = throttle
        self._last_used = last_used
        self._catalog = catalog
        self._admitter = admitter
        self._denials = denials
        self._prefer_loaded = prefer_loaded
        self._body_bytes_ceiling = body_bytes_ceiling
        self._model_refusal_status = model_refusal_status
        self._timeout_s = timeout_s
        self._detached_max = detached_max
        self._detached: set[asyncio.Task[Principal]] = set()

    async def check(self, checked: CheckedRequest) -> Admitted | Denial:
        """Decides on one request from Envoy. Never raises for anything that a caller or a store does."""
        started_s = time.perf_counter()
        principal: Principal | None = None
        surface: Surface | None = None
        read: ReadRequest | None = None
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                principal = await self.identify(checked)
                if checked.is_head:
                    self.check_size(principal, checked.announced_bytes)
                    return Admitted.unconditionally(Caller.of(checked.record(principal)).to_json())
                surface = _surface_of(checked)
                self.check_size(principal, checked.body.size_bytes)
                read = read_request(surface, checked.body.take(), checked.content_encoding)
                permission = policy.decide(
                    principal, surface, read.model, self.catalog(), prefer_loaded=self._prefer_loaded
                )
                policy.check_runner_options(permission, read.decisive_option)
                record = checked.record(principal, surface, read)
                decision = await self._admitter.admit(record, principal, permission, surface, read, deadline)
                _raise_if_past(deadline)
        except (Denied, StoreUnavailable, TimeoutError) as error:
            decision = Denial(as_denied(error))
            principal = principal or _owner_of(error)
        CHECK_SECONDS.observe(time.perf_counter() - started_s - (decision.queued_ms or 0) / 1000)
        if isinstance(decision, Admitted):
            count_request(checked.path, None)
            return decision
        request = checked.record(principal, surface, read)
        denied = await self._recorded(request, decision.denied, decision.queued_ms)
        count_request(checked.path, denied.code)
        return Denial(denied, {**decision.headers, **retry_headers(denied)}, decision.queued_ms, request)

    async def identify(self, checked: CheckedRequest) -> Principal:
        """The principal of the presented credential. Raises Denied or StoreUnavailable.

        A request without a credential is not counted as a failed attempt of its address. An address that failed too
        often is denied before its key costs any work, unless this process has verified the key before.
        """
        if checked.credential is None:
            raise KeyRefused(Refusal.MISSING)
        presented = self._authenticator.look_up(checked.credential)
        if presented.verified is None:
            await self._throttle.check(checked.client_ip)
            principal = await self._authenticate_detached(presented, checked.client_ip)
        else:
            principal = await self._authenticate(presented, checked.client_ip)
        self._last_used.note(principal.key_prefix)
        return principal

    def body_bytes_max(self, principal: Principal) -> int:
        """The most bytes of a body that the key may send."""
        return min(principal.sizes.body_bytes, self._body_bytes_ceiling)

    def check_size(self, principal: Principal, body_bytes: int) -> None:
        """Raises Denied(request_too_large), with both numbers, for a body that is too large for its key."""
        maximum = self.body_bytes_max(principal)
        if body_bytes > maximum:
            raise Denied(
                Code.REQUEST_TOO_LARGE,
                f"the body of the request has {body_bytes} bytes, and this key may send at most {maximum}",
            )

    def catalog(self) -> Catalog:
        """The models that the backends host now. Raises StoreUnavailable when that is not known."""
        return self._catalog.current()

    async def deny(self, checked: CheckedRequest, principal: Principal | None, error: Exception) -> Denied:
        """Records that `checked`, of `principal` if that is known, failed with `error`; returns the answer."""
        denied = await self._recorded(checked.record(principal or _owner_of(error)), as_denied(error))
        count_request(checked.path, denied.code, is_page=True)
        return denied

    async def _recorded(self, record: RequestRecord, denied: Denied, queued_ms: int | None = None) -> Denied:
        """The answer once its row is on its way: `denied`, or audit_backlog when the backlog has no capacity for it.

        MODEL_REFUSAL_STATUS applies here, so that header, body and row have the same status.
        """
        if denied.code is Code.MODEL_NOT_ALLOWED:
            denied.status = self._model_refusal_status
        # A line for each wrong guess would let anybody without a key fill the log.
        if record.tenant_id is not None and denied.reason is not None:
            log.info(
                "key_refused",
                reason=denied.reason,
                tenant=record.tenant,
                key_prefix=record.key_prefix,
                request_id=record.request_id,
            )
        if await self._denials.record(record, denied, queued_ms):
            return denied
        return Denied(Code.AUDIT_BACKLOG)

    async def _authenticate_detached(self, presented: PresentedKey, client_ip: str) -> Principal:
        """A wrong key counts as a failure even if the caller disconnects or times out before Argon2 finishes.

        There is one task per caller, because each caller's failure counts. The Authenticator shares the verification
        itself between callers with the same key.
        """
        if len(self._detached) >= self._detached_max:
            return await self._authenticate(presented, client_ip)
        task = asyncio.create_task(self._authenticate(presented, client_ip), name="authentication")
        self._detached.add(task)
        task.add_done_callback(self._on_detached_done)
        return await asyncio.shield(task)

    async def _authenticate(self, presented: PresentedKey, client_ip: str) -> Principal:
        try:
            return await self._authenticator.authenticate(presented)
        except Denied:
            await self._throttle.count(client_ip)
            raise

    def _on_detached_done(self, task: asyncio.Task[Principal]) -> None:
        self._detached.discard(task)
        if not task.cancelled():
            task.exception()  # Retrieved here too, in case the caller has disconnected.


def as_denied(error: Exception) -> Denied:
    """The denial that `error` stands for. Anything but a denial is a missing dependency, never the caller's fault.

    It has no traceback. The frames of a traceback refer to the denial and to the body of the request, and would retain
    both until a garbage collection.
    """
    if isinstance(error, Denied):
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return error
    log.warning("unavailable", reason=str(error) or type(error).__name__)
    return Denied(Code.UNAVAILABLE)


def _owner_of(error: Exception) -> Principal | None:
    """The owner of a key that was refused although its secret matched."""
    return error.owner if isinstance(error, KeyRefused) else None


def _surface_of(checked: CheckedRequest) -> Surface:
    surface = BY_PATH.get(checked.path)
    if surface is None or checked.method != "POST":
        raise Denied(Code.ENDPOINT_BLOCKED, blocked_sentence(checked.path))
    return surface


def _raise_if_past(deadline: asyncio.Timeout) -> None:
    """Raises TimeoutError for a decision that a busy event loop delivers too late, when Envoy may have given up.

    The entry of the denial then voids the hold. If that entry is lost too, the hold expires.
    """
    when = deadline.when()
    if when is not None and asyncio.get_running_loop().time() >= when:
        raise TimeoutError
