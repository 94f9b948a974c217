/** The memory of the machine as one bar, with its legend. */

import { byId, el, keyed, setText } from "./dom.js";
import { bytes, gib } from "./format.js";
import { memoryParts } from "./memory_parts.js";

/** @param {Record<string, any>} status */
export function showMemory(status) {
  const { total, parts, budget, budgetSize } = memoryParts(status);
  const bar = byId("memory-bar");
  const all = [...parts.map((part, index) => ({ ...part, key: `${index}:${part.kind}` })), { kind: "budget", key: "budget" }];
  keyed(bar, all, (part) => part.key, (part) => el("span", { class: `part ${part.kind}` }));
  for (const [index, part] of parts.entries()) {
    const node = bar.children[index];
    node.className = `part ${part.kind}${part.kind === "model" ? ` hue-${part.hue}` : ""}`;
    node.style.width = `${(part.share * 100).toFixed(3)}%`;
    node.title = `${part.label}: ${bytes(part.size)}`;
  }
  bar.lastElementChild.style.left = `${(budget * 100).toFixed(3)}%`;
  bar.lastElementChild.title = `budget: ${bytes(budgetSize)}`;
  keyed(byId("memory-legend"), [...parts, { kind: "budget", label: "budget", size: budgetSize, hue: 0, share: 0 }],
    (part) => `${part.kind}:${part.label}`, entry);
  const pressure = status.budget?.pressure ?? "normal";
  const rest = pressure === "normal" ? "" : `, the system runs short of memory (${pressure})`;
  setText(byId("memory-text"), `${gib(status.budget?.taken_gb ?? 0)} of the budget of ${bytes(budgetSize)} taken, machine ${bytes(total)}${rest}`);
}

/** @param {any} part */
function entry(part) {
  const size = el("span", { class: "number" });
  const swatch = el("span");
  const node = el("li", {}, swatch, el("span", { class: "name", text: part.label }), size);
  node.update = (/** @type {any} */ now) => {
    setText(size, bytes(now.size));
    swatch.className = `swatch ${now.kind}${now.kind === "model" ? ` hue-${now.hue}` : ""}`;
  };
  return node;
}
