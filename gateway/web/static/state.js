/** What the page knows, and how it changes. Pure: no clock, no network, no element. */

/** @typedef {Record<string, any> & {model_id: string, state: string}} Model an entry of the status */
/** @typedef {{at: number[], rate: (number|null)[], ttft: (number|null)[], cpu: (number|null)[]}} History parallel, oldest first */
/** @typedef {"connecting"|"live"|"away"|"locked"|"refused"} LinkState */
/** @typedef {{model_id: string, reason: string|null, fraction: number|null, done: number, total: number,
 *   error: string|null, ended: boolean}} Pull */
/**
 * @typedef {object} State
 * @property {{state: LinkState, message: string}} link
 * @property {Record<string, any>|null} status
 * @property {Map<string, Model>} models
 * @property {Map<string, History>} history
 * @property {{models: Record<string, any>[], broken: Record<string, any>[], folders: Record<string, any>[]}|null} disk
 * @property {Map<string, Pull>} pulls downloads that were begun here
 */

export const LOADED = new Set(["ready", "draining"]);
const KEPT = 150; // samples: five minutes at one in two seconds
const GAP_SECONDS = 10;

/** @returns {State} */
export function initial() {
  return {
    link: { state: "connecting", message: "" },
    status: null,
    models: new Map(),
    history: new Map(),
    disk: null,
    pulls: new Map(),
  };
}

/** @param {State} state @param {LinkState} link @param {string} [message] @returns {State} */
export function withLink(state, link, message = "") {
  if (state.link.state === link && state.link.message === message) return state;
  return { ...state, link: { state: link, message } };
}

/** @param {State} state @param {Record<string, any>} status @param {number} now Unix seconds @returns {State} */
export function withStatus(state, status, now) {
  /** @type {Model[]} */
  const models = status.models;
  const history = new Map(
    models.map((model) => [model.model_id, sampled(state.history.get(model.model_id), model, now)]),
  );
  return { ...state, status, models: new Map(models.map((model) => [model.model_id, model])), history };
}

/**
 * @param {History|undefined} before
 * @param {Model} model
 * @param {number} now
 * @returns {History}
 */
function sampled(before, model, now) {
  const { at, rate, ttft, cpu } = before ?? { at: [], rate: [], ttft: [], cpu: [] };
  const last = at.at(-1);
  // A hole where nobody looked: a line across it would be made up.
  const hole = last !== undefined && now - last > GAP_SECONDS ? [last + 1] : [];
  const none = hole.map(() => null);
  const from = Math.max(0, at.length + hole.length + 1 - KEPT);
  return {
    at: [...at, ...hole, now].slice(from),
    rate: [...rate, ...none, LOADED.has(model.state) ? (model.tokens_per_second ?? 0) : null].slice(from),
    ttft: [...ttft, ...none, model.ttft_seconds ?? null].slice(from),
    cpu: [...cpu, ...none, model.pid ? (model.cpu_percent ?? null) : null].slice(from),
  };
}

/** @param {State} state @param {Record<string, any>} change an event @returns {State} */
export function withChange(state, change) {
  const { model_id, state: name, reason, stage, fraction } = change;
  const before = state.models.get(model_id);
  if (before === undefined && name === "unloaded") return state;
  const model = { ...(before ?? { model_id }), state: name, reason, stage, fraction };
  return { ...state, models: new Map(state.models).set(model_id, model) };
}

/** Whether a change says more than how far something is. @param {State} state @param {Record<string, any>} change */
export function isNews(state, change) {
  const before = state.models.get(change.model_id);
  return before === undefined || before.state !== change.state || before.reason !== change.reason;
}

/** @param {State} state @param {State["disk"]} disk @returns {State} */
export function withDisk(state, disk) {
  return { ...state, disk };
}

/** @param {State} state @param {string} id @param {Partial<Pull>|null} pull null: forget it @returns {State} */
export function withPull(state, id, pull) {
  const pulls = new Map(state.pulls);
  if (pull === null) pulls.delete(id);
  else {
    const before = pulls.get(id) ?? {
      model_id: id, reason: null, fraction: null, done: 0, total: 0, error: null, ended: false,
    };
    pulls.set(id, { ...before, ...pull });
  }
  return { ...state, pulls };
}

/** In the order of the page: those that do something, then the others; by name. @param {State} state */
export function ordered(state) {
  const rank = (/** @type {Model} */ model) => (model.state === "unloaded" ? 1 : 0);
  return [...state.models.values()].sort((a, b) => rank(a) - rank(b) || byName(a.model_id, b.model_id));
}

/** @param {string} a @param {string} b */
function byName(a, b) {
  return a.localeCompare(b, "en", { numeric: true });
}

/** Downloads: those of the status, and those begun here. @param {State} state @returns {Pull[]} */
export function downloads(state) {
  const found = new Map(state.pulls);
  for (const model of state.models.values()) {
    if (model.state === "downloading" && !found.has(model.model_id)) {
      const { model_id, reason = null, fraction = null } = model;
      found.set(model_id, { model_id, reason, fraction, done: 0, total: 0, error: null, ended: false });
    }
  }
  return [...found.values()].sort((a, b) => byName(a.model_id, b.model_id));
}

/** Names of all models, of this machine and of the status. @param {State} state @returns {string[]} */
export function names(state) {
  const all = new Set([...state.models.keys(), ...(state.disk?.models ?? []).map((model) => model.model_id)]);
  return [...all].sort(byName);
}

/** @typedef {"load"|"unload"|"reload"|"kill"|"pin"|"unpin"|"cancel"} Action */

/** What can be done with a model now. @param {Model} model @returns {Action[]} */
export function actions(model) {
  if (model.state === "downloading") return ["cancel"];
  if (model.state === "unloaded" || model.state === "failed") return ["load"];
  /** @type {Action[]} */
  const found = model.state === "cooldown" ? ["load", "unload"] : ["unload"];
  if (model.state === "ready") found.push("reload");
  if (model.pid) found.push("kill");
  if (LOADED.has(model.state)) found.push(model.preloaded ? "unpin" : "pin");
  return found;
}

/** How a state looks. @param {string} name @returns {"good"|"busy"|"bad"|"quiet"} */
export function tone(name) {
  if (name === "ready") return "good";
  if (name === "failed" || name === "cooldown") return "bad";
  return name === "unloaded" ? "quiet" : "busy";
}

/** One state and those who want to know of its changes. */
export class Store {
  /** @type {Set<() => void>} */
  #listeners = new Set();

  constructor() {
    this.state = initial();
  }

  /** @param {(state: State) => State} change */
  apply(change) {
    const next = change(this.state);
    if (next === this.state) return;
    this.state = next;
    for (const listener of this.#listeners) listener();
  }

  /** @param {() => void} listener */
  subscribe(listener) {
    this.#listeners.add(listener);
  }
}
