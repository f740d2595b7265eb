// What the AI SDK makes of the API, as JSON on stdout.
// Arguments: the API's description, the SDK's major, and which provider package: openai, compatible.

const [given, major, packaged] = [JSON.parse(process.argv[2]), process.argv[3], process.argv[4]];
const { APICallError, embedMany, generateText, jsonSchema, streamText, tool } = await import(
  `ai-sdk-${major}`
);
const { createOpenAI } = await import(`ai-sdk-${major}-openai`);
const { createOpenAICompatible } = await import(`ai-sdk-${major}-compatible`);

function provider(apiKey) {
  if (packaged === "openai") {
    const made = createOpenAI({ baseURL: given.url, apiKey });
    return {
      chat: (name) => made.chat(name),
      responses: (name) => made.responses(name),
      embed: (name) => made.textEmbeddingModel(name),
    };
  }
  const made = createOpenAICompatible({
    name: "gateway",
    baseURL: given.url,
    apiKey,
    includeUsage: true,
  });
  return {
    chat: (name) => made.chatModel(name),
    embed: (name) => made.textEmbeddingModel(name),
  };
}

const api = provider(given.key);
const ask = { prompt: given.question, maxRetries: 0 };
const used = (usage) => [usage.inputTokens, usage.outputTokens];

async function chat() {
  const answer = await generateText({ model: api.chat(given.chat), ...ask });
  return { text: answer.text, finish: answer.finishReason, usage: used(answer.usage) };
}

async function stream(model) {
  const streamed = streamText({ model, ...ask, onError: () => {} });
  const pieces = [];
  for await (const part of streamed.textStream) pieces.push(part);
  return { pieces, finish: await streamed.finishReason, usage: used(await streamed.usage) };
}

async function tools() {
  const { name, parameters } = given.tools[0].function;
  const streamed = streamText({
    model: api.chat(given.chat),
    tools: { [name]: tool({ inputSchema: jsonSchema(parameters) }) },
    ...ask,
  });
  const calls = [];
  for await (const part of streamed.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "tool-call") calls.push({ name: part.toolName, arguments: part.input });
  }
  return { calls, finish: await streamed.finishReason };
}

async function errors() {
  const asks = {
    401: () => generateText({ model: provider("sk-wrong").chat(given.chat), ...ask }),
    404: () => generateText({ model: api.chat(given.unknown), ...ask }),
    429: () => generateText({ model: api.chat(given.limited), ...ask }),
  };
  const found = {};
  for (const [status, fails] of Object.entries(asks)) {
    try {
      await fails();
    } catch (error) {
      if (!APICallError.isInstance(error)) throw error;
      if (!error.message) throw new Error(`${status} came without a message`);
      found[status] = `APICallError ${error.statusCode}`;
    }
  }
  return found;
}

async function embeddings() {
  const answer = await embedMany({ model: api.embed(given.embed), values: given.texts });
  return answer.embeddings;
}

const report = {
  chat: await chat(),
  stream: await stream(api.chat(given.chat)),
  tools: await tools(),
  errors: await errors(),
  embeddings: await embeddings(),
};
if (api.responses) {
  const answer = await generateText({ model: api.responses(given.chat), ...ask });
  const streamed = await stream(api.responses(given.chat));
  report.responses = { text: answer.text, pieces: streamed.pieces };
}
console.log(JSON.stringify(report));
