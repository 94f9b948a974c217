/**
 * Keeps the store fresh: asks for the status every two seconds and reads the events, both only while the page is
 * visible, and begins anew after whatever has ended them: a broker that restarts, a network that was away, a sleep.
 */

import { ApiError } from "./api.js";
import { SILENCE_MS, Silence, dataIn } from "./sse.js";
import { isNews, withChange, withLink, withStatus } from "./state.js";

const POLL_MS = 2000;
const POLL_AGE = 1; // seconds: pages that ask within one share an answer
const NEWS_MS = 100; // changes come in groups
const LATE_MS = 10_000;

/**
 * How long to wait before the next attempt.
 * @param {number} failures in a row
 */
export function pauseAfter(failures) {
  return Math.min(5000, 500 * 2 ** Math.max(0, failures - 1));
}

/**
 * What a failure means for the whole page.
 * @param {unknown} error
 * @returns {{state: import("./state.js").LinkState, message: string}}
 */
export function linkAfter(error) {
  if (!(error instanceof ApiError)) return { state: "away", message: String(error) };
  if (error.status === 401) return { state: "locked", message: error.message };
  if (error.status === 403) return { state: "refused", message: error.message };
  return { state: "away", message: error.message };
}

export class Live {
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  #timer;
  /** @type {AbortController|null} */
  #watching = null;
  #asking = false;
  #again = false;
  #failures = 0;
  #endings = 0;
  #due = 0;

  /**
   * @param {import("./api.js").Api} api
   * @param {import("./state.js").Store} store
   */
  constructor(api, store) {
    this.api = api;
    this.store = store;
  }

  start() {
    document.addEventListener("visibilitychange", () => this.#onVisibility());
    document.addEventListener("resume", () => this.wake());
    window.addEventListener("pageshow", (event) => event.persisted && this.wake());
    window.addEventListener("online", () => this.wake());
    this.#onVisibility();
  }

  /** Asks at once, and reads the events from their beginning: what was open may have died in its sleep. */
  wake() {
    this.#watching?.abort();
    this.#watching = null;
    this.#failures = 0;
    this.refresh();
  }

  /** Asks now, for the newest there is. */
  refresh() {
    if (document.hidden) return;
    if (this.#asking) this.#again = true;
    else this.#ask(0);
  }

  #onVisibility() {
    if (!document.hidden) {
      this.wake();
      return;
    }
    clearTimeout(this.#timer);
    this.#watching?.abort();
    this.#watching = null;
  }

  /** @param {number} delay milliseconds @param {number} [age] */
  #askIn(delay, age = POLL_AGE) {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    this.#due = Date.now() + delay;
    this.#timer = setTimeout(() => {
      if (Date.now() - this.#due > LATE_MS) this.wake(); // the machine slept
      else this.#ask(age);
    }, delay);
  }

  /** @param {number} age */
  async #ask(age) {
    clearTimeout(this.#timer);
    this.#asking = true;
    let failed = true;
    try {
      const status = await this.api.status(age);
      failed = false;
      this.#failures = 0;
      this.store.apply((state) => withLink(withStatus(state, status, Date.now() / 1000), "live"));
      this.#watch();
    } catch (error) {
      this.#failures += 1;
      const { state, message } = linkAfter(error);
      this.store.apply((before) => withLink(before, state, message));
    }
    this.#asking = false;
    const again = this.#again;
    this.#again = false;
    // A key is asked for, or another address: nothing changes by itself.
    if (failed && !again && ["locked", "refused"].includes(this.store.state.link.state)) return;
    this.#askIn(failed ? pauseAfter(this.#failures) : again ? 0 : POLL_MS, again ? 0 : POLL_AGE);
  }

  async #watch() {
    if (this.#watching !== null || document.hidden) return;
    const control = (this.#watching = new AbortController());
    const silence = new Silence(SILENCE_MS, control);
    try {
      const response = await this.api.events(control.signal);
      const heard = () => {
        this.#endings = 0;
        silence.heard();
      };
      for await (const data of dataIn(response, heard)) {
        const change = JSON.parse(data);
        if (change.error) break;
        if (isNews(this.store.state, change)) this.#askIn(NEWS_MS, 0);
        this.store.apply((state) => withChange(state, change));
      }
    } catch {
      // the next status says what is wrong
    }
    silence.end();
    // Whoever has replaced this one asks by itself. Else the next status that comes opens the next stream.
    if (this.#watching === control) {
      this.#watching = null;
      this.#endings += 1;
      if (!this.#asking) this.#askIn(pauseAfter(this.#endings), 0);
    }
  }
}
