"""The models that one simulated Ollama has installed."""

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
    "codellama:7b-code",
)
SYSTEM = "You are the house assistant. The pass phrase of the house is 'quiet otter'."
"""The system prompt of a model that is installed without one, so that a test notices when it leaks."""


@dataclass(frozen=True, slots=True)
class Family:
    """The properties that the models of one family share. Lengths are in tokens and in vector components.

    `shifts_context`: whether an answer goes on when the context is full. llama.cpp cannot shift the context of a model
    with sliding-window attention.
    """

    name: str
    capabilities: tuple[str, ...]
    parameter_count: int
    context_length: int
    embedding_length: int
    shifts_context: bool = True


# The first family whose first element occurs in the model's name applies.
_FAMILIES: tuple[tuple[str, Family], ...] = (
    ("embed", Family("nomic-bert", ("embedding",), 136_727_040, 2048, 768)),
    ("qwen3", Family("qwen3", ("completion", "tools", "thinking"), 8_190_735_360, 40_960, 4096)),
    ("deepseek-r1", Family("qwen2", ("completion", "tools", "thinking"), 7_615_616_512, 131_072, 3584)),
    ("gpt-oss", Family("gptoss", ("completion", "tools", "thinking"), 20_914_757_184, 131_072, 2880)),
    ("gemma3", Family("gemma3", ("completion", "vision"), 268_098_176, 32_768, 640, shifts_context=False)),
    ("codellama", Family("llama", ("completion", "insert"), 6_738_546_688, 16_384, 4096)),
    ("", Family("llama", ("completion", "tools"), 3_212_749_888, 131_072, 3072)),
)


@dataclass(frozen=True, slots=True)
class Model:
    """An installed model. `digest` is its identity: copies share it.

    `parameters`, `system` and `license` are those of its Modelfile.
    """

    name: names.ModelName
    family: Family
    digest: str
    modified_at: datetime.datetime
    capabilities: tuple[str, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""
    license: str = ""

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return self.family.parameter_count * 5 // 8

    @property
    def has_tool_call_on_done(self) -> bool:
        """Whether llama-server parses the tool calls itself, so that they arrive on the last frame.

        It does so only for models with the chat template of their GGUF file. Ollama's own library has other templates.
        """
        return self.name.host.lower() in ("hf.co", "huggingface.co")

    @property
    def thinks(self) -> bool:
        """Whether the model thinks unless the request disables it."""
        return "thinking" in self.capabilities


@dataclass
class Library:
    """The installed models of one server. `clock` returns seconds since the epoch."""

    clock: Callable[[], float]
    installed: dict[str, Model] = field(default_factory=dict)
    blobs: set[str] = field(default_factory=set)

    def replace_all(self, entries: Iterable[str | Mapping[str, Any]]) -> None:
        """Installs exactly these models, newest first. Raises ValueError for a name that Ollama rejects.

        An entry is a name, to which `+capability` adds a capability, or an object with `name` and optionally
        `capabilities`, `digest`, `parameters`, `system` and `license`.
        """
        models = [self._model(entry) for entry in entries]
        now = self._now()
        self.installed = {
            model.name.key: replace(model, modified_at=now - datetime.timedelta(hours=hours))
            for hours, model in enumerate(models)
        }

    def add(self, name: str, source: Model | None = None) -> Model:
        """Installs a model under `name`, with the weights of `source` if given. Raises ValueError."""
        model = self._model(name)
        if source is not None:
            model = replace(source, name=model.name, modified_at=model.modified_at)
        self.installed[model.name.key] = model
        return model

    def remove(self, model: Model) -> None:
        """Deletes the model from disk."""
        self.installed.pop(model.name.key, None)

    def find(self, name: str, *, ignore_case: bool = True) -> Model | None:
        """The installed model that `name` means, which has no source suffix."""
        parsed = names.parse(name)
        model = self.installed.get(parsed.key) if parsed else None
        if model is None or parsed is None:
            return None
        return model if ignore_case or model.name.full == parsed.full else None

    def newest_first(self) -> list[Model]:
        """The installed models in the order of `/api/tags`."""
        return sorted(self.installed.values(), key=lambda model: model.modified_at, reverse=True)

    def _model(self, entry: str | Mapping[str, Any]) -> Model:
        fields: Mapping[str, Any] = {"name": entry} if isinstance(entry, str) else entry
        given, *added = str(fields.get("name", "")).split("+")
        name = names.parse(given)
        if name is None:
            raise ValueError(f"invalid model name {fields.get('name')!r}")
        family = next(family for part, family in _FAMILIES if part in name.model.lower())
        digest = hashlib.sha256(name.key.encode()).hexdigest()
        return Model(
            name=name,
            family=family,
            digest=str(fields.get("digest", digest)),
            modified_at=self._now(),
            capabilities=(*fields.get("capabilities", family.capabilities), *added),
            parameters=dict(fields.get("parameters", {})),
            system=str(fields.get("system", SYSTEM)),
            license=str(fields.get("license", "Simulated; there are no weights.")),
        )

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.clock(), datetime.UTC)
