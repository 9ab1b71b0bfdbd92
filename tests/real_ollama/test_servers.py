"""`make real-ollama` with a program in place of Ollama that has its commands, without the gateway."""

import asyncio
import sys
from pathlib import Path

from tests.real_ollama.replay import compare, replay
from tests.real_ollama.servers import EMBEDDER, TEMPLATES, real
from tests.recordings.recording import FILES, read

_PROGRAM = f"""#!{sys.executable}
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import httpx
from tests.recordings.recording import MODELS
url = "http://" + os.environ["OLLAMA_HOST"]
if sys.argv[1] == "serve":
    from ops.simulator.__main__ import main
    sys.argv[1:] = ["--listen", os.environ["OLLAMA_HOST"], "--models", ""]
    sys.exit(main())
assert open(sys.argv[4]).read().startswith("FROM /"), sys.argv
names = {{row["name"] for row in httpx.get(url + "/api/tags").json()["models"]}} | {{sys.argv[2]}}
httpx.put(url + "/_sim/models", json=[model for model in MODELS if model["name"] in names]).raise_for_status()
"""


def test_a_given_program_is_started_gets_its_models_and_answers_the_recordings(tmp_path: Path) -> None:
    program = tmp_path / "ollama"
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    recordings = [
        read(file) for file in FILES if file.stem in {"chat", "v1_chat_stream_usage", "v1_chat_unknown_model"}
    ]
    with real(program, tmp_path / "model.gguf", None, tmp_path) as server:
        assert server.models == TEMPLATES.keys() - {EMBEDDER}
        answers = asyncio.run(replay(server.url, recordings, {}))
    assert compare(recordings, {each.name: each.answer for each in recordings}, answers) == []
    other = {**answers, "chat": answers["v1_chat_unknown_model"]}
    [difference] = compare(recordings, answers, other)
    assert (difference.recording, difference.what.startswith("status 404 instead of 200")) == ("chat", True)
