/** Lanes: what holds a connection for long, and what waits for one. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Lanes } from "../../../gateway/web/static/lanes.js";

const never = new AbortController().signal;

test("as many as there are lanes, then the others in their order", async () => {
  const lanes = new Lanes(2);
  const order = [];
  const first = await lanes.enter(never);
  assert.equal(lanes.isFull, false);
  const second = await lanes.enter(never);
  assert.equal(lanes.isFull, true);
  const third = lanes.enter(never).then((leave) => (order.push("third"), leave));
  const fourth = lanes.enter(never).then((leave) => (order.push("fourth"), leave));
  await Promise.resolve();
  assert.deepEqual(order, []);
  first();
  first(); // gives back one lane, however often it is called
  const leaveThird = await third;
  assert.deepEqual(order, ["third"]);
  second();
  const leaveFourth = await fourth;
  leaveThird();
  leaveFourth();
  assert.equal(lanes.isFull, false);
  await lanes.enter(never);
  await lanes.enter(never);
  assert.equal(lanes.isFull, true);
});

test("who gives up waits no longer and takes no lane", async () => {
  const lanes = new Lanes(1);
  const leave = await lanes.enter(never);
  const control = new AbortController();
  const waits = lanes.enter(control.signal);
  control.abort();
  await assert.rejects(waits, { name: "AbortError" });
  await assert.rejects(lanes.enter(control.signal), { name: "AbortError" });
  leave();
  assert.equal(lanes.isFull, false);
});
