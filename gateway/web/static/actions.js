/** What the buttons do: each asks the gateway, says what failed, and has the status read again. */

import { ApiError } from "./api.js";
import { ask } from "./dialogs.js";
import { fail, say } from "./notices.js";
import { dataIn } from "./sse.js";
import { withDisk, withPull } from "./state.js";

export class Actions {
  /** @type {Map<string, AbortController>} downloads that wait for their turn */
  #waits = new Map();

  /**
   * @param {import("./api.js").Api} api
   * @param {import("./state.js").Store} store
   * @param {() => void} refresh reads the status again
   */
  constructor(api, store, refresh) {
    this.api = api;
    this.store = store;
    this.refresh = refresh;
  }

  /** @param {string} action @param {string} id */
  async run(action, id) {
    switch (action) {
      case "load":
        return this.#do(() => this.api.pin(id), `${id} loads`);
      case "pin":
        return this.#do(() => this.api.pin(id), `${id} is pinned`);
      case "unpin":
        return this.#do(() => this.api.unpin(id), `${id} is not pinned any more`);
      case "unload":
        return this.#do(() => this.api.unload(id), `${id} is unloaded`);
      case "reload":
        return this.#do(() => this.#reload(id), `${id} is reloaded`);
      case "kill":
        if (await ask(`Kill ${id}?`, "Its process ends at once, and the answers that it is writing end with an error. Other models go on.", "Kill")) {
          await this.#do(() => this.api.kill(id), `${id} is killed`);
        }
        return;
      case "cancel":
        return this.#cancel(id);
      case "forget":
        return this.store.apply((state) => withPull(state, id, null));
      case "pull":
        return this.#pull(id);
      case "remove":
        if (await ask(`Delete ${id}?`, "Its files are removed from this machine. This cannot be undone.", "Delete")) {
          await this.#do(() => this.api.remove(id), `${id} is deleted`);
          await this.readDisk();
        }
        return;
      default:
        throw new Error(`no action ${action}`);
    }
  }

  async readDisk() {
    try {
      const disk = await this.api.disk();
      this.store.apply((state) => withDisk(state, disk));
    } catch {
      // the state of the link says what is wrong
    }
  }

  /** @param {string} id @returns {Promise<unknown>} null if there is no room and the user leaves it at that */
  async #reload(id) {
    try {
      return await this.api.reload(id, false);
    } catch (error) {
      const [why, hint] = /** @type {ApiError} */ (error).message.split("; allow_gap");
      if (hint === undefined) throw error;
      if (!await ask(`Reload ${id} with a gap?`, `${why}. Its process can end first; requests wait until the new one is ready.`, "Reload")) return null;
      return this.api.reload(id, true);
    }
  }

  /** @param {() => Promise<unknown>} work null where nothing was done @param {string} done */
  async #do(work, done) {
    const asked = work();
    this.refresh();
    try {
      if (await asked !== null) say(done);
    } catch (error) {
      fail(/** @type {Error} */ (error).message);
    }
    this.refresh();
  }

  /** @param {string} id */
  async #cancel(id) {
    const done = `The download of ${id} is cancelled`;
    const wait = this.#waits.get(id);
    if (wait === undefined) return this.#do(() => this.api.cancel(id), done);
    wait.abort();
    say(done);
  }

  /** @param {string} id */
  async #pull(id) {
    const before = this.store.state.pulls.get(id);
    if (before && !before.ended && before.error === null) return;
    const put = (/** @type {any} */ fields) => this.store.apply((state) => withPull(state, id, fields));
    put({ error: null, ended: false, fraction: null, reason: this.api.downloads.isFull ? "waits for another download" : null });
    const wait = new AbortController();
    this.#waits.set(id, wait);
    let leave;
    try {
      leave = await this.api.downloads.enter(wait.signal);
    } catch {
      this.store.apply((state) => withPull(state, id, null));
      return;
    } finally {
      this.#waits.delete(id);
    }
    put({ reason: null });
    try {
      const response = await this.api.pull(id);
      let ended = false;
      for await (const data of dataIn(response)) {
        const event = JSON.parse(data);
        if (event.error) throw new ApiError(event.error.message, 503);
        ended ||= event.status === "pulled";
        put({ reason: event.reason ?? null, fraction: event.fraction ?? null, done: event.done_bytes ?? 0, total: event.total_bytes ?? 0, ended });
      }
      if (!ended) throw new ApiError("The connection ended; the download goes on.", 0);
      say(`${id} is downloaded`);
    } catch (error) {
      put({ error: /** @type {Error} */ (error).message });
    } finally {
      leave();
    }
    this.refresh();
    await this.readDisk();
  }
}
