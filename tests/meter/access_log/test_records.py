"""Envoy's access log records, read as causes of disconnects and as entries of Envoy's own denials."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2

from gateway.record.caller import CALLER_KEY, Caller
from gateway.record.entry import Entry
from gateway.record.grant import METADATA_NAMESPACE
from gateway.values import Outcome
from meter.access_log.records import DownstreamClosed, StreamReset, read

LOOPBACK = (ip_network("127.0.0.0/8"),)


def record(details: str, status: int = 200, path: str = "/api/chat") -> accesslog_pb2.HTTPAccessLogEntry:
    """The record of one request."""
    made = accesslog_pb2.HTTPAccessLogEntry()
    made.request.request_id = "broken"
    made.request.path = path
    made.request.user_agent = "curl/8"
    made.request.forwarded_for = "203.0.113.9"
    made.request.request_body_bytes = 74
    made.response.response_code_details = details
    made.response.response_code.value = status
    made.common_properties.start_time.FromMilliseconds(1_763_726_400_000)
    made.common_properties.downstream_direct_remote_address.socket_address.address = "127.0.0.1"
    return made


@pytest.mark.parametrize(
    ("details", "by_upstream"),
    [("upstream_reset_after_response_started{protocol_error}", True), ("downstream_remote_disconnect", False)],
)
def test_a_record_names_the_side_that_disconnected(details: str, by_upstream: bool) -> None:
    assert read(record(details), LOOPBACK) == StreamReset("broken", by_upstream)


def test_a_caller_may_disconnect_before_any_answer() -> None:
    assert read(record("downstream_remote_disconnect", status=0), LOOPBACK) == DownstreamClosed("broken")


def test_a_record_without_an_id_is_ignored() -> None:
    nameless = record("ext_authz_error", 503)
    nameless.request.request_id = ""
    assert read(nameless, LOOPBACK) is None


@pytest.mark.parametrize(
    ("details", "status", "code"),
    [
        ("ext_authz_error", 503, "unavailable"),
        ("request_payload_too_large", 413, "request_too_large"),
        ("request_overall_timeout", 408, "request_timeout"),
    ],
)
@pytest.mark.parametrize("target", ["/v1/chat/completions?x=1", "/v1/chat/completions/", "/v1/chat/completions/?x=1"])
def test_a_denial_by_envoy_itself_has_an_entry(details: str, status: int, code: str, target: str) -> None:
    denied = read(record(details, status, target), LOOPBACK)
    assert isinstance(denied, Entry)
    assert (denied.outcome, denied.status, denied.code) == (Outcome.DENIED, status, code)
    assert (denied.path, denied.client_ip, denied.ts_ms) == (
        "/v1/chat/completions",
        "203.0.113.9",
        1_763_726_400_000,
    )
    assert Entry.from_json(denied.to_json()) == denied


@pytest.mark.parametrize(
    ("details", "status", "tenant"),
    [
        ("request_payload_too_large", 413, "acme"),
        ("request_overall_timeout", 408, "acme"),
        ("ext_authz_error", 503, None),
    ],
)
def test_a_denial_after_the_head_was_accepted_has_its_tenant(details: str, status: int, tenant: str | None) -> None:
    logged = record(details, status)
    caller = Caller(7, "acme", 8, "nz_123456789")
    logged.common_properties.metadata.filter_metadata[METADATA_NAMESPACE][CALLER_KEY] = caller.to_json()
    denied = read(logged, LOOPBACK)
    assert isinstance(denied, Entry)
    assert denied.tenant == tenant
    assert denied.key_prefix == (tenant and "nz_123456789")


@pytest.mark.parametrize("text", ["", "[]", '{"tenants": 1}'])
def test_a_malformed_caller_raises(text: str) -> None:
    logged = record("request_payload_too_large", 413)
    logged.common_properties.metadata.filter_metadata[METADATA_NAMESPACE][CALLER_KEY] = text
    with pytest.raises(ValueError, match=r"not a caller|Expecting value"):
        read(logged, LOOPBACK)


def test_a_path_that_reaches_no_model_has_no_entry() -> None:
    assert read(record("request_payload_too_large", 413, "/api/show"), LOOPBACK) is None


@pytest.mark.parametrize("seconds", [2**62, -(2**62)])
def test_a_malformed_record_raises(seconds: int) -> None:
    malformed = record("ext_authz_error", 503)
    malformed.common_properties.start_time.seconds = seconds
    with pytest.raises(ValueError, match="Timestamp is not valid"):
        read(malformed, LOOPBACK)
