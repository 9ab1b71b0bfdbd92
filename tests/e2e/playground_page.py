"""Drives the playground in a browser as a reader does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tools.webdriver import Browser

_SET = """
const control = document.querySelector(arguments[0]);
if (control.type === "checkbox") control.checked = arguments[1];
else control.value = arguments[1];
control.dispatchEvent(new Event("input", { bubbles: true }));
"""
_ENDED = 'document.getElementById("outcome").hidden === false'


@dataclass
class Answer:
    """What the response card shows after a request. `failure` is empty unless the request failed."""

    outcome: str
    status: str
    failure: str
    text: str
    tools: str
    raw: str
    metrics: dict[str, str]


class PlaygroundPage:
    """The page in a browser, with the key typed into it."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser = browser
        self.url = url

    def open(self, key: str) -> None:
        """Loads the page afresh, enters the key and waits for its models and limits.

        The keyboard types only the end of the key: 45 keystrokes take half a second.
        """
        self.browser.open("about:blank")
        self.browser.open(f"{self.url}/playground")
        self.set("#key", key[:-1])
        self.browser.type("#key", f"{key[-1]}\n")
        self.browser.wait('document.querySelectorAll(".gauge").length > 0')
        self.browser.wait('!document.getElementById("refresh").disabled')

    def choose(self, endpoint: str) -> None:
        """Opens an endpoint, such as `POST /api/chat`, with its sample."""
        self.browser.run("location.hash = encodeURI(arguments[0])", endpoint)
        self.browser.wait('document.getElementById("chooser").value === arguments[0]', endpoint)
        self.browser.run('document.getElementById("reset").click()')

    def set(self, selector: str, value: Any) -> None:
        """Changes a control as typing or clicking does."""
        self.browser.run(_SET, selector, value)

    def text(self, selector: str) -> str:
        """The text of an element."""
        return str(self.browser.run("return document.querySelector(arguments[0]).textContent", selector))

    def value(self, selector: str) -> str:
        """The value of a control."""
        return str(self.browser.run("return document.querySelector(arguments[0]).value", selector))

    def start(self) -> None:
        """Clicks on Run."""
        self.browser.run('document.getElementById("run").click()')

    def run(self) -> Answer:
        """Clicks on Run and waits until the request has ended."""
        self.start()
        return self.wait()

    def wait(self) -> Answer:
        """Waits until the request has ended."""
        self.browser.wait(f'{_ENDED} && document.getElementById("stop").disabled', timeout_s=20)
        shown: dict[str, Any] = self.browser.run(
            """
            const text = (id) => document.getElementById(id).textContent;
            const failure = document.getElementById("failure");
            const pairs = [...document.querySelectorAll("#metrics > div")].map((each) => [...each.children]);
            const metrics = pairs.map((pair) => pair.map((part) => part.textContent));
            return {
              outcome: text("outcome"), status: text("status"), failure: failure.hidden ? "" : failure.innerText,
              text: text("answer"), tools: text("tool-calls"), raw: text("raw"), metrics: Object.fromEntries(metrics),
            };
            """
        )
        return Answer(**shown)

    def codes(self) -> dict[str, str]:
        """The text of each code tab, by the name of its language."""
        found: dict[str, str] = self.browser.run(
            """
            const tabs = [...document.querySelectorAll("#code-tabs [role=tab]")];
            return Object.fromEntries(tabs.map((tab) => {
              tab.click();
              return [tab.dataset.name, document.getElementById("code").textContent];
            }));
            """
        )
        return found
