// Vercel's AI SDK with a provider that is compatible with OpenAI: a stream, a tool, an object, an error, a death.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [base, name] = process.argv.slice(2);
const model = createOpenAICompatible({ name: "local", baseURL: `${base}/v1` })(name);
const seen = {};
const maxRetries = 0;

seen.stream = await streamText({ model, prompt: "Hello from JavaScript", maxRetries }).text;

const weather = tool({
  description: "Weather",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `sun in ${city}`,
});
const prompt = 'CALL {"name": "weather", "arguments": {"city": "Paris"}}';
seen.tools = (await generateText({ model, prompt, tools: { weather }, stopWhen: stepCountIs(3), maxRetries })).text;
const parts = streamText({ model, prompt, tools: { weather }, stopWhen: stepCountIs(3), maxRetries });
seen.streamedTools = await parts.text;

try {
  await generateText({ model, prompt: "Hello", topP: 7, maxRetries });
} catch (error) {
  seen.error = error.statusCode;
}

const dying = streamText({ model, prompt: "crash after 3 tokens, and not before them", maxRetries, onError: () => {} });
for await (const part of dying.fullStream) {
  if (part.type === "text-delta") seen.before = (seen.before ?? "") + part.text;
  if (part.type === "error") seen.death = true;
}
console.log(JSON.stringify(seen));
