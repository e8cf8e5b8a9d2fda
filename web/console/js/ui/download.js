// Files that are made here, or came from the API, for the operator to keep.

import { h } from "../dom.js";

/** How long the browser may take to begin to save. */
const KEPT = 60_000;

/** @param {string|Blob} content */
export function saveAs(name, content, type = undefined) {
  const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), KEPT);
}
