import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from ops.simulator.app import SimulatorOptions, run_simulator
from ops.simulator.control.behaviour import Behaviour, Fault
from tests.ops.simulator.raw_http import Reply, call, exchange

CORPUS = sorted((Path(__file__).parents[2] / "corpus" / "ollama").glob("*.txt"))
# Objects whose keys are data.
DATA_FIELDS = {"arguments", "input", "model_info"}


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.stem)
async def test_the_response_has_the_shape_of_the_transcript(file: Path) -> None:
    request, expected = _read(file)
    thinks = any(word in expected.body for word in (b'"thinking":"', b'"reasoning":"', b'"rs_'))
    extra = [*(["thinking"] if thinks else []), *(["embedding"] if "embed" in file.stem else [])]
    models: list[str | dict[str, Any]] = [
        {"name": "llama3.2", "capabilities": ["completion", "tools", *extra]},
        "gemma3n",
        "from-query",
    ]
    async with run_simulator(SimulatorOptions(port=0, behaviour=_behaviour(file.stem))) as server:
        server.simulator.library.replace_all(models)
        if file.stem == "api_ps":
            await call(server.url, "/api/chat", {"model": "llama3.2"})
        reply = await exchange(server.url, request)
    assert reply.status == expected.status
    # The vectors of the transcripts are short enough for a length, and those of the simulator are not.
    framing = () if "embed" in file.stem else ("transfer-encoding",)
    for name in ("content-type", "cache-control", "allow", *framing):
        assert reply.headers.get(name) == expected.headers.get(name), name
    assert _outline(reply.body) == _outline(expected.body)
    if reply.chunks is not None:
        # The frames after the last one with text are one flush on some surfaces, which the recordings show.
        assert set(itertools.accumulate(map(len, reply.chunks))) <= set(
            itertools.accumulate(map(len, _frames(reply.body)))
        ), "a flush ends at the end of a frame"


def _behaviour(name: str) -> Behaviour:
    behaviour = Behaviour(answer_tokens=12, tool_calls="own_frame")
    if name.endswith(("on_done_frame", "native_done")):
        behaviour.tool_calls = "done_frame"
    if name.endswith("cloud_disabled"):
        behaviour.cloud = "disabled"
    positions = {"repeat_limit": ("repeat_guard", 8), "midstream": ("error", 8), "before_first_token": ("error", None)}
    for suffix, (kind, after_frames) in positions.items():
        if name.endswith(suffix):
            behaviour.faults = [Fault.model_validate({"kind": kind, "after_frames": after_frames})]
    if "_503" in name:
        behaviour.faults = [Fault(kind="status", status=503)]
    return behaviour


def _read(file: Path) -> tuple[bytes, Reply]:
    """The request of a transcript, ready to send, and its response."""
    text = file.read_bytes()
    request, _, response = text.partition(b"=== RESPONSE HEAD\n")
    head, _, body = request.removeprefix(b"=== REQUEST\n").replace(b"\r\n", b"\n").partition(b"\n\n")
    body = body.rstrip(b"\n") if b"--BB" not in body else body
    if "tool" in file.stem:
        body = body.replace(b"Say hello", b"Use get_weather please")
    if "length" in file.stem or "repeat_limit" in file.stem or "midstream" in file.stem:
        body = body.replace(b'"max_tokens":64', b'"max_tokens":999')
    lines = [line for line in head.split(b"\n") if line and not line.lower().startswith((b"content-length", b"host"))]
    lines += [b"Host: localhost", b"Connection: close", b"Content-Length: %d" % len(body)]
    response_head, _, rest = response.replace(b"\r\n", b"\n").partition(b"\n\n")
    status, *fields = response_head.decode().split("\n")
    headers = {name.lower(): value.strip() for name, value in (field.split(":", 1) for field in fields)}
    content = rest.partition(b"\n")[2]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body, Reply(int(status.split()[1]), headers, content, None, False)


def _frames(body: bytes) -> list[bytes]:
    if body.startswith((b"data:", b"event:")):
        return [part + b"\n\n" for part in body.split(b"\n\n") if part]
    return body.splitlines(keepends=True)


def _outline(body: bytes) -> list[Any]:
    """The frames reduced to their keys in order and the types of their values. Runs of equal frames count once."""
    outline: list[Any] = []
    for frame in _frames(body):
        lines = frame.decode().strip().split("\n")
        event = next((line for line in lines if line.startswith("event:")), "")
        data = lines[-1].removeprefix("data: ")
        shape = (event, _shape(json.loads(data)) if data.startswith("{") else data)
        if not outline or outline[-1] != shape:
            outline.append(shape)
    return outline


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return [(key, "…" if key in DATA_FIELDS else _shape(item)) for key, item in value.items() if key != "system"]
    if isinstance(value, list):
        return ["list", *(_shape(item) for item in value[:1])]
    if isinstance(value, bool) or value is None:
        return value
    return type(value).__name__ if isinstance(value, str) else "number"
