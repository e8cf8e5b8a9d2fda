// What needs a person first, then how the service is doing, live.

import { every, may } from "../app.js";
import { h, put } from "../dom.js";
import { duration, number, outboxDepth, percent, t } from "../i18n.js";
import { link } from "../router.js";
import { stateOf, usedShare } from "../promotion/state.js";
import { Chart } from "../ui/chart.js";
import { problemBox } from "../ui/problem.js";
import { table } from "../ui/table.js";

const EVERY = 5_000;

const DAY = 86_400_000;

/** How many points the charts keep. */
const MAX_POINTS = 240;

/** Older than this, the outbox is not being emptied. */
const OUTBOX_LATE_SECONDS = 30;

/** More rides than this are waiting: ingest is behind. */
const LAG_HIGH = 10_000;

export async function overview({ signal, api }) {
  const places = { todo: h("div"), figures: h("div", { class: "grid" }), promotions: h("div") };
  const promoted = await budgetsAndDays(api, signal);
  const chart = new Chart({ label: t("overview.chart"), names: [t("overview.rides-per-second"), t("overview.lag")] });
  const points = [[], [], []];
  let before = null;
  const show = (stats) => {
    const now = { at: Date.now() / 1000, position: sum(stats.ingest.partitions, "position") };
    const rate = before && now.at > before.at ? Math.max(0, (now.position - before.position) / (now.at - before.at)) : null;
    before = now;
    for (const [at, value] of [now.at, rate, stats.ingest.lag].entries()) {
      points[at].push(value);
      if (points[at].length > MAX_POINTS) points[at].shift();
    }
    chart.show(points);
    put(places.todo, todo(stats, promoted.scarce));
    put(places.figures, figures(stats, rate));
    put(places.promotions, promotions(stats.promotions, promoted.uses));
  };
  show(await api.get("/stats", {}, signal));
  const look = async () => {
    try {
      show(await api.get("/stats", {}, signal));
    } catch (error) {
      if (error.name !== "AbortError" && !signal.aborted) put(places.todo, problemBox(error));
    }
  };
  return {
    title: t("nav.overview"),
    body: [places.todo, places.figures, h("section", { class: "card stack" }, h("h2", {}, t("overview.now")), chart.element), days(promoted.days), places.promotions],
    started: () => setTimeout(() => every(EVERY, signal, look), EVERY),
  };
}

/** How many promotions are asked for their budgets and their last two days. */
const MAX_PROMOTIONS = 50;

/** From this share on a budget is nearly used up. */
const NEARLY = 0.9;

/** What the figures of the service do not say of promotions, as of when the page came up. */
async function budgetsAndDays(api, signal) {
  const { items } = await api.get("/promotions", { limit: MAX_PROMOTIONS }, signal);
  const now = Date.now();
  const span = { from: new Date(now - 2 * DAY).toISOString(), to: new Date(now).toISOString(), interval: "P1D" };
  const [uses, funnels] = await Promise.all([
    Promise.all(items.filter(({ budget }) => budget).map(async (one) => [one, await api.get(`/promotions/${one.promotion_id}/budget-use`, {}, signal)])),
    Promise.all(items.map(({ promotion_id }) => api.get(`/promotions/${promotion_id}/funnel`, span, signal))),
  ]);
  const expired = (day) => Object.values(day.expired).reduce((all, count) => all + count, 0);
  const figures = { started: (day) => day.started, completed: (day) => day.completed, rewarded: (day) => day.rewarded, expired };
  // The earlier day first.
  const totals = Object.entries(figures).map(([name, of]) => [name, ...[0, 1].map((at) => funnels.reduce((all, { intervals }) => all + of(intervals[at]), 0))]);
  return {
    uses: new Map(uses.map(([{ promotion_id }, use]) => [promotion_id, usedShare(use)])),
    scarce: uses.filter(([one, use]) => ["open", "exhausted"].includes(stateOf(one, use)) && usedShare(use) >= NEARLY).map(([one, use]) => ({ ...one, share: usedShare(use) })),
    days: totals,
  };
}

/** The last 24 hours against the 24 before. */
function days(rows) {
  return table({
    caption: t("overview.days"),
    shown: true,
    rows,
    columns: [
      { label: t("overview.what"), head: true, cell: ([name]) => t(`funnel.${name}`) },
      { label: t("overview.yesterday"), number: true, cell: ([, before]) => number(before) },
      { label: t("overview.today"), number: true, cell: ([, , now]) => number(now) },
    ],
  });
}

