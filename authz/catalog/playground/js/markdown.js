import { element } from "./dom.js";

const INLINE = /`([^`\n]+)`|\*\*([^*\n]+)\*\*|\*([^*\s][^*\n]*)\*/g;
const ITEM = { ul: /^\s*[-*+] +(.*)$/, ol: /^\s*\d{1,3}[.)] +(.*)$/ };

/**
 * A small subset of Markdown as elements: headings, lists, fenced code, inline code, bold and italic. Links and images
 * stay text, so that an answer can neither load nor hide an address.
 */
export function markdown(text) {
  const lines = text.split("\n");
  const blocks = [];
  while (lines.length > 0) blocks.push(...block(lines));
  return blocks;
}

/** Takes the next block from `lines`. */
function block(lines) {
  if (lines[0].trim() === "") return lines.splice(0, 1).slice(1);
  if (lines[0].startsWith("```")) return [fenced(lines)];
  const heading = /^#{1,6} +(.*)$/.exec(lines[0]);
  if (heading) {
    lines.shift();
    return [element("h4", {}, ...inline(heading[1]))];
  }
  for (const [tag, pattern] of Object.entries(ITEM)) if (pattern.test(lines[0])) return [list(lines, tag, pattern)];
  const paragraph = [];
  while (lines.length > 0 && !startsBlock(lines[0])) paragraph.push(lines.shift());
  if (paragraph.length === 0) paragraph.push(lines.shift());
  return [element("p", {}, ...inline(paragraph.join("\n")))];
}

const startsBlock = (line) => (
  line.trim() === "" || /^(```|#{1,6} )/.test(line) || Object.values(ITEM).some((pattern) => pattern.test(line))
);

function fenced(lines) {
  lines.shift();
  const end = lines.findIndex((line) => line.startsWith("```"));
  const code = lines.splice(0, end < 0 ? lines.length : end);
  lines.shift();
  return element("pre", { tabIndex: 0 }, element("code", {}, code.join("\n")));
}

function list(lines, tag, pattern) {
  const items = [];
  while (lines.length > 0 && pattern.test(lines[0])) {
    items.push(element("li", {}, ...inline(pattern.exec(lines.shift())[1])));
  }
  return element(tag, {}, ...items);
}

function inline(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, code, bold, italic] = match;
    const tag = code ? "code" : bold ? "strong" : "em";
    parts.push(text.slice(end, match.index), element(tag, {}, code ?? bold ?? italic));
    end = match.index + whole.length;
  }
  return [...parts, text.slice(end)];
}
