import { ARGUMENTS } from "./table.js";
import { print, treeOf } from "./tokens.js";

const KEY = "GATEWAY_API_KEY";
const CLIENTS = { openai: "OpenAI", ollama: "Ollama", anthropic: "Anthropic" };

/** The tabs of code for an endpoint: programs that need nothing installed, and the official clients that can send it. */
export const languagesOf = (endpoint) => [
  { name: "curl", label: "curl" },
  { name: "python", label: "Python" },
  { name: "javascript", label: "JavaScript" },
  ...Object.keys(endpoint.clients ?? {}).map((name) => ({ name, label: `${CLIENTS[name]} client` })),
];

/** What the reader has to know before running the code. */
export const NOTES = {
  curl: `Put the key into $${KEY} first.`,
  python: `Needs Python only. Put the key into $${KEY} first.`,
  javascript: `Needs Node.js 18 or newer: save it as request.mjs and run node request.mjs. Put the key into $${KEY} first.`,
  openai: `pip install openai. Put the key into $${KEY} first.`,
  ollama: `pip install ollama. Put the key into $${KEY} first.`,
  anthropic: `pip install anthropic. Put the key into $${KEY} first.`,
};

/**
 * The code that sends `request` (method, path, and the body as JSON text or null) to `origin`.
 *
 * The code never holds the key: it reads an environment variable.
 */
export function snippet(language, endpoint, request, origin) {
  if (language === "curl") return curl(endpoint, request, origin);
  if (language === "python") return python(endpoint, request, origin);
  if (language === "javascript") return javascript(endpoint, request, origin);
  return client(language, endpoint, request, origin);
}

const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

function curl(endpoint, { path, body }, origin) {
  const parts = [`curl${body === null ? "" : " -N"} ${quoted(origin + path)}`];
  if (endpoint.auth === "key") parts.push(`-H "Authorization: Bearer $${KEY}"`);
  if (body !== null) parts.push("-H 'Content-Type: application/json'", `-d ${quoted(body)}`);
  return parts.join(" \\\n  ");
}

function python(endpoint, { method, path, body }, origin) {
  const imports = [body !== null && "import json", endpoint.auth === "key" && "import os", "import urllib.request"];
  const lines = [...imports.filter(Boolean), ""];
  const argumentsOf = [`    ${JSON.stringify(origin + path)},`];
  if (body !== null) {
    lines.push(`body = ${print(treeOf(body), "python")}`);
    argumentsOf.push("    data=json.dumps(body).encode(),");
  }
  const headers = [];
  if (endpoint.auth === "key") headers.push(`        "Authorization": f"Bearer {os.environ['${KEY}']}",`);
  if (body !== null) headers.push('        "Content-Type": "application/json",');
  if (headers.length > 0) argumentsOf.push("    headers={", ...headers, "    },");
  argumentsOf.push(`    method="${method}",`);
  lines.push("request = urllib.request.Request(", ...argumentsOf, ")");
  lines.push("with urllib.request.urlopen(request) as answer:", "    for line in answer:");
  lines.push('        print(line.decode(), end="", flush=True)');
  return lines.join("\n");
}

function javascript(endpoint, { method, path, body }, origin) {
  const headers = [];
  if (endpoint.auth === "key") headers.push(`    "Authorization": \`Bearer \${process.env.${KEY}}\`,`);
  if (body !== null) headers.push('    "Content-Type": "application/json",');
  const options = [`  method: "${method}",`];
  if (headers.length > 0) options.push("  headers: {", ...headers, "  },");
  if (body !== null) options.push(`  body: JSON.stringify(${print(treeOf(body), "json", 2)}),`);
  return [
    `const answer = await fetch(${JSON.stringify(origin + path)}, {`,
    ...options,
    "});",
    "for await (const part of answer.body) process.stdout.write(part);",
  ].join("\n");
}

