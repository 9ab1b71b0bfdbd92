// The Ollama library for JavaScript. It does not read OLLAMA_API_KEY, so the key is a header.
import { TOOL_NAME, TOOL_PARAMETERS, TOOL_PROMPT, TOOL_RESULT, run } from "./runner.mjs";
const { Ollama } = await import("ollama");

const tools = [{ type: "function", function: { name: TOOL_NAME, parameters: TOOL_PARAMETERS } }];
const client = (settings) => new Ollama({ host: settings.url, headers: { Authorization: `Bearer ${settings.key}` } });
const messagesOf = (settings) => [{ role: "user", content: settings.prompt }];

await run({
  async list(settings) {
    return { models: (await client(settings).list()).models.map((model) => model.model) };
  },
  async chat(settings) {
    const answer = await client(settings).chat({ model: settings.model, messages: messagesOf(settings) });
    return { text: answer.message.content };
  },
  async stream(settings) {
    const parts = [];
    for await (const chunk of await client(settings).chat({
      model: settings.model, messages: messagesOf(settings), stream: true,
    })) parts.push(chunk.message.content);
    return { text: parts.join(""), parts: parts.length };
  },
  async tools(settings) {
    const messages = [{ role: "user", content: TOOL_PROMPT }];
    const chat = (turns) => client(settings).chat({ model: settings.model, messages: turns, tools });
    const { message } = await chat(messages);
    const results = (message.tool_calls ?? [])
      .filter((call) => call.function.name === TOOL_NAME)
      .map(() => ({ role: "tool", tool_name: TOOL_NAME, content: TOOL_RESULT }));
    return { text: (await chat([...messages, message, ...results])).message.content };
  },
  async embed(settings) {
    const answer = await client(settings).embed({ model: settings.embeddingModel, input: ["one", "two"] });
    return { dimensions: answer.embeddings.map((vector) => vector.length) };
  },
  async abort(settings) {
    const ollama = client(settings);
    const chunks = await ollama.chat({ model: settings.model, messages: messagesOf(settings), stream: true });
    try {
      for await (const _ of chunks) ollama.abort();
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
    return { text: "" };
  },
});
