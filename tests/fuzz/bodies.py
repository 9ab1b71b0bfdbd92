"""Request bodies as Hypothesis strategies: valid ones, and valid ones with modifications.

They are built as text, pair by pair, because a dict cannot hold duplicate names and unusual spellings.
"""

from __future__ import annotations

import json

from hypothesis import strategies as st

from gateway.wire.surfaces import SURFACES, Surface
from tests.fuzz.ollama_parser import STRUCTS

MODELS = st.sampled_from(
    [
        "llama3.2", "LLAMA3.2:Latest", "library/llama3.2", "registry.ollama.ai/library/llama3.2:latest",
        "llama3.2:local", "llama3.2:LATEST:Local", "user/m:t", "hf.co/u/m:Q4_K_M", "my-model-cloud", " llama3.2",
        "llama3.2\n", "\u00a0llama3.2", "llama3.2: local", "https://registry.ollama.ai/library/llama3.2",
        "registry.ollama.ai:443/library/llama3.2", "gpt-oss:20b-cloud", "gpt-oss:20b:CLOUD", "llama3.2:cloud",
        "m:cloud:local", "m:a:b", "a/b/c/d", "x@sha256:00", "\u212aimi", "m\0", "",
    ]
)  # fmt: skip
_SANE = st.sampled_from("0 1 7 64.0 1e2 4096 -1 0.5".split())
_EXTREME = st.sampled_from(
    "-2 2147483647 2147483648 9223372036854775807 9223372036854775808 -9223372036854775808 0.9 -0 -0.5 1e308 1e400 "
    "1e-400 12345678901234567890".split()
)
NUMBERS = _SANE | _SANE | _EXTREME | st.integers(-(2**70), 2**70).map(str)
_ODD = st.sampled_from(["null", "true", "false", "{}", "[]", '""', '"true"', "NaN", "Infinity", "-Infinity", "[null]"])
_STRINGS = st.text(st.characters(codec="utf-8"), max_size=8).map(json.dumps) | st.sampled_from(
    ['"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\/"']
)
_BOOLS = st.sampled_from(["true", "false", "null"])
_RUNNER = "num_ctx num_batch num_gpu main_gpu use_mmap num_thread draft_num_predict NUM_CTX numa use_mlock".split()
_TOOL_TYPES = ["function", "namespace", "web_search", "web_search_20250305", "WEB_SEARCH"]


def _joined(pairs: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{name}:{value}" for name, value in pairs) + "}"


def _spellings(name: str, usual: int = 14) -> list[str]:
    """Spellings of a key: `usual` times the plain one, then others that Go, Python, both or neither accept for it."""
    odd = [name.upper(), name.title(), name.replace("s", "\u017f"), name.replace("k", "\u212a"), name + " "]
    escaped = f'"\\u{ord(name[0]):04x}{name[1:]}"'
    return [json.dumps(name)] * usual + [escaped] * 3 + [json.dumps(key, ensure_ascii=False) for key in odd]


def _named(names: list[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, str]]:
    return st.tuples(st.sampled_from(names).flatmap(lambda name: st.sampled_from(_spellings(name))), values)


_JSON = st.recursive(
    _STRINGS | NUMBERS | _ODD,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ",".join(items) + "]")
        | st.lists(st.tuples(_STRINGS, inner), max_size=3, unique_by=lambda pair: pair[0]).map(_joined)
    ),
    max_leaves=5,
)
_OPTIONS = st.lists(
    _named(["num_predict"], NUMBERS) | _named([*_RUNNER, "temperature", "stop", "seed"], NUMBERS),
    max_size=4,
    unique_by=lambda pair: pair[0].lower(),
).map(_joined)
_TOOLS = st.lists(
    st.tuples(
        st.tuples(st.sampled_from(_spellings("type", usual=7)), st.sampled_from(_TOOL_TYPES).map(json.dumps)),
        _named(["name", "function"], _JSON)
        | _named(["tools"], st.sampled_from(['[{"type":"web_search"}]', '[{"type":"function"}]', "[]"])),
    ).map(lambda pairs: _joined(list(pairs))),
    min_size=1,
    max_size=2,
).map(lambda tools: "[" + ",".join(tools) + "]")
_STREAM_OPTIONS = st.lists(_named(["include_usage"], _BOOLS), max_size=2).map(_joined)
_MESSAGES = st.sampled_from(['[{"role":"user","content":"Hi"}]', '[{"ROLE":"user","content":[]}]', "[]", "null"])
_CAPS = ["max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict"]
_SENSITIVE = {
    "model": MODELS.map(json.dumps),
    "name": MODELS.map(json.dumps),
    "stream": _BOOLS,
    "stream_options": _STREAM_OPTIONS,
    "options": _OPTIONS,
    "tools": _TOOLS,
    "messages": _MESSAGES,
    "keep_alive": st.sampled_from(["0", "-1", '"5m"', "null"]),
    "shift": _BOOLS,
    "_debug_render_only": _BOOLS,
    **dict.fromkeys(_CAPS, NUMBERS),
}


def _pairs_of(surface: Surface) -> st.SearchStrategy[list[tuple[str, str]]]:
    fields = STRUCTS[surface.name].fields
    known = sorted({*fields, *_SENSITIVE})
    pair = st.sampled_from(known).flatmap(lambda name: _named([name], _SENSITIVE.get(name, _JSON) | _ODD))
    # Most values have the right type. Otherwise most bodies would be refused for the same few reasons.
    own = st.sampled_from(sorted(_SENSITIVE.keys() & fields.keys())).flatmap(
        lambda name: st.tuples(st.just(json.dumps(name)), _SENSITIVE[name])
    )
    return st.lists(own | own | pair | st.tuples(_STRINGS, _JSON), max_size=3)


@st.composite
def _body(draw: st.DrawFn, surface: Surface) -> bytes:
    pairs = draw(_pairs_of(surface))
    if draw(st.integers(0, 9)):
        # A body without a model is never admitted, and most bodies should be.
        named = [('"model"', json.dumps(draw(st.sampled_from(["llama3.2", "LLAMA3.2:Latest", "user/m:t"]))))]
        pairs = [pair for pair in pairs if pair[0] != '"model"']
        pairs = pairs + named if draw(st.booleans()) else named + pairs
    pairs = list({name: (name, value) for name, value in pairs}.values())
    if not draw(st.integers(0, 3)):
        again = draw(st.sampled_from(pairs or [('"stream"', "true")]))[0]
        pairs.append((again, draw(_SENSITIVE.get(again.strip('"'), _JSON) | st.just("null"))))
    text = _joined(pairs).encode()
    before = draw(st.sampled_from([b""] * 30 + [b" \r\n\t", b"\xef\xbb\xbf", b"\x00", b"[]"]))
    after = draw(st.sampled_from([b""] * 40 + [b" \n"] * 5 + [b"{}", b'{"model":"evil"}', b"junk", b"\x00", b"\xff"]))
    return before + text + after


REQUESTS: st.SearchStrategy[tuple[Surface, bytes]] = st.sampled_from(SURFACES).flatmap(
    lambda surface: st.tuples(st.just(surface), _body(surface))
)
