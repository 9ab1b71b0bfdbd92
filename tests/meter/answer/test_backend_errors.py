"""Error texts of a failing backend: those that help a caller pass, the internals of the operator never do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import MESSAGE, Code, upstream_code
from gateway.wire.dialects import error_body
from gateway.wire.surfaces import BY_NAME, Dialect
from meter.answer.backend_errors import FAILURE_CHARACTERS_MAX, BackendErrors, caller_status
from meter.frames.readers import load_object
from tests.meter.wire_corpus import grant_for

HOSTS = st.sampled_from(
    [
        "10.0.0.3", "192.168.178.20", "127.0.0.11", "172.17.0.2", "8.8.8.8", "[::1]", "[fe80::1%eth0]", "fe80::1",
        "2001:db8:0:0:1:2:3:4", "2001:db8::17", "::ffff:10.0.0.3", "gpu-host-1.rack2.example.com",
        "ollama.default.svc.cluster.local", "localhost",
    ]
)  # fmt: skip
NAMES = st.sampled_from(["gpu-host-1", "ollama", "OLLAMA-0", "node_7"])
PORTS = st.sampled_from(["11434", "53", "443", "39211"])

# Messages of Go and its libraries, and of a reverse proxy in front of a backend.
ANYWHERE = [
    "{} is down", "{}", "\n{}\n", "\t{}", "({})", "'{}'", "upstream={}", "a,{},b", "{}: EOF", "via {}.",
]  # fmt: skip
SENTENCES = [
    "dial tcp {host}:{port}: connect: connection refused", 'Post "http://{host}:{port}/completion": EOF',
    "lookup {host} on 127.0.0.11:53: no such host", "lookup {host}: no such host",
    "read tcp {host}:{port}: i/o timeout",
    "tls: failed to verify certificate: x509: certificate is valid for {host}, not b", "cannot reach https://{host}/x",
    "ssh://root@{host}/x", "dial unix: {host}", "read from {host}:{port} failed", "//{host}:{port}",
    "{host}:{port}", "could not resolve host: {host}", "connect to {host} port {port}: No route to host",
    "see https://ollama.com/connect?name={host}&key=c3", "getaddrinfo {host}",
]  # fmt: skip
PATHS = [
    "open /root/.ollama/models/blobs/sha256-1: no such file", "dial unix /run/{host}.sock", "exec: /usr/bin/{host}",
    "open C:\\Users\\{host}\\.ollama: denied", "mkdir /data/{host}", "open ~/{host}/x",
]  # fmt: skip

TEXTS = (
    st.builds(lambda form, host: (form.format(host), host), st.sampled_from(ANYWHERE), HOSTS)
    | st.builds(
        lambda form, host, port: (form.format(host=host, port=port), host),
        st.sampled_from(SENTENCES),
        HOSTS | NAMES,
        PORTS,
    )
    | st.builds(lambda form, host: (form.format(host=host), host), st.sampled_from(PATHS), NAMES)
)


def plain(text: str) -> str:
    return text


def inner_json(text: str) -> str:
    """A JSON text within the string, which is how llama-server's own error bodies arrive."""
    return json.dumps({"error": {"code": 500, "message": text}})


def slashed(text: str) -> str:
    return json.dumps(text).replace("/", "\\/")


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in text)


def document_of(dialect: Dialect, text: str, extra: dict[str, Any]) -> dict[str, Any]:
    if dialect is Dialect.NATIVE:
        return {"error": text}
    error = {"type": "api_error", "message": text, **extra}
    return {"error": error} if dialect is Dialect.OPENAI else {"type": "error", "error": error}


SURFACE = {Dialect.NATIVE: "chat", Dialect.OPENAI: "v1_chat", Dialect.ANTHROPIC: "v1_messages"}


def errors_of(dialect: Dialect, *addresses: str, **names: str) -> BackendErrors:
    return BackendErrors(grant_for(BY_NAME[SURFACE[dialect]], backend_addresses=addresses, **names))


def body_for(errors: BackendErrors, dialect: Dialect, status: int, text: str) -> dict[str, Any]:
    data = json.dumps(document_of(dialect, text, {})).encode()
    return dict(json.loads(errors.body(status, load_object(data))))


def message_in(dialect: Dialect, document: dict[str, Any]) -> object:
    return document["error"] if dialect is Dialect.NATIVE else document["error"]["message"]


