// The parts of a client's page beside the timeline.

import { h, put } from "../dom.js";
import { moment, money, number, period, periodMilliseconds, t, word } from "../i18n.js";
import { conditionsInWords } from "../promotion/conditions.js";
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
      [t("client.goals"), one.goals.map((goal) => goalInWords(goal, one.conditions))],
      [t("client.started"), moment(one.started_at)],
      [t("client.deadline"), moment(one.challenge_deadline)],
      one.completed_at && [t("client.completed"), moment(one.completed_at)],
      one.reward_deadline && [t("client.reward-deadline"), moment(one.reward_deadline)],
      one.rewarded_at && [t("client.rewarded"), moment(one.rewarded_at)],
      one.expired_at && [t("client.expired"), `${moment(one.expired_at)}: ${word("expired_reason", one.expired_reason)}`],
      [t("client.reward"), t("client.reward-terms", { amount: money(one.reward.amount_cents, one.reward.currency_code), rate: one.reward.repayment_rate, product: String(one.reward.product_id) })],
      [t("client.version"), String(one.version)],
      one.acknowledged_at && [t("client.acknowledged"), moment(one.acknowledged_at)],
    ]),
    h("details", {}, h("summary", {}, t("client.rules")), h("ul", {}, conditionsInWords(one.conditions).map((said) => h("li", {}, said)))),
    reminders(one),
    one.history.length > 0 && h("details", {}, h("summary", {}, t("client.history")), history(one)),
    actions.length > 0 && h("div", { class: "row" }, actions),
    h("details", { open: one.receipts.length > 0 && one.receipts.length <= 12 }, h("summary", {}, t("client.rides-of", { count: one.receipts.length })), receipts(one)),
  );
}

/** "6 of 20 rides", with how far it is. */
function goalInWords({ goal, completed, target }, { currency_code }) {
  const write = (value) => (goal === "AMOUNT" ? money(value, currency_code) : number(value));
  const bar = h("span");
  bar.style.setProperty("width", `${Math.min(100, (completed / target) * 100)}%`);
  return h("div", { class: "stack tight", "data-goal": goal }, h("div", {}, t(`goal.${goal}`, { completed: write(completed), target: write(target) })), h("div", { class: "bar", "aria-hidden": "true" }, bar));
}

/** When each reminder of a challenge is due, by its deadlines as they are now. */
export function plannedReminders({ conditions, started_at, challenge_deadline, completed_at, reward_deadline }) {
  const of = (kind, leads, since, deadline) =>
    (leads ?? []).flatMap((lead) => {
      const at = new Date(deadline).getTime() - periodMilliseconds(lead);
      // One whose moment lies before the start, or the completion, is never sent.
      return deadline && at >= new Date(since).getTime() ? [{ kind, lead, at: new Date(at).toISOString() }] : [];
    });
  return [...of("challenge", conditions.reminders?.challenge, started_at, challenge_deadline), ...of("reward", conditions.reminders?.reward, completed_at, reward_deadline)];
}

function reminders(one) {
  const planned = plannedReminders(one);
  if (planned.length === 0) return null;
  const sent = ({ kind, lead }) => one.reminders.find((reminder) => reminder.of.toLowerCase() === kind && reminder.lead === lead)?.sent_at;
  const line = (reminder) => {
    const { kind, lead, at } = reminder;
    const sentAt = sent(reminder);
    return [t(`client.reminder-${kind}`, { lead: period(lead) ?? lead, moment: moment(at) }), sentAt && ` ${t("client.reminder-sent", { moment: moment(sentAt) })}`];
  };
  return h("details", {}, h("summary", {}, t("client.reminders")), h("ul", {}, planned.map((reminder) => h("li", {}, line(reminder)))));
}

/** Every version that is more than counted rides, and who caused it. */
function history(one) {
  return table({
    caption: t("client.history-caption", { promotion: one.promotion_key }),
    rows: one.history,
    columns: [
      { label: t("client.version"), number: true, head: true, cell: ({ version }) => String(version) },
      { label: t("client.what"), cell: ({ type }) => word("event-type", type) },
      { label: t("client.cause"), cell: ({ cause }) => word("cause", cause) },
      { label: t("audit.at"), cell: ({ occurred_at }) => moment(occurred_at) },
    ],
  });
}

/** How many rides are shown at first. */
const RIDES_AT_FIRST = 50;

function receipts(one) {
  const place = h("div", { class: "stack tight" });
  const show = (rows) => put(place, receiptTable(one, rows), rows.length < one.receipts.length && h("div", {}, h("button", { type: "button", onclick: () => show(one.receipts) }, t("client.all-rides", { count: one.receipts.length }))));
  show(one.receipts.slice(0, RIDES_AT_FIRST));
  return place;
}

function receiptTable(one, rows) {
  return table({
    caption: t("client.rides-caption", { promotion: one.promotion_key }),
    rows,
    empty: t("client.no-rides"),
    columns: [
      { label: t("why.completed"), cell: ({ completed_at }) => moment(completed_at) },
      { label: t("why.fare"), number: true, nowrap: true, cell: fareOf },
      one.receipts.some(({ distance_m }) => distance_m !== null) && { label: t("client.distance"), number: true, nowrap: true, cell: ({ distance_m }) => (distance_m === null ? "–" : t("metres", { count: distance_m })) },
      { label: t("client.verdict"), cell: ({ verdict }) => badge("verdict", verdict) },
      { label: t("client.why"), cell: (row) => [verdictInWords(row), row.reversed_at && ` ${t("client.reversed", { moment: moment(row.reversed_at) })}`, row.source && row.source !== "TOPIC" && h("div", { class: "quiet small" }, word("source", row.source))] },
      { label: t("client.ride-id"), cell: ({ ride_id }) => h("code", {}, ride_id) },
    ].filter(Boolean),
  });
}

/** A receipt's fare; of a ride of which only its reversal came there is none. */
export const fareOf = ({ amount_cents, currency_code }) => (amount_cents === null ? "–" : money(amount_cents, currency_code));

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
