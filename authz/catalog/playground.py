"""The playground: one page that sends requests to this gateway from a browser, and the headers that confine it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

PAGE = Path(__file__).with_name("playground.html").read_bytes()


def _source(page: bytes, tag: str) -> str:
    """The hash-source (Content-Security-Policy level 3, 2.3.1) of the only element `tag` of `page`."""
    name = re.escape(tag.encode())
    (inline,) = re.findall(rb"<%b>(.*?)</%b>" % (name, name), page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline).digest()).decode()}'"


# The page may run its own script, use its own style and connect to its own origin. Trusted Types without any policy
# make the browser block every conversion of text into markup. The icon is an empty data: address.
HEADERS = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            f"script-src {_source(PAGE, 'script')}",
            f"style-src {_source(PAGE, 'style')}",
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
