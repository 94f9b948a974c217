/** The models of this machine, downloads, and what is wrong with folders. */

import { chats } from "./cards.js";
import { byId, el, keyed, setText, show } from "./dom.js";
import { bytes, gib, many, percent, whole } from "./format.js";
import { downloads } from "./state.js";

/** What is known of a model, in a line. @param {any} model */
export function about(model) {
  const parts = [gib(model.size_gb), model.model_type];
  if (model.model_type === "audio") parts.push(hears(model) ? "transcribes" : "speaks");
  if (model.quantization) parts.push(model.quantization);
  if (model.parameters) parts.push(`${short(model.parameters)} parameters`);
  if (model.context_length) parts.push(`${whole(model.context_length)} tokens of context`);
  return parts.join(" · ");
}

/** @param {any} model */
const hears = (model) => (model.capabilities ?? []).includes("transcribe");

/** @param {number} count */
export function short(count) {
  if (count >= 1e9) return `${(count / 1e9).toFixed(1)} B`;
  return count >= 1e6 ? `${(count / 1e6).toFixed(0)} M` : whole(count);
}

/** @param {any[]} models @param {string} text */
export function found(models, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return models.filter((model) => words.every((word) => `${model.model_id} ${model.model_type}`.toLowerCase().includes(word)));
}

/** How far a download is. @param {import("./state.js").Pull} pull */
export function progressText(pull) {
  if (pull.error) return pull.error;
  if (pull.ended) return "done";
  const size = pull.total ? `${bytes(pull.done)} of ${bytes(pull.total)}` : "";
  return [pull.reason, percent(pull.fraction), size].filter(Boolean).join(" · ") || "begins";
}

/**
 * @param {import("./state.js").State} state
 * @param {(action: string, id: string) => void} act
 */
export function showDisk(state, act) {
  keyed(byId("pulls"), downloads(state), (pull) => pull.model_id, (pull) => download(pull.model_id, act));
  const { disk } = state;
  if (disk === null) return;
  const some = found(disk.models, byId("disk-find").value);
  const size = disk.models.reduce((sum, model) => sum + model.size_gb, 0);
  const filtered = some.length < disk.models.length ? `, ${some.length} shown` : "";
  setText(byId("disk-text"), `${many(disk.models.length, "model")}, ${gib(size)}${filtered}`);
  keyed(byId("disk-list"), some, (model) => model.model_id, (model) => entry(model.model_id, state, act));
  for (const node of byId("disk-list").children) node.now(state.models.get(node.itemKey)?.state);
  show(byId("disk-list"), some.length > 0);
  show(byId("disk-empty"), disk.models.length === 0);
  if (disk.models.length === 0) howToGetOne(byId("disk-empty"), "above", disk.folders);
  keyed(byId("disk-broken"), disk.broken, (broken) => `${broken.model_id}:${broken.path}`, (broken) =>
    el("div", { class: "notice" }, el("p", {}, el("strong", { text: broken.model_id }), " cannot be served: ",
      el("span", { text: broken.reason })), el("p", { class: "quiet path", text: broken.path })));
}

/**
 * What to do without a model.
 * @param {HTMLElement} holder
 * @param {Node|string} where the field for a name is
 * @param {any[]} [folders]
 */
export function howToGetOne(holder, where, folders = []) {
  if (holder.childElementCount > 0) return;
  holder.append(
    el("h2", { text: "This machine has no model yet" }),
    el("p", {}, "Name one of the Hugging Face hub ", where, ", or download one in a terminal; it appears here by itself:"),
    el("pre", { text: "mlx-broker pull mlx-community/SmolLM2-135M-Instruct" }),
  );
  if (folders.length > 0) {
    holder.append(el("p", { text: "Models are looked for in these folders:" }), el("ul", {}, ...folders.map((folder) =>
      el("li", { class: "path", text: folder.exists ? folder.path : `${folder.path} (does not exist)` }))));
  }
}

/** @param {string} id @param {import("./state.js").State} _state @param {(action: string, id: string) => void} act */
function entry(id, _state, act) {
  const line = el("span", { class: "quiet" });
  const badge = el("span", { class: "badge", "data-tone": "quiet" });
  const button = (/** @type {string} */ action, /** @type {string} */ label, /** @type {string|null} */ kind = null) =>
    el("button", { type: "button", text: label, class: kind, "data-action": action, "aria-label": `${label} ${id}`, on: { click: () => act(action, id) } });
  const load = button("load", "Load");
  const chat = button("chat", "Chat");
  const node = el("li", { "data-model": id }, el("div", { class: "what" }, el("span", { class: "name", text: id }), line), badge,
    el("div", { class: "buttons" }, load, chat, button("remove", "Delete", "danger")));
  node.update = (/** @type {any} */ model) => {
    setText(line, about(model));
    show(chat, chats(model));
  };
  node.now = (/** @type {string|undefined} */ name) => {
    const rests = [undefined, "unloaded", "failed", "cooldown"].includes(name);
    setText(badge, name ?? "unloaded");
    show(badge, name !== undefined && name !== "unloaded");
    show(load, rests);
  };
  return node;
}

/** @param {string} id @param {(action: string, id: string) => void} act */
function download(id, act) {
  const bar = el("progress", { max: 1, "aria-label": `Download of ${id}` });
  const line = el("p", { class: "quiet" });
  const cancel = el("button", { type: "button", text: "Cancel", "aria-label": `Cancel the download of ${id}`, "data-action": "cancel", on: { click: () => act("cancel", id) } });
  const forget = el("button", { type: "button", text: "Close", "aria-label": `Close the download of ${id}`, on: { click: () => act("forget", id) } });
  const node = el("div", { class: "panel pull", "data-model": id }, el("div", { class: "row" }, el("strong", { class: "name", text: id }), cancel, forget), bar, line);
  node.update = (/** @type {import("./state.js").Pull} */ pull) => {
    setText(line, progressText(pull));
    line.classList.toggle("wrong", Boolean(pull.error));
    const ended = pull.ended || Boolean(pull.error);
    show(bar, !ended);
    show(cancel, !ended);
    show(forget, ended);
    if (pull.fraction === null) bar.removeAttribute("value");
    else bar.value = pull.fraction;
  };
  return node;
}
