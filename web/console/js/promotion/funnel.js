// How many clients reached what, over time: a chart, and a table that says the same.

import { h } from "../dom.js";
import { moment, number, t, word } from "../i18n.js";
import { Chart } from "../ui/chart.js";
import { choice, instantInput } from "../ui/fields.js";
import { filters, table } from "../ui/table.js";

const DAY = 86_400_000;

/** The intervals that are offered, with the longest time that fits into 1,000 of them. */
const INTERVALS = ["PT1M", "PT15M", "PT1H", "P1D"];

/** What of the funnel is asked for by an address: the last day by the hour where it says nothing. */
export function funnelQuery({ from, to, interval }, now = Date.now()) {
  const end = to ?? new Date(now).toISOString();
  return { from: from ?? new Date(new Date(end).getTime() - DAY).toISOString(), to: end, interval: interval ?? "PT1H" };
}

/** @param {object[]} intervals as `GET /promotions/{id}/funnel` gives them */
export function funnelView(intervals, path, query) {
  const expired = (row) => Object.values(row.expired).reduce((all, count) => all + count, 0);
  const series = [
    ["started", ({ started }) => started],
    ["completed", ({ completed }) => completed],
    ["rewarded", ({ rewarded }) => rewarded],
    ["expired", expired],
  ];
  const chart = new Chart({ label: t("funnel.chart"), names: series.map(([name]) => t(`funnel.${name}`)) });
  const show = () => chart.show([intervals.map(({ from }) => new Date(from).getTime() / 1000), ...series.map(([, of]) => intervals.map(of))]);
  const rows = intervals.filter((row) => series.some(([, of]) => of(row) > 0));
  const element = h(
    "section",
    { class: "card stack", "data-funnel": true },
    h("h2", {}, t("funnel.title")),
    filters(
      path,
      [
        { name: "from", label: t("list.from"), control: instantInput() },
        { name: "to", label: t("list.to"), control: instantInput() },
        { name: "interval", label: t("funnel.interval"), control: choice(INTERVALS.map((one) => [one, t(`funnel.${one}`)])) },
      ],
      { interval: "PT1H", ...query },
      t("funnel.title"),
    ),
    chart.element,
    h("details", {}, h("summary", {}, t("funnel.table")), table({
      caption: t("funnel.title"),
      rows,
      empty: t("funnel.nothing"),
      columns: [
        { label: t("list.from"), head: true, cell: ({ from }) => moment(from) },
        ...series.map(([name, of]) => ({ label: t(`funnel.${name}`), number: true, cell: (row) => number(of(row)) })),
        { label: t("funnel.reasons"), cell: (row) => Object.entries(row.expired).filter(([, count]) => count > 0).map(([reason, count]) => h("div", {}, `${word("expired_reason", reason)}: ${number(count)}`)) },
      ],
    })),
  );
  return { element, show };
}
