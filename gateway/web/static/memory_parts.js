/** The status -> the parts of the memory bar. Pure. */

/**
 * @typedef {object} Part
 * @property {"model"|"spare"|"other"|"free"} kind
 * @property {string} label
 * @property {number} size bytes
 * @property {number} share of the whole bar
 * @property {number} hue of a model: follows from its name, so that a colour stays
 */

const GIB = 2 ** 30;
export const HUES = 8;

/**
 * Of the whole machine where the gateway knows it, else of the budget. budget: where its line is, as a share.
 * @param {Record<string, any>} status
 * @returns {{total: number, budget: number, budgetSize: number, parts: Part[]}}
 */
export function memoryParts(status) {
  const models = status.models.filter((/** @type {any} */ model) => model.footprint_bytes);
  const hues = huesOf(status.models.map((/** @type {any} */ model) => model.model_id));
  const spares = sum(status.spares, "rss_bytes");
  const ours = sum(models, "footprint_bytes") + spares;
  const budgetSize = status.max_memory_gb * GIB;
  const known = status.machine?.total_gb ? status.machine.total_gb * GIB : 0;
  const total = Math.max(known, known ? 0 : budgetSize, ours, 1);
  const free = known ? Math.min(status.machine.available_gb * GIB, total - ours) : total - ours;
  /** @type {Omit<Part, "share">[]} */
  const parts = models.map((/** @type {any} */ model) => ({
    kind: "model", label: model.model_id, size: model.footprint_bytes, hue: hues.get(model.model_id) ?? 0,
  }));
  if (spares) parts.push({ kind: "spare", label: "spare processes", size: spares, hue: 0 });
  const other = total - ours - Math.max(0, free);
  if (other > total / 1000) parts.push({ kind: "other", label: "other programs", size: other, hue: 0 });
  parts.push({ kind: "free", label: "free", size: Math.max(0, free), hue: 0 });
  return {
    total,
    budget: Math.min(1, budgetSize / total),
    budgetSize,
    parts: parts.map((part) => ({ ...part, share: part.size / total })),
  };
}

/**
 * A hue for each name: its own, or the next that is free while there is one.
 * @param {string[]} names
 * @returns {Map<string, number>}
 */
export function huesOf(names) {
  /** @type {Map<string, number>} */
  const hues = new Map();
  const taken = new Set();
  for (const name of [...names].sort()) {
    let hue = hueOf(name);
    for (let tries = 0; tries < HUES && taken.has(hue); tries += 1) hue = (hue + 1) % HUES;
    if (taken.size >= HUES) hue = hueOf(name);
    taken.add(hue);
    hues.set(name, hue);
  }
  return hues;
}

/** @param {string} name @returns {number} 0 to HUES - 1, the same for the same name */
function hueOf(name) {
  let hash = 0;
  for (const char of name) hash = (hash * 31 + (char.codePointAt(0) ?? 0)) >>> 0;
  return hash % HUES;
}

/** @param {any[]} items @param {string} field */
function sum(items, field) {
  return items.reduce((total, item) => total + (item[field] ?? 0), 0);
}
