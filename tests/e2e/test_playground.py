"""The playground in a browser, against the running stack."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from authz.catalog.playground.table import load_table
from tests.e2e.code_runs import run_all
from tests.e2e.playground_page import Answer, PlaygroundPage
from tests.e2e.stack import Simulator, Stack
from tests.polling import eventually
from tools.webdriver import find_programs, start_browser

ENDPOINTS: dict[str, dict[str, Any]] = {each["id"]: each for each in load_table()["endpoints"]}
GENERATING = [name for name, each in ENDPOINTS.items() if each.get("kind") == "completion" and "reader" in each]
THINKER = "qwen3:8b"
# Ollama's completions of plain prompts do not show what the model thinks.
WITHOUT_THINKING = {"POST /v1/completions"}
# The end of a stream that is whole.
WHOLE = re.compile(r'"done":true|\[DONE\]|message_stop|response\.completed')
# What differs between two answers to the same request.
VOLATILE = re.compile(r"^(id|item_id|created(_at)?|completed_at|modified_at|expires_at|\w+_duration|request_id)$")

pytestmark = pytest.mark.skipif(find_programs() is None, reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def browsed(stack: Stack) -> Iterator[PlaygroundPage]:
    with start_browser() as browser:
        browser.resize(1440, 1000)
        yield PlaygroundPage(browser, stack.url)


@pytest.fixture
def page(browsed: PlaygroundPage, key: str) -> Iterator[PlaygroundPage]:
    """The page with a key. Afterwards the key is nowhere but in its field, and nothing was refused by the policy."""
    browsed.open(key)
    yield browsed
    stored = "JSON.stringify([sessionStorage, localStorage])"
    seen = browsed.browser.run(f"return [document.documentElement.outerHTML, location.href, {stored}]")
    assert key not in json.dumps(seen)
    logged = browsed.browser.command("POST", "/se/log", {"type": "browser"})
    assert [each["message"] for each in logged if each["source"] != "network"] == []


def documents(text: str) -> list[Any]:
    """The JSON documents of an answer in any framing, without what differs between two of them."""
    lines = [line.removeprefix("data:").strip() for line in text.splitlines()]
    try:
        found = [json.loads(text)]
    except json.JSONDecodeError:
        found = [json.loads(line) for line in lines if line.startswith("{")]
    return [stable(each) for each in found] or [text.strip()]


def stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: stable(part) for name, part in value.items() if not VOLATILE.match(name)}
    return [stable(part) for part in value] if isinstance(value, list) else value


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_a_visitor_reads_samples_and_code_before_typing_a_key(browsed: PlaygroundPage) -> None:
    browser = browsed.browser
    browser.open(f"{browsed.url}/playground")
    assert browsed.text("#base-url") == browsed.url
    for name, endpoint in ENDPOINTS.items():
        browsed.choose(name)
        assert browsed.text("#about-path") == endpoint["path"]
        assert browsed.text("#sample-request") == endpoint["request"] or endpoint["method"] == "GET"
        assert browsed.text("#sample-response") == endpoint["response"]
        assert endpoint.get("scope", "key") in browsed.text("#about-badges")
        codes = browsed.codes()
        assert codes.keys() == {"curl", "python", "javascript", *endpoint.get("clients", {})}
        assert all(browsed.url in code for code in codes.values())
        disabled = browser.run('return ["run", "refresh", "stop"].map((id) => document.getElementById(id).disabled)')
        assert disabled == [endpoint["auth"] == "key", True, True]
    assert browser.run('return document.getElementById("samples").checkVisibility()')


def test_every_endpoint_answers_and_each_code_tab_gives_the_same_answer(
    page: PlaygroundPage, key: str, tmp_path: Path
) -> None:
    answers: dict[str, Answer] = {}
    codes: dict[tuple[str, str], str] = {}
    for name in ENDPOINTS:
        page.choose(name)
        answers[name] = page.run()
        assert (answers[name].outcome, answers[name].failure) == ("Complete", ""), name
        codes |= {(name, language): code for language, code in page.codes().items()}
    assert not [code for code in codes.values() if key in code or key[:12] in code]
    for (name, language), printed in run_all(codes, key, tmp_path).items():
        check_output(ENDPOINTS[name], language, printed, answers[name])


def check_output(endpoint: dict[str, Any], language: str, printed: str, answer: Answer) -> None:
    """The program printed what the page received: all of it, or with a client the part that its code prints."""
    where, received = (endpoint["id"], language), documents(answer.raw)
    is_client = language in endpoint.get("clients", {})
    if endpoint["path"] == "/v1/messages/count_tokens":
        # The estimate learns from the requests in between.
        assert (int(printed) if is_client else documents(printed)[0]["input_tokens"]) > 0
    elif endpoint["path"] == "/v1/usage":
        assert documents(printed)[0].keys() == received[0].keys()
    elif not is_client:
        assert documents(printed) == received, where
    elif endpoint.get("kind") == "completion":
        assert squeezed(printed) == squeezed(answer.text) != "", where
    elif endpoint.get("kind") == "embedding":
        (whole,) = received
        vectors = whole.get("embeddings") or whole.get("embedding") or [each["embedding"] for each in whole["data"]]
        assert squeezed(printed) == squeezed(str(vectors)), where
    else:
        names = re.findall(r'"(?:name|id)": ?"([^"]+)"', answer.raw)
        assert all(name in printed for name in names), where


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_text_thinking_and_measurements_are_shown_with_and_without_a_stream(page: PlaygroundPage, stream: bool) -> None:
    for name in GENERATING:
        page.choose(name)
        page.set("#field-model", THINKER)
        page.set("#field-stream", stream)
        assert json.loads(page.value("#body"))["stream"] is stream
        answer = page.run()
        assert answer.outcome == "Complete", (name, answer)
        assert answer.text
        assert page.text("#thinking-text") or name in WITHOUT_THINKING
        assert answer.metrics["Status"] == "200"
        assert {"Duration", "Tokens"} <= answer.metrics.keys()
        assert ("First token" in answer.metrics) is stream
        assert re.search(r"(^data: |^\{)", answer.raw, re.MULTILINE)


def test_a_tool_call_is_shown_as_such(page: PlaygroundPage) -> None:
    for name in (each for each in GENERATING if ENDPOINTS[each].get("tool")):
        for stream in (True, False):
            page.choose(name)
            page.set("#field-prompt", "Use get_weather for Oslo")
            page.set("#field-tools", True)
            page.set("#field-stream", stream)
            answer = page.run()
            assert answer.outcome == "Tool call", (name, answer)
            assert answer.tools.startswith("The model calls get_weather with{")
            assert '"city"' in answer.tools


def test_an_answer_that_was_cut_at_the_cap_says_so(page: PlaygroundPage) -> None:
    for name in GENERATING:
        page.choose(name)
        page.set("#field-tokens", "5")
        answer = page.run()
        assert answer.outcome == "Cut at the token limit", (name, answer)
        assert "raise Max tokens" in answer.status


def test_what_the_gateway_changed_and_the_time_in_the_queue_are_measurements(page: PlaygroundPage) -> None:
    # Few requests wait here, so the page receives the header that an answer has after a wait.
    page.browser.run(
        """
        const real = window.fetch;
        window.fetch = async (...sent) => {
          const { body, status, headers } = await real(...sent);
          return new Response(body, { status, headers: [...headers, ["X-Queue-Wait-Ms", "1234"]] });
        };
        """
    )
    page.choose("POST /api/chat")
    body = json.loads(page.value("#body"))
    page.set("#body", json.dumps({**body, "options": {"num_predict": 99_999, "num_ctx": 1024}}))
    metrics = page.run().metrics
    assert metrics["In the queue"] == "1.23 s"
    assert metrics["Granted output"] == "4096"
    assert metrics["Dropped options"] == "options.num_ctx"


def test_the_form_and_the_body_are_in_step_in_both_directions(page: PlaygroundPage) -> None:
    page.choose("POST /api/chat")
    page.set("#field-prompt", "Two\nlines and a “quote”'s")
    page.set("#field-tokens", "")
    body = json.loads(page.value("#body"))
    assert body["messages"][1]["content"] == "Two\nlines and a “quote”'s"
    assert "options" not in body
    page.set("#field-temperature", "0.5")
    page.set("#field-system", "")
    body = json.loads(page.value("#body"))
    assert body["options"] == {"temperature": 0.5}
    assert [each["role"] for each in body["messages"]] == ["user"]
    page.set("#body", json.dumps({**body, "stream": False, "options": {"num_predict": 7}}))
    assert page.value("#field-tokens") == "7"
    assert page.value("#field-temperature") == ""
    assert not page.browser.run('return document.getElementById("field-stream").checked')
    page.set("#body", "{")
    assert page.text("#body-problem").startswith("Not JSON")
    assert page.browser.run('return document.getElementById("field-prompt").disabled')


def test_a_refusal_is_explained_and_the_gauges_show_what_is_left(page: PlaygroundPage, stack: Stack) -> None:
    stack.cli("create-tenant", "--name", "narrowest", "--allow-all-models", "--rpm", "1", "--max-body", "2000")
    stack.cli("set-budget", "--tenant", "narrowest", "--daily", "1000000")
    page.open(stack.cli("create-key", "--tenant", "narrowest", "--name", "k")["key"])
    requests, tokens, budget = page.browser.run(
        'return [...document.querySelectorAll(".gauge")].map((each) => each.innerText)'
    )
    assert re.match(r"Requests per minute\s+1 of 1 left\s+full", requests)
    assert tokens.startswith("Tokens per minute")
    assert re.match(
        r"Today's budget of the tenant\s+1,000,000 of 1,000,000 tokens left\s+resets \w+.* \d+:\d\d", budget
    )

    page.choose("POST /v1/chat/completions")
    page.set("#body", json.dumps({"model": "nosuch", "messages": [{"role": "user", "content": "Hi"}]}))
    refused = page.run()
    assert refused.failure.startswith("403 Not allowed (model_not_allowed)")
    assert "Refresh lists the models" in refused.failure
    page.choose("POST /v1/chat/completions")
    page.set("#field-prompt", "word " * 1000)
    refused = page.run()
    assert refused.failure.startswith("413 Too large (request_too_large)")
    assert "at most 2000" in refused.failure
    page.choose("POST /v1/messages")
    assert page.run().outcome == "Complete"
    refused = page.run()
    assert refused.failure.startswith("429 Over a limit (rate_limit_exceeded)")
    assert re.search(r"fits at \d+:\d\d:\d\d", refused.failure)
    assert "0 of 1 left" in page.text("#gauge-requests")


def test_a_wrong_key_is_explained_and_typing_another_one_clears_the_answer(page: PlaygroundPage, key: str) -> None:
    assert page.run().outcome == "Complete"
    page.set("#key", f"{key[:-4]}AAAA")
    assert page.browser.run('return document.getElementById("answers").hidden')
    assert page.run().failure.startswith("401 The key was not accepted (invalid_api_key)")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("POST /api/chat", "close"),
        ("POST /v1/chat/completions", "error"),
        ("POST /v1/responses", "error"),
        ("POST /v1/messages", "close"),
    ],
)
def test_an_answer_that_breaks_off_is_not_called_complete(
    page: PlaygroundPage, ollama: Simulator, name: str, fault: str
) -> None:
    ollama.behave(tokens_per_s=200, faults=[{"kind": fault, "after_frames": 9}])
    page.choose(name)
    page.set("#field-prompt", "in 60 words")

    def broken() -> Answer | None:
        """An answer of this backend that broke off after its first frame had arrived.

        The gateway may avoid a backend for a moment that has just failed. A busy browser drops what it has not read
        when the connection is cut.
        """
        answer = page.run()
        is_whole = WHOLE.search(answer.raw)
        return None if answer.metrics["Status"] == "503" or is_whole or not answer.raw else answer

    answer = eventually(broken, 20, failure=lambda: page.text("#status"))
    assert answer.outcome == "Failed"
    assert answer.failure.startswith("The answer broke off")
    assert answer.text


def test_a_waiting_and_a_running_request_can_be_stopped(page: PlaygroundPage, ollama: Simulator) -> None:
    ollama.behave(first_byte_s=0.3, tokens_per_s=20)
    page.choose("POST /api/chat")
    page.set("#field-prompt", "in 400 words")
    page.start()
    assert page.text("#status").startswith("Waiting for a slot")
    page.browser.wait('document.getElementById("answer").textContent.length > 5')
    page.browser.run('dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }))')
    answer = page.wait()
    assert answer.outcome == "Stopped"
    assert answer.text


# Replaces the gateway while a request waits. Each poll gets the next of the given queues: null fails, and {} is a
# gateway without a queue. The timers are twenty times as fast.
POLLS = """
const [queues] = arguments;
const [realFetch, realTimeout] = [window.fetch, window.setTimeout];
const seen = window.seen = { polls: 0, delays: [], statuses: [] };
new MutationObserver(() => seen.statuses.push(document.getElementById("status").textContent))
  .observe(document.getElementById("status"), { childList: true });
