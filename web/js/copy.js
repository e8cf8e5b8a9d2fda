// A number to be copied: into a message to the support, or into another app.

import { h, setText } from "./dom.js";

/**
 * A number with a button that copies it. A tap on the number selects the whole of it, for a browser
 * that lets no page write to the clipboard.
 * @param {import("./i18n.js").Language} language
 * @param {string} label what the number is
 * @param {string} number
 */
export function copyable(language, label, number) {
  const shown = h("span", { class: "number" }, number);
  const said = h("span", { class: "hidden", role: "status" });
  const button = h("button", { type: "button", class: "copy" });
  const show = (text) => {
    setText(button, text);
    // Of several such buttons a screen reader lists, which one it is.
    button.setAttribute("aria-label", `${text}: ${label}`);
  };
  button.addEventListener("click", async () => {
    const done = await write(number, shown);
    show(language.text(done ? "copied" : "copy"));
    setText(said, done ? language.text("copied") : "");
  });
  show(language.text("copy"));
  return h("div", { class: "copyable" }, h("p", { class: "quiet" }, label), h("div", {}, shown, button), said);
}

/** Whether it is in the clipboard; selected it is in any case. */
async function write(number, shown) {
  getSelection()?.selectAllChildren(shown);
  try {
    await navigator.clipboard.writeText(number);
    return true;
  } catch {
    // There is no clipboard outside secure contexts; the older way may still work.
    return document.execCommand("copy");
  }
}
