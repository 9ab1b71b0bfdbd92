"""`python -m tests.real_ollama`: compares an Ollama with its recordings, the simulator, and the gateway's ledger."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.e2e.ledger_view import open_ledger_view
from tests.e2e.stack import Stack, up
from tests.ports import free_port
from tests.real_ollama.replay import Difference, compare, model_of, replay, reported_tokens
from tests.real_ollama.servers import EMBEDDER, Server, real, simulated
from tests.recordings.recording import FILES, Answer, Recording, read


def main(arguments: list[str] | None = None) -> int:
    """Prints the report. Returns 1 if a row of the ledger has other counts than the answer of the backend."""
    parser = argparse.ArgumentParser("python -m tests.real_ollama", description=__doc__)
    parser.add_argument("--ollama", type=Path, help="the program of Ollama; without it, the simulated one answers")
    parser.add_argument("--model", type=Path, help="a GGUF file, from which all models for text are made")
    parser.add_argument("--embedding-model", type=Path, help="a GGUF file for the model for embeddings")
    given = parser.parse_args(arguments)
    if (given.ollama is None) != (given.model is None):
        parser.error("--ollama and --model belong together")
    with tempfile.TemporaryDirectory(prefix="real-ollama-") as name, ExitStack() as running:
        folder = Path(name)
        if given.ollama is None:
            _write("OLLAMA is not set: the simulated Ollama takes its place.")
            server = running.enter_context(simulated())
        else:
            server = running.enter_context(real(given.ollama, given.model, given.embedding_model, folder))
        recordings = answerable(server)
        direct = asyncio.run(replay(server.url, recordings, {}))
        _print("Ollama and its recordings", compare(recordings, {r.name: r.answer for r in recordings}, direct))
        if not server.is_simulated:
            other = running.enter_context(simulated())
            of_simulator = asyncio.run(replay(other.url, recordings, {}))
            _print("the simulated Ollama and this one", compare(recordings, direct, of_simulator))
        listen = f"127.0.0.1:{free_port()}"
        stack = running.enter_context(up(folder / "state", "--listen", listen, "--backend", f"ollama={server.url}"))
        return check_gateway(stack, recordings, direct)


def answerable(server: Server) -> list[Recording]:
    """The recordings whose model the server has. Prints how many it has not."""
    # The list of models in memory was recorded first, when it was empty.
    recordings = sorted(map(read, FILES), key=lambda recording: recording.name != "ps")
    found = [r for r in recordings if EMBEDDER in server.models or model_of(r) not in (EMBEDDER, "nomic-embed-text")]
    if len(found) < len(recordings):
        _write(f"{len(recordings) - len(found)} recordings need --embedding-model (EMBEDDING_MODEL) and are left out.")
    return found


def check_gateway(stack: Stack, recordings: Sequence[Recording], direct: dict[str, Answer]) -> int:
    """Sends the recorded requests through the gateway. Returns 1 if a row differs from the counts of its answer."""
    key = stack.new_key("real-ollama", "--scopes", "chat,embeddings,runner")
    stack.cli("set-limits", "--tenant", "real-ollama", "--rpm", "10000", "--tpm", "10000000")
    through = asyncio.run(replay(stack.url, recordings, {"x-api-key": key}))
    _print("the gateway and Ollama, headers and chunks aside", compare(recordings, direct, through, is_framed=False))
    rows, wrong = asyncio.run(_compare_rows(stack, through))
    _write(f"{rows} rows of the ledger compared with the counts of Ollama: {len(wrong)} differ")
    for difference in wrong:
        _write(f"  {difference.recording}: {difference.what}")
    return 1 if wrong or not rows else 0


async def _compare_rows(stack: Stack, answers: dict[str, Answer]) -> tuple[int, list[Difference]]:
    """How many rows were compared, and those whose counts are not the ones that the answer reports."""
    ids = {name: dict(_lower(answer)).get("x-request-id", "") for name, answer in answers.items()}
    reported = {name: tokens for name, answer in answers.items() if (tokens := reported_tokens(answer)) is not None}
    async with open_ledger_view(stack) as ledger_view:
        rows = await ledger_view.wait_for_rows([ids[name] for name in reported])
    wrong = []
    for name, tokens in reported.items():
        recorded = [(row["input_tokens"], row["output_tokens"]) for row in rows.get(ids[name], [])]
        if recorded != [tokens]:
            wrong.append(Difference(name, f"the rows have {recorded}, the answer has {tokens}"))
    return len(reported), wrong


def _lower(answer: Answer) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in answer.headers]


def _write(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _print(title: str, found: list[Difference]) -> None:
    _write(f"{title}: {len(found)} differ")
    for difference in found:
        _write(f"  {difference.recording}: {difference.what[:500]}")


if __name__ == "__main__":
    sys.exit(main())
