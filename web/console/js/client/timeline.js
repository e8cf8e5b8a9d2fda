// Everything that happened to a client, on one line of time.

import { h, put } from "../dom.js";
import { moment, money, period, t, word } from "../i18n.js";
import { link } from "../router.js";
import { badge } from "../ui/badges.js";
import { fareOf } from "./parts.js";
import { verdictInWords } from "./verdict.js";

/** The kinds of what is on the line; the filter offers them. */
export const KINDS = ["pre-offer", "split", "participation", "ride", "reminder", "application", "quarantine"];

/** Versions whose instant the participation has itself. */
const SHOWN_OTHERWISE = new Set(["promotion.started", "promotion.completed", "promotion.rewarded", "promotion.expired"]);

/** How many lines are shown at first. */
const LINES_AT_FIRST = 100;

/** `[{at, kind, good, says}]`, the newest first. */
export function events(user) {
  const found = [];
  const add = (at, kind, good, ...says) => at && found.push({ at, kind, good, says });
  for (const offer of user.pre_offers) {
    const terms = t("event.terms", { amount: money(offer.amount_cents, offer.currency_code), segment: offer.segment, id: offer.external_id });
    add(offer.created_at, "pre-offer", true, t("event.pre-offer"), terms);
    if (offer.updated_at !== offer.created_at) add(offer.updated_at, "pre-offer", true, t("event.pre-offer-changed"), terms);
  }
  for (const split of user.splits) add(split.created_at, "split", true, t("event.split"), [promotionLink(split), " ", badge("split", split.status)]);
  for (const one of user.participations) {
    for (const { type, occurred_at, cause, version } of one.history) {
      if (!SHOWN_OTHERWISE.has(type)) add(occurred_at, "participation", true, `${word("event-type", type)}: ${word("cause", cause)}`, [promotionLink(one), " · ", t("client.version-of", { version: String(version) })]);
    }
    const progress = t("client.progress", { completed: one.rides_completed, target: one.rides_target });
    add(one.started_at, "participation", true, t("event.started"), promotionLink(one));
    add(one.completed_at, "participation", true, t("event.completed"), promotionLink(one));
    add(one.rewarded_at, "participation", true, t("event.rewarded"), promotionLink(one));
    add(one.expired_at, "participation", false, t("event.expired", { reason: word("expired_reason", one.expired_reason) }), [promotionLink(one), " · ", progress]);
    for (const { of, lead, deadline, sent_at } of one.reminders) {
      add(sent_at, "reminder", true, t("event.reminder"), [promotionLink(one), " · ", t(`event.reminder-${of}`, { lead: period(lead) ?? lead, deadline: moment(deadline) })]);
    }
    for (const receipt of one.receipts) {
      const fare = fareOf(receipt);
      add(receipt.completed_at ?? receipt.recorded_at, "ride", receipt.counted, [t("event.ride", { fare }), " ", badge("verdict", receipt.verdict)], [verdictInWords(receipt), h("br"), h("code", { class: "quiet" }, receipt.ride_id)]);
    }
  }
  for (const application of user.applications) add(application.created_at, "application", true, t("event.application"), h("code", {}, application.application_id));
  for (const record of user.quarantine) add(record.received_at, "quarantine", false, [t("event.quarantine", { reason: word("quarantine", record.reason) }), " ", badge("quarantine-status", record.status)], record.detail);
  return found.sort((one, other) => new Date(other.at) - new Date(one.at));
}

const promotionLink = ({ promotion_id, promotion_key }) => h("a", { href: link("promotions", promotion_id) }, promotion_key ?? t("promotion.by-number", { number: String(promotion_id) }));

/** The line itself, the newest first. */
export function timeline(found) {
  const place = h("div", { class: "stack tight" });
  const show = (lines) => put(place, lineOf(lines), lines.length < found.length && h("div", {}, h("button", { type: "button", onclick: () => show(found) }, t("client.all-events", { count: found.length }))));
  show(found.slice(0, LINES_AT_FIRST));
  return place;
}

function lineOf(found) {
  return h(
    "ol",
    { class: "timeline" },
    found.map(({ at, kind, good, says: [title, ...rest] }) =>
      h("li", { class: good ? "good" : "bad", "data-kind": kind }, h("div", { class: "row" }, h("strong", {}, title), h("time", { datetime: at }, moment(at))), rest.map((more) => h("div", { class: "small" }, more))),
    ),
  );
}
