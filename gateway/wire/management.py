"""The sentences for the paths by which Ollama manages models and accounts, which no caller may use. Pure.

Ollama's command line prints them after `Error:`. The path of each command is in api/client.go of ollama/ollama.
"""

from __future__ import annotations

_MODELS = "the operator of this gateway manages its models"
_SENTENCES = {
    "/api/pull": f"{_MODELS}, so none can be pulled through it",
    "/api/push": f"{_MODELS}, so none can be pushed through it",
    "/api/create": f"{_MODELS}, so none can be created or saved through it",
    "/api/copy": f"{_MODELS}, so none can be copied through it",
    "/api/delete": f"{_MODELS}, so none can be removed through it",
    "/api/me": "this gateway manages no account of ollama.com; your key or identity is what signs you in",
}
_SENTENCES["/api/signout"] = _SENTENCES["/api/me"]
_BLOBS = "/api/blobs/"


def blocked_sentence(path: str) -> str | None:
    """Why a management path is blocked; None for any other path. `path` is without query."""
    return _SENTENCES["/api/create"] if path.startswith(_BLOBS) else _SENTENCES.get(path)
