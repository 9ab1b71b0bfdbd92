import { $, element } from "./dom.js";
import { buildForm } from "./form.js";
import { paintCode, paintJson } from "./highlight.js";
import { languagesOf, NOTES, snippet } from "./snippets.js";
import { ENDPOINTS, endpointOf } from "./table.js";
import { showTabs } from "./tabs.js";
import { print, treeOf } from "./tokens.js";

// What the reader wrote for each endpoint, by its id: the text of the body, or the model of a path.
const drafts = new Map();
let endpoint = ENDPOINTS[0];
let models = [];
let chosenModel = null;
let language = "curl";
let showForm = () => {};

/** Fills the menu and the chooser for narrow screens; `open` gets the id of an endpoint. */
export function buildMenu(open) {
  const groups = Map.groupBy(ENDPOINTS, ({ group }) => group);
  for (const [name, members] of groups) {
    const links = members.map(({ id, method, path }) => element(
      "li", {}, element("a", { href: `#${encodeURI(id)}` }, methodOf(method), path),
    ));
    $("menu").append(element("h2", {}, name), element("ul", {}, ...links));
    const group = element("optgroup", { label: name });
    group.append(...members.map(({ id }) => new Option(id, id)));
    $("chooser").append(group);
  }
  $("chooser").addEventListener("input", () => open($("chooser").value));
  $("body").addEventListener("input", () => edited($("body").value));
}

/** Shows the sample of the open endpoint again. */
export function resetEndpoint() {
  drafts.delete(endpoint.id);
  openEndpoint(endpoint.id);
}

const methodOf = (method) => element("span", { className: `method ${method.toLowerCase()}` }, method);

/** Shows an endpoint with its draft, or with its sample. */
export function openEndpoint(id) {
  endpoint = endpointOf(id);
  for (const link of $("menu").querySelectorAll("a")) {
    const current = decodeURI(link.hash.slice(1)) === endpoint.id;
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("chooser").value = endpoint.id;
  showAbout();
  showForm = buildForm($("fields"), endpoint, fittingModels(), applyChange);
  $("body-part").hidden = endpoint.request === null;
  $("no-body").hidden = endpoint.request !== null;
  const languages = languagesOf(endpoint);
  if (!languages.some(({ name }) => name === language)) language = "curl";
  showTabs($("code-tabs"), $("code"), languages, language, (name) => {
    language = name;
    showCode();
  });
  showBody();
}

/** The endpoint that is open. */
export const openedEndpoint = () => endpoint;

/** Offers the rows of `/api/tags`; samples that nobody has edited take a model that the key may use. */
export function offerModels(rows) {
  models = rows;
  openEndpoint(endpoint.id);
}

/** The request that Run sends and the code shows; null while the body is not JSON. */
export function currentRequest() {
  const text = drafts.get(endpoint.id) ?? sample();
  if (endpoint.request === null) {
    const path = endpoint.path.replace("{id}", () => encodeURIComponent(text));
    return { method: endpoint.method, path, body: null, model: endpoint.model && text };
  }
  return problemOf(text) ? null : { method: endpoint.method, path: endpoint.path, body: text };
}

function fittingModels() {
  const fits = ({ capabilities }) => !endpoint.kind || (capabilities?.includes(endpoint.kind) ?? true);
  return models.filter(fits).map(({ name }) => name);
}

/** The sample with the model that the reader chose last, or with the first one that fits. */
function sample() {
  const names = fittingModels();
  const own = endpoint.model ?? /"model": "([^"]*)"/.exec(endpoint.request ?? "")?.[1];
  const same = names.find((name) => name === own || name === `${own}:latest`);
  const model = names.includes(chosenModel) ? chosenModel : same ?? names[0] ?? own;
  if (endpoint.request === null) return model ?? "";
  return endpoint.request.replace(/("model": )"[^"]*"/, (_, start) => start + JSON.stringify(model));
}

function showAbout() {
  $("about-method").replaceWith(Object.assign(methodOf(endpoint.method), { id: "about-method" }));
  $("about-path").textContent = endpoint.path;
  $("about-text").replaceChildren(...withCode(endpoint.about));
  $("about-note").replaceChildren(...withCode(endpoint.note));
  $("about-reference").hidden = !endpoint.reference;
  if (endpoint.reference) {
    $("about-reference").href = endpoint.reference;
    $("about-reference").textContent = `Reference at ${new URL(endpoint.reference).hostname}`;
  }
  const auth = endpoint.auth === "none" ? "no key needed" : endpoint.scope ? `API key, scope ${endpoint.scope}` : "API key";
  const framing = endpoint.framing && endpoint.streamsByDefault !== null
    ? element("li", { className: "streams" }, `${endpoint.framing} stream${endpoint.streamsByDefault ? ", default" : ", on request"}`)
    : element("li", {}, "no stream");
  $("about-badges").replaceChildren(element("li", {}, auth), framing);
  showSample("sample-request", endpoint.request ?? `${endpoint.method} ${endpoint.path}`);
  for (const id of ["sample-response", "preview-text"]) showSample(id, endpoint.response);
}

/** Text in which backquotes mark code. */
const withCode = (text) => text.split("`").map((part, index) => (index % 2 === 1 ? element("code", {}, part) : part));

const showSample = (id, text) => paintJson($(id), text);

function edited(text) {
  drafts.set(endpoint.id, text);
  showBody();
}

/** Makes the change of a form field in the body, or in the path. */
function applyChange(change) {
  const text = drafts.get(endpoint.id) ?? sample();
  if (problemOf(text)) return;
  const body = endpoint.request === null ? { model: text } : JSON.parse(text);
  change(body);
  if (typeof body.model === "string") chosenModel = body.model;
  edited(endpoint.request === null ? body.model : print(treeOf(JSON.stringify(body))));
}

function showBody() {
  const text = drafts.get(endpoint.id) ?? sample();
  const problem = problemOf(text);
  if ($("body").value !== text) $("body").value = text;
  paintJson($("body-colours"), `${text}\n`);
  $("body-problem").textContent = problem;
  $("body").setAttribute("aria-invalid", String(problem !== ""));
  showForm(problem ? null : endpoint.request === null ? { model: text } : JSON.parse(text));
  showCode();
}

function problemOf(text) {
  if (endpoint.request === null) return "";
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? "" : "The body must be a JSON object.";
  } catch (error) {
    return `Not JSON: ${error.message.replace(/^JSON\.parse: |, "[\s\S]*$/g, "")}`;
  }
}

function showCode() {
  const request = currentRequest();
  $("code-note").textContent = request ? NOTES[language] : "";
  const code = request ? snippet(language, endpoint, request, location.origin) : "";
  $("code").dataset.code = code;
  if (request) paintCode($("code"), code);
  else $("code").textContent = "The JSON body has an error.";
}
