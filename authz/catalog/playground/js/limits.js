import { $, element } from "./dom.js";
import { clock, localTime, quantity } from "./formats.js";

const LOW_SHARE = 0.15;
const PERIODS = { day: "Today's budget", month: "This month's budget", total: "Total budget" };

/** Shows the document of `GET /v1/usage`. */
export function showUsage({ key, tenant, today }) {
  $("limits-owner").textContent = `key ${key.prefix}… of tenant ${tenant.name}`;
  const gauges = [...windows(key, tenant), ...budgets(key, "key"), ...budgets(tenant, "tenant")];
  $("gauges").replaceChildren(...gauges.map(gauge), ...(today.length > 0 ? [todayTable(today)] : []));
  const { concurrent, max_output: output, max_body: body } = key.limits;
  $("limits-note").textContent = `At most ${quantity(concurrent)} requests at once, `
    + `${quantity(output)} output tokens and ${quantity(body)} bytes of body per request.`;
}

/** Updates the windows from the headers of an answer, which describe the moment of its admission. */
export function showHeaders(headers) {
  for (const kind of ["Requests", "Tokens"]) {
    const [limit, left, resets] = ["Limit", "Remaining", "Reset"].map((part) => headers.get(`X-RateLimit-${part}-${kind}`));
    const old = $(`gauge-${kind.toLowerCase()}`);
    if (limit === null || old === null) continue;
    old.replaceWith(gauge(windowOf(kind, Number(limit), Number(left), Number(resets))));
  }
}

/** Forgets everything about the last key. */
export function clearLimits() {
  $("limits-owner").textContent = $("limits-note").textContent = "";
  $("gauges").replaceChildren(element("p", { className: "quiet" }, "Refresh reads what the key may still use, and every answer updates it."));
}

/** The windows of the key or of the tenant, whichever has less left. */
function windows(key, tenant) {
  return [["Requests", "rpm", "requests_remaining"], ["Tokens", "tpm", "tokens_remaining"]].map(([kind, limit, left]) => {
    const tighter = key.window[left] <= tenant.window[left] ? key : tenant;
    return windowOf(kind, tighter.limits[limit], tighter.window[left], tighter.window.resets_in_s);
  });
}

const windowOf = (kind, limit, left, resets) => ({
  id: `gauge-${kind.toLowerCase()}`, label: `${kind} per minute`, limit, left, unit: "left",
  reset: resets > 0 ? `full again at ${clock(resets)}` : "full",
});

const budgets = ({ budgets: found }, owner) => found.map(({ period, limit, remaining, reserved, resets_at: resets }) => ({
  label: `${PERIODS[period]} of the ${owner}`, limit, left: remaining, unit: "tokens left",
  reset: [
    reserved > 0 && `${quantity(reserved)} held by running requests`,
    resets ? `resets ${localTime(new Date(resets))}` : "never resets",
  ].filter(Boolean).join(", "),
}));

function gauge({ id, label, limit, left, unit, reset }) {
  const name = element("span", {}, label);
  const amount = element("span", {}, element("b", {}, quantity(left)), ` of ${quantity(limit)} ${unit}`);
  const bar = element("progress", { max: Math.max(1, limit), value: left });
  bar.setAttribute("aria-label", `${label}: ${quantity(left)} of ${quantity(limit)} ${unit}`);
  const low = left < limit * LOW_SHARE ? " low" : "";
  return element("div", { ...(id && { id }), className: `gauge${low}` }, element("p", {}, name, amount), bar, element("p", { className: "reset" }, reset));
}

function todayTable(rows) {
  const cells = ({ model, requests, input_tokens: input, output_tokens: output }) => element(
    "tr", {}, element("th", { scope: "row" }, model),
    ...[requests, input, output].map((each) => element("td", {}, quantity(each))),
  );
  const head = ["Model", "Requests", "Input", "Output"].map((each) => element("th", { scope: "col" }, each));
  return element(
    "table", {}, element("caption", { className: "caption" }, "Tokens of this key today (UTC)"),
    element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows.map(cells)),
  );
}
