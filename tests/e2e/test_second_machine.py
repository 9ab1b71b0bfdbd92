"""Two Envoys, each with its own control, over the same stores. The second one reaches its workers by mutual TLS.

The last two tests stop parts of the second machine permanently.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from envoy.service.ext_proc.v3 import external_processor_pb2, external_processor_pb2_grpc

from gateway.wire.names import AUTHZ_TLS_NAME, METER_TLS_NAME
from tests.e2e.ledger_view import audit_row
from tests.e2e.second_machine import SecondMachine, make_certificates, second_machine
from tests.e2e.stack import Simulator, Stack
from tests.polling import eventually

MODEL = "llama3.2:latest"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": False}
GRPC_PORTS = ("authz_grpc", "meter_grpc")
TLS_PORTS = (*GRPC_PORTS, "authz_http")


@pytest.fixture(scope="module")
def second(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondMachine]:
    with second_machine(stack, tmp_path_factory.mktemp("second")) as running:
        yield running


def chat(url: str, key: str) -> httpx.Response:
    return httpx.post(f"{url}/api/chat", json=CHAT, headers={"Authorization": f"Bearer {key}"}, timeout=30)


def grpc_code(second: SecondMachine, port: str, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """The status of a call to the service with these credentials, or over plain text with None."""
    target, name = f"127.0.0.1:{second.ports[port]}", AUTHZ_TLS_NAME if port == "authz_grpc" else METER_TLS_NAME
    options = [("grpc.ssl_target_name_override", name)]
    channel = grpc.secure_channel(target, credentials, options) if credentials else grpc.insecure_channel(target)
    with channel:
        try:
            if port == "authz_grpc":
                external_auth_pb2_grpc.AuthorizationStub(channel).Check(external_auth_pb2.CheckRequest(), timeout=10)
            else:
                message = external_processor_pb2.ProcessingRequest()
                list(external_processor_pb2_grpc.ExternalProcessorStub(channel).Process(iter([message]), timeout=10))
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def credentials(directory: Path, holder: str | None) -> grpc.ChannelCredentials:
    """Credentials with the client certificate of `holder`, None for no client certificate."""
    ca = (directory / "ca.crt").read_bytes()
    if holder is None:
        return grpc.ssl_channel_credentials(ca)
    key, cert = ((directory / f"{holder}.{end}").read_bytes() for end in ("key", "crt"))
    return grpc.ssl_channel_credentials(ca, key, cert)


def http_context(directory: Path, holder: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=directory / "ca.crt")
    if holder is not None:
        context.load_cert_chain(directory / f"{holder}.crt", directory / f"{holder}.key")
    return context


def health_status(second: SecondMachine, context: ssl.SSLContext) -> int:
    url = f"https://127.0.0.1:{second.ports['authz_http']}/healthz"
    with httpx.Client(verify=context) as client:
        return client.get(url, extensions={"sni_hostname": AUTHZ_TLS_NAME}).status_code


def server_certificate(second: SecondMachine, port: str) -> bytes:
    """The certificate that a server presents before it verifies the client, in DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"] if port in GRPC_PORTS else ["http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", second.ports[port]), timeout=10) as plain,
        context.wrap_socket(plain) as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""


def test_both_envoys_serve_requests_and_list_the_same_models(stack: Stack, second: SecondMachine, key: str) -> None:
    for url in (stack.url, second.url()):
        answer = chat(url, key)
        assert answer.status_code == 200
        assert audit_row(stack, answer.headers["x-request-id"])["outcome"] == "complete"

    def models(url: str) -> Any:
        return httpx.get(f"{url}/api/tags", headers={"Authorization": f"Bearer {key}"}).json()["models"]

    assert models(second.url()) == models(stack.url) != []


@pytest.mark.parametrize("port", GRPC_PORTS)
def test_a_grpc_service_accepts_only_the_certificate_of_envoy(second: SecondMachine, port: str, tmp_path: Path) -> None:
    make_certificates(foreign := tmp_path / "foreign")
    own = second.certificates
    assert grpc_code(second, port, credentials(own, "envoy")) is not grpc.StatusCode.UNAVAILABLE
    forged = grpc.ssl_channel_credentials(
        (own / "ca.crt").read_bytes(), (foreign / "envoy.key").read_bytes(), (foreign / "envoy.crt").read_bytes()
    )
    for refused in (None, credentials(own, None), credentials(own, "meter"), forged):
        assert grpc_code(second, port, refused) is grpc.StatusCode.UNAVAILABLE


def test_the_catalog_accepts_only_the_certificate_of_envoy(second: SecondMachine, tmp_path: Path) -> None:
    make_certificates(foreign := tmp_path / "foreign")
    assert health_status(second, http_context(second.certificates, "envoy")) == 200
    forged = http_context(second.certificates, None)
    forged.load_cert_chain(foreign / "envoy.crt", foreign / "envoy.key")
    for refused in (http_context(second.certificates, None), http_context(second.certificates, "authz"), forged):
        with pytest.raises(httpx.TransportError):
            health_status(second, refused)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{second.url('authz_http')}/healthz")


def test_renewed_certificates_are_loaded_while_requests_are_served(second: SecondMachine, key: str) -> None:
    before = {port: server_certificate(second, port) for port in TLS_PORTS}
    before_envoy = httpx.get(f"{second.url('admin')}/certs").json()["certificates"]
    make_certificates(second.certificates)
    for port in TLS_PORTS:
        file = second.certificates / f"{port.partition('_')[0]}.crt"
        renewed = ssl.PEM_cert_to_DER_cert(file.read_text())
        eventually(lambda port=port, renewed=renewed: server_certificate(second, port) == renewed)  # type: ignore[misc]
        assert renewed != before[port]
        assert chat(second.url(), key).status_code == 200
    eventually(lambda: httpx.get(f"{second.url('admin')}/certs").json()["certificates"] != before_envoy)
    assert chat(second.url(), key).status_code == 200


def test_the_config_dump_does_not_contain_the_private_key(second: SecondMachine) -> None:
    dump = httpx.get(f"{second.url('admin')}/config_dump").text
    assert "service-certificate" in dump
    secret = (second.certificates / "envoy.key").read_text().splitlines()[1]
    assert secret not in dump


def test_two_controls_settle_a_lost_request_once(
    stack: Stack, second: SecondMachine, ollama: Simulator, key: str
) -> None:
    ollama.behave(tokens_per_s=5)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Write a long story."}]}
    meter = second.processes["meter"]
    with httpx.stream(
        "POST", f"{second.url()}/api/chat", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=30
    ) as answer:
        # httpx closes the connection when the iterator is collected, and the meter must not see the caller leave.
        lines = answer.iter_lines()
        next(lines)
        os.kill(meter.pid, signal.SIGKILL)
        meter.wait(10)
    row = audit_row(stack, answer.headers["x-request-id"])
    assert row["outcome"] == "lost"
    assert row["input_tokens"] + row["output_tokens"] <= row["reserved_tokens"]


def test_an_envoy_keeps_serving_without_its_control(stack: Stack, second: SecondMachine, key: str) -> None:
    second.processes["control"].kill()
    second.processes["control"].wait(10)
    assert not second.is_ok("control", "/healthz")
    listing = httpx.get(f"{second.url()}/api/tags", headers={"Authorization": f"Bearer {key}"})
    assert listing.status_code == 200
    assert chat(stack.url, key).status_code == 200
