"""A small client of W3C WebDriver (https://www.w3.org/TR/webdriver2/) for Debian's Chromium and ChromeDriver."""

from __future__ import annotations

import base64
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

# Headless and silent: the browser connects to the pages that it is given and to nothing else.
_ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--disable-extensions", "--no-first-run", "--hide-scrollbars",
    "--force-color-profile=srgb",
)  # fmt: skip
_START_TIMEOUT_S = 20.0
# ChromeDriver lets the system choose its port on ::1, and ends if another program has that port on 127.0.0.1.
_START_ATTEMPTS = 10
_COMMAND_TIMEOUT_S = 60.0
_POLL_S = 0.05
# The name under which a reference to an element travels (WebDriver 12.1).
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class BrowserError(Exception):
    """A command failed, or what was waited for did not happen in time."""


def find_programs() -> tuple[str, str] | None:
    """The paths of ChromeDriver and Chromium, or None where one of them is not installed."""
    driver, browser = shutil.which("chromedriver"), shutil.which("chromium")
    return None if driver is None or browser is None else (driver, browser)


class Browser:
    """One browser with one window."""

    def __init__(self, client: httpx.Client, session: str) -> None:
        self._client = client
        self._session = session

    def command(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Runs one command of the session. Raises BrowserError with the driver's message."""
        content = None if method == "GET" else body or {}
        answer = self._client.request(method, f"/session/{self._session}{path}", json=content)
        value = answer.json()["value"]
        if answer.status_code != 200:
            raise BrowserError(f"{value['error']}: {value['message']}")
        return value

    def open(self, url: str) -> None:
        """Opens a page and waits until it is loaded."""
        self.command("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that the body of a JavaScript function returns; `arguments[0]` is the first argument."""
        return self.command("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, condition: str, *arguments: Any, timeout_s: float = 10.0) -> Any:
        """Waits until a JavaScript expression is true, and returns its value. Raises BrowserError after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not (value := self.run(f"return {condition}", *arguments)):
            if time.monotonic() > deadline:
                raise BrowserError(f"not within {timeout_s} s: {condition}")
            time.sleep(_POLL_S)
        return value

    def type(self, selector: str, text: str) -> None:
        """Types into the element that a CSS selector finds, as a keyboard does."""
        self.command("POST", f"/element/{self._find(selector)}/value", {"text": text})

    def click(self, selector: str) -> None:
        """Clicks on the element that a CSS selector finds."""
        self.command("POST", f"/element/{self._find(selector)}/click")

    def resize(self, width: int, height: int, *, scale: float = 1.0, mobile: bool = False) -> None:
        """Sets the size of the page in CSS pixels, and how many pixels of a picture each of them has."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}
        self.protocol("Emulation.setDeviceMetricsOverride", **size)

    def prefer_scheme(self, scheme: str) -> None:
        """Sets the colour scheme of the system, `dark` or `light`, which pages may follow."""
        self.protocol("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def protocol(self, command: str, **parameters: Any) -> Any:
        """Runs a command of the DevTools protocol, which ChromeDriver passes on."""
        return self.command("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def picture(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self.command("GET", "/screenshot"))

    def _find(self, selector: str) -> str:
        found = self.command("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[_ELEMENT])


@contextmanager
def start_browser(width: int = 1440, height: int = 1000) -> Iterator[Browser]:
    """Starts Chromium with an empty profile, and ends it with the context. Raises BrowserError if it cannot start."""
    programs = find_programs()
    if programs is None:
        raise BrowserError("chromium and chromedriver are needed; on Debian: apt install chromium chromium-driver")
    driver, browser = programs
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        log = Path(folder, "chromedriver.log")
        process, address = _start_driver(driver, log)
        try:
            with httpx.Client(base_url=address, timeout=_COMMAND_TIMEOUT_S, trust_env=False) as client:
                arguments = [*_ARGUMENTS, f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"]
                options = {"binary": browser, "args": arguments}
                capabilities = {"browserName": "chrome", "goog:chromeOptions": options}
                answer = client.post("/session", json={"capabilities": {"alwaysMatch": capabilities}}).json()["value"]
                if "sessionId" not in answer:
                    raise BrowserError(f"{answer['error']}: {answer['message']}")
                session = Browser(client, answer["sessionId"])
                try:
                    yield session
                finally:
                    with suppress(BrowserError, httpx.HTTPError):
                        session.command("DELETE", "")
        finally:
            process.terminate()
            process.wait(timeout=_START_TIMEOUT_S)


def _start_driver(driver: str, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Starts ChromeDriver. Returns its process and the address on which it listens."""
    for _ in range(_START_ATTEMPTS):
        with log.open("wb") as output:
            process = subprocess.Popen([driver, "--port=0"], stdout=output, stderr=output)  # noqa: S603
        if address := _address(process, log):
            return process, address
        process.kill()
        process.wait(timeout=_START_TIMEOUT_S)
        if "Address already in use" not in log.read_text(errors="replace"):
            break
    raise BrowserError(f"ChromeDriver did not start: {log.read_text(errors='replace').strip()}")


def _address(process: subprocess.Popen[bytes], log: Path) -> str | None:
    """The address that ChromeDriver prints when it is ready, or None if it ended or was not ready in time."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    marker = "started successfully on port "
    while marker not in (text := log.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > deadline:
            return None
        time.sleep(_POLL_S)
    return f"http://127.0.0.1:{text.partition(marker)[2].partition('.')[0]}"
