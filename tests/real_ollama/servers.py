"""The server that answers the recorded requests: a given Ollama, with models made from one file, or the simulator."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.e2e.stack import simulator
from tests.polling import eventually
from tests.ports import free_port
from tests.recordings.recording import MODELS

START_TIMEOUT_S = 60.0
CREATE_TIMEOUT_S = 600.0

_TURNS = (
    "{{ range .Messages }}<start_of_turn>{{ .Role }}\n{{ .Content }}%s<end_of_turn>\n{{ end }}<start_of_turn>model\n"
)
_CALLS = '{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "parameters": {{ .Function.Arguments }}}{{ end }}'
# The template of a model decides which capabilities Ollama reports for it.
TEMPLATES = {
    "gemma3:270m": _TURNS % "",
    "llama3.2:latest": "{{ if .Tools }}{{ .Tools }}\n{{ end }}" + _TURNS % _CALLS,
    "deepseek-r1:1.5b": _TURNS % "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}",
    "codellama:7b-code": "<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>",
    "nomic-embed-text:latest": "{{ .Prompt }}",
}
EMBEDDER = "nomic-embed-text:latest"


@dataclass(frozen=True)
class Server:
    """A running server and the models of the recordings that it has."""

    url: str
    is_simulated: bool
    models: frozenset[str]


@contextmanager
def simulated() -> Iterator[Server]:
    """The simulated Ollama, with the models of the recorded one."""
    with simulator() as running:
        httpx.put(f"{running.url}/_sim/models", json=MODELS).raise_for_status()
        yield Server(running.url, is_simulated=True, models=frozenset(TEMPLATES))


@contextmanager
def real(ollama: Path, model: Path, embedding_model: Path | None, folder: Path) -> Iterator[Server]:
    """A given Ollama. Its models are those of the recordings, all made from the GGUF file `model`.

    Without `embedding_model` it has no model for embeddings. It stores everything in `folder`.
    """
    address = f"127.0.0.1:{free_port()}"
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")},
        "HOME": str(folder),
        "OLLAMA_HOST": address,
        "OLLAMA_MODELS": str(folder / "models"),
        "OLLAMA_NO_CLOUD": "1",
    }
    with (folder / "ollama.log").open("wb") as log:
        process = subprocess.Popen([ollama, "serve"], env=environ, stdout=log, stderr=log)
    try:
        _wait_until_started(process, f"http://{address}", folder / "ollama.log")
        files = {name: model for name in TEMPLATES if name != EMBEDDER}
        if embedding_model is not None:
            files[EMBEDDER] = embedding_model
        _create(ollama, files, folder, environ)
        yield Server(f"http://{address}", is_simulated=False, models=frozenset(files))
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_started(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        return httpx.get(url).status_code == httpx.codes.OK

    eventually(answers, START_TIMEOUT_S, retry_on=(httpx.TransportError,))


def _create(ollama: Path, files: Mapping[str, Path], folder: Path, environ: Mapping[str, str]) -> None:
    """Creates the models, so that the newest one is the first of `MODELS`."""
    for name in reversed([str(model["name"]) for model in MODELS]):
        if name in files:
            modelfile = folder / "Modelfile"
            template = f'TEMPLATE """{TEMPLATES[name]}"""'
            modelfile.write_text(f"FROM {files[name].absolute()}\n{template}\nPARAMETER num_ctx 2048\n")
            command = [str(ollama), "create", name, "-f", str(modelfile)]
            subprocess.run(command, env=environ, check=True, capture_output=True, timeout=CREATE_TIMEOUT_S)