const SETUP = {
  openai: (origin) => [
    "import os", "from openai import OpenAI", "",
    `client = OpenAI(base_url=${JSON.stringify(`${origin}/v1`)}, api_key=os.environ["${KEY}"])`,
  ],
  anthropic: (origin) => [
    "import os", "from anthropic import Anthropic", "",
    `client = Anthropic(base_url=${JSON.stringify(origin)}, api_key=os.environ["${KEY}"])`,
  ],
  ollama: (origin) => [
    "import os", "from ollama import Client", "",
    "client = Client(",
    `    host=${JSON.stringify(origin)},`,
    `    headers={"Authorization": f"Bearer {os.environ['${KEY}']}"},`,
    ")",
  ],
};

function client(name, endpoint, { body, model }, origin) {
  const call = endpoint.clients[name];
  const sent = body === null ? {} : JSON.parse(body);
  const streams = sent.stream ?? endpoint.streamsByDefault ?? false;
  const given = keywords(name, call, body, model);
  // Ollama's client does not stream unless it is called so, and Ollama itself does.
  if (name === "ollama" && streams && !("stream" in sent)) given.push("    stream=True,");
  const open = given.length > 0 ? [`answer = client.${call}(`, ...given, ")"] : [`answer = client.${call}()`];
  const shows = sent.tools?.length > 0 ? JSON_OUTPUT : OUTPUT[call] ?? JSON_OUTPUT;
  return [...SETUP[name](origin), ...open, ...(streams ? shows.stream : shows.whole)].join("\n");
}

function keywords(name, call, body, model) {
  if (body === null) return model ? [`    model=${JSON.stringify(model)},`] : [];
  const { entries } = treeOf(body);
  const known = entries.filter(([field]) => ARGUMENTS[call].includes(field));
  const others = entries.filter(([field]) => !ARGUMENTS[call].includes(field));
  const lines = known.map(([field, value]) => `    ${field}=${print(value, "python", 4)},`);
  if (others.length > 0 && name === "ollama") {
    lines.push(`    # This client cannot send ${others.map(([field]) => field).join(", ")}.`);
  } else if (others.length > 0) {
    lines.push(`    extra_body=${print({ entries: others }, "python", 4)},`);
  }
  return lines;
}

const flowing = (text) => [`    print(${text}, end="", flush=True)`];
const JSON_OUTPUT = {
  whole: ["print(answer.model_dump_json(indent=2))"],
  stream: ["for part in answer:", "    print(part.model_dump_json())"],
};

// How each call's answer is printed: the text, which is what most programs want.
const OUTPUT = {
  chat: {
    whole: ["print(answer.message.content)"],
    stream: ["for part in answer:", ...flowing('part.message.content or ""'), "print()"],
  },
  generate: { whole: ["print(answer.response)"], stream: ["for part in answer:", ...flowing("part.response"), "print()"] },
  embed: { whole: ["print(answer.embeddings)"] },
  embeddings: { whole: ["print(answer.embedding)"] },
  "chat.completions.create": {
    whole: ["print(answer.choices[0].message.content)"],
    stream: [
      "for chunk in answer:", "    for choice in chunk.choices:",
      '        print(choice.delta.content or "", end="", flush=True)', "print()",
    ],
  },
  "completions.create": {
    whole: ["print(answer.choices[0].text)"],
    stream: [
      "for chunk in answer:", "    for choice in chunk.choices:",
      '        print(choice.text, end="", flush=True)', "print()",
    ],
  },
  "responses.create": {
    whole: ["print(answer.output_text)"],
    stream: [
      "for event in answer:", '    if event.type == "response.output_text.delta":',
      '        print(event.delta, end="", flush=True)', "print()",
    ],
  },
  "embeddings.create": { whole: ["print([each.embedding for each in answer.data])"] },
  "messages.create": {
    whole: ['print("".join(block.text for block in answer.content if block.type == "text"))'],
    stream: [
      "for event in answer:", '    if event.type == "content_block_delta" and event.delta.type == "text_delta":',
      '        print(event.delta.text, end="", flush=True)', "print()",
    ],
  },
  "messages.count_tokens": { whole: ["print(answer.input_tokens)"] },
};
