/** The log of one model's process, live: the last lines, then each new one. */

import { ApiError } from "./api.js";
import { byId, el, setText } from "./dom.js";
import { clock, harmless } from "./format.js";
import { SILENCE_MS, Silence, dataIn } from "./sse.js";

const TAIL = 200;
const KEPT = 2000;
const AGAIN_MS = 2000;

export class LogView {
  /** @type {AbortController|null} */
  #control = null;
  #model = "";
  #visible = false;

  /** @param {import("./api.js").Api} api */
  constructor(api) {
    this.api = api;
    document.addEventListener("visibilitychange", () => this.#restart());
  }

  /** @param {string} model "" for none @param {boolean} visible */
  open(model, visible) {
    if (model === this.#model && visible === this.#visible) return;
    this.#model = model;
    this.#visible = visible;
    this.#restart();
  }

  /** Begins again what was refused: there is a key now. */
  again() {
    if (this.#control?.signal.aborted !== false) this.#restart();
  }

  #restart() {
    this.#control?.abort();
    this.#control = null;
    if (!this.#visible || this.#model === "" || document.hidden) return;
    const control = (this.#control = new AbortController());
    this.#follow(this.#model, control.signal);
  }

  /** @param {string} model @param {AbortSignal} signal */
  async #follow(model, signal) {
    while (!signal.aborted) {
      if (this.api.talks.isFull) setText(byId("log-state"), "Waits until an answer of this page ends.");
      const leave = await this.api.talks.enter(signal).catch(() => null);
      if (leave === null) return;
      const end = await this.#read(model, signal);
      leave();
      if (end === null) return;
      setText(byId("log-state"), end);
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }

  /**
   * Shows one stream.
   * @param {string} model
   * @param {AbortSignal} signal
   * @returns {Promise<string|null>} how it ended; null if it is not wanted any more
   */
  async #read(model, signal) {
    const control = new AbortController();
    signal.addEventListener("abort", () => control.abort(), { once: true });
    const silence = new Silence(SILENCE_MS, control);
    try {
      const response = await this.api.logs(model, TAIL, control.signal);
      byId("log-lines").replaceChildren();
      setText(byId("log-state"), `Follows ${model}.`);
      for await (const data of dataIn(response, () => silence.heard())) {
        const line = JSON.parse(data);
        if (line.error) throw new ApiError(line.error.message, 503);
        add(line);
      }
    } catch (error) {
      if (signal.aborted) return null;
      if (!control.signal.aborted) {
        if (error instanceof ApiError && [401, 403].includes(error.status)) this.#control?.abort();
        return /** @type {Error} */ (error).message;
      }
    } finally {
      silence.end();
    }
    return "The stream has ended; it begins again.";
  }
}

let isScrolling = false; // once a frame, however many lines come

/** @param {{at: number, pid: number, text: string}} line */
function add(line) {
  const holder = byId("log-lines");
  holder.append(el("div", { class: "line" }, el("time", { text: clock(line.at) }), " ", el("span", { class: "quiet", text: String(line.pid) }), " ",
    el("span", { text: harmless(line.text) })));
  while (holder.childElementCount > KEPT) holder.firstElementChild.remove();
  if (isScrolling || !byId("log-follow").checked) return;
  isScrolling = true;
  requestAnimationFrame(() => {
    isScrolling = false;
    holder.scrollTop = holder.scrollHeight;
  });
}
