import { jsonText } from "./formats.js";

/** What is known of an answer. `tools` are calls with a name and arguments as JSON text; tokens are null until counted. */
export const newAnswer = () => (
  { text: "", thinking: "", tools: [], finish: null, input: null, output: null, complete: false, document: null }
);

function count(answer, input, output) {
  answer.input = input ?? answer.input;
  answer.output = output ?? answer.output;
}

function native(part) {
  return (frame, answer) => {
    const { text, thinking, calls } = part(frame);
    answer.text += text ?? "";
    answer.thinking += thinking ?? "";
    for (const { function: call } of calls ?? []) answer.tools.push({ name: call.name, arguments: jsonText(call.arguments) });
    answer.finish = frame.done_reason ?? answer.finish;
    answer.complete ||= frame.done === true;
    count(answer, frame.prompt_eval_count, frame.eval_count);
  };
}

function openai(part) {
  return (frame, answer) => {
    const choice = frame.choices?.[0];
    if (choice) part(choice, answer);
    answer.finish = choice?.finish_reason ?? answer.finish;
    // Events with text may carry a usage of zeros; the real one comes alone, or with a whole answer.
    if (frame.usage && !choice?.delta) count(answer, frame.usage.prompt_tokens, frame.usage.completion_tokens);
  };
}

function readChoice(choice, answer) {
  const part = choice.delta ?? choice.message;
  answer.text += part.content ?? "";
  answer.thinking += part.reasoning ?? part.reasoning_content ?? "";
  for (const [position, call] of (part.tool_calls ?? []).entries()) {
    const tool = answer.tools[call.index ?? position] ??= { name: "", arguments: "" };
    tool.name += call.function?.name ?? "";
    tool.arguments += call.function?.arguments ?? "";
  }
}

function readItem(item, answer) {
  if (item.type === "function_call") answer.tools.push({ name: item.name, arguments: jsonText(item.arguments) });
  if (item.type === "message") answer.text += item.content.map(({ text }) => text ?? "").join("");
  if (item.type === "reasoning") answer.thinking += item.summary.map(({ text }) => text ?? "").join("");
}

function endResponse(response, answer) {
  answer.finish = response.incomplete_details?.reason ?? response.status;
  answer.complete = true;
  count(answer, response.usage?.input_tokens, response.usage?.output_tokens);
}

function readResponses(frame, answer) {
  if (frame.object === "response") {
    for (const item of frame.output) readItem(item, answer);
    endResponse(frame, answer);
  }
  if (frame.type === "response.output_text.delta") answer.text += frame.delta;
  if (frame.type === "response.reasoning_summary_text.delta") answer.thinking += frame.delta;
  if (frame.type === "response.output_item.done" && frame.item.type === "function_call") readItem(frame.item, answer);
  if (["response.completed", "response.incomplete"].includes(frame.type)) endResponse(frame.response, answer);
}

function readBlock(block, answer) {
  answer.text += block.text ?? "";
  answer.thinking += block.thinking ?? "";
  if (block.type === "tool_use") answer.tools.push({ name: block.name, arguments: jsonText(block.input) });
}

function readMessages(frame, answer) {
  const last = answer.tools.at(-1);
  if (frame.type === "message") {
    for (const block of frame.content) readBlock(block, answer);
    answer.finish = frame.stop_reason;
    count(answer, frame.usage?.input_tokens, frame.usage?.output_tokens);
  }
  if (frame.type === "content_block_start" && frame.content_block.type === "tool_use") {
    answer.tools.push({ name: frame.content_block.name, arguments: "" });
  }
  if (frame.type === "content_block_delta") {
    answer.text += frame.delta.text ?? "";
    answer.thinking += frame.delta.thinking ?? "";
    if (last) last.arguments += frame.delta.partial_json ?? "";
  }
  if (frame.type === "message_delta") {
    // message_start has an estimate, message_delta what was counted.
    answer.finish = frame.delta.stop_reason ?? answer.finish;
    count(answer, frame.usage?.input_tokens, frame.usage?.output_tokens);
  }
  answer.complete ||= frame.type === "message_stop";
}

function readVectors(vectors, input) {
  return (frame, answer) => {
    const found = vectors(frame) ?? [];
    const size = Array.isArray(found[0]) ? ` of ${found[0].length} numbers` : "";
    answer.text = `${found.length} ${found.length === 1 ? "vector" : "vectors"}${size}`;
    if (Array.isArray(found[0])) answer.document = found.map((vector) => [...vector.slice(0, 8), "…"]);
    count(answer, input(frame), null);
    answer.complete = true;
  };
}

/** Adds one frame, or a whole answer, to what is known. The names are those of `gateway.wire.surfaces.AnswerShape`. */
export const READERS = {
  native_chat: native(({ message }) => (
    { text: message?.content, thinking: message?.thinking, calls: message?.tool_calls }
  )),
  native_generate: native(({ response, thinking }) => ({ text: response, thinking })),
  native_embed: readVectors((frame) => frame.embeddings, (frame) => frame.prompt_eval_count),
  native_embeddings: readVectors((frame) => [frame.embedding], () => null),
  openai_chat: openai(readChoice),
  openai_completions: openai((choice, answer) => { answer.text += choice.text ?? ""; }),
  openai_embeddings: readVectors(
    (frame) => frame.data.map(({ embedding }) => embedding), (frame) => frame.usage?.prompt_tokens,
  ),
  openai_responses: readResponses,
  anthropic_messages: readMessages,
};

/** The reader of answers that are no surface's: the document itself is the answer. */
export function readDocument(frame, answer) {
  answer.document = frame;
  answer.complete = true;
}
