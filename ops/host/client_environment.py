"""What a client needs to use a key: the gateway's address and the lines for its environment. Pure."""

from __future__ import annotations

from gateway.settings import Settings

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (names of addresses, nothing is bound)


def base_url(settings: Settings) -> str:
    """The public address: https at GATEWAY_DOMAIN if it is set, else http at GATEWAY_BIND_HOST and _PORT."""
    if settings.gateway_domain != "localhost":
        return f"https://{settings.gateway_domain}"
    host = _ANY_ADDRESS.get(settings.gateway_bind_host, settings.gateway_bind_host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.gateway_bind_port}"


def environment(url: str, key: str) -> str:
    """Shell lines that make the OpenAI, Ollama and Anthropic clients use `key`, which appears in them once."""
    return f"""\
export GATEWAY_API_KEY={key}
# OpenAI clients
export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=$GATEWAY_API_KEY
# Ollama clients
export OLLAMA_HOST={url} OLLAMA_API_KEY=$GATEWAY_API_KEY
# Anthropic clients
export ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY=$GATEWAY_API_KEY"""
