// Whether a promotion can be started now, in one word.

import { t } from "../i18n.js";
import { h } from "../dom.js";

/** The states there are, as the list's filter offers them. */
export const STATES = ["open", "scheduled", "exhausted", "over", "inactive"];

/**
 * `inactive`, `scheduled`, `over`, `exhausted` or `open`. `use` is what `GET /promotions/{id}/budget-use`
 * says, `null` where there is no budget.
 */
export function stateOf({ active, opens_at = null, closes_at = null }, use = null, now = Date.now()) {
  if (!active) return "inactive";
  if (closes_at !== null && new Date(closes_at) <= now) return "over";
  if (opens_at !== null && new Date(opens_at) > now) return "scheduled";
  return usedShare(use) >= 1 ? "exhausted" : "open";
}

/** The part of a budget that is reserved and spent, of that maximum that is nearer; `null` without one. */
export function usedShare(use) {
  const shares = [use?.participations, use?.reward_cents].flatMap((one) => (one && one.max !== null ? [(one.reserved + one.spent) / one.max] : []));
  return shares.length === 0 ? null : Math.max(...shares);
}

const COLOURS = { open: "good", scheduled: "info", exhausted: "bad", over: "", inactive: "" };

export function stateBadge(promotion, use = null) {
  const state = stateOf(promotion, use);
  return h("span", { class: `badge ${COLOURS[state]}`, "data-state": state }, t(`state.${state}`));
}
