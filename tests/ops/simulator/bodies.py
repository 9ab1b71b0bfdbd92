"""Request bodies that several tests send."""

from typing import Any

CHAT: dict[str, Any] = {"model": "llama3.2", "messages": [{"role": "user", "content": "Say hello"}]}
