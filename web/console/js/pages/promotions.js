// The list of promotions, with where their clients stand.

import { may } from "../app.js";
import { h } from "../dom.js";
import { number, percent, t } from "../i18n.js";
import { link } from "../router.js";
import { STATES, stateBadge, stateOf, usedShare } from "../promotion/state.js";
import { choice } from "../ui/fields.js";
import { filters, pager, table } from "../ui/table.js";

/** How many pages are read where one state is asked for, each of 200: the API does not filter by it. */
const MAX_PAGES = 10;

export async function promotions({ query, signal, api }) {
  const { state, ...paging } = query;
  const [page, stats] = await Promise.all([state ? everything(api, signal) : api.get("/promotions", paging, signal), api.get("/stats", {}, signal)]);
  const uses = new Map(await Promise.all(page.items.filter(({ budget }) => budget).map(async ({ promotion_id }) => [promotion_id, await api.get(`/promotions/${promotion_id}/budget-use`, {}, signal)])));
  const useOf = ({ promotion_id }) => uses.get(promotion_id) ?? null;
  const rows = state ? page.items.filter((row) => stateOf(row, useOf(row)) === state) : page.items;
  const figures = new Map(stats.promotions.map((one) => [one.promotion_id, one]));
  const figure = (row, of) => (figures.has(row.promotion_id) ? of(figures.get(row.promotion_id)) : "–");
  return {
    title: t("nav.promotions"),
    actions: may("edit") && [h("a", { class: "button primary", href: link("promotions", "new") }, t("promotions.new"))],
    body: [
      filters(["promotions"], [{ name: "state", label: t("promotion.state"), control: choice([["", t("list.all")], ...STATES.map((name) => [name, t(`state.${name}`)])]) }], query),
      table({
        caption: t("nav.promotions"),
        rows,
        empty: state ? t("list.empty") : t("promotions.none"),
        columns: [
          {
            label: t("promotion.title"),
            head: true,
            cell: (row) => [h("a", { href: link("promotions", row.promotion_id) }, row.title), h("br"), h("code", { class: "quiet" }, row.promotion_key)],
          },
          { label: t("promotion.state"), cell: (row) => stateBadge(row, useOf(row)) },
          { label: t("promotion.started"), number: true, cell: (row) => figure(row, ({ started }) => number(started)) },
          { label: t("status.IN_PROGRESS"), number: true, cell: (row) => figure(row, ({ in_progress }) => number(in_progress)) },
          { label: t("promotion.to-claim"), number: true, cell: (row) => figure(row, ({ completed }) => number(completed)) },
          { label: t("status.REWARDED"), number: true, cell: (row) => figure(row, ({ rewarded }) => number(rewarded)) },
          { label: t("promotion.rewarded-share"), number: true, cell: (row) => figure(row, ({ rewarded, started }) => percent(rewarded, started)) },
          { label: t("promotion.budget-used"), number: true, cell: (row) => (usedShare(useOf(row)) === null ? "–" : percent(usedShare(useOf(row)), 1)) },
        ],
      }),
      page.isCut && h("p", { class: "quiet" }, t("promotions.cut", { count: page.items.length })),
      !state && pager(["promotions"], query, page.next_cursor),
    ],
  };
}

/** Every promotion, up to a bound. */
async function everything(api, signal) {
  const items = [];
  let cursor = null;
  for (let page = 0; page < MAX_PAGES; page++) {
    const read = await api.get("/promotions", { limit: 200, cursor }, signal);
    items.push(...read.items);
    cursor = read.next_cursor;
    if (!cursor) break;
  }
  return { items, isCut: Boolean(cursor) };
}
