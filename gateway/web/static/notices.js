/** What the user should hear: failures that stay until they are closed, and short words for screen readers. */

import { byId, el, setText } from "./dom.js";

/** @param {string} text */
export function fail(text) {
  const holder = byId("notices");
  const close = el("button", { type: "button", class: "plain", text: "Close" });
  const notice = el("div", { class: "notice bad", role: "alert" }, el("p", { text }), close);
  close.addEventListener("click", () => notice.remove());
  holder.append(notice);
  while (holder.children.length > 3) holder.firstElementChild.remove();
}

/** Spoken, not shown. @param {string} text */
export function say(text) {
  setText(byId("said"), text);
}
