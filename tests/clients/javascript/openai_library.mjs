// The OpenAI library for JavaScript.
import { TOOL_NAME, TOOL_PARAMETERS, TOOL_PROMPT, TOOL_RESULT, run } from "./runner.mjs";
const { default: OpenAI } = await import("openai");

const tools = [{ type: "function", function: { name: TOOL_NAME, parameters: TOOL_PARAMETERS } }];
const client = (settings) => new OpenAI({ baseURL: `${settings.url}/v1`, apiKey: settings.key, maxRetries: 0 });
const messagesOf = (settings) => [{ role: "user", content: settings.prompt }];

await run({
  async list(settings) {
    const models = [];
    for await (const model of client(settings).models.list()) models.push(model.id);
    return { models };
  },
  async chat(settings) {
    const answer = await client(settings).chat.completions.create({ model: settings.model, messages: messagesOf(settings) });
    return { text: answer.choices[0].message.content };
  },
  async stream(settings) {
    const chunks = await client(settings).chat.completions.create({
      model: settings.model, messages: messagesOf(settings), stream: true,
    });
    const parts = [];
    for await (const chunk of chunks) parts.push(chunk.choices[0]?.delta.content ?? "");
    return { text: parts.join(""), parts: parts.length };
  },
  async tools(settings) {
    const messages = [{ role: "user", content: TOOL_PROMPT }];
    const create = (turns) => client(settings).chat.completions.create({ model: settings.model, messages: turns, tools });
    const message = (await create(messages)).choices[0].message;
    const results = (message.tool_calls ?? [])
      .filter((call) => call.function.name === TOOL_NAME)
      .map((call) => ({ role: "tool", tool_call_id: call.id, content: TOOL_RESULT }));
    return { text: (await create([...messages, message, ...results])).choices[0].message.content };
  },
  async embed(settings) {
    const answer = await client(settings).embeddings.create({ model: settings.embeddingModel, input: ["one", "two"] });
    return { dimensions: answer.data.map((row) => row.embedding.length) };
  },
  async abort(settings) {
    const chunks = await client(settings).chat.completions.create({
      model: settings.model, messages: messagesOf(settings), stream: true,
    });
    for await (const _ of chunks) break;
    chunks.controller.abort();
    return { text: "" };
  },
});
