"""`python -m tools.accessibility AXE SITE` checks the playground and pages of the documentation site with axe-core.

AXE is the path of `axe.min.js`, SITE the built site. Each page is checked in the dark and the light theme, on a desktop
and a phone. The exit code is 1 if a rule is violated (https://github.com/dequelabs/axe-core/blob/develop/doc/API.md).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tools.pictures.playground import open_endpoint, run_request
from tools.pictures.product import start_product
from tools.webdriver import Browser, start_browser

_SITE_PAGES = ("index", "quickstart", "clients", "command-reference")
_DESKTOP, _PHONE = (1440, 1180), (390, 900)
_SCHEMES = ("dark", "light")
_RUN = """
return axe.run(document).then(found => found.violations.map(rule => ({
  id: rule.id, help: rule.help, places: rule.nodes.map(node => node.target.join(" ")),
})));
"""


def main(arguments: Sequence[str]) -> int:
    """Prints one line per checked page, and each violation. Returns the exit code."""
    axe, site = map(Path, arguments)
    source = axe.read_text(encoding="utf-8")
    failed = False
    with tempfile.TemporaryDirectory() as folder, start_browser() as browser:
        for page in _pages(browser, Path(folder), site):
            browser.run(source)
            violations: list[dict[str, Any]] = browser.run(_RUN)
            failed |= bool(violations)
            print(f"{page}: {len(violations)} violations")  # noqa: T201
            for each in violations:
                print(f"  {each['id']}: {each['help']}: {', '.join(each['places'])}")  # noqa: T201
    return int(failed)


def _pages(browser: Browser, folder: Path, site: Path) -> Iterator[str]:
    """Shows one page after the other. Yields the name of each."""
    with start_product(folder) as product:
        for (width, height), device in ((_DESKTOP, "desktop"), (_PHONE, "phone")):
            browser.resize(width, height)
            open_endpoint(browser, product.url, product.key, "POST /v1/chat/completions")
            run_request(browser)
            yield f"playground, dark, {device}"
            browser.click("#theme")
            yield f"playground, light, {device}"
            browser.click("#theme")
    for (width, height), device in ((_DESKTOP, "desktop"), (_PHONE, "phone")):
        browser.resize(width, height)
        for scheme in _SCHEMES:
            browser.prefer_scheme(scheme)
            for name in _SITE_PAGES:
                browser.open((site / f"{name}.html").resolve().as_uri())
                yield f"{name}.html, {scheme}, {device}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
