import { $ } from "./dom.js";
import { readPlace } from "./document.js";
import { explain, Failure } from "./failures.js";
import { clearLimits, showHeaders, showUsage } from "./limits.js";
import { showPlaceUntil } from "./queue.js";
import { newAnswer, readDocument, READERS } from "./readers.js";
import { buildMenu, currentRequest, offerModels, openedEndpoint, openEndpoint, resetEndpoint } from "./request.js";
import {
  beginResponse, clearResponse, copies, endAnswer, showAnswer, showFailure, showHead, showRaw, showStatus, startTimer,
} from "./response.js";
import { ENDPOINTS } from "./table.js";
import { startTheme } from "./theme.js";
import { readAnswer, readJson, send } from "./transport.js";

// The controllers of the request that runs and of the refresh that runs.
let running = null;
let refreshing = null;
let samplesTouched = false;

const hasKey = () => $("key").value.trim() !== "";
const mayRun = () => running === null && (hasKey() || openedEndpoint().auth === "none");
const idleStatus = () => (mayRun() ? "Ready." : "Type an API key to run requests.");

/** The key, from the only place that has it. Raises Failure where it could not be a header. */
function key() {
  const text = $("key").value.trim();
  if (!/^[\x21-\x7e]*$/.test(text)) throw new Failure("This is no API key", "It has characters that no key has.");
  return text;
}

/** Enables what can be done now. Run and Stop pass the focus to each other. */
function updateControls() {
  const focused = document.activeElement;
  $("run").disabled = !mayRun();
  $("stop").disabled = running === null;
  $("refresh").disabled = !hasKey() || refreshing !== null;
  if (focused === $("run") && $("run").disabled) $("stop").focus();
  if (focused === $("stop") && $("stop").disabled) $("run").focus();
}

async function run() {
  if (!mayRun()) return;
  const request = currentRequest();
  if (request === null) {
    $("body").focus();
    return;
  }
  const endpoint = openedEndpoint();
  const controller = running = new AbortController();
  updateControls();
  beginResponse();
  const answer = newAnswer();
  const cap = capOf(endpoint, request);
  const times = { started: performance.now(), first: null, ended: 0, pieces: 0, characters: 0 };
  const stopTimer = startTimer(times.started);
  const ended = await exchange(endpoint, request, answer, times, controller.signal);
  stopTimer();
  // Another endpoint was opened, or another key typed, and the card has been cleared.
  if (running !== controller) return;
  running = null;
  endAnswer(answer, times, { ...ended, cap });
  updateControls();
  if (hasKey() && ended.response?.ok) await readUsage().catch(() => clearLimits());
}

/** The output tokens that the request asks for at most; undefined when it leaves that to the model. */
const capOf = (endpoint, { body }) => (body === null || !endpoint.form.tokens ? undefined : readPlace(JSON.parse(body), endpoint.form.tokens));

/** Sends the request and shows the answer as it arrives. Returns the response, and the failure or whether it was stopped. */
async function exchange(endpoint, request, answer, times, signal) {
  let response = null;
  const read = READERS[endpoint.reader] ?? readDocument;
  const onFrame = (frame, streams) => {
    if (frame === "[DONE]") answer.complete = true;
    else read(frame, answer);
    // Ollama's own answers report whether they are complete; a whole answer of the other formats is.
    if (!streams) answer.complete = frame.done ?? true;
    const characters = answer.text.length + answer.thinking.length;
    if (streams && (characters > 0 || answer.tools.length > 0)) times.first ??= performance.now();
    if (characters > times.characters) {
      times.characters = characters;
      times.pieces += 1;
    }
    showAnswer(answer);
  };
  try {
    const sent = send(request, endpoint.auth === "key" ? key() : "", signal);
    // The gateway answers other endpoints itself, and those requests never wait in the queue.
    response = await (endpoint.reader ? showPlaceUntil(sent, fetchUsage, signal) : sent);
    showHead(response);
    showHeaders(response.headers);
    showStatus("Answering …");
    await readAnswer(response, { onText: showRaw, onFrame });
    return { response, failure: null, stopped: false };
  } catch (error) {
    const failure = explain(error);
    return { response, failure, stopped: failure === null };
  } finally {
    times.ended = performance.now();
  }
}

const get = (path, signal) => send({ method: "GET", path, body: null }, key(), signal).then(readJson);

const fetchUsage = async (signal) => get("/v1/usage", signal);

async function readUsage(signal) {
  showUsage(await fetchUsage(signal));
}

/** Reads the models and the limits of the key. */
async function refresh() {
  if ($("refresh").disabled) return;
  const controller = refreshing = new AbortController();
  updateControls();
  try {
    const [{ models }] = await Promise.all([get("/api/tags", controller.signal), readUsage(controller.signal)]);
    offerModels(models);
    if (!$("steps").hidden) showStatus(`Ready. ${models.length} ${models.length === 1 ? "model" : "models"} to choose from.`);
  } catch (error) {
    const failure = explain(error);
    if (failure && running === null) {
      clearResponse("");
      showFailure(failure);
    }
  } finally {
    if (refreshing === controller) refreshing = null;
    updateControls();
  }
}

/** Ends what runs and empties the response card, so that no answer is shown next to another request. */
function abandon() {
  running?.abort();
  running = null;
  clearResponse(idleStatus());
  updateControls();
}

/** Opens the endpoint of the address, which is what a link to this page can name. */
function openAddressed() {
  const id = decodeURIComponent(location.hash.slice(1));
  if (location.hash && !ENDPOINTS.some((each) => each.id === id)) return;
  openEndpoint(id);
  abandon();
  scrollTo(0, 0);
}

function keyChanged() {
  refreshing?.abort();
  refreshing = null;
  clearLimits();
  offerModels([]);
  abandon();
  if (!samplesTouched) $("samples").open = !hasKey();
}

async function copy(text, shown) {
  try {
    // Browsers offer the clipboard over HTTPS and on localhost only.
    await navigator.clipboard.writeText(text);
    showStatus("Copied.");
  } catch {
    getSelection().selectAllChildren(shown);
    showStatus("Selected: copy it with Ctrl+C.");
  }
}

function listen() {
  $("run").addEventListener("click", run);
  $("stop").addEventListener("click", () => running?.abort());
  $("refresh").addEventListener("click", refresh);
  $("reset").addEventListener("click", () => {
    resetEndpoint();
    abandon();
  });
  $("key").addEventListener("input", keyChanged);
  $("key").addEventListener("keydown", (event) => { if (event.key === "Enter") refresh(); });
  $("key").addEventListener("paste", () => setTimeout(refresh));
  $("samples").querySelector("summary").addEventListener("click", () => { samplesTouched = true; });
  $("copy-base").addEventListener("click", () => copy(location.origin, $("base-url")));
  $("copy-code").addEventListener("click", () => copy($("code").textContent, $("code")));
  $("copy-answer").addEventListener("click", () => copy(copies.answer, $("answer")));
  $("copy-raw").addEventListener("click", () => copy(copies.raw, $("raw")));
  addEventListener("hashchange", openAddressed);
  addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
    if (event.key === "Escape") running?.abort();
  });
}

startTheme();
// A phone has space for the form or for the body.
$("body-part").open = !matchMedia("(max-width: 760px)").matches;
$("base-url").textContent = location.origin;
buildMenu((id) => { location.hash = encodeURI(id); });
listen();
openAddressed();
if (location.hash === "") openEndpoint(ENDPOINTS[0].id);
// A browser that restores a form after a reload brings the key back as well.
keyChanged();
