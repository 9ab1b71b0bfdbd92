// Performs one action of a library and reports its result as JSON, as `python/runner.py` does.
export const TOOL_NAME = "describe_animal";
export const TOOL_PROMPT = "Use describe_animal";
export const TOOL_RESULT = "It is a wolpertingerwolpertinger";
export const TOOL_PARAMETERS = { type: "object", properties: { name: { type: "string" } }, required: ["name"] };

// Performs the action in the first argument, with the settings in the environment, and prints its result.
export async function run(actions) {
  const settings = {
    url: process.env.CLIENT_URL,
    key: process.env.CLIENT_KEY,
    model: process.env.CLIENT_MODEL,
    embeddingModel: process.env.CLIENT_EMBEDDING_MODEL,
    prompt: process.env.CLIENT_PROMPT,
  };
  let result;
  try {
    result = await actions[process.argv[2]](settings);
  } catch (error) {
    result = { error: `${error.name}: ${error.message}` };
  }
  process.stdout.write(`\n${JSON.stringify(result)}\n`);
}
