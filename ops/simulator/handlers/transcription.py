"""`POST /v1/audio/transcriptions`: a multipart form in, a sentence out, and never any usage."""

from __future__ import annotations

from email.message import Message
from email.parser import BytesParser
from itertools import islice

from ops.simulator.dialects import gojson
from ops.simulator.dialects.base import Timing
from ops.simulator.dialects.errors import ApiError
from ops.simulator.dialects.media_types import NDJSON
from ops.simulator.generation.prompt import Prompt
from ops.simulator.generation.text import count_tokens, seeded_random, sentences
from ops.simulator.handlers.exchange import Exchange
from ops.simulator.handlers.faults import raise_injected_crash, raise_injected_status
from ops.simulator.handlers.model_access import find_model, launch_options, use_model, use_slot

_AUDIO_BYTES_PER_TOKEN = 640


async def transcribe(exchange: Exchange) -> None:
    """Writes a sentence that depends on the file. Raises ApiError.

    As in the real server, a value in the query takes precedence over the form, the first of equal form fields wins,
    and the content type is NDJSON for every response format.
    """
    query = {name: value.encode() for name, value in exchange.request.query.items() if value}
    fields = {**_form_fields(exchange), **query}
    name = fields.get("model", b"").decode("utf-8", "replace")
    exchange.record.model = name
    if "file" not in fields:
        raise ApiError(400, "file is required", at_binding=True)
    model = find_model(exchange, name, required=True)
    raise_injected_status(exchange)
    raise_injected_crash(exchange)
    text = "".join(islice(sentences("", seeded_random(model.digest, fields["file"])), 2))
    prompt = Prompt("", 1 + len(fields["file"]) // _AUDIO_BYTES_PER_TOKEN)
    async with (
        use_model(exchange, model, launch_options(exchange, model, None), None) as runner,
        use_slot(exchange, runner, prompt, Timing()),
    ):
        await _send_text(exchange, text, is_plain=fields.get("response_format") == b"text")


async def _send_text(exchange: Exchange, text: str, *, is_plain: bool) -> None:
    exchange.record.output_tokens = count_tokens(text)
    await exchange.stream(200, NDJSON)
    await exchange.frame(text.encode() if is_plain else gojson.dump({"text": text}) + b"\n")
    await exchange.end()


def _form_fields(exchange: Exchange) -> dict[str, bytes]:
    head = f"Content-Type: {exchange.request.headers.get('Content-Type', '')}\r\n\r\n"
    form = BytesParser().parsebytes(head.encode("utf-8", "replace") + exchange.body)
    fields: dict[str, bytes] = {}
    for part in form.walk():
        name = part.get_param("name", header="content-disposition")
        if isinstance(part, Message) and isinstance(name, str) and not part.is_multipart():
            content = part.get_payload(decode=True)
            fields.setdefault(name, content if isinstance(content, bytes) else b"")
    return fields
