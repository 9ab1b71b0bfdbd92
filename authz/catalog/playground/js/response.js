import { $, definitions, element } from "./dom.js";
import { duration, jsonText, quantity } from "./formats.js";
import { paintJson } from "./highlight.js";
import { markdown } from "./markdown.js";

const RAW_CHARACTERS_MAX = 400_000;

// What the reason means by which a model stopped, over all dialects.
const ENDINGS = {
  length: ["warn", "Cut at the token limit"], max_tokens: ["warn", "Cut at the token limit"],
  max_output_tokens: ["warn", "Cut at the token limit"], model_context_window_exceeded: ["warn", "Context is full"],
  content_filter: ["warn", "Filtered"], tool_calls: ["good", "Tool call"], tool_use: ["good", "Tool call"],
};

/** The status of a request that waits. */
export const WAITING = "Waiting for a slot and the first token …";

/** What the last answer sent, for the copy buttons. */
export const copies = { answer: "", raw: "" };

let latest = null;
let frame = null;
// Whether the answer streams, so that the end of it is what the reader wants to see.
let follows = false;

/** The response card as before the first request. */
export function clearResponse(status) {
  for (const id of ["answers", "headers", "failure", "outcome", "thinking"]) $(id).hidden = true;
  $("steps").hidden = false;
  $("metrics").replaceChildren();
  $("timer").textContent = "";
  showStatus(status);
}

/** The response card while a request waits. */
export function beginResponse() {
  clearResponse(WAITING);
  $("steps").hidden = true;
  for (const id of ["answer", "tool-calls", "raw", "thinking-text"]) $(id).replaceChildren();
  copies.answer = copies.raw = "";
  $("answer").setAttribute("aria-busy", "true");
}

/** Reports to the eye and, through the live region, to screen readers. */
export function showStatus(text) {
  $("status").textContent = text;
  $("status").classList.remove("hidden");
}

/** Reports to screen readers what the card shows in another form. */
function announce(text) {
  showStatus(text);
  $("status").classList.add("hidden");
}

/** The timer of a running request: `stop()` ends it. */
export function startTimer(started) {
  const timer = setInterval(() => { $("timer").textContent = duration(performance.now() - started); }, 100);
  return () => {
    clearInterval(timer);
    $("timer").textContent = "";
  };
}

/** Shows that the head of the answer has arrived. */
export function showHead(response) {
  $("answers").hidden = $("answer-part").hidden = $("headers").hidden = false;
  follows = /ndjson|event-stream/.test(response.headers.get("Content-Type") ?? "");
  const headers = [...response.headers];
  $("headers-title").textContent = `HTTP ${response.status}, ${headers.length} headers`;
  $("headers-list").replaceChildren(...headers.flatMap(([name, value]) => (
    [element("dt", {}, name), element("dd", {}, value)]
  )));
}

/** Adds a piece of the answer as it travelled. */
export function showRaw(piece) {
  const space = RAW_CHARACTERS_MAX - copies.raw.length;
  copies.raw += piece;
  if (space <= 0) return;
  $("raw").append(piece.length > space ? `${piece.slice(0, space)}\n… Copy has the rest.` : piece);
  if (follows) $("raw").scrollTop = $("raw").scrollHeight;
}

/** Shows what is known of the answer, at most once per frame of the screen. */
export function showAnswer(answer) {
  latest = answer;
  if (frame === null) frame = requestAnimationFrame(paintAnswer);
}

function paintAnswer() {
  frame = null;
  const { text, thinking, tools, document: json } = latest;
  copies.answer = text || (json === null ? "" : jsonText(json));
  $("thinking").hidden = thinking === "";
  $("thinking-text").textContent = thinking;
  $("answer").replaceChildren(...markdown(text));
  if (json !== null) $("answer").append(documentOf(json));
  $("answer").classList.toggle("live", !latest.complete && $("answer").getAttribute("aria-busy") === "true" && text !== "");
  if (follows) $("answer").scrollTop = $("answer").scrollHeight;
  $("tool-calls").replaceChildren(...tools.filter(Boolean).map(toolCall));
}

