/** The two dialogs: a question before what cannot be undone, and a key. */

import { byId, setText } from "./dom.js";

/**
 * Whether the user agrees.
 * @param {string} title
 * @param {string} text
 * @param {string} yes what the button says
 * @returns {Promise<boolean>}
 */
export function ask(title, text, yes) {
  const dialog = byId("ask");
  setText(byId("ask-title"), title);
  setText(byId("ask-text"), text);
  setText(byId("ask-yes"), yes);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

const KEYS = {
  admin: {
    title: "This page needs the admin token",
    text: "It is the value of MLX_BROKER_ADMIN_TOKEN where the gateway was started.",
    label: "Admin token",
  },
  api: {
    title: "Chats need the API key",
    text: "It is the value of MLX_BROKER_API_KEY where the gateway was started.",
    label: "API key",
  },
};

/**
 * Asks for a key until one is right. Resolves to whether there is one now.
 * @param {import("./api.js").KeyName} name
 * @param {import("./api.js").Keys} keys
 * @param {() => Promise<boolean>} isRight tries the key that has just been set; raises what is not about the key
 * @returns {Promise<boolean>}
 */
export function askForKey(name, keys, isRight) {
  const dialog = byId("key");
  if (dialog.open) return Promise.resolve(false);
  const field = byId("key-value");
  const form = dialog.querySelector("form");
  setText(byId("key-title"), KEYS[name].title);
  setText(byId("key-text"), KEYS[name].text);
  setText(byId("key-label"), KEYS[name].label);
  const wrong = byId("key-wrong");
  setText(wrong, "");
  field.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    let has = false;
    const submit = async (/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      setText(wrong, "Checking");
      keys.set(name, field.value, byId("key-keep").checked);
      try {
        has = await isRight();
        setText(wrong, has ? "" : `This ${KEYS[name].label} is not the right one.`);
      } catch (error) {
        setText(wrong, /** @type {Error} */ (error).message);
      }
      if (has) dialog.close();
      else {
        keys.set(name, null, false);
        field.select();
      }
    };
    const cancel = () => dialog.close();
    form.addEventListener("submit", submit);
    byId("key-no").addEventListener("click", cancel);
    dialog.addEventListener("close", () => {
      form.removeEventListener("submit", submit);
      byId("key-no").removeEventListener("click", cancel);
      field.value = "";
      resolve(has);
    }, { once: true });
  });
}
