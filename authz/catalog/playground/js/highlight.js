import { element } from "./dom.js";
import { tokens } from "./tokens.js";

const CODE = /(?<comment>^\s*(?:#|\/\/).*$)|(?<string>`[^`]*`|f?"(?:[^"\\\n]|\\.)*"|'[^']*')|(?<number>\b\d+(?:\.\d+)?\b)|(?<word>\b(?:import|from|for|in|if|as|or|with|print|await|const|of|True|False|None|true|false|null|curl)\b)/gm;

/** Shows JSON text in colours. */
export function paintJson(target, text) {
  target.replaceChildren(...tokens(text).map(({ kind, text: part }) => (
    ["space", "punctuation"].includes(kind) ? part : element("span", { className: `t-${kind}` }, part)
  )));
}

/** Shows the text of a shell command or of a program in colours. */
export function paintCode(target, text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(CODE)) {
    const [kind] = Object.entries(match.groups).find(([, part]) => part !== undefined);
    parts.push(text.slice(end, match.index), element("span", { className: `t-${kind}` }, match[0]));
    end = match.index + match[0].length;
  }
  target.replaceChildren(...parts, text.slice(end));
}
