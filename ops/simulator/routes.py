"""Ollama's routes. Every other path is a 404, and every other method a 405."""

from __future__ import annotations

from functools import partial

from ops.simulator.dialects import anthropic, native
from ops.simulator.dialects.base import Dialect
from ops.simulator.dialects.openai.chat import ChatCompletions
from ops.simulator.dialects.openai.common import encode_openai_error
from ops.simulator.dialects.openai.completions import Completions
from ops.simulator.dialects.openai.responses import Responses
from ops.simulator.handlers import embedding, generation, listing, management, transcription
from ops.simulator.routing import Route, RouteTable

_ROOT = Route(listing.get_root)
_VERSION = Route(listing.get_version)
_TAGS = Route(listing.list_tags)
_SIGN_OUT = Route(management.sign_out)
_CLOUD = Route(management.forward_to_cloud)


def _generating(dialect: Dialect) -> dict[str, Route]:
    return {"POST": Route(partial(generation.answer, dialect=dialect), dialect.encode_error, runs_model=True)}


ROUTES: RouteTable = {
    "/": {"GET": _ROOT, "HEAD": _ROOT},
    "/api/version": {"GET": _VERSION, "HEAD": _VERSION},
    "/api/status": {"GET": Route(listing.get_status)},
    "/api/tags": {"GET": _TAGS, "HEAD": _TAGS},
    "/api/ps": {"GET": Route(listing.list_loaded)},
    "/api/show": {"POST": Route(listing.show)},
    "/api/experimental/model-recommendations": {"GET": Route(listing.list_recommendations)},
    "/v1/models": {"GET": Route(listing.list_openai_models, encode_openai_error)},
    "/v1/models/:": {"GET": Route(listing.get_openai_model, encode_openai_error)},
    "/api/chat": _generating(native.Chat()),
    "/api/generate": _generating(native.Generate()),
    "/v1/chat/completions": _generating(ChatCompletions()),
    "/v1/completions": _generating(Completions()),
    "/v1/responses": _generating(Responses()),
    "/v1/messages": _generating(anthropic.Messages()),
    "/api/embed": {"POST": Route(embedding.embed, runs_model=True)},
    "/api/embeddings": {"POST": Route(embedding.embeddings, runs_model=True)},
    "/v1/embeddings": {"POST": Route(embedding.openai_embeddings, encode_openai_error, runs_model=True)},
    "/v1/audio/transcriptions": {"POST": Route(transcription.transcribe, encode_openai_error, runs_model=True)},
    "/api/pull": {"POST": Route(management.pull)},
    "/api/push": {"POST": Route(management.push)},
    "/api/create": {"POST": Route(management.create)},
    "/api/copy": {"POST": Route(management.copy)},
    "/api/delete": {"DELETE": Route(management.delete)},
    "/api/blobs/:": {"POST": Route(management.store_blob), "HEAD": Route(management.check_blob)},
    "/api/me": {"POST": _CLOUD},
    "/api/experimental/web_search": {"POST": _CLOUD},
    "/api/experimental/web_fetch": {"POST": _CLOUD},
    "/api/signout": {"POST": _SIGN_OUT},
    "/api/user/keys/:": {"DELETE": _SIGN_OUT},
}
