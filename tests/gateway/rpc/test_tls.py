"""Mutual TLS of both transports: only a peer with a certificate and ALPN reaches the methods."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from gateway.rpc.server import RpcServer
from gateway.service.tls import ServiceTls
from gateway.settings.model import TlsFiles
from tests.certificates import Certificate, self_signed
from tests.gateway.rpc.echo import MESSAGE_BYTES_MAX, TRANSPORTS, Client, Echo
from tests.ports import free_port


@pytest.fixture
def files(tmp_path: Path) -> Certificate:
    return self_signed(tmp_path, "localhost")


@pytest.fixture(params=TRANSPORTS)
async def address(request: pytest.FixtureRequest, files: Certificate) -> AsyncIterator[str]:
    server: RpcServer = TRANSPORTS[request.param](Echo().methods(), MESSAGE_BYTES_MAX)
    listen = f"127.0.0.1:{free_port()}"
    await server.start(listen, ServiceTls(TlsFiles(files.certificate, files.key, files.certificate)))
    yield listen
    await server.stop(0)


async def answer(address: str, credentials: grpc.ChannelCredentials) -> grpc.StatusCode:
    options = [("grpc.ssl_target_name_override", "localhost")]
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        code = await Client(channel).unary("Echo").code()
    assert isinstance(code, grpc.StatusCode)
    return code


async def test_a_peer_with_a_certificate_is_served(address: str, files: Certificate) -> None:
    ca, key = files.certificate.read_bytes(), files.key.read_bytes()
    assert await answer(address, grpc.ssl_channel_credentials(ca, key, ca)) is grpc.StatusCode.OK


async def test_a_peer_without_a_certificate_is_not_served(address: str, files: Certificate, tmp_path: Path) -> None:
    ca = files.certificate.read_bytes()
    assert await answer(address, grpc.ssl_channel_credentials(ca)) is grpc.StatusCode.UNAVAILABLE
    (tmp_path / "other").mkdir()
    other = self_signed(tmp_path / "other", "localhost")
    forged = grpc.ssl_channel_credentials(ca, other.key.read_bytes(), other.certificate.read_bytes())
    assert await answer(address, forged) is grpc.StatusCode.UNAVAILABLE


async def test_a_peer_that_does_not_select_http2_is_disconnected(address: str, files: Certificate) -> None:
    context = ssl.create_default_context(cafile=str(files.certificate))
    context.load_cert_chain(files.certificate, files.key)
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="localhost")
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()


async def test_a_renewed_certificate_is_presented_to_new_connections(address: str, files: Certificate) -> None:
    before = files.certificate.read_bytes(), files.key.read_bytes()
    assert await answer(address, grpc.ssl_channel_credentials(before[0], before[1], before[0])) is grpc.StatusCode.OK
    renewed = self_signed(files.certificate.parent, "localhost")
    after = renewed.certificate.read_bytes(), renewed.key.read_bytes()
    assert await answer(address, grpc.ssl_channel_credentials(after[0], after[1], after[0])) is grpc.StatusCode.OK
