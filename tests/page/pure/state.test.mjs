/** What the page knows: status, events, history, downloads, actions. */

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  actions, downloads, initial, isNews, names, ordered, Store, tone, withChange, withDisk, withLink, withPull, withStatus,
} from "../../../gateway/web/static/state.js";

const READY = { model_id: "a", state: "ready", reason: null, stage: null, fraction: null, pid: 7, tokens_per_second: 5, ttft_seconds: 0.5, cpu_percent: 90 };
const status = (...models) => ({ models });
const change = (fields) => ({ reason: null, stage: null, fraction: null, ...fields });

test("each status adds a sample, and a model that is gone takes its history along", () => {
  let state = withStatus(initial(), status(READY), 100);
  state = withStatus(state, status({ ...READY, tokens_per_second: 6 }), 102);
  assert.deepEqual(state.history.get("a"), { at: [100, 102], rate: [5, 6], ttft: [0.5, 0.5], cpu: [90, 90] });
  state = withStatus(state, status(), 104);
  assert.equal(state.history.size, 0);
  assert.equal(state.models.size, 0);
});

test("a time that nobody looked is a hole, not a line", () => {
  let state = withStatus(initial(), status(READY), 100);
  state = withStatus(state, status(READY), 3700);
  assert.deepEqual(state.history.get("a"), { at: [100, 101, 3700], rate: [5, null, 5], ttft: [0.5, null, 0.5], cpu: [90, null, 90] });
});

test("the history is bounded and its columns stay parallel", () => {
  let state = initial();
  for (let at = 0; at < 1000; at += 2) state = withStatus(state, status(READY), at);
  const { at, rate, ttft, cpu } = state.history.get("a");
  assert.equal(at.length, 150);
  assert.equal(rate.length, 150);
  assert.equal(ttft.length, 150);
  assert.equal(cpu.length, 150);
  assert.equal(at.at(-1), 998);
});

test("a model that is not loaded has no speed, which is not a speed of 0", () => {
  const state = withStatus(initial(), status({ ...READY, state: "loading", ttft_seconds: null }), 1);
  assert.deepEqual(state.history.get("a").rate, [null]);
  assert.deepEqual(state.history.get("a").ttft, [null]);
});

test("a change takes effect at once and keeps what it does not say", () => {
  let state = withStatus(initial(), status(READY), 1);
  const dead = change({ model_id: "a", state: "loading", reason: "signal SIGKILL" });
  assert.ok(isNews(state, dead));
  state = withChange(state, dead);
  assert.equal(state.models.get("a").state, "loading");
  assert.equal(state.models.get("a").reason, "signal SIGKILL");
  assert.equal(state.models.get("a").pid, 7);
  const further = change({ model_id: "a", state: "loading", reason: "signal SIGKILL", stage: "weights", fraction: 0.5 });
  assert.ok(!isNews(state, further));
  assert.equal(withChange(state, further).models.get("a").fraction, 0.5);
});

test("a model that is only unloaded does not appear, one that loads does", () => {
  const before = initial();
  assert.equal(withChange(before, change({ model_id: "b", state: "unloaded" })), before);
  assert.equal(withChange(before, change({ model_id: "b", state: "loading" })).models.get("b").state, "loading");
});

test("models that do something come first, each half by name with numbers as numbers", () => {
  const models = ["m10", "m2", "z"].map((model_id) => ({ ...READY, model_id }));
  const state = withStatus(initial(), status({ ...READY, model_id: "b", state: "unloaded" }, ...models), 1);
  assert.deepEqual(ordered(state).map((model) => model.model_id), ["m2", "m10", "z", "b"]);
});

test("downloads are those of the status and those begun here, each once", () => {
  let state = withStatus(initial(), status({ ...READY, model_id: "x", state: "downloading", fraction: 0.25 }, READY), 1);
  assert.deepEqual(downloads(state).map((pull) => [pull.model_id, pull.fraction]), [["x", 0.25]]);
  state = withPull(state, "x", { fraction: 0.5, done: 1, total: 2 });
  state = withPull(state, "y", { error: "no network" });
  assert.deepEqual(downloads(state).map((pull) => [pull.model_id, pull.fraction, pull.error]), [["x", 0.5, null], ["y", null, "no network"]]);
  assert.deepEqual(downloads(withPull(withPull(state, "x", null), "y", null)).map((pull) => pull.fraction), [0.25]);
});

test("names are those of the disk and of the status", () => {
  const state = withDisk(withStatus(initial(), status(READY), 1), { models: [{ model_id: "c" }, { model_id: "a" }], broken: [], folders: [] });
  assert.deepEqual(names(state), ["a", "c"]);
});

test("what can be done follows from the state", () => {
  const can = (fields) => actions({ ...READY, ...fields });
  assert.deepEqual(can({ preloaded: false }), ["unload", "reload", "kill", "pin"]);
  assert.deepEqual(can({ preloaded: true }), ["unload", "reload", "kill", "unpin"]);
  assert.deepEqual(can({ state: "draining" }).includes("reload"), false);
  assert.deepEqual(can({ state: "unloaded", pid: null }), ["load"]);
  assert.deepEqual(can({ state: "failed", pid: null }), ["load"]);
  assert.deepEqual(can({ state: "cooldown", pid: null }), ["load", "unload"]);
  assert.deepEqual(can({ state: "loading" }), ["unload", "kill"]);
  assert.deepEqual(can({ state: "queued", pid: null }), ["unload"]);
  assert.deepEqual(can({ state: "downloading" }), ["cancel"]);
});

test("every state has a tone", () => {
  assert.deepEqual(["ready", "loading", "failed", "cooldown", "unloaded"].map(tone), ["good", "busy", "bad", "bad", "quiet"]);
});

test("listeners hear of changes, and of nothing where nothing changes", () => {
  const store = new Store();
  let heard = 0;
  store.subscribe(() => (heard += 1));
  store.apply((state) => withLink(state, "away", "gone"));
  store.apply((state) => withLink(state, "away", "gone"));
  assert.equal(heard, 1);
  assert.deepEqual(store.state.link, { state: "away", message: "gone" });
});