function documentOf(json) {
  const shown = element("pre", {});
  paintJson(shown, jsonText(json).replace(/\[\n\s+([-\d.,\s"…e]+)\n\s+\]/g, (_, numbers) => `[${numbers.replace(/\s+/g, " ")}]`));
  return shown;
}

function toolCall({ name, arguments: given }) {
  const shown = element("pre", {});
  paintJson(shown, pretty(given));
  return element("div", { className: "tool" }, element("p", {}, "The model calls ", element("code", {}, name), " with"), shown);
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    // The arguments of a call that is still arriving are the beginning of a document.
    return text;
  }
}

/**
 * Ends the response. `answer` is what arrived. `times` has `started`, `first` (token, or null) and `ended` in milliseconds,
 * and the number of `pieces` in which text came. `cap`: the requested output tokens, or undefined.
 */
export function endAnswer(answer, times, { response, failure, stopped, cap }) {
  if (frame !== null) cancelAnimationFrame(frame);
  $("answer").setAttribute("aria-busy", "false");
  latest = answer;
  paintAnswer();
  showMetrics(response, answer, times);
  if (failure) {
    $("answer-part").hidden = answer.text + answer.thinking === "" && answer.tools.length === 0;
    return showFailure(failure);
  }
  const ended = endingOf(answer, stopped, Number(response?.headers.get("X-Gateway-Output-Cap") ?? cap));
  showOutcome(...ended);
  if (answer.text === "" && answer.tools.length === 0 && answer.document === null) {
    $("answer").replaceChildren(element("p", { className: "empty" }, "The model wrote no text."));
  }
  const reason = answer.finish ? ` The model stopped with “${answer.finish}”.` : "";
  const tokens = answer.output === null ? "" : ` ${quantity(answer.output)} output tokens.`;
  const summary = `${ended[2] ?? ""}${summaryOf(answer.document)}${reason}${tokens}`.trim();
  return summary ? showStatus(summary) : announce(`${ended[1]}.`);
}

function endingOf(answer, stopped, cap) {
  if (stopped) return ["warn", "Stopped", "Stopped. The gateway cancelled the model and counted what arrived."];
  if (!answer.complete) return ["bad", "Incomplete", "The answer ended before it was complete."];
  if (answer.tools.length > 0) return ["good", "Tool call", "The model calls a tool instead of answering."];
  // On /v1/responses Ollama reports an answer as completed that it cut.
  const reason = answer.finish === "completed" && answer.output >= cap ? "length" : answer.finish;
  const [tone, words] = ENDINGS[reason] ?? ["good", "Complete"];
  const advice = words === "Cut at the token limit" ? "The answer was cut: raise Max tokens for more." : "";
  return [tone, words, advice];
}

/** How many entries a list has. */
function summaryOf(json) {
  const rows = json?.models ?? json?.data;
  return Array.isArray(rows) ? `${rows.length} ${rows.length === 1 ? "model" : "models"}.` : "";
}

function showOutcome(tone, words) {
  $("outcome").className = `pill ${tone}`;
  $("outcome").textContent = words;
  $("outcome").hidden = false;
}

function showMetrics(response, { input, output }, { started, first, ended, pieces }) {
  const metrics = [["Status", response ? String(response.status) : "none"]];
  const waited = response?.headers.get("X-Queue-Wait-Ms");
  if (waited) metrics.push(["In the queue", duration(Number(waited))]);
  if (first !== null) metrics.push(["First token", duration(first - started)]);
  // A tool call arrives at once, which is no measure of the model's pace.
  if (first !== null && pieces > 2) metrics.push(["Tokens per second", ((output - 1) / ((ended - first) / 1000)).toFixed(1)]);
  metrics.push(["Duration", duration(ended - started)]);
  if (input !== null) metrics.push(["Tokens", `${quantity(input)} in${output === null ? "" : `, ${quantity(output)} out`}`]);
  for (const [header, name] of [["X-Gateway-Output-Cap", "Granted output"], ["X-Gateway-Dropped-Options", "Dropped options"]]) {
    const value = response?.headers.get(header);
    if (value) metrics.push([name, value]);
  }
  $("metrics").replaceChildren(...definitions(metrics));
}

/** Shows a failure where the answer would be. What arrived before it stays visible. */
export function showFailure({ title, message, advice }) {
  $("steps").hidden = true;
  $("failure-title").textContent = title;
  $("failure-text").textContent = message;
  $("failure-advice").textContent = advice;
  $("failure").hidden = false;
  showOutcome("bad", "Failed");
  announce(`${title}. ${message}`);
}
