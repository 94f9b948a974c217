/** Puts the page together: one store, what fills it, and what shows it. */

import { Actions } from "./actions.js";
import { Api, ApiError, Keys } from "./api.js";
import { card, chats, headline } from "./cards.js";
import { ChatView } from "./chat_view.js";
import { askForKey } from "./dialogs.js";
import { howToGetOne, showDisk } from "./disk.js";
import { byId, el, keyed, setText, show } from "./dom.js";
import { Live } from "./live.js";
import { LogView } from "./log.js";
import { showMemory } from "./memory.js";
import { huesOf } from "./memory_parts.js";
import { say } from "./notices.js";
import { placeOf } from "./places.js";
import { LOADED, Store, names, ordered } from "./state.js";

const DISK_MS = 30_000;

const store = new Store();
const keys = new Keys(sessionStorage);
const api = new Api(new URL("../", import.meta.url), keys);
const live = new Live(api, store);
const actions = new Actions(api, store, () => live.refresh());
const chat = new ChatView(api, () => askForKey("api", keys, () => isKey(() => api.get("v1/models"))));
const log = new LogView(api);

/** @param {string} action @param {string} id */
function act(action, id) {
  if (action === "chat" || action === "log") location.hash = `#${action}/${encodeURIComponent(id)}`;
  else actions.run(action, id);
}

// ---- what is shown -------------------------------------------------------------------------------------------------

let isDrawn = false;

function draw() {
  if (isDrawn) return;
  isDrawn = true;
  requestAnimationFrame(() => {
    isDrawn = false;
    const { view } = placeOf(location.hash);
    drawLink();
    if (view === "models") drawModels();
    if (view === "disk") showDisk(store.state, act);
    if (view === "chat" || view === "log") drawPickers();
  });
}

const LINKS = {
  connecting: ["connecting", "quiet"],
  live: ["live", "good"],
  away: ["not connected", "bad"],
  locked: ["locked", "bad"],
  refused: ["refused", "bad"],
};
let linkBefore = "connecting";

function drawLink() {
  const { link, status } = store.state;
  const badge = byId("link");
  const [text, tone] = LINKS[link.state];
  setText(badge, text);
  badge.dataset.tone = tone;
  setText(byId("version"), status ? headline(status) : "");
  drawTrouble(link);
  if (link.state !== linkBefore) {
    if (link.state === "away") say("The connection is lost. It is tried again.");
    if (link.state === "live" && linkBefore !== "connecting") say("Connected again.");
    if (link.state === "live") {
      actions.readDisk();
      log.again();
    }
    linkBefore = link.state;
    if (link.state === "locked") unlock();
  }
}

/** @param {{state: string, message: string}} link */
function drawTrouble(link) {
  const troubles = link.state === "live" || link.state === "connecting" ? [] : [link.state];
  keyed(byId("trouble"), troubles, (name) => name, () => {
    const text = el("p", { class: "quiet" });
    const button = el("button", { type: "button", text: "Enter the admin token", on: { click: unlock } });
    const node = el("div", { class: "notice bad" }, el("p", { text: ADVICE[link.state] ?? "" }), text, link.state === "locked" ? button : "");
    node.update = () => setText(text, store.state.link.message);
    return node;
  });
}

/** @type {Record<string, string>} */
const ADVICE = {
  away: "The service does not answer. What you see is what was known last; the page connects again by itself.",
  locked: "This gateway has an admin token. Without it, this page cannot show or change anything.",
  refused: "The gateway refuses this address, because pages of other sites could take it. Open this page at http://localhost or at the "
    + "machine's IP address, with the same port; or set MLX_BROKER_ADMIN_TOKEN and start the gateway again.",
};

function drawModels() {
  const { state } = store;
  if (state.status === null) return;
  showMemory(state.status);
  const now = Date.now() / 1000;
  const models = ordered(state);
  keyed(byId("cards"), models, (model) => model.model_id, (model) => card(model, act));
  const hues = huesOf([...state.models.keys()]);
  for (const node of byId("cards").children) {
    node.show(state.models.get(node.itemKey), state.history.get(node.itemKey), now, hues.get(node.itemKey));
  }
  const empty = byId("models-empty");
  show(empty, models.length === 0);
  if (models.length === 0) drawEmpty(empty);
}

/** @param {HTMLElement} empty */
function drawEmpty(empty) {
  const kind = store.state.disk?.models.length === 0 ? "none" : "some";
  if (empty.dataset.kind === kind) return;
  empty.dataset.kind = kind;
  empty.replaceChildren();
  if (kind === "none") howToGetOne(empty, el("a", { href: "#disk", text: "on disk" }), store.state.disk?.folders);
  else empty.append(el("h2", { text: "No model is loaded" }), el("p", {}, "The first request for a model loads it. Or choose one ", el("a", { href: "#disk", text: "on disk" }), "."));
}

function drawPickers() {
  const { view, model } = placeOf(location.hash);
  const { state } = store;
  const picker = byId(`${view}-model`);
  const all = names(state);
  const known = new Map((state.disk?.models ?? []).map((one) => [one.model_id, one]));
  const shown = view === "log" ? all : all.filter((id) => chats(known.get(id) ?? state.models.get(id) ?? {}));
  if (model && !shown.includes(model)) shown.unshift(model);
  keyed(picker, shown, (id) => id, (id) => el("option", { value: id, text: id }));
  const first = shown.find((id) => LOADED.has(state.models.get(id)?.state ?? ""));
  const chosen = model || picker.dataset.chosen || first || shown[0] || "";
  picker.dataset.chosen = chosen;
  if (picker.value !== chosen) picker.value = chosen;
  if (view === "chat") {
    chat.open(chosen);
    chat.images(Boolean(known.get(chosen)?.capabilities?.includes("vision")));
    const loaded = LOADED.has(state.models.get(chosen)?.state ?? "");
    setText(byId("chat-hint"), chosen === "" ? "There is no model yet." : loaded ? "" : "The first message loads it.");
  } else log.open(chosen, true);
}

function drawView() {
  const { view } = placeOf(location.hash);
  for (const name of ["models", "disk", "chat", "log"]) show(byId(`view-${name}`), name === view);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (view !== "log") log.open("", false);
  if (view === "disk") actions.readDisk();
  draw();
}

// ---- keys ----------------------------------------------------------------------------------------------------------

/** @param {() => Promise<unknown>} attempt @returns {Promise<boolean>} */
async function isKey(attempt) {
  try {
    await attempt();
    return true;
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) return false;
    throw error;
  }
}

async function unlock() {
  if (await askForKey("admin", keys, () => isKey(() => api.status(0)))) live.wake();
}

// ---- what happens --------------------------------------------------------------------------------------------------

for (const view of ["chat", "log"]) {
  byId(`${view}-model`).addEventListener("change", (/** @type {any} */ event) => {
    location.hash = `#${view}/${encodeURIComponent(event.target.value)}`;
  });
}
byId("pull").addEventListener("submit", (/** @type {any} */ event) => {
  event.preventDefault();
  const field = byId("pull-name");
  const name = field.value.trim();
  if (name) act("pull", name);
  field.value = "";
});
byId("disk-find").addEventListener("input", draw);
byId("skip").addEventListener("click", (/** @type {Event} */ event) => {
  event.preventDefault(); // the hash is the view
  byId("content").focus();
});
window.addEventListener("hashchange", drawView);
store.subscribe(draw);
setInterval(() => {
  if (!document.hidden && store.state.link.state === "live") actions.readDisk();
}, DISK_MS);
drawView();
live.start();
