// Ollama's client: a stream, a loop of two turns with a tool, lists, an error, a death in mid-stream.
import { Ollama } from "ollama";

const [base, model] = process.argv.slice(2);
const client = new Ollama({ host: base });
const seen = {};

let text = "";
for await (const part of await client.chat({ model, messages: [{ role: "user", content: "Hello from JavaScript" }], stream: true })) {
  text += part.message.content;
  seen.done = part.done_reason;
}
seen.stream = text;
seen.generated = (await client.generate({ model, prompt: "Once upon a time" })).response;

const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "weather", description: "Weather", parameters } }];
const messages = [{ role: "user", content: 'CALL {"name": "weather", "arguments": {"city": "Paris"}}' }];
const called = await client.chat({ model, messages, tools });
const [call] = called.message.tool_calls;
messages.push(called.message, { role: "tool", tool_name: call.function.name, content: `sun in ${call.function.arguments.city}` });
seen.tools = (await client.chat({ model, messages, tools })).message.content;

seen.listed = (await client.list()).models.some((one) => one.name.startsWith(model));
seen.running = (await client.ps()).models.some((one) => one.name.startsWith(model));
seen.capabilities = (await client.show({ model })).capabilities;

try {
  await client.chat({ model: "nobody/nothing", messages: [{ role: "user", content: "Hello" }] });
} catch (error) {
  seen.error = error.status_code;
}

try {
  const dying = [{ role: "user", content: "crash after 3 tokens, and not before them" }];
  for await (const part of await client.chat({ model, messages: dying, stream: true })) {
    seen.before = (seen.before ?? "") + part.message.content;
  }
} catch (error) {
  seen.death = error.message;
}
console.log(JSON.stringify(seen));
