"""How many tokens a text probably has, when nobody has counted them. Pure and cheap; on the high side for most texts.

No tokenizer: the gateway does not know the model's. English and code have about four bytes of UTF-8 per token,
Chinese and Japanese about three, short words and digits fewer, so three bytes per token covers most prompts with
the template around their messages.
"""

from __future__ import annotations

from collections.abc import Mapping

TEXT_BYTES_PER_TOKEN = 3

# What Ollama itself reckons for one image when it fits a conversation into the context window.
IMAGE_TOKENS = 768

# The request fields that reach the model as prompt, over all surfaces.
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


def estimate_input(document: object) -> int:
    """The estimated prompt tokens of a request body, any JSON value; 0 when there is no prompt in it.

    Within the prompt fields every string and every key counts by its bytes (keys stand for what the template puts
    around a message), a number counts as one token, which is what it is in a `context` or a tokenised `input`, and
    an image or a recording as IMAGE_TOKENS. Within tools and their calls, where a caller is free in the names, all of
    it counts by its bytes: a template writes it out. A longer text never gives a smaller estimate.
    """
    if not isinstance(document, Mapping):
        return 0
    return tokens_in(sum(_prompt_bytes(field, document.get(field)) for field in PROMPT_FIELDS))


def _prompt_bytes(field: str, value: object) -> int:
    """The size of one field, without recursion, so that no nesting is too deep for it."""
    size_bytes = 0
    waiting: list[tuple[str, object]] = [(field, value)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, str):
            size_bytes += _IMAGE_BYTES if _is_media(key, value) else text_bytes(value)
        elif isinstance(value, Mapping):
            size_bytes += sum(map(text_bytes, value))
            waiting += ((_meaning(key, value, name), item) for name, item in value.items())
        elif isinstance(value, list):
            waiting += ((key, item) for item in value)
        elif value is not None:
            size_bytes += len(repr(value)) if key in _WRITTEN_OUT else _NUMBER_BYTES
    return size_bytes


# Stands for the key of a string that is known to be an encoded image or recording.
_MEDIA = "images"

# Below these a template writes out whatever is there, under names that a caller makes up.
_WRITTEN_OUT = frozenset({"tools", "tool_calls"})


def _meaning(key: str, holder: Mapping[str, object], name: str) -> str:
    """What stands for the key of `holder[name]`, where `key` stands for that of `holder`."""
    if key in _WRITTEN_OUT:
        return key
    if holder.get("type") == "tool_use":
        return "tool_calls"
    encoded = holder.get("type") == "base64" or "format" in holder
    return _MEDIA if encoded and name == "data" else name


def _is_media(key: str, text: str) -> bool:
    """Whether a string is an encoded image: native `images`, an OpenAI data URL, an Anthropic base64 source."""
    return bool(text) and (key == _MEDIA or (key in ("url", "image_url") and text.startswith("data:")))
