// Everything that happened to a client, on one line of time.

import { h } from "../dom.js";
import { moment, money, t, word } from "../i18n.js";
import { link } from "../router.js";
import { badge } from "../ui/badges.js";
import { verdictInWords } from "./verdict.js";

/** The kinds of what is on the line; the filter offers them. */
export const KINDS = ["pre-offer", "split", "participation", "ride", "application", "quarantine"];

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
    const progress = t("client.progress", { completed: one.rides_completed, target: one.rides_target });
    add(one.started_at, "participation", true, t("event.started"), promotionLink(one));
    add(one.completed_at, "participation", true, t("event.completed"), promotionLink(one));
    add(one.rewarded_at, "participation", true, t("event.rewarded"), promotionLink(one));
    add(one.expired_at, "participation", false, t("event.expired", { reason: word("expired_reason", one.expired_reason) }), [promotionLink(one), " · ", progress]);
    for (const receipt of one.receipts) {
      const fare = money(receipt.amount_cents, receipt.currency_code);
      add(receipt.completed_at, "ride", receipt.counted, [t("event.ride", { fare }), " ", badge("verdict", receipt.verdict)], [verdictInWords(receipt), h("br"), h("code", { class: "quiet" }, receipt.ride_id)]);
    }
  }
  for (const application of user.applications) add(application.created_at, "application", true, t("event.application"), h("code", {}, application.application_id));
  for (const record of user.quarantine) add(record.received_at, "quarantine", false, [t("event.quarantine", { reason: word("quarantine", record.reason) }), " ", badge("quarantine-status", record.status)], record.detail);
  return found.sort((one, other) => new Date(other.at) - new Date(one.at));
}

const promotionLink = ({ promotion_id, promotion_key }) => h("a", { href: link("promotions", promotion_id) }, promotion_key ?? t("promotion.by-number", { number: String(promotion_id) }));

/** The line itself. */
export function timeline(found) {
  return h(
    "ol",
    { class: "timeline" },
    found.map(({ at, kind, good, says: [title, ...rest] }) =>
      h("li", { class: good ? "good" : "bad", "data-kind": kind }, h("div", { class: "row" }, h("strong", {}, title), h("time", { datetime: at }, moment(at))), rest.map((more) => h("div", { class: "small" }, more))),
    ),
  );
}
