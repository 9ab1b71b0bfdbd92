"""Takes the pictures of the playground for the documentation, from the running product.

`python -m tools.playground_pictures FOLDER` starts a simulated Ollama and `neuronetz-gateway up --playground` in a
temporary directory, drives the page in Chromium and writes `playground-*.png`. The page uses the fonts Inter and
JetBrains Mono where they are installed (Debian: fonts-inter, fonts-jetbrains-mono).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.webdriver import Browser, start_browser

_START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 60.0
_TOKENS_PER_S = "60"
_TENANT = "acme"
_ENDED = 'document.getElementById("outcome").hidden === false && document.querySelectorAll(".gauge").length > 0'
_SET = """
const control = document.querySelector(arguments[0]);
if (control.type === "checkbox") control.checked = arguments[1];
else control.value = arguments[1];
control.dispatchEvent(new Event("input", { bubbles: true }));
"""


def main(arguments: Sequence[str]) -> int:
    """Writes the pictures to the folder. Returns the exit code."""
    (target,) = map(Path, arguments)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, _gateway(Path(folder)) as ready, start_browser() as browser:
        key = _create_key(ready["env_file"])
        for name, picture in _pictures(browser, ready["url"], key):
            path = target / f"playground-{name}.png"
            path.write_bytes(picture)
            print(path)  # noqa: T201
    return 0


def _pictures(browser: Browser, url: str, key: str) -> Iterator[tuple[str, bytes]]:
    browser.resize(1440, 1180)
    _open(browser, url, key, "POST /v1/chat/completions")
    _set(browser, "#field-model", "qwen3:8b")
    _set(browser, "#field-prompt", "Explain in 90 words how a river finds the sea.")
    yield "dark", _run(browser)
    browser.click("#theme")
    _open(browser, url, key, "POST /v1/messages")
    _set(browser, "#field-prompt", "Use get_weather for Oslo")
    _set(browser, "#field-tools", True)
    browser.run('document.querySelector("#tab-anthropic").click()')
    yield "light", _run(browser)
    browser.click("#theme")
    browser.resize(390, 1700, mobile=True)
    _open(browser, url, key, "POST /api/chat")
    yield "phone", _run(browser)


def _open(browser: Browser, url: str, key: str, endpoint: str) -> None:
    browser.open("about:blank")
    browser.open(f"{url}/playground")
    browser.run("location.hash = encodeURI(arguments[0])", endpoint)
    browser.wait('document.getElementById("chooser").value === arguments[0]', endpoint)
    browser.type("#key", f"{key}\n")
    browser.wait('document.getElementById("field-model").options.length > 1')


def _set(browser: Browser, selector: str, value: Any) -> None:
    browser.run(_SET, selector, value)


def _run(browser: Browser) -> bytes:
    """The page after a request, with no control in focus."""
    browser.run('document.getElementById("run").click()')
    browser.wait(_ENDED, timeout_s=30)
    # The row of the request is in the ledger a moment after its answer.
    browser.wait('(document.getElementById("refresh").click(), document.querySelector(".limits tbody tr") !== null)')
    browser.run('document.activeElement.blur(); document.getElementById("raw").scrollTop = 0; scrollTo(0, 0)')
    return browser.picture()


@contextmanager
def _gateway(folder: Path) -> Iterator[dict[str, Any]]:
    """A running gateway, by the content of its ready file."""
    simulator = [sys.executable, "-m", "ops.simulator", "--listen", "127.0.0.1:0", "--tokens-per-s", _TOKENS_PER_S]
    with subprocess.Popen(simulator, stdout=subprocess.PIPE, text=True) as ollama:  # noqa: S603
        try:
            backend = "" if ollama.stdout is None else ollama.stdout.readline().strip()
            options = ("--state-dir", str(folder / "state"), "--ready-file", str(folder / "ready"), "--workers", "1")
            arguments = ("up", *options, "--listen", "127.0.0.1:0", "--backend", f"home={backend}", "--playground")
            with subprocess.Popen(_cli(*arguments), stdout=subprocess.DEVNULL) as gateway:  # noqa: S603
                try:
                    yield _wait_until_ready(folder / "ready", gateway)
                finally:
                    gateway.terminate()
                    gateway.wait(timeout=_STOP_TIMEOUT_S)
        finally:
            ollama.terminate()


def _wait_until_ready(file: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the gateway did not start")
        time.sleep(0.1)
    ready: dict[str, Any] = json.loads(file.read_text())
    return ready


def _create_key(env_file: str) -> str:
    _operate(env_file, "create-tenant", "--name", _TENANT, "--allow-all-models")
    _operate(env_file, "set-budget", "--tenant", _TENANT, "--daily", "2000", "--monthly", "1000000")
    return str(_operate(env_file, "create-key", "--tenant", _TENANT, "--name", "laptop")["key"])


def _operate(env_file: str, *arguments: str) -> Any:
    command = _cli("--env-file", env_file, *arguments, "--json")
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # noqa: S603


def _cli(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ops.cli", *arguments]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
