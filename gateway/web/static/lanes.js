/** Who may hold a connection for long. Pure. */

/** So many at once; the others wait in their order. */
export class Lanes {
  /** @type {(() => void)[]} */
  #waiting = [];
  #free;

  /** @param {number} count */
  constructor(count) {
    this.#free = count;
  }

  get isFull() {
    return this.#free === 0;
  }

  /**
   * Waits for a lane. Raises the signal's reason if that comes first.
   * @param {AbortSignal} signal
   * @returns {Promise<() => void>} gives the lane back
   */
  async enter(signal) {
    signal.throwIfAborted();
    if (this.#free > 0) this.#free -= 1;
    else await this.#turn(signal);
    let isHeld = true;
    return () => {
      if (isHeld) this.#leave();
      isHeld = false;
    };
  }

  /** @param {AbortSignal} signal @returns {Promise<void>} */
  #turn(signal) {
    return new Promise((resolve, reject) => {
      const giveUp = () => {
        this.#waiting = this.#waiting.filter((one) => one !== go);
        reject(signal.reason);
      };
      const go = () => {
        signal.removeEventListener("abort", giveUp);
        resolve();
      };
      this.#waiting.push(go);
      signal.addEventListener("abort", giveUp, { once: true });
    });
  }

  #leave() {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free += 1;
    else next(); // which has the lane now
  }
}
