"""The tools that Ollama would run itself. Pure.

Ollama answers a `web_search` tool with its own searches and generations, on the account of the backend's owner. Those
generations are not counted, so the gateway drops such tools. Clients such as Codex send one in every request.
"""

from __future__ import annotations

from gateway.request.json_text import JsonObject, items

DROPPED_NAME = "tools.web_search"


def is_server_tool(tool: object) -> bool:
    """Whether Ollama runs this element of `tools` itself: `web_search`, or a later version such as its dated ones."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    return isinstance(kind, str) and kind.lower().startswith("web_search")


def without_server_tools(text: str) -> str | None:
    """The list of tools in `text` without server-side ones, also in namespaces; None when there are none.

    `text` is JSON whose tools have each of `type` and `tools` at most once. Other tools keep their text.
    """
    if not text.startswith("["):
        return None
    kept: list[str] = []
    changed = False
    for item, tool in items(text):
        if is_server_tool(tool):
            changed = True
            continue
        if isinstance(tool, dict) and "tools" in tool:
            namespace = JsonObject(item)
            members = without_server_tools(namespace.get("tools") or "null")
            if members is not None:
                namespace.set("tools", members)
                kept.append(str(namespace))
                changed = True
                continue
        kept.append(item)
    return f"[{','.join(kept)}]" if changed else None
