/** Numbers, events, paths and failures as text. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Api, ApiError, failureOf, inPath, keyOf, Keys } from "../../../gateway/web/static/api.js";
import { bytes, gib, harmless, many, percent, rate, seconds, span } from "../../../gateway/web/static/format.js";
import { linkAfter, pauseAfter } from "../../../gateway/web/static/live.js";
import { placeOf } from "../../../gateway/web/static/places.js";
import { dataIn, EventReader, Silence } from "../../../gateway/web/static/sse.js";

test("sizes", () => {
  assert.deepEqual([0, 1023, 2048, 5.5 * 2 ** 20, 2 ** 30, 150 * 2 ** 30, null].map(bytes), ["0 B", "1023 B", "2 KiB", "5.5 MiB", "1.0 GiB", "150 GiB", "–"]);
  assert.equal(gib(1.5), "1.5 GiB");
});

test("times", () => {
  assert.deepEqual([0.0421, 1.234, 12.34, 75, null].map(seconds), ["42 ms", "1.23 s", "12.3 s", "1 min 15 s", "–"]);
  assert.deepEqual([0, 59, 3600, 3661, 90000, -4].map(span), ["0 s", "59 s", "1 h", "1 h 1 min", "1 d 1 h", "0 s"]);
});

test("other numbers", () => {
  assert.deepEqual([0, 12.34, 123.4, null].map(rate), ["0.0", "12.3", "123", "–"]);
  assert.deepEqual([0, 0.999, 1, null].map(percent), ["0 %", "99 %", "100 %", ""]);
  assert.deepEqual([many(1, "model"), many(2, "model")], ["1 model", "2 models"]);
});

test("what a terminal would obey is visible", () => {
  assert.equal(harmless("a\u001b[31mred\u0007\u009b2J\u202eevil\ttab"), "a␛[31mred␇\ufffd2J\ufffdevil\ttab");
});

test("events come whole, whatever the pieces", () => {
  const whole = ": watching\n\ndata: {\"a\":1}\n\ndata: one\ndata: two\n\nevent: x\n\n";
  for (let size = 1; size <= whole.length; size += 1) {
    const reader = new EventReader();
    const found = [];
    for (let at = 0; at < whole.length; at += size) found.push(...reader.feed(whole.slice(at, at + size)));
    assert.deepEqual(found, ['{"a":1}', "one\ntwo"]);
  }
});

test("a stream ends at its last event, and characters that are cut in two stay whole", async () => {
  const data = new TextEncoder().encode("data: grün ✓\n\ndata: [DONE]\n\ndata: later\n\n");
  const pieces = [...data].map((byte) => new Uint8Array([byte]));
  const response = new Response(new ReadableStream({ pull(control) { pieces.length ? control.enqueue(pieces.shift()) : control.close(); } }));
  let heard = 0;
  const found = [];
  for await (const each of dataIn(response, () => (heard += 1))) found.push(each);
  assert.deepEqual(found, ["grün ✓"]);
  assert.ok(heard > 10);
});

test("a name is a part of a path, and its slash one of the path", () => {
  assert.equal(inPath("org/<img src=x>?#%"), "org/%3Cimg%20src%3Dx%3E%3F%23%25");
});

test("failures say what the gateway says", () => {
  assert.equal(failureOf(404, '{"detail":"Model not loaded: a"}').message, "Model not loaded: a");
  assert.equal(failureOf(503, '{"error":{"message":"died","code":"worker_died"}}').code, "worker_died");
  assert.equal(failureOf(502, "<html>bad gateway</html>").message, "the answer has status 502");
  assert.equal(failureOf(502, "null").message, "the answer has status 502");
});

test("a failure of the link is what it means for the page", () => {
  assert.equal(linkAfter(new ApiError("key", 401)).state, "locked");
  assert.equal(linkAfter(new ApiError("origin", 403)).state, "refused");
  assert.equal(linkAfter(new ApiError("broker", 503)).state, "away");
  assert.equal(linkAfter(new TypeError("x")).state, "away");
});

test("attempts come slower, and never slower than every five seconds", () => {
  assert.deepEqual([1, 2, 3, 4, 5, 50].map(pauseAfter), [500, 1000, 2000, 4000, 5000, 5000]);
});

test("keys stay in memory unless the user says otherwise, and go into a header", async (context) => {
  const kept = new Map();
  const storage = { getItem: (name) => kept.get(name) ?? null, setItem: (name, value) => kept.set(name, value), removeItem: (name) => kept.delete(name) };
  const keys = new Keys(storage);
  keys.set("admin", "root", false);
  assert.equal(kept.size, 0);
  keys.set("api", "key", true);
  assert.deepEqual([...kept], [["mlx-broker-api", "key"]]);
  assert.equal(new Keys(storage).known.api, "key");
  const sent = [];
  context.mock.method(globalThis, "fetch", async (url, options) => {
    sent.push([String(url), options.headers.authorization]);
    return new Response("{}");
  });
  const api = new Api(new URL("http://here/prefix/"), keys);
  await api.status(1);
  await api.send("GET", "v1/models");
  assert.deepEqual(sent, [["http://here/prefix/admin/models/status?max_age=1", "Bearer root"], ["http://here/prefix/v1/models", "Bearer key"]]);
  assert.equal(keyOf("admin/events"), "admin");
  assert.equal(keyOf("v1/chat/completions"), "api");
});

test("a place in the page", () => {
  assert.deepEqual(placeOf(""), { view: "models", model: "" });
  assert.deepEqual(placeOf("#chat/org%2Fname"), { view: "chat", model: "org/name" });
  assert.deepEqual(placeOf("#nothing/x"), { view: "models", model: "x" });
  assert.deepEqual(placeOf("#chat/%"), { view: "models", model: "" });
});

test("silence is what lasts longer than it may since something was heard", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const [first, second] = [new AbortController(), new AbortController()];
  const silence = new Silence(1000, first);
  context.mock.timers.tick(999);
  silence.heard();
  context.mock.timers.tick(999);
  assert.equal(first.signal.aborted, false);
  context.mock.timers.tick(1);
  assert.equal(first.signal.aborted, true);
  const ended = new Silence(1000, second);
  ended.end();
  context.mock.timers.tick(2000);
  assert.equal(second.signal.aborted, false);
});
