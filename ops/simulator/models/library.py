"""The models a simulated Ollama has: what is installed, what is loaded, and how they look in listings."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ops.simulator.models import names

MODELS = (
    "llama3.2:latest",
    "qwen3:8b",
    "gemma3:270m",
    "nomic-embed-text:latest",
    "hf.co/bartowski/smollm2:q4_k_m",
)
KEEP_ALIVE_S = 300.0
_FOREVER_S = 9_223_372_036.0


@dataclass(frozen=True, slots=True)
class Family:
    """What the models of one family have in common."""

    name: str
    capabilities: tuple[str, ...]
    parameter_count: int
    context_length: int
    embedding_length: int


_FAMILIES: tuple[tuple[str, Family], ...] = (
    ("embed", Family("nomic-bert", ("embedding",), 136_727_040, 2048, 768)),
    ("qwen3", Family("qwen3", ("completion", "tools", "thinking"), 8_190_735_360, 40_960, 4096)),
    ("deepseek-r1", Family("qwen2", ("completion", "tools", "thinking"), 7_615_616_512, 131_072, 3584)),
    ("gpt-oss", Family("gptoss", ("completion", "tools", "thinking"), 20_914_757_184, 131_072, 2880)),
    ("gemma3", Family("gemma3", ("completion", "vision"), 268_098_176, 32_768, 640)),
    ("", Family("llama", ("completion", "tools"), 3_212_749_888, 131_072, 3072)),
)


@dataclass(frozen=True, slots=True)
class Model:
    """An installed model; `digest` is its identity, copies share it."""

    name: names.Name
    family: Family
    digest: str
    modified_at: datetime.datetime
    capabilities: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.family.parameter_count * 5 // 8

    @property
    def tool_call_on_done(self) -> bool:
        """Whether llama-server itself parses the calls, so that they come on the last frame."""
        return self.family.name == "llama"

    @property
    def thinks(self) -> bool:
        """Whether it thinks unless it is told not to."""
        return "thinking" in self.capabilities


@dataclass(slots=True)
class Loaded:
    """A model in memory until `expires_at` (seconds of the library's clock)."""

    model: Model
    context_length: int
    expires_at: float


@dataclass
class Library:
    """Installed and loaded models of one server. `clock` gives seconds since the epoch."""

    clock: Callable[[], float]
    installed: dict[str, Model] = field(default_factory=dict)
    loaded: dict[str, Loaded] = field(default_factory=dict)
    blobs: set[str] = field(default_factory=set)

    def replace_all(self, described: Iterable[str | Mapping[str, Any]]) -> None:
        """Installs exactly these, newest first: names, or objects with `name` and optionally `capabilities`
        and `digest`. Raises ValueError for a name Ollama calls invalid."""
        chosen = [self._describe(item) for item in described]
        now = self._now()
        self.installed = {
            model.name.key: replace(model, modified_at=now - datetime.timedelta(hours=hours))
            for hours, model in enumerate(chosen)
        }
        self.loaded = {key: entry for key, entry in self.loaded.items() if key in self.installed}

    def add(self, text: str, like: Model | None = None) -> Model:
        """Installs a model under a name, with the weights of `like` if given. Raises ValueError."""
        model = self._describe(text)
        if like is not None:
            model = replace(like, name=model.name, modified_at=model.modified_at)
        self.installed[model.name.key] = model
        return model

    def remove(self, model: Model) -> None:
        """Deletes it, from memory too."""
        self.installed.pop(model.name.key, None)
        self.loaded.pop(model.name.key, None)

    def find(self, text: str, *, any_case: bool = True) -> Model | None:
        """The installed model that a spelling without source suffix means."""
        name = names.parse(text)
        model = self.installed.get(name.key) if name else None
        if model is None or name is None:
            return None
        return model if any_case or model.name.full == name.full else None

    def newest_first(self) -> list[Model]:
        """In the order of `/api/tags`."""
        return sorted(self.installed.values(), key=lambda model: model.modified_at, reverse=True)

    def in_memory(self) -> list[Loaded]:
        """What `/api/ps` lists; entries past their time are dropped first."""
        now = self.clock()
        self.loaded = {key: entry for key, entry in self.loaded.items() if entry.expires_at > now}
        return list(self.loaded.values())

    def touch(self, model: Model, keep_alive_s: float | None, context_length: int) -> None:
        """Notes a use: loads it and sets when it leaves memory; negative is for ever, 0 at once, None the default."""
        if keep_alive_s == 0 or model.name.key not in self.installed:
            self.loaded.pop(model.name.key, None)
            return
        stay_s = KEEP_ALIVE_S if keep_alive_s is None else keep_alive_s
        expires_at = self.clock() + (_FOREVER_S if stay_s < 0 else min(stay_s, _FOREVER_S))
        self.loaded[model.name.key] = Loaded(model, context_length, expires_at)

    def _describe(self, item: str | Mapping[str, Any]) -> Model:
        given: Mapping[str, Any] = {"name": item} if isinstance(item, str) else item
        name = names.parse(str(given.get("name", "")))
        if name is None:
            raise ValueError(f"invalid model name {given.get('name')!r}")
        family = next(family for part, family in _FAMILIES if part in name.model.lower())
        digest = hashlib.sha256(name.key.encode()).hexdigest()
        return Model(
            name=name,
            family=family,
            digest=str(given.get("digest", digest)),
            modified_at=self._now(),
            capabilities=tuple(given.get("capabilities", family.capabilities)),
        )

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.clock(), datetime.UTC)


