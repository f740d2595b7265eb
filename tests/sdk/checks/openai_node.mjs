// What openai-node makes of the API, as JSON on stdout. The argument is the API's description.

import OpenAI from "openai";

const given = JSON.parse(process.argv[2]);
const options = { baseURL: given.url, apiKey: given.key, maxRetries: 0 };
const client = new OpenAI(options);
const ask = { model: given.chat, messages: given.messages };

async function chat() {
  const answer = await client.chat.completions.create(ask);
  const { message, finish_reason: finish } = answer.choices[0];
  const usage = [answer.usage.prompt_tokens, answer.usage.completion_tokens];
  return { text: message.content, finish, usage };
}

async function stream() {
  const found = { pieces: [], finish: null, usage: null };
  const chunks = await client.chat.completions.create({
    ...ask,
    stream: true,
    stream_options: { include_usage: true },
  });
  for await (const chunk of chunks) {
    for (const choice of chunk.choices) {
      if (choice.delta.content) found.pieces.push(choice.delta.content);
      found.finish = choice.finish_reason ?? found.finish;
    }
    if (chunk.usage) found.usage = [chunk.usage.prompt_tokens, chunk.usage.completion_tokens];
  }
  return found;
}

async function tools() {
  const runner = client.chat.completions.stream({ ...ask, tools: given.tools });
  const choice = (await runner.finalChatCompletion()).choices[0];
  const calls = choice.message.tool_calls.map((call) => ({
    name: call.function.name,
    arguments: JSON.parse(call.function.arguments),
  }));
  return { calls, finish: choice.finish_reason };
}

async function errors() {
  const asks = {
    401: () => new OpenAI({ ...options, apiKey: "sk-wrong" }).models.list(),
    404: () => client.chat.completions.create({ ...ask, model: given.unknown }),
    429: () => client.chat.completions.create({ ...ask, model: given.limited }),
  };
  const found = {};
  for (const [status, fails] of Object.entries(asks)) {
    try {
      await fails();
    } catch (error) {
      if (!(error instanceof OpenAI.APIError)) throw error;
      found[status] = `${error.constructor.name} ${error.status}`;
    }
  }
  return found;
}

async function responses() {
  const asked = { model: given.chat, input: given.question };
  const whole = await client.responses.create(asked);
  const pieces = [];
  for await (const event of await client.responses.create({ ...asked, stream: true })) {
    if (event.type === "response.output_text.delta") pieces.push(event.delta);
  }
  return { text: whole.output_text, pieces };
}

const embedded = await client.embeddings.create({ model: given.embed, input: given.texts });
const models = [];
for await (const model of client.models.list()) models.push(model.id);
const report = {
  chat: await chat(),
  stream: await stream(),
  tools: await tools(),
  errors: await errors(),
  embeddings: embedded.data.map((entry) => Array.from(entry.embedding)),
  responses: await responses(),
  models,
  model: (await client.models.retrieve(given.chat)).id,
};
console.log(JSON.stringify(report));
