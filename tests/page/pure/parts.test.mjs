/** What is drawn: the parts of the memory bar, cards, the lists, and conversations. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { exitText, memoryOf, summary, tailOf } from "../../../gateway/web/static/cards.js";
import { range, times } from "../../../gateway/web/static/charts.js";
import { asked, askedAgain, ended, endOf, figuresOf, messagesOf, received, stopped } from "../../../gateway/web/static/chat.js";
import { about, found, progressText } from "../../../gateway/web/static/disk.js";
import { HUES, huesOf, memoryParts } from "../../../gateway/web/static/memory_parts.js";

const GIB = 2 ** 30;
const STATUS = {
  models: [{ model_id: "a", footprint_bytes: 4 * GIB }, { model_id: "b", footprint_bytes: 0 }],
  spares: [{ rss_bytes: GIB }, { rss_bytes: null }],
  max_memory_gb: 12,
  machine: { total_gb: 16, available_gb: 8 },
};

test("the bar has each model, spares, other programs and what is free, and is full", () => {
  const { parts, budget, total } = memoryParts(STATUS);
  assert.deepEqual(parts.map((part) => [part.kind, part.size / GIB]), [["model", 4], ["spare", 1], ["other", 3], ["free", 8]]);
  assert.equal(parts.reduce((sum, part) => sum + part.share, 0), 1);
  assert.equal(budget, 0.75);
  assert.equal(total, 16 * GIB);
});

test("without the machine's memory the budget is the bar", () => {
  const { parts, budget } = memoryParts({ ...STATUS, machine: undefined });
  assert.deepEqual(parts.map((part) => [part.kind, part.size / GIB]), [["model", 4], ["spare", 1], ["free", 7]]);
  assert.equal(budget, 1);
});

test("numbers that do not fit together make no part below 0 and no line outside", () => {
  const { parts, budget } = memoryParts({ ...STATUS, max_memory_gb: 99, machine: { total_gb: 16, available_gb: 15 } });
  assert.ok(parts.every((part) => part.size >= 0));
  assert.ok(Math.abs(parts.reduce((sum, part) => sum + part.share, 0) - 1) < 1e-9);
  assert.equal(budget, 1);
  assert.deepEqual(memoryParts({ models: [], spares: [], max_memory_gb: 0 }).parts.map((part) => part.kind), ["free"]);
});

test("a model keeps its colour, and no two have one while there are enough", () => {
  const many = [...Array(200).keys()].map((n) => `m${n}`);
  for (let count = 1; count <= HUES; count += 1) {
    const hues = huesOf(many.slice(0, count));
    assert.equal(new Set(hues.values()).size, count);
    assert.deepEqual(huesOf(many.slice(0, count).reverse()), hues);
  }
  assert.ok([...huesOf(many).values()].every((hue) => hue >= 0 && hue < HUES));
  assert.equal(huesOf(["a"]).get("a"), huesOf(["a", "z"]).get("a"));
});

test("a card says what a model does and how its last process ended", () => {
  assert.equal(summary({ reason: "signal SIGKILL", stage: "weights", fraction: 0.5, since: 90, preloaded: true }, 100), "signal SIGKILL · weights · 50 % · for 10 s · pinned");
  assert.equal(summary({ since: 100, idle_until: 400 }, 100), "for 0 s · leaves in 5 min if idle");
  const at = 1_700_000_000;
  assert.match(exitText({ signal: "SIGSEGV", code: null, at, reason: "crash" }), /^Last exit: SIGSEGV at \d\d:\d\d:\d\d, crash$/);
  assert.match(exitText({ signal: null, code: 3, at, reason: null }), /^Last exit: exit code 3 at [\d:]+$/);
  assert.equal(tailOf({ stderr_tail: ["a", "\u001b[2Jb"] }), "a\n␛[2Jb");
  assert.equal(tailOf({ stderr_tail: null }), "");
});

test("memory is in shares of the limit", () => {
  const share = memoryOf({ memory_limit_bytes: 4 * GIB, footprint_bytes: GIB, mlx_active_bytes: GIB / 2, mlx_cache_bytes: GIB / 4 });
  assert.deepEqual(share, { used: 0.25, mlx: 0.1875, text: "1.0 GiB of 4.0 GiB, MLX 768 MiB" });
  assert.equal(memoryOf({ memory_limit_bytes: null, footprint_bytes: GIB }), null);
  assert.equal(memoryOf({ memory_limit_bytes: GIB, footprint_bytes: 3 * GIB }).used, 1);
});

test("a chart of nothing has a height", () => {
  assert.ok(range(null)[1] > 0);
  assert.ok(range(10)[1] > 10);
  assert.deepEqual(times(1000), [700, 1000]);
});

test("models on disk", () => {
  const model = { model_id: "org/Tiny-4bit", size_gb: 1.5, model_type: "text-gen", quantization: "4-bit", parameters: 3.2e9, context_length: 8192 };
  assert.equal(about(model), "1.5 GiB · text-gen · 4-bit · 3.2 B parameters · 8,192 tokens of context");
  assert.deepEqual(found([model], "tiny ORG"), [model]);
  assert.deepEqual(found([model], "tiny other"), []);
  const voice = { model_id: "org/Voice", size_gb: 0.5, model_type: "audio", quantization: null, parameters: 8.2e7, context_length: 0 };
  assert.equal(about({ ...voice, capabilities: ["speak", "voices"] }), "512 MiB · audio · speaks · 82 M parameters");
  assert.equal(about({ ...voice, capabilities: ["transcribe"] }), "512 MiB · audio · transcribes · 82 M parameters");
  assert.deepEqual(found([model, voice], "audio"), [voice]);
});

test("how far a download is", () => {
  const pull = { reason: null, fraction: null, done: 0, total: 0, error: null, ended: false };
  assert.equal(progressText(pull), "begins");
  assert.equal(progressText({ ...pull, reason: "waits", fraction: 0.5, done: GIB, total: 2 * GIB }), "waits · 50 % · 1.0 GiB of 2.0 GiB");
  assert.equal(progressText({ ...pull, error: "no network" }), "no network");
  assert.equal(progressText({ ...pull, ended: true }), "done");
});

const chunk = (delta, finish = null) => ({ choices: [{ delta, finish_reason: finish }] });

test("an answer grows, ends and is sent back with the next question", () => {
  let turns = asked([], "Hi", [], 1);
  assert.deepEqual(messagesOf(turns), [{ role: "user", content: "Hi" }]);
  turns = received(turns, chunk({ role: "assistant", content: "" }), 1.1);
  assert.equal(turns[1].state, "waiting");
  turns = received(turns, chunk({ reasoning_content: "hm" }), 1.5);
  turns = received(turns, chunk({ content: "Hel" }), 2);
  turns = received(turns, chunk({ content: "lo" }, "stop"), 2.5);
  turns = received(turns, { choices: [], usage: { completion_tokens: 3 } }, 2.5);
  turns = ended(turns, 2.5);
  assert.deepEqual([turns[1].text, turns[1].reasoning, turns[1].state, turns[1].end], ["Hello", "hm", "done", null]);
  assert.equal(figuresOf(turns[1]), "first token after 0.50 s · 3 tokens · 2.0 tokens/s");
  turns = asked(turns, "And?", ["data:image/png;base64,AA"], 3);
  assert.deepEqual(messagesOf(turns).slice(1), [
    { role: "assistant", content: "Hello" },
    { role: "user", content: [{ type: "image_url", image_url: { url: "data:image/png;base64,AA" } }, { type: "text", text: "And?" }] },
  ]);
});

test("a process that dies in the middle leaves what it wrote, with a friendly end", () => {
  let turns = received(asked([], "Hi", [], 1), chunk({ content: "Half" }), 2);
  turns = received(turns, { error: { code: "worker_died", message: "the process of a died (signal SIGKILL)", retryable: true } }, 3);
  turns = ended(turns, 3);
  assert.deepEqual([turns[1].text, turns[1].state, turns[1].end.retry], ["Half", "failed", true]);
  assert.match(turns[1].end.title, /in the middle of this answer/);
  assert.match(turns[1].end.text, /SIGKILL.*is above.*Other models go on/);
  turns = askedAgain(turns, 4);
  assert.deepEqual(turns.map((turn) => turn.state), ["done", "waiting"]);
  assert.deepEqual(messagesOf(turns), [{ role: "user", content: "Hi" }]);
});

test("every end says what happened", () => {
  assert.match(endOf({ code: "worker_died", message: "died", retryable: false }, false).title, /This request ended/);
  assert.equal(endOf({ code: "worker_died", message: "died", retryable: false }, false).retry, false);
  assert.match(endOf({ code: "broker_unavailable", message: "away" }, true).title, /broker is away/);
  assert.equal(endOf({ code: "invalid_request", message: "too long", retryable: false }, false).retry, false);
  const cut = ended(received(asked([], "Hi", [], 1), chunk({ content: "Half" }), 2), 3);
  assert.match(cut[1].end.title, /connection ended/);
  const halted = stopped(received(asked([], "Hi", [], 1), chunk({ content: "Half" }), 2), 3);
  assert.deepEqual([halted[1].state, halted[1].text, halted[1].end.title], ["stopped", "Half", "Stopped"]);
});
