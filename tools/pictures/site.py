"""Three pages of the documentation site, opened as files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tools.webdriver import Browser

# Each page with the colour scheme of the system, which the site follows.
PAGES = (("index", "light"), ("clients", "dark"), ("fair-share", "light"))
_READY = 'document.readyState === "complete" && document.querySelector(".md-content") !== null'


def take_site(browser: Browser, site: Path) -> Iterator[tuple[str, bytes]]:
    """Opens the pages of a built site. Yields the name and the PNG of each picture."""
    browser.resize(1280, 900)
    for page, scheme in PAGES:
        browser.prefer_scheme(scheme)
        browser.open((site / f"{page}.html").resolve().as_uri())
        browser.wait(_READY)
        yield f"site-{page}-{scheme}", browser.picture()
