// Words of the API, coloured by what they mean.

import { h } from "../dom.js";
import { word } from "../i18n.js";

const KINDS = {
  IN_PROGRESS: "info",
  COMPLETED: "warn",
  REWARDED: "good",
  EXPIRED: "",
  CANCELLED: "",
  OPEN: "warn",
  REPLAYED: "good",
  DISMISSED: "",
  ACTIVE: "info",
  USED: "good",
  COUNTED: "good",
  REVERSED: "bad",
  APPLIED: "good",
};

/** A status, a verdict or another word: `badge("status", "IN_PROGRESS")`. */
export function badge(kind, name) {
  const colour = KINDS[name] ?? (kind === "verdict" ? "warn" : "");
  return h("span", { class: `badge ${colour}`, "data-word": name }, word(kind, name));
}

/** Yes or no, in a colour. */
export const flag = (yes, [good, bad], colours = ["good", ""]) => h("span", { class: `badge ${yes ? colours[0] : colours[1]}` }, yes ? good : bad);
