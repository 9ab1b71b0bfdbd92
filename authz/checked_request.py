"""One inbound request as plain values: what the two edges (gRPC and HTTP) pass to the pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from authz.credential import Credential
from authz.keys import key_format
from authz.request import ReadRequest
from gateway.record.request import TEXT_LENGTH_MAX, RequestRecord
from gateway.values import Principal
from gateway.wire.surfaces import Dialect, Surface, dialect_of


class Body:
    """The body of a request until it is read. A request may wait for long afterwards, and does not retain the body."""

    __slots__ = ("_content", "size_bytes")

    def __init__(self, content: bytes = b"") -> None:
        self.size_bytes = len(content)
        self._content = content

    def take(self) -> bytes:
        """Returns the content and retains only its size. Call it once."""
        content, self._content = self._content, b""
        return content


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """`path` is without query and without a slash at its end. `credential` is None when there was none.

    `is_head` means that this is the check of a long request before its body is read; `announced_bytes` is the length of
    the body then, 0 when it was not announced. `header_names` are those of all headers that Envoy sent, in lower case.
    """

    request_id: str
    method: str
    path: str
    credential: Credential | None
    client_ip: str
    user_agent: str
    content_encoding: str
    body: Body
    is_head: bool = False
    announced_bytes: int = 0
    header_names: frozenset[str] = frozenset()

    @property
    def dialect(self) -> Dialect:
        """The dialect in which a denial is written."""
        return dialect_of(self.path)

    @property
    def _presented_prefix(self) -> str | None:
        secret = self.credential.get_secret_value() if isinstance(self.credential, SecretStr) else ""
        return key_format.presented_prefix(secret)

    def record(
        self, principal: Principal | None = None, surface: Surface | None = None, read: ReadRequest | None = None
    ) -> RequestRecord:
        """The record of this request with what is known of it so far. A path that is too long for a row is cut.

        Without a principal, the prefix is the one that was presented, if any.
        """
        return RequestRecord(
            request_id=self.request_id,
            tenant_id=principal.tenant_id if principal else None,
            tenant=principal.tenant if principal else None,
            key_id=principal.key_id if principal else None,
            key_prefix=principal.key_prefix if principal else self._presented_prefix,
            client_ip=self.client_ip,
            user_agent=self.user_agent,
            method=self.method,
            path=self.path[:TEXT_LENGTH_MAX],
            surface=surface.name if surface else None,
            model=read.model if read else None,
            stream=read is not None and read.generation.stream,
            request_bytes=self.announced_bytes if self.is_head else self.body.size_bytes,
        )
