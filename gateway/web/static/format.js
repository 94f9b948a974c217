/** Numbers as people read them. Pure. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** @param {number|null|undefined} count bytes */
export function bytes(count) {
  if (count === null || count === undefined || !Number.isFinite(count)) return "–";
  let size = count;
  let unit = 0;
  while (size >= 1024 && unit < UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${size.toFixed(unit > 1 && size < 100 ? 1 : 0)} ${UNITS[unit]}`;
}

/** @param {number|null|undefined} size GiB */
export function gib(size) {
  return bytes(size === null || size === undefined ? size : size * 2 ** 30);
}

/** @param {number|null|undefined} value a share of 1 */
export function percent(value) {
  return value === null || value === undefined ? "" : `${Math.floor(value * 100)} %`;
}

/** @param {number|null|undefined} value tokens per second */
export function rate(value) {
  if (value === null || value === undefined) return "–";
  return value >= 100 ? value.toFixed(0) : value.toFixed(1);
}

/** @param {number|null|undefined} value seconds */
export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return value < 60 ? `${value.toFixed(value < 10 ? 2 : 1)} s` : span(value);
}

/** A time of minutes and more, in its two largest units. @param {number} value seconds */
export function span(value) {
  const whole = Math.max(0, Math.floor(value));
  /** @type {[number, string][]} */
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = units.findIndex(([size]) => whole >= size);
  if (at < 0) return "0 s";
  const [size, name] = units[at];
  const first = `${Math.floor(whole / size)} ${name}`;
  const next = units[at + 1];
  const rest = next ? Math.floor((whole % size) / next[0]) : 0;
  return rest && next ? `${first} ${rest} ${next[1]}` : first;
}

/** @param {number|null|undefined} count */
export function whole(count) {
  return count === null || count === undefined ? "–" : Math.round(count).toLocaleString("en");
}

/** How many: `1 model`, `2 models`. @param {number} count @param {string} thing */
export function many(count, thing) {
  return `${whole(count)} ${thing}${count === 1 ? "" : "s"}`;
}

/** A moment of today as a clock shows it. @param {number} at Unix seconds */
export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString("en-GB");
}

/**
 * What a terminal would obey becomes visible: control characters and those that turn the direction of text.
 * @param {string} text
 */
export function harmless(text) {
  return text
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (char) => String.fromCharCode(0x2400 + char.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}
