// One promotion: its rules, where its clients stand, its changes.

import { may } from "../app.js";
import { h } from "../dom.js";
import { moment, number, percent, t, word } from "../i18n.js";
import { link } from "../router.js";
import { budgetUse } from "../promotion/budget.js";
import { conditionsInWords } from "../promotion/conditions.js";
import { written } from "../promotion/fields.js";
import { funnelQuery, funnelView } from "../promotion/funnel.js";
import { stateBadge } from "../promotion/state.js";
import { ask } from "../ui/dialog.js";
import { Revision } from "../ui/revision.js";
import { facts, table } from "../ui/table.js";
import { toast } from "../ui/toast.js";
import { auditLink } from "./audit.js";

export async function promotion({ params, query, signal, api, refresh }) {
  const [read, stats, used, funnel] = await Promise.all([
    api.read(`/promotions/${params.id}`, signal),
    api.get("/stats", {}, signal),
    api.get(`/promotions/${params.id}/budget-use`, {}, signal),
    api.get(`/promotions/${params.id}/funnel`, funnelQuery(query), signal),
  ]);
  const shown = read.body;
  const overTime = funnelView(funnel.intervals, ["promotions", params.id], query);
  const figures = stats.promotions.find((one) => one.promotion_id === shown.promotion_id);
  return {
    title: shown.title,
    back: { address: link("promotions"), text: t("nav.promotions") },
    actions: may("edit") && [
      h("a", { class: "button primary", href: link("promotions", shown.promotion_id, "edit") }, t("promotion.change")),
      h("a", { class: "button", href: link("promotions", shown.promotion_id, "copy") }, t("promotion.copy")),
      h("button", { type: "button", onclick: () => switchIt(api, read, figures, refresh) }, shown.active ? t("promotion.deactivate") : t("promotion.activate")),
    ],
    body: [
      h(
        "div",
        { class: "grid" },
        h(
          "section",
          { class: "card" },
          h("h2", {}, t("promotion.about")),
          facts([
            [t("field.promotion_key"), h("code", {}, shown.promotion_key)],
            [t("promotion.number"), String(shown.promotion_id)],
            [t("promotion.state"), stateBadge(shown)],
            shown.opens_at && [t("promotion.opens"), moment(shown.opens_at)],
            shown.closes_at && [t("promotion.closes"), moment(shown.closes_at)],
            [t("field.missing_split"), word("missing_split", shown.missing_split)],
            [t("created-at"), moment(shown.created_at)],
            [t("updated-at"), moment(shown.updated_at)],
            may("support") && [t("nav.participations"), h("a", { href: link("participations", { promotion_id: shown.promotion_id }) }, t("promotion.participations"))],
            may("audit") && [t("nav.audit"), h("a", { href: link("audit", { call: `PATCH /promotions/${shown.promotion_id}` }) }, t("promotion.revisions"))],
          ]),
        ),
        h("section", { class: "card" }, h("h2", {}, t("promotion.rules")), h("ul", {}, conditionsInWords(shown.conditions).map((said) => h("li", {}, said)))),
      ),
      shown.budget && budgetUse(used, shown.budget),
      overTime.element,
      figures && standing(figures),
    ],
    started: overTime.show,
  };
}

/** Where the clients stand now. */
function standing({ started, in_progress, completed, rewarded, expired }) {
  const rows = [
    [t("promotion.started"), started],
    [t("status.IN_PROGRESS"), in_progress],
    [t("promotion.to-claim"), completed],
    [t("status.REWARDED"), rewarded],
    ...Object.entries(expired).map(([reason, count]) => [word("expired_reason", reason), count]),
  ];
  return h(
    "section",
    { class: "stack tight" },
    h("h2", {}, t("promotion.standing")),
    table({
      caption: t("promotion.standing"),
      rows,
      columns: [
        { label: t("promotion.where"), head: true, cell: ([name]) => h("span", { class: "sentence" }, name) },
        { label: t("promotion.clients"), number: true, cell: ([, count]) => number(count) },
        { label: t("promotion.of-started"), number: true, cell: ([, count]) => percent(count, started) },
      ],
    }),
  );
}

async function switchIt(api, read, figures, refresh) {
  const { promotion_id, title, active } = read.body;
  const revision = new Revision(api, `/promotions/${promotion_id}`, read, written);
  const done = await ask({
    title: active ? t("promotion.deactivate-title", { title }) : t("promotion.activate-title", { title }),
    says: [h("p", {}, active ? t("promotion.deactivates", { count: figures?.in_progress ?? 0 }) : t("promotion.activates")), revision.element],
    does: active ? t("promotion.deactivate") : t("promotion.activate"),
    act: () => revision.change("PATCH", { active: !active }),
  });
  if (!done) return;
  toast(t("promotion.changed"), auditLink(`PATCH /promotions/${promotion_id}`));
  refresh();
}
