// "Why did this ride not count?", as far as it can be known.

import { h } from "../dom.js";
import { moment, t } from "../i18n.js";
import { link } from "../router.js";
import { badge } from "../ui/badges.js";
import { facts } from "../ui/table.js";
import { fareOf } from "./parts.js";
import { verdictInWords } from "./verdict.js";

/**
 * The answer for one ride of this client.
 * @param {object} user as `GET /users/{id}` gives it
 * @param {object} found as `GET /rides/{ride_id}` gives it
 * @param {Node|null} credit the button that credits it, where nothing of it is known
 */
export function whyNot(user, { ride_id, receipts, quarantine }, credit) {
  const isKnown = receipts.length + quarantine.length > 0;
  return h(
    "section",
    { class: "card stack tight", id: "why" },
    h("h2", {}, t("why.title")),
    h("code", {}, ride_id),
    receipts.map((receipt) => ofReceipt(user, receipt)),
    quarantine.map(ofQuarantine),
    !isKnown && unknown(user),
    !isKnown && credit && h("div", {}, credit),
  );
}

function ofReceipt({ participations }, receipt) {
  const one = participations.find(({ promotion_id }) => promotion_id === receipt.promotion_id);
  return h(
    "div",
    { class: "stack tight" },
    h("p", {}, badge("verdict", receipt.verdict), " ", h("strong", {}, verdictInWords(receipt))),
    facts([
      one && [t("why.promotion"), h("a", { href: link("promotions", one.promotion_id) }, one.promotion_key)],
      [t("why.fare"), fareOf(receipt)],
      receipt.distance_m !== null && [t("client.distance"), t("metres", { count: receipt.distance_m })],
      [t("why.completed"), moment(receipt.completed_at)],
      [t("why.recorded"), moment(receipt.recorded_at)],
      one && [t("why.window"), `${moment(one.started_at)} – ${moment(one.challenge_deadline)}`],
    ]),
  );
}

function ofQuarantine(record) {
  return h("p", { class: "notice warn" }, t("why.quarantined"), " ", record.detail, " ", h("a", { href: link("quarantine", { open: record.quarantine_id, status: record.status, user_id: record.user_id }) }, t("why.see-quarantine")));
}

/** Of rides that came while no challenge was in progress nothing is kept: what can be said, and what cannot. */
function unknown({ participations }) {
  const started = participations.map(({ started_at }) => started_at).sort()[0];
  const may = [participations.length === 0 ? t("why.never-started") : t("why.no-challenge", { moment: moment(started) }), t("why.not-received"), t("why.other-client"), participations.length > 0 && t("why.retention")];
  return h("div", { class: "stack tight" }, h("p", {}, h("strong", {}, t("why.unknown"))), h("ul", {}, may.filter(Boolean).map((text) => h("li", {}, text))), h("p", { class: "quiet" }, t("why.not-kept")));
}
