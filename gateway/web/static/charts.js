/** Small line charts of the last minutes, by uPlot, in the colours of the style sheet. */

const HEIGHT = 44;
/** @type {any} */
const Plot = /** @type {any} */ (globalThis).uPlot;
const dark = globalThis.matchMedia?.("(prefers-color-scheme: dark)");

const SPAN_SECONDS = 300;

/** The x axis: the last minutes, whatever of them is known, so that all charts have one. @param {number} last */
export function times(last) {
  return [last - SPAN_SECONDS, last];
}

/** The range of the y axis: from 0, and never so small that noise fills it. @param {number|null} max */
export function range(max) {
  return [0, Math.max(max ?? 0, 0.001) * 1.15];
}

export class Chart {
  /**
   * @param {HTMLElement} holder
   * @param {string} colour the name of a custom property
   */
  constructor(holder, colour) {
    this.holder = holder;
    this.colour = colour;
    /** @type {[number[], (number|null)[]]} */
    this.data = [[], []];
    /** @type {any} */
    this.plot = null;
    this.seen = false;
    this.watcher = new IntersectionObserver((entries) => {
      this.seen = entries.at(-1)?.isIntersecting ?? false;
      if (this.seen) this.#draw();
    });
    this.watcher.observe(holder);
    this.sizes = new ResizeObserver(() => this.plot?.setSize({ width: holder.clientWidth, height: HEIGHT }));
    this.sizes.observe(holder);
    this.onScheme = () => this.#remake();
    dark?.addEventListener("change", this.onScheme);
  }

  /** @param {number[]} at @param {(number|null)[]} values */
  update(at, values) {
    this.data = [at, values];
    if (this.seen) this.#draw();
  }

  discard() {
    this.watcher.disconnect();
    this.sizes.disconnect();
    dark?.removeEventListener("change", this.onScheme);
    this.plot?.destroy();
  }

  #remake() {
    this.plot?.destroy();
    this.plot = null;
    if (this.seen) this.#draw();
  }

  #draw() {
    if (this.plot) {
      this.plot.setData(this.data);
      return;
    }
    const width = this.holder.clientWidth;
    if (width === 0) return;
    const style = getComputedStyle(this.holder);
    const stroke = style.getPropertyValue(this.colour).trim();
    const options = {
      width,
      height: HEIGHT,
      padding: [3, 0, 3, 0],
      legend: { show: false },
      cursor: { show: false },
      axes: [{ show: false }, { show: false }],
      scales: {
        x: { time: false, range: (/** @type {any} */ _plot, /** @type {any} */ _min, /** @type {any} */ max) => times(max) },
        y: { range: (/** @type {any} */ _plot, /** @type {any} */ _min, /** @type {any} */ max) => range(max) },
      },
      series: [{}, { stroke, width: 1.5, fill: `${stroke}22`, points: { show: false }, spanGaps: false }],
    };
    this.plot = new Plot(options, this.data, this.holder);
  }
}