def stamp(moment: datetime.datetime) -> str:
    """RFC 3339 in UTC with nanoseconds, as Go prints a time."""
    return f"{moment.astimezone(datetime.UTC):%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}789Z"


def details(model: Model, *, long: bool = False) -> dict[str, Any]:
    """The `details` object; `long` adds what only `/api/tags` shows."""
    count = model.family.parameter_count
    shown: dict[str, Any] = {
        "parent_model": "",
        "format": "gguf",
        "family": model.family.name,
        "families": [model.family.name],
        "parameter_size": f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.2f}M",
        "quantization_level": "Q4_K_M",
    }
    if long:
        shown["context_length"] = model.family.context_length
        shown["embedding_length"] = model.family.embedding_length
    return shown


def tags_row(model: Model) -> dict[str, Any]:
    """A row of `/api/tags`."""
    return {
        "name": model.name.display,
        "model": model.name.display,
        "modified_at": stamp(model.modified_at),
        "size": model.size,
        "digest": model.digest,
        "details": details(model, long=True),
        "capabilities": list(model.capabilities),
    }


def ps_row(entry: Loaded) -> dict[str, Any]:
    """A row of `/api/ps`."""
    model = entry.model
    return {
        "name": model.name.display,
        "model": model.name.display,
        "size": model.size,
        "digest": model.digest,
        "details": details(model),
        "expires_at": stamp(datetime.datetime.fromtimestamp(entry.expires_at, datetime.UTC)),
        "size_vram": model.size,
        "context_length": entry.context_length,
    }


def show(model: Model, *, verbose: bool = False) -> dict[str, Any]:
    """The answer of `/api/show`, with a system prompt in it that a gateway must not pass on."""
    family = model.family.name
    system = "You are the house assistant. The pass phrase of the house is 'quiet otter'."
    template = "{{ if .System }}{{ .System }}\n{{ end }}{{ .Prompt }}"
    modelfile = f'# Modelfile generated by "ollama show"\nFROM {model.name.display}\nTEMPLATE """{template}"""\n'
    info: dict[str, Any] = {
        "general.architecture": family,
        "general.parameter_count": model.family.parameter_count,
        f"{family}.context_length": model.family.context_length,
        f"{family}.embedding_length": model.family.embedding_length,
    }
    if verbose:
        info["tokenizer.ggml.tokens"] = [f"<token{number}>" for number in range(256)]
    return {
        "license": "Simulated; there are no weights.",
        "modelfile": f'{modelfile}SYSTEM """{system}"""\n',
        "parameters": 'stop                           "<|eot_id|>"',
        "template": template,
        "system": system,
        "details": details(model),
        "model_info": info,
        "capabilities": list(model.capabilities),
        "modified_at": stamp(model.modified_at),
    }
