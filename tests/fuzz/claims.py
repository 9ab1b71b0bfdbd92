"""What must hold for every request body and every answer, whoever made it: the claims that the fuzzers try to break.

Each raises AssertionError when it is broken.
"""

from __future__ import annotations

import json

from authz.request import ReadRequest, read_request
from gateway.asked import OUTPUT_TOKENS_MAX, USAGE_ON_REQUEST
from gateway.errors import Code, Denied
from gateway.grant import Grant
from gateway.surfaces import Surface
from meter.rewrite import rewrite
from tests.fuzz.go_json import GoRefuses
from tests.fuzz.ollama_reading import Understood, identity, understand
from tests.meter.wire_corpus import grant_for

NUM_PREDICT_MAX = 4096

# What the gateway writes or takes out itself.
_GRANTED = {"model", "stream", "stream_options", "options", "max_tokens", "max_completion_tokens", "max_output_tokens"}
_RUNNER = {"keep_alive", "shift", "_debug_render_only"}


def check_request(surface: Surface, body: bytes, *, runner_options: bool = False) -> bool:
    """One body, from the strict reader over the rewriter to Ollama. Returns whether it was admitted."""
    try:
        read = read_request(surface, body, "")
    except Denied as refused:
        assert refused.code is Code.INVALID_REQUEST
        assert refused.message.isprintable()
        return False
    _check_original(surface, body, read)
    grant = _grant(surface, read, runner_options=runner_options)
    rewritten = rewrite(body, grant)
    _check_rewritten(surface, rewritten.body, grant)
    _check_kept(read, json.loads(rewritten.body), runner_options=runner_options)
    again = read_request(surface, rewritten.body, "")
    assert (again.model, again.asked.stream) == (read.model, read.asked.stream)
    assert rewrite(rewritten.body, grant).body == rewritten.body
    return True


def _grant(surface: Surface, read: ReadRequest, *, runner_options: bool) -> Grant:
    cap = min(read.asked.output_tokens or NUM_PREDICT_MAX, NUM_PREDICT_MAX) if surface.cap_field else 0
    return grant_for(
        surface, model=read.model, stream=read.asked.stream, strip_usage=not read.asked.usage,
        runner_options=runner_options, output_cap=cap,
    )  # fmt: skip


def _understood(surface: Surface, body: bytes) -> Understood | None:
    try:
        return understand(surface, body)
    except GoRefuses:
        return None


def _check_original(surface: Surface, body: bytes, read: ReadRequest) -> None:
    """What was judged is what Ollama would have read in the caller's own bytes."""
    asked = read.asked.output_tokens
    assert asked is None or 0 < asked <= OUTPUT_TOKENS_MAX
    original = _understood(surface, body)
    if original is None:
        return
    assert identity(original.model) == identity(read.model)
    assert original.stream is read.asked.stream
    assert not original.searches
    if original.output_cap and original.output_cap <= OUTPUT_TOKENS_MAX:
        assert asked is not None
        assert asked <= original.output_cap
    if original.stream and surface.name in USAGE_ON_REQUEST:
        assert original.include_usage is read.asked.usage


def _check_rewritten(surface: Surface, body: bytes, grant: Grant) -> None:
    """What Ollama reads in the new body is what was granted, to the letter."""
    sent = _understood(surface, body)
    if sent is None:
        return
    assert sent.model == grant.model
    assert sent.stream is grant.stream
    assert sent.output_cap == grant.output_cap
    assert not sent.searches
    assert sent.include_usage or not (grant.stream and surface.name in USAGE_ON_REQUEST)
    assert grant.runner_options or not sent.runner


def _check_kept(read: ReadRequest, sent: dict[str, object], *, runner_options: bool) -> None:
    """Nothing else was touched: same fields, same values, same order."""
    ours = _GRANTED if runner_options else _GRANTED | _RUNNER
    before = [(name, value) for name, value in read.document.items() if name not in ours]
    after = [(name, value) for name, value in sent.items() if name not in ours]
    assert repr(before) == repr(after)
