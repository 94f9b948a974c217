/** The models that run, load or have ended: one card each. */

import { Chart } from "./charts.js";
import { el, setText, show } from "./dom.js";
import { bytes, clock, harmless, many, percent, rate, seconds, span, whole } from "./format.js";
import { LOADED, actions, tone } from "./state.js";

const LABELS = { load: "Load", unload: "Unload", reload: "Reload", kill: "Kill", pin: "Pin", unpin: "Unpin", cancel: "Cancel download" };

/** The line below the name. @param {any} model @param {number} now Unix seconds */
export function summary(model, now) {
  const parts = [];
  if (model.reason) parts.push(model.reason);
  if (model.stage) parts.push(model.stage);
  if (model.fraction !== null && model.fraction !== undefined) parts.push(percent(model.fraction));
  if (model.since) parts.push(`for ${span(now - model.since)}`);
  if (model.preloaded) parts.push("pinned");
  else if (model.idle_until) parts.push(`leaves in ${span(model.idle_until - now)} if idle`);
  return parts.join(" · ");
}

/** Of the process that serves, with the one before it or the one that is to follow. @param {any} model */
export function pids(model) {
  const all = [model.outgoing?.pid, model.pid, model.incoming?.pid].filter(Boolean);
  return all.length > 0 ? all.join(" → ") : "–";
}

/** How the last process ended. @param {any} exit */
export function exitText(exit) {
  const how = exit.signal ?? (exit.code === null ? "unknown" : `exit code ${exit.code}`);
  return `Last exit: ${how} at ${clock(exit.at)}${exit.reason ? `, ${exit.reason}` : ""}`;
}

/** The lines of stderr. @param {any} exit @returns {string} */
export function tailOf(exit) {
  const tail = Array.isArray(exit.stderr_tail) ? exit.stderr_tail.join("\n") : (exit.stderr_tail ?? "");
  return harmless(tail);
}

/**
 * Memory against its limit, in shares of the limit.
 * @param {any} model
 * @returns {{used: number, mlx: number, text: string}|null}
 */
export function memoryOf(model) {
  const limit = model.memory_limit_bytes;
  if (!limit || !model.footprint_bytes) return null;
  const mlx = (model.mlx_active_bytes ?? 0) + (model.mlx_cache_bytes ?? 0);
  return {
    used: Math.min(1, model.footprint_bytes / limit),
    mlx: Math.min(1, mlx / limit),
    text: `${bytes(model.footprint_bytes)} of ${bytes(limit)}, MLX ${bytes(mlx)}`,
  };
}

/** @param {string} name */
function figure(name) {
  const value = el("dd");
  return { value, node: el("div", {}, el("dt", { text: name }), value) };
}

/** @param {string} title @param {string} colour */
function chart(title, colour) {
  const value = el("span", { class: "number" });
  const holder = el("div", { class: "plot", role: "img" });
  const node = el("div", { class: "chart" }, el("p", {}, el("span", { class: "quiet", text: `${title} ` }), value), holder);
  return { value, holder, node, title, plot: new Chart(holder, colour) };
}

/**
 * @param {import("./state.js").Model} first
 * @param {(action: string, id: string) => void} act
 * @returns {HTMLElement & {show: (model: any, history: any, now: number, hue: number) => void, discard: () => void}}
 */