const sum = (rows, name) => rows.reduce((all, row) => all + (row[name] ?? 0), 0);

/** What waits for a person, the most urgent first. */
function todo({ ingest, outbox, quarantine_open, sweep, promotions }, scarce) {
  const items = [];
  const add = (kind, text, address = null, button = null) => items.push({ kind, text, address, button });
  if (ingest.lag === null) add("error", t("todo.kafka"), link("operations"), t("nav.operations"));
  else if (ingest.lag > LAG_HIGH) add("warn", t("todo.lag", { count: ingest.lag }), link("operations"), t("nav.operations"));
  if (outbox.oldest_age_seconds > OUTBOX_LATE_SECONDS) add("error", t("todo.outbox", { time: duration(Math.round(outbox.oldest_age_seconds) * 1000) }), link("operations"), t("nav.operations"));
  if (quarantine_open > 0) add("warn", t("todo.quarantine", { count: quarantine_open }), may("support") && link("quarantine"), t("todo.look"));
  if (sweep.held_back_by_quarantine > 0) add("warn", t("todo.held-quarantine", { count: sweep.held_back_by_quarantine }), may("support") && link("quarantine"), t("todo.look"));
  const byLag = sweep.held_back - sweep.held_back_by_quarantine;
  if (byLag > 0) add("warn", t("todo.held-lag", { count: byLag }));
  for (const { promotion_id, title, share } of scarce) add("warn", share >= 1 ? t("todo.budget-gone", { promotion: title }) : t("todo.budget", { promotion: title, share: percent(share, 1) }), link("promotions", promotion_id), t("todo.look"));
  if (promotions.length === 0) add("info", t("todo.no-promotion"), may("edit") && link("promotions", "new"), t("promotions.new"));
  return h(
    "section",
    { class: "stack tight", "aria-label": t("todo.title") },
    h("h2", {}, t("todo.title")),
    items.length === 0
      ? h("p", { class: "notice" }, t("todo.nothing"))
      : h("ul", { class: "todo" }, items.map(({ kind, text, address, button }) => h("li", { class: `notice ${kind}` }, h("span", {}, text), address && h("a", { href: address }, button)))),
  );
}

function figures({ ingest, outbox, quarantine_open, sweep }, rate) {
  const figure = (name, value, more = null) => h("div", { class: "card figure" }, h("span", { class: "quiet" }, name), h("span", { class: "value" }, value), more && h("span", { class: "quiet small" }, more));
  return [
    figure(t("overview.rides-per-second"), rate === null ? "…" : number(Math.round(rate * 10) / 10)),
    figure(t("overview.lag"), ingest.lag === null ? "?" : number(ingest.lag), t("overview.lag-says")),
    figure(t("overview.outbox"), outboxDepth(outbox), t("overview.outbox-says", { time: duration(Math.round(outbox.oldest_age_seconds) * 1000) })),
    figure(t("overview.quarantine"), number(quarantine_open), t("overview.quarantine-says")),
    figure(t("overview.held-back"), number(sweep.held_back), t("overview.held-back-says")),
  ];
}

function promotions(rows, uses) {
  return table({
    caption: t("nav.promotions"),
    shown: true,
    rows,
    empty: t("promotions.none"),
    columns: [
      { label: t("field.promotion_key"), head: true, cell: (row) => h("a", { href: link("promotions", row.promotion_id) }, row.promotion_key) },
      { label: t("promotion.started"), number: true, cell: ({ started }) => number(started) },
      { label: t("status.IN_PROGRESS"), number: true, cell: ({ in_progress }) => number(in_progress) },
      { label: t("promotion.to-claim"), number: true, cell: ({ completed }) => number(completed) },
      { label: t("status.REWARDED"), number: true, cell: ({ rewarded }) => number(rewarded) },
      { label: t("promotion.expired"), number: true, cell: ({ expired }) => number(Object.values(expired).reduce((all, count) => all + count, 0)) },
      { label: t("promotion.rewarded-share"), number: true, cell: ({ rewarded, started }) => percent(rewarded, started) },
      { label: t("promotion.budget-used"), number: true, cell: ({ promotion_id }) => (uses.has(promotion_id) ? percent(uses.get(promotion_id), 1) : "–") },
    ],
  });
}
