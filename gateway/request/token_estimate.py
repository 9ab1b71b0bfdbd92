"""Estimates the tokens of a text before a backend has counted them. Pure and cheap; too high for most texts.

There is no tokenizer, because the gateway does not know the one of the model. English and code have about four bytes of
UTF-8 per token, Chinese and Japanese about three, short words and digits fewer. Three bytes per token therefore cover
most prompts, including the template around their messages.
"""

from __future__ import annotations

from collections.abc import Mapping

TEXT_BYTES_PER_TOKEN = 3

# The number that Ollama uses for one image when it fits a conversation into the context window.
IMAGE_TOKENS = 768

# What templates in use write around a single prompt: the start of the text, and of the user's and the model's turn.
TEMPLATE_TOKENS = 8

# The request fields of all surfaces that reach the model as its prompt.
PROMPT_FIELDS = (
    "messages", "prompt", "suffix", "system", "template", "context", "tools", "input", "instructions", "images",
)  # fmt: skip

_NUMBER_BYTES = TEXT_BYTES_PER_TOKEN
_IMAGE_BYTES = IMAGE_TOKENS * TEXT_BYTES_PER_TOKEN


def text_bytes(text: str) -> int:
    """The size of `text` in bytes of UTF-8; a lone surrogate counts as three."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def tokens_in(size_bytes: int) -> int:
    """The estimated tokens of a text of `size_bytes` bytes, rounded up."""
    return -(-size_bytes // TEXT_BYTES_PER_TOKEN)


def estimate_input(document: object, *, templates_prompt: bool = False) -> int:
    """The estimated prompt tokens of a request body, which is any JSON value; 0 when it has no prompt.

    Within the prompt fields each string and each key counts by its bytes; the keys make up for the template around a
    message. A number counts as one token, which it is in a `context` or a tokenised `input`, and so does an
    empty item of a list. An image or a recording
    counts as IMAGE_TOKENS. Within tools and their calls, where the caller chooses the names, everything counts by its
    bytes, because the template writes it out. A longer text never gives a smaller estimate. With `templates_prompt` a
    `prompt` that is not raw counts TEMPLATE_TOKENS in addition.
    """
    if not isinstance(document, dict):
        return 0
    tokens = tokens_in(sum([_prompt_bytes(field, document[field]) for field in PROMPT_FIELDS if field in document]))
    has_template = templates_prompt and bool(document.get("prompt")) and document.get("raw") is not True
    return tokens + TEMPLATE_TOKENS if has_template else tokens


def _prompt_bytes(field: str, value: object) -> int:
    """The size of one field in bytes. Not recursive, so that the depth of nesting does not matter."""
    size_bytes = 0
    pending: list[tuple[str, object]] = [(field, value)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, str):
            size_bytes += _IMAGE_BYTES if _is_media(key, value) else text_bytes(value)
        elif isinstance(value, dict):
            size_bytes += sum(map(text_bytes, value))
            pending += ((_effective_key(key, value, name), item) for name, item in value.items())
        elif isinstance(value, list):
            pending += ((key, item) for item in value)
            # The template writes something for each item.
            size_bytes += _NUMBER_BYTES * sum(not item and not isinstance(item, int | float) for item in value)
        elif value is not None:
            size_bytes += len(repr(value)) if key in _WRITTEN_OUT else _NUMBER_BYTES
    return size_bytes


# The effective key of a string that is an encoded image or recording.
_MEDIA = "images"

# Below these keys the template writes out all content, under names that the caller chooses.
_WRITTEN_OUT = frozenset({"tools", "tool_calls"})


def _effective_key(key: str, holder: Mapping[str, object], name: str) -> str:
    """The effective key of `holder[name]`, where `key` is the effective key of `holder`."""
    if key in _WRITTEN_OUT:
        return key
    if holder.get("type") == "tool_use":
        return "tool_calls"
    encoded = holder.get("type") == "base64" or "format" in holder
    return _MEDIA if encoded and name == "data" else name


def _is_media(key: str, text: str) -> bool:
    """Whether a string is an encoded image: native `images`, an OpenAI data URL, an Anthropic base64 source."""
    return bool(text) and (key == _MEDIA or (key in ("url", "image_url") and text.startswith("data:")))