export function card(first, act) {
  const id = first.model_id;
  const state = el("span", { class: "badge" });
  const line = el("p", { class: "quiet line" });
  const progress = el("progress", { max: 1, "aria-label": `Progress of ${id}` });
  const speed = chart("Tokens/s", "--accent");
  const ttft = chart("First token", "--second");
  const cpu = chart("CPU", "--third");
  const charts = el("div", { class: "charts" }, speed.node, ttft.node, cpu.node);
  const used = el("span", { class: "used" });
  const mlx = el("span", { class: "mlx" });
  const bar = el("div", { class: "bar", role: "meter", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": `Memory of ${id}` }, used, mlx);
  const memoryText = el("span", { class: "number" });
  const memory = el("div", { class: "memory" }, el("p", {}, el("span", { class: "quiet", text: "Memory" }), " ", memoryText), bar);
  const figures = {
    flight: figure("In flight"), waiting: figure("Waiting"), prefill: figure("Prefill tokens/s"), restarts: figure("Restarts"),
    context: figure("Context"), pid: figure("PID"),
  };
  const facts = el("dl", { class: "facts" }, ...Object.values(figures).map((one) => one.node));
  const tail = el("pre", { tabindex: 0, "aria-label": `Last lines of stderr of ${id}` });
  const exitLine = el("summary");
  const exit = el("details", { class: "exit" }, exitLine, tail);
  /** @type {Record<string, HTMLButtonElement>} */
  const buttons = {};
  const row = el("div", { class: "row buttons" });
  for (const [action, label] of Object.entries({ ...LABELS, chat: "Chat", log: "Log" })) {
    buttons[action] = el("button", {
      type: "button", text: label, "data-action": action, class: action === "kill" ? "danger" : null,
      "aria-label": `${label} ${id}`, on: { click: () => act(action, id) },
    });
    row.append(buttons[action]);
  }
  const node = el("article", { class: "card panel", "data-model": id },
    el("div", { class: "row" }, el("h2", { text: id }), state), line, progress, charts, memory, facts, exit, row);

  node.show = (/** @type {any} */ model, /** @type {any} */ history, /** @type {number} */ now, /** @type {number} */ hue) => {
    used.className = `used hue-${hue}`;
    const loaded = LOADED.has(model.state);
    setText(state, model.state);
    state.dataset.tone = tone(model.state);
    node.dataset.state = model.state;
    setText(line, summary(model, now));
    show(progress, ["loading", "downloading"].includes(model.state) || Boolean(model.incoming));
    if (model.fraction === null || model.fraction === undefined) progress.removeAttribute("value");
    else progress.value = model.fraction;
    show(charts, loaded);
    if (loaded && history) {
      draw(speed, history.at, history.rate, rate(model.tokens_per_second ?? 0));
      draw(ttft, history.at, history.ttft, seconds(model.ttft_seconds));
      draw(cpu, history.at, history.cpu, `${whole(model.cpu_percent ?? 0)} %`);
    }
    const share = memoryOf(model);
    show(memory, share !== null);
    if (share !== null) {
      used.style.width = `${share.used * 100}%`;
      mlx.style.left = `${share.mlx * 100}%`;
      setText(memoryText, share.text);
      bar.setAttribute("aria-valuenow", String(Math.round(share.used * 100)));
      bar.setAttribute("aria-valuetext", share.text);
    }
    show(facts, model.state !== "unloaded");
    const waits = model.waiting ? ` + ${whole(model.waiting)} in its process` : "";
    setText(figures.flight.value, whole(model.in_flight ?? 0));
    setText(figures.waiting.value, `${whole(model.queued ?? 0)}${waits}`);
    setText(figures.prefill.value, whole(model.prompt_tokens_per_second ?? 0));
    setText(figures.restarts.value, whole(model.restarts ?? 0));
    setText(figures.context.value, model.context_length ? whole(model.context_length) : "–");
    setText(figures.pid.value, pids(model));
    show(exit, Boolean(model.last_exit));
    if (model.last_exit) {
      setText(exitLine, exitText(model.last_exit));
      setText(tail, tailOf(model.last_exit) || "It wrote nothing to stderr.");
    }
    const possible = new Set([...actions(model), "log", ...(chats(model) ? ["chat"] : [])]);
    for (const [action, button] of Object.entries(buttons)) show(button, possible.has(/** @type {any} */ (action)));
  };
  node.discard = () => [speed, ttft, cpu].forEach((one) => one.plot.discard());
  return node;
}

/** Whether it answers chats. @param {any} model */
export function chats(model) {
  return !["embeddings", "audio"].includes(model.model_type);
}

/** What is running, in a few words. @param {any} status */
export function headline(status) {
  return `${status.version ?? ""} · ${many(status.total_models, "model")} loaded, up for ${span(status.uptime_seconds)}`;
}

/** @param {ReturnType<typeof chart>} one @param {number[]} at @param {(number|null)[]} values @param {string} now */
function draw(one, at, values, now) {
  setText(one.value, now);
  one.holder.setAttribute("aria-label", `${one.title} in the last minutes, now ${now}`);
  one.plot.update(at, values);
}
