// One promotion: its rules, where its clients stand, why rides do not count, its changes.

import { may } from "../app.js";
import { h } from "../dom.js";
import { moment, number, percent, t, word } from "../i18n.js";
import { link } from "../router.js";
import { askToExtend } from "../extension/ask.js";
import { budgetUse, burnDownQuery } from "../promotion/budget.js";
import { conditionsInWords } from "../promotion/conditions.js";
import { written } from "../promotion/fields.js";
import { funnelQuery, funnelView } from "../promotion/funnel.js";
import { outcomes } from "../promotion/outcomes.js";
import { stateBadge } from "../promotion/state.js";
import { ask } from "../ui/dialog.js";
import { diffTable } from "../ui/diff.js";
import { Revision } from "../ui/revision.js";
import { facts, table } from "../ui/table.js";
import { toast } from "../ui/toast.js";
import { auditLink } from "./audit.js";

/** How many of its changes are shown; the audit has all. */
const CHANGES = 5;

export async function promotion({ params, query, signal, api, refresh }) {
  const path = `/promotions/${params.id}`;
  const [read, stats, funnel, judged, audited] = await Promise.all([
    api.read(path, signal),
    api.get("/stats", {}, signal),
    api.get(`${path}/funnel`, funnelQuery(query), signal),
    api.get(`${path}/outcomes`, {}, signal),
    may("audit") ? api.get("/audit", { call: `PATCH ${path}`, limit: CHANGES }, signal) : null,
  ]);
  const shown = read.body;
  // One that never had a budget has no use of it either.
  const [used, burnt] = shown.budget ? await Promise.all([api.get(`${path}/budget-use`, {}, signal), api.get(`${path}/budget-use/over-time`, burnDownQuery(shown.created_at), signal)]) : [];
  const overTime = funnelView(funnel.intervals, ["promotions", params.id], query);
  const figures = stats.promotions.find((one) => one.promotion_id === shown.promotion_id);
  const extend = async () => (await askToExtend(api, { promotion_id: shown.promotion_id }, t("extension.promotion", { promotion: shown.promotion_key }))) && refresh();
  return {
    title: shown.title,
    back: { address: link("promotions"), text: t("nav.promotions") },
    actions: may("edit") && [
      h("a", { class: "button primary", href: link("promotions", shown.promotion_id, "edit") }, t("promotion.change")),
      h("a", { class: "button", href: link("promotions", shown.promotion_id, "copy") }, t("promotion.copy")),
      h("button", { type: "button", onclick: extend }, t("extension.title")),
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
            [t("promotion.state"), stateBadge(shown, used)],
            shown.opens_at && [t("promotion.opens"), moment(shown.opens_at)],
            shown.closes_at && [t("promotion.closes"), moment(shown.closes_at)],
            [t("field.missing_split"), word("missing_split", shown.missing_split)],
            [t("created-at"), moment(shown.created_at)],
            [t("updated-at"), moment(shown.updated_at)],
            may("support") && [t("nav.participations"), h("a", { href: link("participations", { promotion_id: shown.promotion_id }) }, t("promotion.participations"))],
            [t("back-test.title"), h("a", { href: link("promotions", shown.promotion_id, "back-test") }, t("back-test.link"))],
          ]),
        ),
        h("section", { class: "card" }, h("h2", {}, t("promotion.rules")), h("ul", {}, conditionsInWords(shown.conditions).map((said) => h("li", {}, said)))),
      ),
      overTime.element,
      used && budgetUse(used, shown.budget, burnt.points),
      outcomes(judged),
      figures && standing(figures),
      audited && revisions(audited.items, path),
    ],
    started: overTime.show,
  };
}

/** Its newest changes, from the audit. */
function revisions(entries, path) {
  return h(
    "section",
    { class: "card stack", "data-revisions": true },
    h("h2", {}, t("promotion.revisions")),
    entries.length === 0
      ? h("p", { class: "quiet" }, t("promotion.unchanged"))
      : entries.map(({ actor, at, before, after, call }) => h("details", {}, h("summary", {}, t("audit.by", { actor, moment: moment(at) })), diffTable(before, after, t("diff.caption-of", { call })))),
    h("p", {}, h("a", { href: link("audit", { call: `PATCH ${path}` }) }, t("audit.see"))),
  );
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
