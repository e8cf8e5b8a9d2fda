// How many clients reached what, over time: a chart, and a table that says the same. Each change at its own
// time, or each client at the time of their start: what those who started then ever reached.

import { h } from "../dom.js";
import { moment, number, percent, periodMilliseconds, t, word } from "../i18n.js";
import { Chart } from "../ui/chart.js";
import { choice, instantInput } from "../ui/fields.js";
import { filters, table } from "../ui/table.js";

const DAY = 86_400_000;

/** The intervals that are offered. */
const INTERVALS = ["PT1M", "PT15M", "PT1H", "P1D"];

/** The most intervals that the API gives. */
const MAX_INTERVALS = 1_000;

/** How far back it goes where the address says nothing: a day of changes, two weeks of starts. */
const SPANS = { changes: DAY, starts: 14 * DAY };

/**
 * What of the funnel is asked for by an address: where it says nothing, the last day by the hour, or the last
 * two weeks of starts by the day.
 */
export function funnelQuery({ from, to, interval, by = "changes" }, now = Date.now()) {
  const isByStart = by === "starts";
  const end = to ?? new Date(now).toISOString();
  const length = interval ?? (isByStart ? "P1D" : "PT1H");
  const span = Math.min(SPANS[isByStart ? "starts" : "changes"], MAX_INTERVALS * (periodMilliseconds(length) ?? DAY));
  return { from: from ?? new Date(new Date(end).getTime() - span).toISOString(), to: end, interval: length, ...(isByStart && { by_start: true }) };
}

/** The way of a client, step by step. */
const STEPS = ["pre_offers", "splits", "started", "completed", "rewarded"];

/** The sums of all intervals, step by step, and what was lost on the way. */
function fromOfferedToClaimed(intervals, expired) {
  const sum = (of) => intervals.reduce((all, row) => all + of(row), 0);
  const counts = STEPS.map((name) => sum((row) => row[name]));
  const reasons = [...new Set(intervals.flatMap((row) => Object.keys(row.expired)))].map((reason) => [reason, sum((row) => row.expired[reason] ?? 0)]);
  return h(
    "section",
    { class: "stack tight", "data-offered": true },
    h("h3", {}, t("funnel.way")),
    h("p", { class: "quiet small" }, t("funnel.way-says")),
    table({
      caption: t("funnel.way"),
      rows: STEPS.map((name, at) => ({ name, count: counts[at], before: at === 0 ? null : counts[at - 1] })),
      columns: [
        { label: t("promotion.where"), head: true, cell: ({ name }) => t(`funnel.${name}`) },
        { label: t("funnel.count"), number: true, cell: ({ count }) => number(count) },
        { label: t("funnel.of-before"), number: true, cell: ({ count, before }) => (before === null ? "–" : percent(count, before)) },
      ],
    }),
    sum(expired) > 0 && h("p", {}, t("funnel.lost"), " ", reasons.filter(([, count]) => count > 0).map(([reason, count]) => `${word("expired_reason", reason)}: ${number(count)}`).join("; ")),
  );
}

/** @param {object[]} intervals as `GET /promotions/{id}/funnel` gives them */
export function funnelView(intervals, path, query) {
  const isByStart = query.by === "starts";
  const expired = (row) => Object.values(row.expired).reduce((all, count) => all + count, 0);
  const series = [
    ["started", ({ started }) => started],
    ["completed", ({ completed }) => completed],
    ["rewarded", ({ rewarded }) => rewarded],
    ["expired", expired],
  ];
  const chart = new Chart({ label: isByStart ? t("funnel.chart-starts") : t("funnel.chart"), names: series.map(([name]) => t(`funnel.${name}`)) });
  const show = () => chart.show([intervals.map(({ from }) => new Date(from).getTime() / 1000), ...series.map(([, of]) => intervals.map(of))]);
  const rows = intervals.filter((row) => STEPS.some((name) => row[name] > 0) || expired(row) > 0);
  const figure = (of, row) => [number(of(row)), isByStart && of !== series[0][1] && h("span", { class: "quiet" }, ` ${percent(of(row), row.started)}`)];
  const element = h(
    "section",
    { class: "card stack", "data-funnel": true },
    h("h2", {}, t("funnel.title")),
    filters(
      path,
      [
        { name: "by", label: t("funnel.by"), control: choice(Object.keys(SPANS).map((one) => [one, t(`funnel.by-${one}`)])) },
        { name: "from", label: t("list.from"), control: instantInput() },
        { name: "to", label: t("list.to"), control: instantInput() },
        { name: "interval", label: t("funnel.interval"), control: choice(INTERVALS.map((one) => [one, t(`funnel.${one}`)])) },
      ],
      { by: "changes", interval: isByStart ? "P1D" : "PT1H", ...query },
      t("funnel.title"),
    ),
    h("p", { class: "quiet" }, isByStart ? t("funnel.says-starts") : t("funnel.says-changes")),
    chart.element,
    fromOfferedToClaimed(intervals, expired),
    h("details", { open: isByStart && rows.length > 0 && rows.length <= 14 }, h("summary", {}, t("funnel.table")), table({
      caption: t("funnel.title"),
      rows,
      empty: t("funnel.nothing"),
      columns: [
        { label: t("list.from"), head: true, cell: ({ from }) => moment(from) },
        { label: t("funnel.pre_offers"), number: true, cell: ({ pre_offers }) => number(pre_offers) },
        { label: t("funnel.splits"), number: true, cell: ({ splits }) => number(splits) },
        ...series.map(([name, of]) => ({ label: t(`funnel.${name}`), number: true, cell: (row) => figure(of, row) })),
        { label: t("funnel.reasons"), cell: (row) => Object.entries(row.expired).filter(([, count]) => count > 0).map(([reason, count]) => h("div", {}, `${word("expired_reason", reason)}: ${number(count)}`)) },
      ],
    })),
  );
  return { element, show };
}
