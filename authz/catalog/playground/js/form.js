import { element } from "./dom.js";
import { readPlace, TOOLS, writePlace } from "./document.js";

// The fields in the order of the form. `kind` is the control, `hint` the placeholder of an empty one.
const FIELDS = [
  { name: "model", label: "Model", kind: "model" },
  { name: "tokens", label: "Max tokens", kind: "number", min: 1, step: 1, hint: "default" },
  { name: "temperature", label: "Temperature", kind: "number", min: 0, step: 0.1, hint: "default" },
  { name: "system", label: "System prompt", kind: "text", hint: "none" },
  { name: "prompt", label: "Prompt", kind: "text" },
  { name: "stream", label: "Stream the answer", kind: "check" },
  { name: "think", label: "Think first", kind: "check" },
  { name: "tools", label: "Offer a tool", kind: "check" },
];

/**
 * Builds the controls of an endpoint in `target`. `changed` gets a function that makes a control's change in a body.
 *
 * Returns `show(body)`, which shows a body in the controls; null disables them. `models` lists the models to offer.
 */
export function buildForm(target, endpoint, models, changed) {
  const places = { ...endpoint.form, ...(endpoint.tool && { tools: "tools" }) };
  if (endpoint.request !== null || endpoint.model) places.model = "model";
  const fields = FIELDS.filter(({ name }) => places[name]).map((field) => makeField(field, endpoint, models));
  for (const { field, control } of fields) {
    control.addEventListener("input", () => {
      if (control.validity.valid) changed((body) => writePlace(body, places[field.name], valueOf(field, control, endpoint)));
    });
  }
  target.replaceChildren(...fields.map(({ box }) => box));
  return (body) => {
    for (const { field, control } of fields) {
      const value = body === null ? null : readPlace(body, places[field.name]);
      showValue(field, control, value, endpoint);
    }
  };
}

function makeField(field, endpoint, models) {
  const control = controlOf(field, models);
  control.id = `field-${field.name}`;
  control.autocomplete = "off";
  const label = element("label", { htmlFor: control.id }, field.label);
  if (field.kind !== "check") label.className = "caption";
  const classes = { text: "field wide", check: "field check", model: "field model" };
  const parts = field.kind === "check" ? [control, label] : [label, control];
  return { field, control, box: element("div", { className: classes[field.kind] ?? "field" }, ...parts) };
}

function controlOf({ kind, min, step, hint = "" }, models) {
  if (kind === "model") return element("select", {}, ...models.map((name) => new Option(name, name)));
  if (kind === "text") return element("textarea", { rows: 1, placeholder: hint });
  if (kind === "check") return element("input", { type: "checkbox" });
  return element("input", { type: "number", min, step, placeholder: hint, inputMode: "decimal" });
}

/** What the control means in the body; undefined where the body is to have nothing there. */
function valueOf({ name, kind }, control, endpoint) {
  if (name === "tools") return control.checked ? [TOOLS[endpoint.tool]] : undefined;
  if (kind === "check") return control.checked;
  // An emptied number is absent from the body: the default of the model and of the key applies.
  if (kind === "number") return Number.isNaN(control.valueAsNumber) ? undefined : control.valueAsNumber;
  return control.value === "" && name === "system" ? undefined : control.value;
}

function showValue({ name, kind }, control, value, endpoint) {
  const fits = value === undefined || typeof value === TYPES[kind] || (name === "tools" && Array.isArray(value));
  control.disabled = !fits;
  control.title = fits ? "" : "Edit this in the JSON body";
  if (!fits) return;
  if (name === "stream") control.checked = value ?? endpoint.streamsByDefault;
  else if (kind === "check") control.checked = Boolean(value?.length ?? value);
  else if (control !== document.activeElement) showText(control, value, kind);
}

const TYPES = { model: "string", text: "string", number: "number", check: "boolean" };

function showText(control, value, kind) {
  if (kind === "model" && value && ![...control.options].some((option) => option.value === value)) {
    control.prepend(new Option(value, value));
  }
  control.value = value ?? "";
}
