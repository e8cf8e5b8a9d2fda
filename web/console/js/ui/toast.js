// Short messages after something was done; they are read out, and go away by themselves.

import { h } from "../dom.js";
import { t } from "../i18n.js";

const STAYS = 12_000;

/** @param {{text: string, address: string}|null} [link] where more is to be seen */
export function toast(text, link = null) {
  const message = h(
    "div",
    { class: "toast" },
    h("span", {}, text, link && " ", link && h("a", { href: link.address }, link.text)),
    h("button", { type: "button", class: "plain", "aria-label": t("close"), onclick: () => message.remove() }, "✕"),
  );
  const place = document.getElementById("toasts");
  place.append(message);
  while (place.children.length > 3) place.firstElementChild.remove();
  setTimeout(() => message.remove(), STAYS);
}

/** Says something to a screen reader alone. */
export function say(text) {
  document.getElementById("says").textContent = text;
}
