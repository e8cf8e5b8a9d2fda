// Whether a promotion can be started now, in one word.

import { t } from "../i18n.js";
import { h } from "../dom.js";

/** `inactive`, `scheduled`, `over` or `open`. */
export function stateOf({ active, opens_at = null, closes_at = null }, now = Date.now()) {
  if (!active) return "inactive";
  if (closes_at !== null && new Date(closes_at) <= now) return "over";
  if (opens_at !== null && new Date(opens_at) > now) return "scheduled";
  return "open";
}

const COLOURS = { open: "good", scheduled: "info", over: "", inactive: "" };

export function stateBadge(promotion) {
  const state = stateOf(promotion);
  return h("span", { class: `badge ${COLOURS[state]}` }, t(`state.${state}`));
}
