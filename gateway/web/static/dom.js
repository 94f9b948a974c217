/**
 * Elements made by hand. Text only ever becomes text: nothing here, and nothing in this page, parses markup.
 */

/**
 * @typedef {{class?: string|null, text?: string, on?: Record<string, (event: any) => void>, [attribute: string]: any}} Props
 */

/**
 * An element. text: its text; on: its listeners; any other property is an attribute, left out if false or null.
 * @param {string} tag
 * @param {Props} [props]
 * @param {...(Node|string)} children
 * @returns {any}
 */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "text") node.textContent = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, String(value));
  }
  node.append(...children);
  return node;
}

/**
 * The element of the page with this id.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  const node = document.getElementById(id);
  if (node === null) throw new Error(`no element #${id}`);
  return node;
}

/**
 * Sets a text only where it changes, so that a selection in the rest of the page stays.
 * @param {Element} node
 * @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Shows or hides.
 * @param {any} node
 * @param {boolean} visible
 */
export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/**
 * Makes the children of `parent` those of `items`, in their order: an element stays while its key does.
 * @template T
 * @param {Element} parent
 * @param {T[]} items
 * @param {(item: T) => string} keyOf
 * @param {(item: T) => any} make an element with a method `update`, if it has something to update
 */
export function keyed(parent, items, keyOf, make) {
  /** @type {Map<string, any>} */
  const known = new Map([...parent.children].map((child) => [/** @type {any} */ (child).itemKey, child]));
  /** @type {any} */
  let before = null;
  for (const item of items) {
    const key = keyOf(item);
    let node = known.get(key);
    known.delete(key);
    if (node === undefined) {
      node = make(item);
      node.itemKey = key;
    }
    node.update?.(item);
    const place = before === null ? parent.firstElementChild : before.nextElementSibling;
    if (place !== node) parent.insertBefore(node, place);
    before = node;
  }
  for (const gone of known.values()) {
    gone.discard?.();
    gone.remove();
  }
}
