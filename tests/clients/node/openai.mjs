// OpenAI's client: a stream, a loop of two turns with a tool, an error, a death in mid-stream; chat and responses.
import OpenAI from "openai";

const [base, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: "none", maxRetries: 0 });
const seen = {};

let text = "";
const hello = [{ role: "user", content: "Hello from JavaScript" }];
for await (const chunk of await client.chat.completions.create({ model, messages: hello, stream: true })) {
  text += chunk.choices[0]?.delta.content ?? "";
}
seen.stream = text;

const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const ask = 'CALL {"name": "weather", "arguments": {"city": "Paris"}}';
const runner = client.chat.completions.runTools({
  model,
  messages: [{ role: "user", content: ask }],
  tools: [{ type: "function", function: { name: "weather", description: "Weather", parameters, parse: JSON.parse, function: ({ city }) => `sun in ${city}` } }],
});
seen.tools = await runner.finalContent();

const tools = [{ type: "function", name: "weather", description: "Weather", parameters, strict: false }];
const called = await client.responses.create({ model, input: ask, tools, store: false });
const call = called.output.find((item) => item.type === "function_call");
const result = { type: "function_call_output", call_id: call.call_id, output: `sun in ${JSON.parse(call.arguments).city}` };
const input = [{ role: "user", content: ask }, ...called.output, result];
const kinds = [];
const stream = await client.responses.create({ model, input, tools, store: false, stream: true });
let told = "";
for await (const event of stream) {
  kinds.push(event.type);
  told += event.type === "response.output_text.delta" ? event.delta : "";
}
seen.responses = told;
seen.events = [...new Set(kinds)];

try {
  await client.chat.completions.create({ model, messages: [] });
} catch (error) {
  seen.error = [error.status, error.code, error.param];
}

const dying = [{ role: "user", content: "crash after 3 tokens, and not before them" }];
try {
  for await (const chunk of await client.chat.completions.create({ model, messages: dying, stream: true })) {
    seen.before = (seen.before ?? "") + (chunk.choices[0]?.delta.content ?? "");
  }
} catch (error) {
  seen.death = error.code;
}
for await (const event of await client.responses.create({ model, input: dying, store: false, stream: true })) {
  if (event.type === "response.failed") seen.failed = event.response.status;
}
console.log(JSON.stringify(seen));
