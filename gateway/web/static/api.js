/**
 * The gateway's HTTP API: where it is, which key a path needs, what a failure says. Keys go into headers, never into a
 * URL.
 */

import { Lanes } from "./lanes.js";

/** @typedef {"admin"|"api"} KeyName */

/** What went wrong, in words for people. status 0: nothing answered. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {number} status
   * @param {string|null} [code]
   */
  constructor(message, status, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Keeps what the user has typed: in memory, and in the tab's own storage if asked to. */
export class Keys {
  /** @param {Pick<Storage, "getItem"|"setItem"|"removeItem">} storage */
  constructor(storage) {
    this.storage = storage;
    /** @type {Record<string, string|null>} */
    this.known = { admin: storage.getItem("mlx-broker-admin"), api: storage.getItem("mlx-broker-api") };
  }

  /** @param {KeyName} name @param {string|null} value @param {boolean} keep */
  set(name, value, keep) {
    this.known[name] = value;
    if (keep && value !== null) this.storage.setItem(`mlx-broker-${name}`, value);
    else this.storage.removeItem(`mlx-broker-${name}`);
  }
}

/** @param {string} path @returns {KeyName} the key that guards it */
export function keyOf(path) {
  return path.startsWith("admin/") ? "admin" : "api";
}

/** A model's name as a part of a path. @param {string} id */
export function inPath(id) {
  return id.split("/").map(encodeURIComponent).join("/");
}

/**
 * What an answer with an error says, whatever dialect it has.
 * @param {number} status
 * @param {string} text
 */
export function failureOf(status, text) {
  try {
    const body = JSON.parse(text);
    if (typeof body.detail === "string") return new ApiError(body.detail, status);
    if (body.error?.message) return new ApiError(body.error.message, status, body.error.code ?? null);
  } catch {
    // a proxy's page
  }
  return new ApiError(`the answer has status ${status}`, status);
}

export class Api {
  /**
   * @param {URL} base the gateway's root
   * @param {Keys} keys
   */
  constructor(base, keys) {
    this.base = base;
    this.keys = keys;
    // A browser opens six connections to one gateway. The events hold one, and one stays free for the buttons.
    this.downloads = new Lanes(1);
    this.talks = new Lanes(3); // answers and the log
  }

  /**
   * A response with a status below 400. Raises ApiError.
   * @param {string} method
   * @param {string} path without a slash before it
   * @param {{body?: unknown, signal?: AbortSignal}} [options]
   */
  async send(method, path, { body, signal } = {}) {
    /** @type {Record<string, string>} */
    const headers = {};
    const key = this.keys.known[keyOf(path)];
    if (key) headers.authorization = `Bearer ${key}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const sent = body === undefined ? undefined : JSON.stringify(body);
    let response;
    try {
      response = await fetch(new URL(path, this.base), {
        method, headers, body: sent, signal, cache: "no-store", credentials: "omit", redirect: "error",
      });
    } catch (error) {
      if (/** @type {Error} */ (error).name === "AbortError") throw error;
      throw new ApiError("the gateway does not answer", 0);
    }
    if (!response.ok) throw failureOf(response.status, await response.text().catch(() => ""));
    return response;
  }

  /** @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
  async get(path, signal) {
    return (await this.send("GET", path, { signal })).json();
  }

  /** What runs now. maxAge: how old the answer may be, so that many pages share one. @param {number} maxAge seconds */
  status(maxAge, signal = AbortSignal.timeout(10_000)) {
    return this.get(`admin/models/status?max_age=${maxAge}`, signal);
  }

  disk(signal = AbortSignal.timeout(30_000)) {
    return this.get("admin/models", signal);
  }

  /** @param {AbortSignal} signal */
  events(signal) {
    return this.send("GET", "admin/events", { signal });
  }

  /** @param {string} id @param {number} tail lines @param {AbortSignal} signal */
  logs(id, tail, signal) {
    return this.send("GET", `admin/models/${inPath(id)}/logs?tail=${tail}&follow=true`, { signal });
  }

  /** @param {string} id Loads it too, and answers before that is done. */
  pin(id) {
    return this.send("POST", `admin/models/pin/${inPath(id)}`);
  }

  /** @param {string} id */
  unpin(id) {
    return this.send("POST", `admin/models/unpin/${inPath(id)}`);
  }

  /** @param {string} id */
  unload(id) {
    return this.send("POST", `admin/models/unload/${inPath(id)}`);
  }

  /** @param {string} id @param {boolean} allowGap whether its process may end before the new one is there */
  reload(id, allowGap) {
    return this.send("POST", `admin/models/reload/${inPath(id)}${allowGap ? "?allow_gap=true" : ""}`);
  }

  /** @param {string} id */
  kill(id) {
    return this.send("POST", `admin/models/kill/${inPath(id)}`);
  }

  /** @param {string} id @param {AbortSignal} [signal] */
  pull(id, signal) {
    return this.send("POST", `admin/models/pull/${inPath(id)}?stream=true`, { signal });
  }

  /** @param {string} id Ends a download. */
  cancel(id) {
    return this.send("POST", `admin/models/cancel/${inPath(id)}`);
  }

  /** @param {string} id Deletes its files. */
  remove(id) {
    return this.send("DELETE", `admin/models/${inPath(id)}`);
  }

  /** @param {unknown} body @param {AbortSignal} signal */
  chat(body, signal) {
    return this.send("POST", "v1/chat/completions", { body, signal });
  }
}
