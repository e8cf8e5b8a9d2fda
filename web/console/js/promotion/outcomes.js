// Why rides do not count, near misses, and how long completion takes: of the newest participations.

import { h } from "../dom.js";
import { decimal, moment, number, percent, t } from "../i18n.js";
import { badge } from "../ui/badges.js";
import { facts, table } from "../ui/table.js";

/** @param {object} found as `GET /promotions/{id}/outcomes` gives it */
export function outcomes({ from, to, participations, more, verdicts, near_misses, days_to_completion }) {
  const rows = Object.entries(verdicts).sort(([, one], [, other]) => other - one);
  const all = rows.reduce((sum, [, count]) => sum + count, 0);
  const days = (value) => t("outcomes.days", { days: decimal(value, 1) });
  return h(
    "section",
    { class: "card stack", "data-outcomes": true },
    h("h2", {}, t("outcomes.title")),
    h("p", { class: "quiet" }, more ? t("outcomes.newest", { count: participations }) : t("outcomes.all", { count: participations, from: moment(from), to: moment(to) })),
    table({
      caption: t("outcomes.verdicts"),
      rows,
      empty: t("client.no-rides"),
      columns: [
        { label: t("client.verdict"), head: true, cell: ([verdict]) => badge("verdict", verdict) },
        { label: t("outcomes.rides"), number: true, cell: ([, count]) => number(count) },
        { label: t("outcomes.share"), number: true, cell: ([, count]) => percent(count, all) },
      ],
    }),
    facts([
      [t("outcomes.near-misses"), Object.entries(near_misses).map(([short, count]) => h("div", {}, t("outcomes.short", { count: Number(short), clients: number(count) })))],
      [t("outcomes.time"), days_to_completion === null ? t("outcomes.none-completed") : ["p10", "p50", "p90"].map((name) => h("div", {}, `${t(`outcomes.${name}`)}: ${days(days_to_completion[name])}`))],
    ]),
  );
}
