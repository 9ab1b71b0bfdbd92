// The Anthropic library for JavaScript. It has no embeddings.
import { TOOL_NAME, TOOL_PARAMETERS, TOOL_PROMPT, TOOL_RESULT, run } from "./runner.mjs";
const { default: Anthropic } = await import("@anthropic-ai/sdk");

const tools = [{ name: TOOL_NAME, input_schema: TOOL_PARAMETERS }];
const client = (settings) => new Anthropic({ baseURL: settings.url, apiKey: settings.key, maxRetries: 0 });
const bodyOf = (settings) => ({
  model: settings.model, max_tokens: 1000, messages: [{ role: "user", content: settings.prompt }],
});
const textOf = (message) => message.content.filter((block) => block.type === "text").map((block) => block.text).join("");

await run({
  async list(settings) {
    const models = [];
    for await (const model of client(settings).models.list()) models.push(model.id);
    return { models };
  },
  async chat(settings) {
    return { text: textOf(await client(settings).messages.create(bodyOf(settings))) };
  },
  async stream(settings) {
    const stream = client(settings).messages.stream(bodyOf(settings));
    let parts = 0;
    stream.on("text", () => (parts += 1));
    return { text: textOf(await stream.finalMessage()), parts };
  },
  async tools(settings) {
    const messages = [{ role: "user", content: TOOL_PROMPT }];
    const create = (turns) => client(settings).messages.create({ ...bodyOf(settings), messages: turns, tools });
    const answer = await create(messages);
    const results = answer.content
      .filter((block) => block.type === "tool_use" && block.name === TOOL_NAME)
      .map((block) => ({ type: "tool_result", tool_use_id: block.id, content: TOOL_RESULT }));
    const turns = [{ role: "assistant", content: answer.content }, { role: "user", content: results }];
    return { text: textOf(await create([...messages, ...turns])) };
  },
  async abort(settings) {
    const events = await client(settings).messages.create({ ...bodyOf(settings), stream: true });
    for await (const _ of events) break;
    events.controller.abort();
    return { text: "" };
  },
});
