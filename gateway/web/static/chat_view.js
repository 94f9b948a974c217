/** The chat: one conversation for each model, each with its own stream, so that several answer at once. */

import { ApiError } from "./api.js";
import { asked, askedAgain, ended, failed, figuresOf, messagesOf, queued, received, sent, stopped } from "./chat.js";
import { byId, el, keyed, setText, show } from "./dom.js";
import { say } from "./notices.js";
import { dataIn } from "./sse.js";

/** @typedef {{turns: import("./chat.js").Turn[], control: AbortController|null, draft: string, images: string[]}} Session */

const now = () => performance.now() / 1000;
const NEAR_END = 120; // pixels
/** @type {Record<string, string>} */
const WAITS = { queued: "Waiting until another answer of this page ends", waiting: "Waiting for the first token" };

export class ChatView {
  /** @type {Map<string, Session>} */
  #sessions = new Map();
  #drawn = false;

  /**
   * @param {import("./api.js").Api} api
   * @param {() => Promise<boolean>} unlock asks for the API key
   */
  constructor(api, unlock) {
    this.api = api;
    this.unlock = unlock;
    this.model = "";
    const form = byId("chat-form");
    form.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#send();
    });
    byId("chat-text").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    byId("chat-stop").addEventListener("click", () => this.#session().control?.abort());
    byId("chat-clear").addEventListener("click", () => this.#clear());
    byId("chat-file").addEventListener("change", (/** @type {any} */ event) => this.#attach(event.target));
    byId("chat-text").addEventListener("input", () => (this.#session().draft = byId("chat-text").value));
  }

  /** @param {string} model */
  open(model) {
    if (model === this.model) return;
    this.model = model;
    byId("chat-turns").replaceChildren();
    byId("chat-text").value = this.#session().draft;
    this.draw();
  }

  /** Whether images can be added. @param {boolean} sees */
  images(sees) {
    show(byId("chat-attach"), sees);
    show(byId("chat-file"), sees);
  }

  /** @returns {Session} */
  #session(model = this.model) {
    let session = this.#sessions.get(model);
    if (session === undefined) {
      session = { turns: [], control: null, draft: "", images: [] };
      this.#sessions.set(model, session);
    }
    return session;
  }

  #clear() {
    this.#session().control?.abort();
    this.#sessions.delete(this.model);
    byId("chat-turns").replaceChildren();
    byId("chat-text").value = "";
    this.draw();
    byId("chat-text").focus();
  }

  /** @param {HTMLInputElement} field */
  #attach(field) {
    const session = this.#session();
    for (const file of field.files ?? []) {
      const reader = new FileReader();
      reader.addEventListener("load", () => {
        session.images.push(String(reader.result));
        this.draw();
      });
      reader.readAsDataURL(file);
    }
    field.value = "";
  }

  #send() {
    const session = this.#session();
    const text = byId("chat-text").value.trim();
    if (session.control !== null || this.model === "" || (text === "" && session.images.length === 0)) return;
    session.turns = asked(session.turns, text, session.images, now());
    Object.assign(session, { images: [], draft: "" });
    byId("chat-text").value = "";
    this.#run(this.model, session);
  }

  #again() {
    const session = this.#session();
    if (session.control !== null) return;
    session.turns = askedAgain(session.turns, now());
    this.#run(this.model, session);
  }

  /** @param {string} model @param {Session} session */
  async #run(model, session) {
    const control = (session.control = new AbortController());
    if (this.api.talks.isFull) session.turns = queued(session.turns);
    this.draw();
    let leave;
    try {
      leave = await this.api.talks.enter(control.signal);
      session.turns = sent(session.turns, now());
      this.draw();
      await this.#stream(model, session, control.signal);
      session.turns = ended(session.turns, now());
    } catch (error) {
      if (control.signal.aborted) session.turns = stopped(session.turns, now());
      else if (error instanceof ApiError) session.turns = failed(session.turns, error, now());
      else session.turns = failed(session.turns, { code: "cut", message: String(error) }, now());
    }
    leave?.();
    session.control = null;
    const answer = session.turns.at(-1);
    say(answer?.end ? `${model}: ${answer.end.title}` : `${model} has answered`);
    this.draw();
  }

  /** @param {string} model @param {Session} session @param {AbortSignal} signal */
  async #stream(model, session, signal) {
    const body = { model, messages: messagesOf(session.turns), stream: true, stream_options: { include_usage: true } };
    let response;
    try {
      response = await this.api.chat(body, signal);
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 401 && (await this.unlock()))) throw error;
      response = await this.api.chat(body, signal);
    }
    for await (const data of dataIn(response)) {
      session.turns = received(session.turns, JSON.parse(data), now());
      this.draw();
    }
    signal.throwIfAborted();
  }

  /** At the next frame, however often it is called before. */
  draw() {
    if (this.#drawn) return;
    this.#drawn = true;
    requestAnimationFrame(() => {
      this.#drawn = false;
      this.#draw();
    });
  }

  #draw() {
    const session = this.#session();
    const list = byId("chat-turns");
    const page = document.documentElement;
    const follows = page.scrollHeight - page.scrollTop - page.clientHeight < NEAR_END;
    keyed(list, session.turns.map((turn, index) => ({ turn, index })), ({ index }) => `${index}`, ({ turn }) =>
      turn.role === "user" ? question(turn) : this.#answer());
    keyed(byId("chat-images"), session.images.map((url, index) => ({ url, index })), ({ url }) => url, ({ url, index }) =>
      el("li", {}, el("img", { src: url, alt: `Image ${index + 1}` }), el("button", {
        type: "button", class: "plain", text: "Remove", "aria-label": `Remove image ${index + 1}`,
        on: { click: () => { session.images.splice(session.images.indexOf(url), 1); this.draw(); } },
      })));
    const busy = session.control !== null;
    show(byId("chat-stop"), busy);
    show(byId("chat-send"), !busy);
    list.setAttribute("aria-busy", String(busy));
    if (follows && busy) page.scrollTop = page.scrollHeight;
  }

  #answer() {
    const thought = el("div", { class: "text" });
    const title = el("summary");
    const reasoning = el("details", { class: "reasoning" }, title, thought);
    const text = el("div", { class: "text" });
    const wait = el("p", { class: "quiet wait", });
    const endTitle = el("strong");
    const endText = el("p");
    const again = el("button", { type: "button", text: "Ask again", on: { click: () => this.#again() } });
    const end = el("div", { class: "end" }, endTitle, endText, again);
    const figures = el("p", { class: "quiet figures" });
    const node = el("li", { class: "turn assistant" }, el("span", { class: "hidden", text: "Answer:" }), reasoning, text, wait, end, figures);
    node.update = (/** @type {{turn: import("./chat.js").Turn, index: number}} */ { turn, index }) => {
      node.dataset.state = turn.state;
      show(reasoning, turn.reasoning !== "");
      setText(title, turn.text === "" && turn.state === "streaming" ? "Reasoning, still at it" : "Reasoning");
      setText(thought, turn.reasoning);
      setText(text, turn.text);
      show(wait, turn.state in WAITS);
      setText(wait, WAITS[turn.state] ?? "");
      show(end, turn.end !== null);
      end.dataset.tone = turn.state === "failed" ? "bad" : "quiet";
      setText(endTitle, turn.end?.title ?? "");
      setText(endText, turn.end?.text ?? "");
      show(again, Boolean(turn.end?.retry) && index === this.#session().turns.length - 1);
      setText(figures, figuresOf(turn));
    };
    return node;
  }
}

/** @param {import("./chat.js").Turn} turn */
function question(turn) {
  return el("li", { class: "turn user" }, el("span", { class: "hidden", text: "You:" }),
    ...turn.images.map((url, index) => el("img", { src: url, alt: `Image ${index + 1} of the message` })),
    el("div", { class: "text", text: turn.text }));
}