@pytest.mark.parametrize("dialect", Dialect)
def test_a_long_text_of_a_failing_backend_is_replaced_without_a_search(dialect: Dialect) -> None:
    """Ollama repeats the model's output in some errors, so that a caller can choose this text."""
    text = "a" * 1_000_000
    shown = body_for(errors_of(dialect), dialect, 500, text)
    assert message_in(dialect, shown) == MESSAGE[Code.BACKEND_ERROR]
    assert errors_of(dialect).message(text, document_of(dialect, text, {})) == MESSAGE[Code.BACKEND_ERROR]
    short = "a" * FAILURE_CHARACTERS_MAX
    assert message_in(dialect, body_for(errors_of(dialect), dialect, 500, short)) == short


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("wrap", [plain, inner_json, slashed, escaped])
@given(TEXTS, st.sampled_from([500, 502, 503]), st.booleans())
@example(("error:\n10.0.0.3", "10.0.0.3"), 500, True)
def test_no_address_host_name_path_or_link_of_a_failing_backend_reaches_a_caller(
    dialect: Dialect, wrap: Any, planted: tuple[str, str], status: int, ensure_ascii: bool
) -> None:
    text, host = planted
    errors = errors_of(dialect)
    data = json.dumps(document_of(dialect, wrap(text), {}), ensure_ascii=ensure_ascii).encode()
    code = upstream_code(caller_status(status))
    own = error_body(dialect, code, MESSAGE[code], "req-1", status=status)
    assert errors.body(status, load_object(data)) == own, host
    assert errors.message(wrap(text), load_object(data)) == MESSAGE[Code.BACKEND_ERROR]


