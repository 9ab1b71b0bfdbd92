import { $ } from "./dom.js";
import { quantity } from "./formats.js";
import { showStatus, WAITING } from "./response.js";

const FIRST_POLL_MS = 1000;
const POLL_MS = 2000;

/**
 * Shows the place in the queue until the head of an answer arrives. `sent` is the promise of the head, which is returned.
 * `readUsage` reads the document of `GET /v1/usage`. `signal` aborts both.
 */
export async function showPlaceUntil(sent, readUsage, signal) {
  let waits = true;
  let timer = setTimeout(poll, FIRST_POLL_MS);
  async function poll() {
    // A poll that fails is left out: the request that waits is not affected, and the next poll may succeed.
    const usage = await readUsage(signal).catch(() => null);
    if (!waits || signal.aborted) return;
    if (usage !== null) showPlace(usage);
    timer = setTimeout(poll, POLL_MS);
  }
  try {
    return await sent;
  } finally {
    waits = false;
    clearTimeout(timer);
  }
}

function showPlace({ queue, tenant }) {
  const text = queue?.position ? placeOf(queue, tenant.name) : WAITING;
  // A screen reader would announce the same text again.
  if ($("status").textContent !== text) showStatus(text);
}

const placeOf = ({ position, waiting }, tenant) => (
  `Waiting for a slot: number ${quantity(position)} of ${quantity(waiting)} waiting ${waiting === 1 ? "request" : "requests"} of ${tenant} …`
);
