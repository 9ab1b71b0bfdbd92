"""`POST /v1/audio/transcriptions`: a multipart form in, a sentence out, and never any usage."""

from __future__ import annotations

from email.message import Message
from email.parser import BytesParser
from itertools import islice

from ops.simulator.dialects import gojson
from ops.simulator.dialects.base import NDJSON, Refusal
from ops.simulator.generation.request import NUM_CTX
from ops.simulator.generation.text import count_tokens, seeded_random, sentences
from ops.simulator.handlers.exchange import Exchange
from ops.simulator.handlers.generation import CRASH, find_model, load, refuse_if_struck

_AUDIO_BYTES_PER_TOKEN = 640


async def transcribe(exchange: Exchange) -> None:
    """A value in the query beats the form's, the first of equal fields wins, and the answer says it is NDJSON
    whatever it is: all three as in the real server. Raises Refusal."""
    fields = {**_form(exchange), **{name: value.encode() for name, value in exchange.request.query.items() if value}}
    spelling = fields.get("model", b"").decode("utf-8", "replace")
    exchange.record.model = spelling
    if "file" not in fields:
        raise Refusal(400, "file is required", bound=True)
    model = find_model(exchange, spelling, required=True)
    refuse_if_struck(exchange)
    if "error" in exchange.faults:
        raise Refusal(500, CRASH)
    await load(exchange, model, None, NUM_CTX)
    said = "".join(islice(sentences("", seeded_random(model.digest, fields["file"])), 2))
    exchange.record.prompt_tokens = 1 + len(fields["file"]) // _AUDIO_BYTES_PER_TOKEN
    exchange.record.output_tokens = count_tokens(said)
    await exchange.stream(200, NDJSON)
    bare = fields.get("response_format") == b"text"
    await exchange.frame(said.encode() if bare else gojson.dump({"text": said}) + b"\n")
    await exchange.end()


def _form(exchange: Exchange) -> dict[str, bytes]:
    head = f"Content-Type: {exchange.request.headers.get('Content-Type', '')}\r\n\r\n"
    document = BytesParser().parsebytes(head.encode("utf-8", "replace") + exchange.body)
    fields: dict[str, bytes] = {}
    for part in document.walk():
        name = part.get_param("name", header="content-disposition")
        if isinstance(part, Message) and isinstance(name, str) and not part.is_multipart():
            content = part.get_payload(decode=True)
            fields.setdefault(name, content if isinstance(content, bytes) else b"")
    return fields
