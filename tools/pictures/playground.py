"""The playground in the dark and the light theme, and on a phone.

The page uses the fonts Inter and JetBrains Mono where they are installed (Debian: fonts-inter, fonts-jetbrains-mono).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tools.webdriver import Browser

_ENDED = 'document.getElementById("outcome").hidden === false && document.querySelectorAll(".gauge").length > 0'
_SET = """
const control = document.querySelector(arguments[0]);
if (control.type === "checkbox") control.checked = arguments[1];
else control.value = arguments[1];
control.dispatchEvent(new Event("input", { bubbles: true }));
"""


def take_playground(browser: Browser, url: str, key: str) -> Iterator[tuple[str, bytes]]:
    """Runs three requests. Yields the name and the PNG of each picture."""
    browser.resize(1440, 1180)
    open_endpoint(browser, url, key, "POST /v1/chat/completions")
    _set(browser, "#field-model", "qwen3:8b")
    _set(browser, "#field-prompt", "Explain in 90 words how a river finds the sea.")
    yield "playground-dark", run_request(browser)
    browser.click("#theme")
    open_endpoint(browser, url, key, "POST /v1/messages")
    _set(browser, "#field-prompt", "Use get_weather for Oslo")
    _set(browser, "#field-tools", True)
    browser.run('document.querySelector("#tab-anthropic").click()')
    yield "playground-light", run_request(browser)
    browser.click("#theme")
    browser.resize(390, 1700, mobile=True)
    open_endpoint(browser, url, key, "POST /api/chat")
    yield "playground-phone", run_request(browser)


def open_endpoint(browser: Browser, url: str, key: str, endpoint: str) -> None:
    """Opens the playground at an endpoint, such as `POST /api/chat`, types the key and waits for the models."""
    browser.open("about:blank")
    browser.open(f"{url}/playground")
    browser.run("location.hash = encodeURI(arguments[0])", endpoint)
    browser.wait('document.getElementById("chooser").value === arguments[0]', endpoint)
    browser.type("#key", f"{key}\n")
    browser.wait('document.getElementById("field-model").options.length > 1')


def _set(browser: Browser, selector: str, value: Any) -> None:
    browser.run(_SET, selector, value)


def run_request(browser: Browser) -> bytes:
    """Runs the request of the page. Returns the PNG of the page after it, with no control in focus."""
    browser.run('document.getElementById("run").click()')
    browser.wait(_ENDED, timeout_s=30)
    # The row of the request is in the ledger a moment after its answer.
    browser.wait('(document.getElementById("refresh").click(), document.querySelector(".limits tbody tr") !== null)')
    browser.run('document.activeElement.blur(); document.getElementById("raw").scrollTop = 0; scrollTo(0, 0)')
    return browser.picture()
