"""The playground: one page that sends requests to this gateway from a browser, and the headers that confine it.

The page is assembled once, from `page.html`, `style.css`, the modules in `js/` and the table of endpoints. It is one
document without resources from elsewhere, and the policy names the hash of each of its inline elements.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path

from authz.catalog.playground.table import load_table

_FOLDER = Path(__file__).parent
# The modules of the script, each after those that it imports.
MODULES = (
    "dom", "formats", "theme", "table", "tokens", "highlight", "markdown", "readers", "failures", "transport",
    "document", "snippets", "tabs", "form", "limits", "response", "queue", "request", "main",
)  # fmt: skip
_DOCS_LINK = '<a class="ghost" id="docs" href="{url}" rel="noopener noreferrer" target="_blank">Docs</a>\n  '
_IMPORT = re.compile(r"^import [^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:const|function|class) ([\w$]+))", re.MULTILINE)


def _module(name: str) -> str:
    """A module as a block of the one script. Only its exports leave the block, so imports need no statement."""
    source = _IMPORT.sub("", _FOLDER.joinpath("js", f"{name}.js").read_text(encoding="utf-8"))
    exports = ", ".join(_EXPORT.findall(source))
    return f"const {{ {exports} }} = (() => {{\n{_EXPORT.sub('', source)}\nreturn {{ {exports} }};\n}})();\n"


def assemble_page(docs_url: str | None) -> bytes:
    """The page as HTML in UTF-8, with a link to the documentation at `docs_url` where that is set."""
    # A data block ends at the first `</`, so the slash is escaped, which JSON allows.
    table = json.dumps(load_table(), ensure_ascii=False).replace("</", "<\\/")
    parts = {
        "style": _FOLDER.joinpath("style.css").read_text(encoding="utf-8"),
        "endpoints": table,
        "docs": "" if docs_url is None else _DOCS_LINK.format(url=html.escape(docs_url)),
        "script": "\n".join(map(_module, MODULES)),
    }
    page = _FOLDER.joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{ (\w+) \}\}", lambda match: parts[match[1]], page).encode()


def _source(page: bytes, opening: bytes, closing: bytes) -> str:
    """The hash-source (Content-Security-Policy level 3, 2.3.1) of the only element of `page` that begins so."""
    (inline,) = re.findall(rb"%b(.*?)%b" % (re.escape(opening), re.escape(closing)), page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline).digest()).decode()}'"


_PAGE = assemble_page(None)
_SCRIPT = _source(_PAGE, b'<script type="module">', b"</script>")
_STYLE = _source(_PAGE, b"<style>", b"</style>")

# The page may run its own script, use its own style and connect to its own origin. Trusted Types without any policy
# make the browser block every conversion of text into markup. The icon is an empty data: address. The table of
# endpoints is a data block, which no browser executes.
HEADERS = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            f"script-src {_SCRIPT}",
            f"style-src {_STYLE}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Frame-Options": "DENY",
}
