import { errorText, Failure, refusal } from "./failures.js";

/** Sends a request of this page. The address is always below the origin that served the page. Raises Failure. */
export async function send({ method, path, body }, key, signal) {
  const headers = { ...(key && { Authorization: `Bearer ${key}` }), ...(body !== null && { "Content-Type": "application/json" }) };
  const options = { method, headers, body, signal, credentials: "omit", redirect: "error", cache: "no-store" };
  return fetch(location.origin + path, options).catch((error) => {
    throw error instanceof TypeError ? new Failure("No connection", "The gateway cannot be reached.") : error;
  });
}

/** The document of a whole answer. Raises Failure for a refusal. */
export async function readJson(response) {
  if (!response.ok) throw refusal(response, await response.text());
  return response.json();
}

/**
 * Reads an answer as it arrives. `onText` gets every piece of it, `onFrame` every JSON document in it and the marker
 * `[DONE]`, with whether the answer streams. Raises Failure for a refusal and for an answer that broke off.
 */
export async function readAnswer(response, { onText, onFrame }) {
  const type = response.headers.get("Content-Type") ?? "";
  const streams = response.ok && /ndjson|event-stream/.test(type);
  let text = "";
  let rest = "";
  for await (const piece of pieces(response)) {
    onText(piece);
    if (!streams) {
      text += piece;
      continue;
    }
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    for (const line of lines) readLine(line, onFrame);
  }
  if (!response.ok) throw refusal(response, text);
  if (streams) readLine(rest, onFrame);
  else onFrame(type.includes("json") ? checked(JSON.parse(text)) : text, false);
}

async function* pieces(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (error) {
    throw error instanceof TypeError
      ? new Failure("The answer broke off", "The connection was cut before the answer was complete.", "What arrived is shown below.")
      : error;
  }
}

function readLine(line, onFrame) {
  const data = line.replace(/^data:/, "").trim();
  if (data === "[DONE]") onFrame(data, true);
  else if (data.startsWith("{")) onFrame(checked(JSON.parse(data)), true);
}

/** The frame, unless it reports that the answer broke off. */
function checked(frame) {
  const error = frame.type === "response.failed" ? frame.response : frame;
  if (error?.error) {
    throw new Failure("The answer broke off", errorText(error) ?? "No reason was given.", "What arrived is shown below.");
  }
  return frame;
}