window.setTimeout = (run, ms) => {
  if (ms >= 1000) seen.delays.push(ms);
  return realTimeout(run, ms / 20);
};
window.fetch = (url, options) => {
  if (options.method === "POST") {
    return new Promise((resolve, reject) => {
      options.signal.addEventListener("abort", () => reject(options.signal.reason));
      window.answer = () => resolve(realFetch(url, options));
    });
  }
  const queue = queues[Math.min(seen.polls, queues.length - 1)];
  seen.polls += 1;
  if (queue === null) return Promise.reject(new TypeError("no connection"));
  return Promise.resolve(Response.json({ queue: "position" in queue ? queue : null, tenant: { name: "acme" } }));
};
"""


def test_the_place_in_the_queue_is_shown_until_the_answer_begins_and_no_text_twice(page: PlaygroundPage) -> None:
    waiting = [{"position": 2, "waiting": 3}, {"position": 2, "waiting": 3}, None, {"position": 1, "waiting": 1}]
    page.choose("POST /api/chat")
    page.browser.run(POLLS, [*waiting, {"position": None, "waiting": 0}, {}])
    page.start()
    page.browser.wait("window.seen.polls > 6")
    shown = page.browser.run("return window.seen.statuses")
    assert shown == [
        "Waiting for a slot and the first token …",
        "Waiting for a slot: number 2 of 3 waiting requests of acme …",
        "Waiting for a slot: number 1 of 1 waiting request of acme …",
        "Waiting for a slot and the first token …",
    ]
    delays = page.browser.run("return window.seen.delays")
    assert delays[:4] == [1000, 2000, 2000, 2000]
    page.browser.run("window.answer()")
    assert page.wait().outcome == "Complete"
    # Each further poll would have been due after a tenth of a second.
    polls = page.browser.run("return window.seen.polls")
    page.browser.run("return new Promise((resolve) => setTimeout(resolve, 6000))")
    assert page.browser.run("return window.seen.polls") == polls


@pytest.mark.parametrize("end", ['document.getElementById("stop").click()', 'location.hash = "GET%20/api/tags"'])
def test_the_place_in_the_queue_is_not_read_after_a_stop_or_for_another_endpoint(
    page: PlaygroundPage, end: str
) -> None:
    page.choose("POST /api/chat")
    page.browser.run(POLLS, [{"position": 2, "waiting": 3}])
    page.start()
    page.browser.wait('document.getElementById("status").textContent.includes("number 2 of 3")')
    page.browser.run(end)
    page.browser.wait('document.getElementById("stop").disabled')
    polls = page.browser.run("return window.seen.polls")
    page.browser.run("return new Promise((resolve) => setTimeout(resolve, 6000))")
    assert page.browser.run("return window.seen.polls") == polls
    assert "number 2 of 3" not in page.text("#status")


def test_another_endpoint_has_an_empty_response(page: PlaygroundPage, ollama: Simulator) -> None:
    ollama.behave(tokens_per_s=20)
    page.choose("POST /api/chat")
    page.start()
    page.browser.wait('document.getElementById("answer").textContent.length > 5')
    page.choose("GET /api/tags")
    assert page.browser.run('return document.getElementById("answers").hidden')
    assert "6 models" in page.run().status


def test_markdown_becomes_elements_and_markup_stays_text(page: PlaygroundPage, ollama: Simulator) -> None:
    text = "# Title\n\n- one **bold**\n\n```\n<b>code</b>\n```\n<img src=x onerror=alert(1)> [a](javascript:1)"
    message = {"role": "assistant", "content": text}
    frame = {"model": "llama3.2", "message": message, "done": True, "done_reason": "stop", "eval_count": 9}
    body = base64.b64encode(json.dumps({**frame, "prompt_eval_count": 3}).encode()).decode()
    headers = {"Content-Type": "application/json"}
    ollama.behave(faults=[{"kind": "verbatim", "status": 200, "headers": headers, "body": body}])
    page.choose("POST /api/chat")
    page.set("#field-stream", False)
    assert page.run().outcome == "Complete"
    tags = page.browser.run('return [...document.querySelectorAll("#answer *")].map((each) => each.tagName)')
    assert tags == ["H4", "UL", "LI", "STRONG", "PRE", "CODE", "P"]
    assert "<img src=x onerror=alert(1)> [a](javascript:1)" in page.text("#answer")


def test_the_keyboard_runs_a_request_and_moves_between_the_tabs(page: PlaygroundPage) -> None:
    page.choose("POST /api/chat")
    page.browser.type("#field-prompt", "\ue009\ue007")
    assert page.wait().outcome == "Complete"
    page.browser.run('document.querySelector("#code-tabs [aria-selected=true]").focus()')
    keys = {"\ue014": "python", "\ue010": "ollama", "\ue012": "javascript", "\ue011": "curl"}
    for key, name in keys.items():
        page.browser.type("#code-tabs [aria-selected=true]", key)
        assert page.browser.run("return document.activeElement.dataset.name") == name
        selected = "return [...document.querySelectorAll(\"#code-tabs [tabindex='0']\")].map((tab) => tab.dataset.name)"
        assert page.browser.run(selected) == [name]


def test_the_theme_lasts_for_the_session_and_a_phone_needs_no_sideways_scrolling(page: PlaygroundPage) -> None:
    theme = "return document.documentElement.dataset.theme"
    assert page.browser.run(theme) == "dark"
    page.browser.click("#theme")
    page.browser.open(f"{page.url}/playground")
    assert page.browser.run(theme) == "light"
    assert page.value("#key") == ""
    page.browser.click("#theme")
    page.browser.resize(360, 740, mobile=True)
    try:
        assert page.browser.run("return document.documentElement.scrollWidth") == 360
    finally:
        page.browser.resize(1440, 1000)
