import { clock } from "./formats.js";

/** A failure that the page shows. `advice` says what the caller can do about it. */
export class Failure extends Error {
  constructor(title, message, advice = "") {
    super(message);
    this.title = title;
    this.advice = advice;
  }
}

const ADVICE = {
  invalid_request: "Compare the body with the sample of this endpoint.",
  context_length_exceeded: "Shorten the conversation, or choose a model with a longer context.",
  invalid_api_key: "The key may be mistyped, revoked or expired, or its tenant disabled.",
  model_not_allowed: "Refresh lists the models that this key may use.",
  endpoint_blocked: "The gateway does not offer this path.",
  scope_denied: "The key does not have the scope that this endpoint, or an option of the body, needs.",
  request_too_large: "Shorten the request, or have the limit of the key raised.",
  rate_limit_exceeded: "The window of one minute moves on with every second.",
  token_rate_exceeded: "A lower output cap may fit at once.",
  concurrency_exceeded: "Wait until one of the running requests has ended.",
  budget_reserved: "Running requests hold the rest of the budget. Retry when they have ended.",
  budget_exhausted: "The operator who issued the key can raise the budget.",
  auth_throttled: "Too many wrong keys came from this address.",
  backend_error: "The model's server failed. Other models may work.",
  backend_timeout: "The model's server took too long. A shorter request may work.",
  backend_unavailable: "Try again in a moment, or choose another model.",
  unavailable: "Try again in a moment.",
  audit_backlog: "Try again in a moment.",
};

const TITLES = { 401: "The key was not accepted", 403: "Not allowed", 413: "Too large", 429: "Over a limit" };

/** The text of an error body in any of the three dialects. */
export const errorText = ({ error }) => (typeof error === "string" ? error : error?.message);

/** The Failure that explains an answer that is not a success, from its headers and its text. */
export function refusal(response, text) {
  const code = response.headers.get("X-Gateway-Error") ?? "";
  const advice = [ADVICE[code] ?? ""];
  const seconds = Number(response.headers.get("Retry-After"));
  // A request that never fits has a Retry-After for the sake of clients that would retry at once.
  const isFinal = response.headers.get("X-Should-Retry") === "false";
  const resets = !isFinal || ["day", "month"].includes(response.headers.get("X-Budget-Period"));
  if (seconds > 0 && resets) advice.push(`The same request fits at ${clock(seconds)} if nothing else happens until then.`);
  const title = `${response.status} ${TITLES[response.status] ?? response.statusText}`.trim();
  return new Failure(code ? `${title} (${code})` : title, messageOf(text), advice.join(" ").trim());
}

function messageOf(text) {
  try {
    return errorText(JSON.parse(text)) ?? text;
  } catch {
    return text;
  }
}

/** The Failure for anything that was thrown while a request ran; null when the reader stopped it. */
export function explain(error) {
  if (error.name === "AbortError") return null;
  if (error instanceof Failure) return error;
  return new Failure("Unreadable answer", "The answer is not what this endpoint sends.", "Raw shows what arrived.");
}
