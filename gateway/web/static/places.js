/** Where in the page one is: `#chat/org%2Fname`. Pure. */

const VIEWS = ["models", "disk", "chat", "log"];

/** @param {string} hash @returns {{view: string, model: string}} the first view for what is none */
export function placeOf(hash) {
  const [view, model = ""] = hash.replace(/^#/, "").split("/", 2);
  try {
    return { view: VIEWS.includes(view) ? view : VIEWS[0], model: decodeURIComponent(model) };
  } catch {
    return { view: VIEWS[0], model: "" };
  }
}
