// How much of a promotion's budget is reserved and spent, now and over time.

import { h } from "../dom.js";
import { moment, money, number, percent, t } from "../i18n.js";
import { Chart } from "../ui/chart.js";
import { facts, table } from "../ui/table.js";

/** From this share on the budget is nearly used up. */
const NEARLY = 0.9;

const DAY = 86_400_000;

/** How far back the use is shown. */
const DAYS = 30;

/** Which points of the use are asked for: a month by the day, of a promotion younger than two days by the hour. */
export function burnDownQuery(createdAt, now = Date.now()) {
  const from = Math.max(new Date(createdAt).getTime(), now - DAYS * DAY);
  return { from: new Date(from).toISOString(), interval: now - from < 2 * DAY ? "PT1H" : "P1D" };
}

/**
 * `use` is what `GET /promotions/{id}/budget-use` says, `budget` what the promotion has, `points` what
 * `GET /promotions/{id}/budget-use/over-time` says.
 */
export function budgetUse(use, budget, points) {
  const cents = (value) => money(value, budget.currency_code);
  return h(
    "section",
    { class: "card stack", "data-budget": true },
    h("h2", {}, t("budget.title")),
    budget.max_participations !== null && part(t("budget.participations"), use.participations, number, overTime(points, "participations")),
    budget.max_reward_cents !== null && part(t("budget.rewards"), use.reward_cents, cents, overTime(points, "reward_cents")),
  );
}

/** The use at each moment: what was spent, and what was reserved above it. */
function overTime(points, kind) {
  return points.map(({ at, [kind]: { reserved, spent } }) => ({ at, reserved, spent, used: reserved + spent }));
}

function part(name, { reserved, spent, max }, write, points) {
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
    burnDown(name, points, max, write),
  );
}

/** A chart and a table that says the same, the newest first; in money the axis is in whole units. */
function burnDown(name, points, max, write) {
  const unit = write === number ? 1 : 100;
  const chart = new Chart({ label: t("budget.chart", { of: name }), names: [t("budget.in-use"), t("budget.of-it-spent"), t("budget.max")] });
  const values = (of) => points.map((point) => of(point) / unit);
  chart.show([points.map(({ at }) => new Date(at).getTime() / 1000), values(({ used }) => used), values(({ spent }) => spent), values(() => max)]);
  const caption = t("budget.over-time", { of: name });
  return [
    h("h4", {}, caption),
    chart.element,
    h(
      "details",
      {},
      h("summary", {}, t("funnel.table")),
      table({
        caption,
        rows: points.toReversed(),
        columns: [
          { label: t("budget.at"), head: true, cell: ({ at }) => moment(at) },
          { label: t("budget.in-use"), number: true, cell: ({ used }) => write(used) },
          { label: t("budget.of-it-spent"), number: true, cell: ({ spent }) => write(spent) },
          { label: t("budget.left"), number: true, cell: (point) => write(max - point.used) },
        ],
      }),
    ),
  ];
}