# A configured address, and a text that names it or another address.
NAMED = [
    ("10.0.0.3:11434", "10.0.0.3 is down"), ("gpu-host-1:11434", "no answer from GPU-HOST-1."),
    ("gpu.example.com", "GET https://gpu.example.com/api"), ("[2001:db8::17]:11434", "dial [2001:db8::17]:11434"),
    ("ollama:11434", 'Post "http://ollama:11434/x": EOF'), ("ollama:11434", "lookup ollama: no such host"),
    ("ollama:11434", "connect to ollama port 11434"), ("localhost", "dial tcp localhost: refused"),
    ("10.0.0.3:11434", 'Post "http://127.0.0.1:39211/completion": EOF'),
    ("10.0.0.3:11434", "open /root/.ollama/models/blobs/sha256-1: no such file"),
]  # fmt: skip


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("status", [400, 404, 422, 500, 501, 503])
def test_a_configured_address_never_reaches_a_caller_and_the_blanked_body_keeps_the_code_and_type_of_its_status(
    dialect: Dialect, status: int
) -> None:
    code = upstream_code(status)
    blanked = json.loads(error_body(dialect, code, MESSAGE[code], "req-1", status=status))
    wrapped = [(address, wrap(text)) for wrap in (plain, inner_json, slashed, escaped) for address, text in NAMED]
    shown = {
        (address, text): body_for(errors_of(dialect, "b.test", address), dialect, status, text)
        for address, text in wrapped
    }
    assert {case: body for case, body in shown.items() if body != blanked} == {}


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    ("sent", "requested", "text", "shown"),
    [
        (
            "gemma3:270m", "gemma3:270m", "registry.ollama.ai/library/gemma3:270m does not support tools",
            "gemma3:270m does not support tools",
        ),
        ("gemma3:270m", "GEMMA3:270M", "registry.ollama.ai/library/gemma3:270m does not support insert",
         "GEMMA3:270M does not support insert"),
        ("u/m:latest", "u/m", "registry.ollama.ai/u/m:latest does not support vision", "u/m does not support vision"),
        ("nomic-embed-text:latest", "nomic-embed-text", '"nomic-embed-text:latest" does not support chat',
         '"nomic-embed-text" does not support chat'),
        ("hf.co/u/m:q4", "hf.co/u/m:Q4", "hf.co/u/m:q4 does not support tools", "hf.co/u/m:Q4 does not support tools"),
        ("qwen2.5:72", "qwen2.5:72", "qwen2.5:72 does not support thinking", "qwen2.5:72 does not support thinking"),
        ("m:latest", "m", "the model other/m:latest and m:latest-x are others", None),
    ],
)  # fmt: skip
def test_the_reason_of_a_4xx_passes_with_the_model_as_the_caller_spelled_it(
    dialect: Dialect, sent: str, requested: str, text: str, shown: str | None
) -> None:
    """W1, W6 and W28 of the comparison with the real Ollama."""
    errors = errors_of(dialect, "127.0.0.1:11434", hosted_model=sent, requested_model=requested)
    document = body_for(errors, dialect, 400, text)
    assert message_in(dialect, document) == (shown or text)
    if dialect is Dialect.OPENAI:
        assert document["error"]["code"] == "invalid_request"
    assert errors.message(text, document_of(dialect, text, {})) == (shown or text)


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    "text",
    [
        "unsupported image http://192.168.1.5:8000/cat.png", "image at https://cdn.example.com/a.b.png is not base64",
        "invalid think value: \"http://\"", "the host ollama has no tool dial", "role 10.0.0.9 is unknown",
        "this model requires a newer version of ollama", "certificate: :3:14: unexpected",
    ],
)  # fmt: skip
def test_a_4xx_may_repeat_any_address_that_is_not_configured(dialect: Dialect, text: str) -> None:
    document = body_for(errors_of(dialect, "10.0.0.3:11434", "backend:11434"), dialect, 400, text)
    assert message_in(dialect, document) == text


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    ("status", "text"),
    [
        (500, 'template: :3:14: executing "" at <.X>: can\'t evaluate field X'),
        (500, 'template: chat:13:14: function "nosuch" not defined'),
        (500, 'invalid format: "xml"; expected "json" or a valid JSON Schema object'),
        (501, "This server does not support embeddings. Start it with `--embeddings`"),
    ],
)
def test_a_500_and_501_about_the_request_pass_in_the_words_of_ollama(dialect: Dialect, status: int, text: str) -> None:
    document = body_for(errors_of(dialect, "10.0.0.3:11434"), dialect, status, text)
    assert message_in(dialect, document) == text
    if dialect is Dialect.OPENAI:
        assert document["error"]["code"] == upstream_code(status)


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.ANTHROPIC])
@given(TEXTS)
def test_none_in_a_field_next_to_the_message_reaches_a_caller_either(
    dialect: Dialect, planted: tuple[str, str]
) -> None:
    for extra in ({"param": planted[0]}, {planted[0]: 1}, {"details": [{"at": planted[0]}]}):
        data = json.dumps(document_of(dialect, "out of memory", extra)).encode()
        assert b"out of memory" not in errors_of(dialect).body(500, load_object(data))


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    "text",
    [
        "model 'llama3.2:1b' not found", 'model "hf.co/u/m:q4_k_m" not found, try pulling it first',
        "model 'user/my_model:v1.2' not found", '"m:latest" does not support tools', "invalid model name",
        "server busy, please try again.  maximum pending requests exceeded", "invalid options: num_predict",
        "model requires more system memory (5.6 GiB) than is available (3.1 GiB)", "missing request body",
        "json: cannot unmarshal string into Go struct field ChatRequest.messages.content of type int",
        "llama-server: std::bad_alloc", "registry does not support /api/chat", "messages[0].content: 10.5 is too long",
        "think value \"x\" is not supported for this model", "an error was encountered while running the model: EOF",
        "option \"num_ctx\" must be of type integer", "prompt of 12000 tokens exceeds the context length of 4096",
    ],
)  # fmt: skip
def test_a_sentence_that_helps_the_caller_passes(dialect: Dialect, text: str) -> None:
    document = document_of(dialect, text, {})
    data = json.dumps(document).encode()
    passed = json.loads(errors_of(dialect).body(400, load_object(data)))
    if dialect is Dialect.OPENAI:
        document["error"]["code"] = "invalid_request"
    if dialect is Dialect.ANTHROPIC:
        document["request_id"] = "req-1"
    assert passed == document
    assert errors_of(dialect).message(text, load_object(data)) == text


BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("error message type a".split()), inner),
    max_leaves=6,
).map(lambda value: json.dumps(value).encode())


@given(st.sampled_from(list(Dialect)), st.integers(100, 599), BODIES | st.binary(max_size=40))
def test_every_client_gets_the_error_shape_that_it_parses(dialect: Dialect, status: int, body: bytes) -> None:
    """ollama-python needs `error` to be a string, the others an object with a message."""
    assert caller_status(status) >= 400
    error = json.loads(errors_of(dialect).body(status, load_object(body)))["error"]
    assert isinstance(error if dialect is Dialect.NATIVE else error["message"], str)
