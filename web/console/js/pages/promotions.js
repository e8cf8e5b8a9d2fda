// The list of promotions, with where their clients stand.

import { may } from "../app.js";
import { h } from "../dom.js";
import { number, percent, t } from "../i18n.js";
import { link } from "../router.js";
import { stateBadge } from "../promotion/state.js";
import { pager, table } from "../ui/table.js";

export async function promotions({ query, signal, api }) {
  const [page, stats] = await Promise.all([api.get("/promotions", query, signal), api.get("/stats", {}, signal)]);
  const figures = new Map(stats.promotions.map((one) => [one.promotion_id, one]));
  const figure = (row, of) => (figures.has(row.promotion_id) ? of(figures.get(row.promotion_id)) : "–");
  return {
    title: t("nav.promotions"),
    actions: may("edit") && [h("a", { class: "button primary", href: link("promotions", "new") }, t("promotions.new"))],
    body: [
      table({
        caption: t("nav.promotions"),
        rows: page.items,
        empty: t("promotions.none"),
        columns: [
          {
            label: t("promotion.title"),
            head: true,
            cell: (row) => [h("a", { href: link("promotions", row.promotion_id) }, row.title), h("br"), h("code", { class: "quiet" }, row.promotion_key)],
          },
          { label: t("promotion.state"), cell: stateBadge },
          { label: t("promotion.started"), number: true, cell: (row) => figure(row, ({ started }) => number(started)) },
          { label: t("status.IN_PROGRESS"), number: true, cell: (row) => figure(row, ({ in_progress }) => number(in_progress)) },
          { label: t("promotion.to-claim"), number: true, cell: (row) => figure(row, ({ completed }) => number(completed)) },
          { label: t("status.REWARDED"), number: true, cell: (row) => figure(row, ({ rewarded }) => number(rewarded)) },
          { label: t("promotion.rewarded-share"), number: true, cell: (row) => figure(row, ({ rewarded, started }) => percent(rewarded, started)) },
        ],
      }),
      pager(["promotions"], query, page.next_cursor),
    ],
  };
}
