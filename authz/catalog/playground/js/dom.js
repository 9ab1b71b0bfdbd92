/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/** A new element with these properties; children are elements or text, which never becomes markup. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A list of terms and descriptions, each pair in its own group. */
export function definitions(pairs) {
  return pairs.map(([term, text]) => element("div", {}, element("dt", {}, term), element("dd", {}, text)));
}
