// How much of a promotion's budget is reserved and spent.

import { h } from "../dom.js";
import { money, number, percent, t } from "../i18n.js";
import { facts } from "../ui/table.js";

/** From this share on the budget is nearly used up. */
const NEARLY = 0.9;

/** `use` is what `GET /promotions/{id}/budget-use` says, `budget` what the promotion has. */
export function budgetUse(use, budget) {
  const cents = (value) => money(value, budget.currency_code);
  return h(
    "section",
    { class: "card stack", "data-budget": true },
    h("h2", {}, t("budget.title")),
    budget.max_participations !== null && part(t("budget.participations"), use.participations, number),
    budget.max_reward_cents !== null && part(t("budget.rewards"), use.reward_cents, cents),
  );
}

function part(name, { reserved, spent, max }, write) {
  const used = reserved + spent;
  const bar = h("span");
  bar.style.setProperty("width", `${Math.min(100, max === 0 ? 100 : (used / max) * 100)}%`);
  if (used >= max * NEARLY) bar.style.setProperty("background", "var(--error)");
  return h(
    "div",
    { class: "stack tight" },
    h("h3", {}, name),
    h("div", { class: "bar", "aria-hidden": "true" }, bar),
    facts([
      [t("budget.reserved"), write(reserved)],
      [t("budget.spent"), write(spent)],
      [t("budget.max"), write(max)],
      [t("budget.used"), percent(used, max)],
    ]),
  );
}
