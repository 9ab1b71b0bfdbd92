"""`python -m tools.pictures FOLDER SITE` writes the pictures of the documentation to FOLDER.

It starts a simulated Ollama and `neuronetz-gateway up --playground`, runs operator commands on terminals of three
widths, and drives the playground and the documentation site, which is built in SITE, in Chromium.
"""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.pictures.playground import take_playground
from tools.pictures.product import start_product
from tools.pictures.screens import take_screens
from tools.pictures.site import take_site
from tools.webdriver import start_browser


def main(arguments: Sequence[str]) -> int:
    """Writes the pictures and prints their paths. Returns the exit code."""
    target, site = map(Path, arguments)
    target.mkdir(parents=True, exist_ok=True)
    with _home() as home, start_product(home) as product, start_browser() as browser:
        for name, screen in take_screens(product):
            _write(target / f"{name}.svg", screen.encode())
        for name, picture in take_playground(browser, product.url, product.key):
            _write(target / f"{name}.png", picture)
        for name, picture in take_site(browser, site):
            _write(target / f"{name}.png", picture)
    return 0


@contextmanager
def _home() -> Iterator[Path]:
    """A new directory whose path has as many characters as the home directory that the pictures show."""
    home = Path("/tmp", secrets.token_hex(2))  # noqa: S108
    home.mkdir(mode=0o700)
    try:
        yield home
    finally:
        shutil.rmtree(home)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    print(path)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
