// Anthropic's client: a stream, a loop of two turns with a tool, a count, an error, a death in mid-stream.
import Anthropic from "@anthropic-ai/sdk";

const [base, model] = process.argv.slice(2);
const client = new Anthropic({ baseURL: base, apiKey: "none", maxRetries: 0 });
const seen = {};
const max_tokens = 200;

const hello = [{ role: "user", content: "Hello from JavaScript" }];
const said = await client.messages.stream({ model, max_tokens, messages: hello }).finalMessage();
seen.stream = said.content[0].text;
seen.stop = said.stop_reason;

const input_schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ name: "weather", description: "Weather", input_schema }];
const messages = [{ role: "user", content: 'CALL {"name": "weather", "arguments": {"city": "Paris"}}' }];
const called = await client.messages.stream({ model, max_tokens, messages, tools }).finalMessage();
const use = called.content.find((block) => block.type === "tool_use");
messages.push({ role: "assistant", content: called.content });
messages.push({ role: "user", content: [{ type: "tool_result", tool_use_id: use.id, content: `sun in ${use.input.city}` }] });
const told = await client.messages.create({ model, max_tokens, messages, tools });
seen.tools = [called.stop_reason, told.content[0].text];

const counted = await client.messages.countTokens({ model, messages: hello });
seen.counted = counted.input_tokens === said.usage.input_tokens;

try {
  await client.messages.create({ model, max_tokens, messages: [{ role: "user", content: [{ type: "image", source: {} }] }] });
} catch (error) {
  seen.error = [error.status, error.error.error.type];
}

try {
  const dying = [{ role: "user", content: "crash after 3 tokens, and not before them" }];
  await client.messages.stream({ model, max_tokens, messages: dying }).on("text", (text) => (seen.before = (seen.before ?? "") + text)).finalMessage();
} catch (error) {
  seen.death = error.constructor.name;
}
console.log(JSON.stringify(seen));
