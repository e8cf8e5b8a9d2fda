// The parts of a client's page beside the timeline.

import { h } from "../dom.js";
import { moment, money, t, word } from "../i18n.js";
import { link } from "../router.js";
import { badge, flag } from "../ui/badges.js";
import { facts, table } from "../ui/table.js";
import { verdictInWords } from "./verdict.js";

/** A participation with its rides; `actions` are buttons. */
export function participation(one, actions = []) {
  return h(
    "section",
    { class: "card stack", "data-promotion": one.promotion_id },
    h("div", { class: "row spread" }, h("h2", {}, h("a", { href: link("promotions", one.promotion_id) }, one.promotion_key)), h("div", { class: "row" }, one.settling && h("span", { class: "badge warn" }, t("client.settling")), badge("status", one.status))),
    facts([
      [t("client.rides"), t("client.progress", { completed: one.rides_completed, target: one.rides_target })],
      [t("client.started"), moment(one.started_at)],
      [t("client.deadline"), moment(one.challenge_deadline)],
      one.completed_at && [t("client.completed"), moment(one.completed_at)],
      one.reward_deadline && [t("client.reward-deadline"), moment(one.reward_deadline)],
      one.rewarded_at && [t("client.rewarded"), moment(one.rewarded_at)],
      one.expired_at && [t("client.expired"), `${moment(one.expired_at)}: ${word("expired_reason", one.expired_reason)}`],
      [t("client.reward"), t("client.reward-terms", { amount: money(one.reward.amount_cents, one.reward.currency_code), rate: one.reward.repayment_rate, product: String(one.reward.product_id) })],
      [t("client.version"), String(one.version)],
    ]),
    actions.length > 0 && h("div", { class: "row" }, actions),
    h("details", { open: one.receipts.length > 0 && one.receipts.length <= 12 }, h("summary", {}, t("client.rides-of", { count: one.receipts.length })), receipts(one)),
  );
}

function receipts(one) {
  return table({
    caption: t("client.rides-caption", { promotion: one.promotion_key }),
    rows: one.receipts,
    empty: t("client.no-rides"),
    columns: [
      { label: t("why.completed"), cell: ({ completed_at }) => moment(completed_at) },
      { label: t("why.fare"), number: true, nowrap: true, cell: (row) => money(row.amount_cents, row.currency_code) },
      one.receipts.some(({ distance_m }) => distance_m !== null) && { label: t("client.distance"), number: true, nowrap: true, cell: ({ distance_m }) => (distance_m === null ? "–" : t("metres", { count: distance_m })) },
      { label: t("client.verdict"), cell: ({ verdict }) => badge("verdict", verdict) },
      { label: t("client.why"), cell: (row) => [verdictInWords(row), row.reversed_at && ` ${t("client.reversed", { moment: moment(row.reversed_at) })}`, row.source && row.source !== "TOPIC" && h("div", { class: "quiet small" }, word("source", row.source))] },
      { label: t("client.ride-id"), cell: ({ ride_id }) => h("code", {}, ride_id) },
    ].filter(Boolean),
  });
}

/** What the client would see, and which rules of eligibility hold. */
export function eligibility({ screen, checks }) {
  return h(
    "section",
    { class: "card stack tight" },
    h("h2", {}, t("client.eligibility")),
    facts([[t("client.screen"), [h("code", {}, screen), ` ${word("screen", screen)}`]]]),
    table({
      caption: t("client.eligibility"),
      rows: checks,
      columns: [
        { label: t("client.rule"), head: true, cell: ({ rule }) => word("eligibility", rule) },
        { label: t("client.holds"), cell: ({ ok }) => flag(ok, [t("yes"), t("no")], ["good", "bad"]) },
      ],
    }),
  );
}

export function preOffers(rows) {
  return table({
    caption: t("client.pre-offers"),
    shown: true,
    rows,
    empty: t("client.no-pre-offers"),
    columns: [
      { label: t("client.external-id"), head: true, cell: ({ external_id }) => external_id },
      { label: t("client.segment"), cell: ({ segment }) => segment },
      { label: t("client.amount"), number: true, cell: (row) => money(row.amount_cents, row.currency_code) },
      { label: t("why.promotion"), cell: (row) => (row.promotion_id ? h("a", { href: link("promotions", row.promotion_id) }, row.promotion_key) : row.promotion_key && t("client.unmapped", { key: row.promotion_key })) },
      { label: t("client.valid-until"), cell: ({ valid_until }) => moment(valid_until) },
      { label: t("updated-at"), cell: ({ updated_at }) => moment(updated_at) },
    ],
  });
}

export function originations({ applications, active_pre_offers, sessions }) {
  return table({
    caption: t("client.applications"),
    shown: true,
    rows: applications,
    columns: [
      { label: t("client.application"), head: true, cell: ({ application_id }) => h("code", {}, application_id) },
      { label: t("client.status"), cell: ({ status }) => status },
      { label: t("client.amount"), number: true, cell: (row) => of(active_pre_offers, row, "active_pre_offer_id", (offer) => money(offer.amount_cents, offer.currency_code)) },
      { label: t("product.name"), cell: (row) => of(active_pre_offers, row, "active_pre_offer_id", ({ product_name }) => product_name) },
      { label: t("client.session"), cell: (row) => of(sessions, row, "application_id", ({ session_id, sequence_id }) => h("code", {}, `${session_id} (${sequence_id})`)) },
      { label: t("created-at"), cell: ({ created_at }) => moment(created_at) },
    ],
  });
}

/** What belongs to a row by an id. */
function of(others, row, id, show) {
  const found = others.find((other) => other[id] === row[id]);
  return found ? show(found) : null;
}
