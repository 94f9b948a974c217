/** Server-sent events out of the bytes of a response, whatever pieces they come in. */

// For streams that can begin again: the gateway sends a comment every few seconds, unless it is told otherwise.
export const SILENCE_MS = 45_000;

/**
 * Collects pieces and gives the data of each event that is whole.
 */
export class EventReader {
  #rest = "";

  /**
   * @param {string} piece
   * @returns {string[]} the data of the events that this piece completes
   */
  feed(piece) {
    const parts = (this.#rest + piece).split(/\r?\n\r?\n/);
    this.#rest = parts.pop() ?? "";
    return parts.map(dataOf).filter((data) => data !== null);
  }
}

/** @param {string} event @returns {string|null} null where it is a comment */
function dataOf(event) {
  const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.length ? lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n") : null;
}

/** Ends a stream from which nothing has come for a while: a connection that dies in a sleep says nothing. */
export class Silence {
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  #timer;

  /** @param {number} ms @param {AbortController} control of the stream */
  constructor(ms, control) {
    this.ms = ms;
    this.control = control;
    this.heard();
  }

  heard() {
    this.end();
    this.#timer = setTimeout(() => this.control.abort(), this.ms);
  }

  end() {
    clearTimeout(this.#timer);
  }
}

/**
 * The data of the events of a response as they come, up to `[DONE]` or its end.
 * @param {Response} response
 * @param {() => void} [onBytes] called for whatever arrives, comments included
 * @returns {AsyncGenerator<string>}
 */
export async function* dataIn(response, onBytes = () => {}) {
  if (response.body === null) return;
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const events = new EventReader();
  try {
    while (true) {
      const { done, value } = await reader.read();
      if (done) return;
      onBytes();
      for (const data of events.feed(decoder.decode(value, { stream: true }))) {
        if (data === "[DONE]") return;
        yield data;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
