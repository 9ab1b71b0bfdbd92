const TOKEN = /\s+|"(?:[^"\\]|\\.)*"?|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|[A-Za-z]+|[^\s]/g;
const INLINE_CHARACTERS_MAX = 64;

/** The tokens of JSON text in order; joined they are the text. Text that is not JSON is split as well as possible. */
export function tokens(text) {
  const found = (text.match(TOKEN) ?? []).map((each) => ({ kind: kindOf(each), text: each }));
  for (const [index, token] of found.entries()) {
    const next = found.slice(index + 1, index + 3).find(({ kind }) => kind !== "space");
    if (token.kind === "string" && next?.text === ":") token.kind = "name";
  }
  return found;
}

function kindOf(text) {
  if (/^\s/.test(text)) return "space";
  if (text[0] === '"') return "string";
  if (/^-?\d/.test(text)) return "number";
  return /^[A-Za-z]/.test(text) ? "word" : "punctuation";
}

/**
 * The tree of valid JSON text. Its leaves keep the spelling of the text, so that numbers stay as they were written:
 * `{entries: [[name, node]]}`, `{items: [node]}` or `{leaf: token}`.
 */
export function treeOf(text) {
  const queue = tokens(text).filter(({ kind }) => kind !== "space");
  const isNext = (sign) => queue[0].text === sign && queue.shift();
  const list = (end, read) => {
    const found = [];
    while (!isNext(end)) {
      found.push(read());
      isNext(",");
    }
    return found;
  };
  const member = () => {
    const name = JSON.parse(queue.shift().text);
    queue.shift();
    return [name, node()];
  };
  const node = () => {
    if (isNext("{")) return { entries: list("}", member) };
    if (isNext("[")) return { items: list("]", node) };
    return { leaf: queue.shift() };
  };
  return node();
}

const PYTHON_WORDS = { true: "True", false: "False", null: "None" };

/** The node as JSON, which is also JavaScript, or as a Python literal. Lines after the first have `indent` blanks. */
export function print(node, language = "json", indent = 0) {
  if (node.leaf) return printLeaf(node.leaf, language);
  const [open, close] = node.entries ? ["{", "}"] : ["[", "]"];
  const parts = (depth) => node.entries
    ? node.entries.map(([name, value]) => `${JSON.stringify(name)}: ${print(value, language, depth)}`)
    : node.items.map((item) => print(item, language, depth));
  if (parts(0).length === 0) return open + close;
  const padding = node.entries ? " " : "";
  const inline = `${open}${padding}${parts(0).join(", ")}${padding}${close}`;
  if (indent > 0 && inline.length <= INLINE_CHARACTERS_MAX && !inline.includes("\n")) return inline;
  const step = language === "python" ? 4 : 2;
  const margin = " ".repeat(indent + step);
  return `${open}\n${parts(indent + step).map((part) => margin + part).join(",\n")}\n${" ".repeat(indent)}${close}`;
}

function printLeaf({ kind, text }, language) {
  // JSON's escapes mean the same in Python and JavaScript, except for `\/`.
  if (kind === "string") return JSON.stringify(JSON.parse(text));
  return language === "python" ? PYTHON_WORDS[text] ?? text : text;
}
