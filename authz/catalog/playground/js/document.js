/** Reads and changes one place of a request body, by a path of the table: `options.num_predict` or `messages:user`. */

/** The value at `path`; undefined when it is absent, and null when a form field cannot show it. */
export function readPlace(body, path) {
  const [list, role] = path.split(":");
  if (!role) return path.split(".").reduce((part, name) => part?.[name], body);
  const message = turnOf(body[list], role);
  return message && typeof message.content !== "string" ? null : message?.content;
}

/** Sets the value at `path`, or removes it when the value is undefined, and objects that this empties. */
export function writePlace(body, path, value) {
  const [list, role] = path.split(":");
  if (role) return writeTurn(body, list, role, value);
  const names = path.split(".");
  const last = names.pop();
  const owner = names.reduce((part, name) => part[name] ??= {}, body);
  if (value === undefined) delete owner[last];
  else owner[last] = value;
  if (names.length === 1 && Object.keys(owner).length === 0) delete body[names[0]];
}

/** The first message of the system, or the last one of the user. */
const turnOf = (messages, role) => {
  const turns = Array.isArray(messages) ? messages.filter((each) => each?.role === role) : [];
  return role === "user" ? turns.at(-1) : turns[0];
};

function writeTurn(body, list, role, content) {
  if (!Array.isArray(body[list])) body[list] = [];
  const message = turnOf(body[list], role);
  if (content === undefined && role === "system") body[list] = body[list].filter((each) => each !== message);
  else if (message) message.content = content ?? "";
  else if (role === "system") body[list].unshift({ role, content });
  else body[list].push({ role, content: content ?? "" });
}

const CITY = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const WEATHER = { name: "get_weather", description: "The weather of a city" };

/** A sample tool in the shape that an endpoint expects. */
export const TOOLS = {
  nested: { type: "function", function: { ...WEATHER, parameters: CITY } },
  flat: { type: "function", ...WEATHER, parameters: CITY },
  anthropic: { ...WEATHER, input_schema: CITY },
};
