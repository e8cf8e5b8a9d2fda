// "Why did this ride not count?", as far as it can be known.

import { h } from "../dom.js";
import { moment, money, t } from "../i18n.js";
import { link } from "../router.js";
import { badge } from "../ui/badges.js";
import { facts } from "../ui/table.js";
import { bytesOf } from "../quarantine/bytes.js";
import { verdictInWords } from "./verdict.js";

/** How many receipts of a participation, and how many quarantined records, the API shows. */
const MAX_SHOWN = 200;

/** The answer to it for one ride of this client. */
export function whyNot(user, rideId) {
  const wanted = rideId.trim().toLowerCase();
  const found = user.participations.flatMap((one) => one.receipts.filter(({ ride_id }) => ride_id === wanted).map((receipt) => ({ one, receipt })));
  const quarantined = user.quarantine.filter(({ value_base64 }) => bytesOf(value_base64).text?.toLowerCase().includes(wanted));
  return h("section", { class: "card stack tight", id: "why" }, h("h2", {}, t("why.title")), h("code", {}, wanted), found.map(ofReceipt), quarantined.map(ofQuarantine), found.length + quarantined.length === 0 && unknown(user));
}

function ofReceipt({ one, receipt }) {
  return h(
    "div",
    { class: "stack tight" },
    h("p", {}, badge("verdict", receipt.verdict), " ", h("strong", {}, verdictInWords(receipt))),
    facts([
      [t("why.promotion"), h("a", { href: link("promotions", one.promotion_id) }, one.promotion_key)],
      [t("why.fare"), money(receipt.amount_cents, receipt.currency_code)],
      [t("why.completed"), moment(receipt.completed_at)],
      [t("why.recorded"), moment(receipt.recorded_at)],
      [t("why.window"), `${moment(one.started_at)} – ${moment(one.challenge_deadline)}`],
    ]),
  );
}

function ofQuarantine(record) {
  return h("p", { class: "notice warn" }, t("why.quarantined"), " ", record.detail, " ", h("a", { href: link("quarantine", { open: record.quarantine_id, status: record.status }) }, t("why.see-quarantine")));
}

/** Of rides that came while nothing was in progress nothing is kept: what can be said, and what cannot. */
function unknown({ participations, quarantine }) {
  const started = participations.map(({ started_at }) => started_at).sort()[0];
  const isCut = participations.some(({ receipts }) => receipts.length >= MAX_SHOWN) || quarantine.length >= MAX_SHOWN;
  return h(
    "div",
    { class: "stack tight" },
    h("p", {}, h("strong", {}, t("why.unknown"))),
    h("ul", {}, [participations.length === 0 ? t("why.never-started") : t("why.no-challenge", { moment: moment(started) }), t("why.not-received"), t("why.other-client"), isCut && t("why.cut", { count: MAX_SHOWN })].filter(Boolean).map((text) => h("li", {}, text))),
    h("p", { class: "quiet" }, t("why.not-kept")),
  );
}
