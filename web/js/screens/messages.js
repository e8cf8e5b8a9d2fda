// The screens that say one thing: an end, an offer from elsewhere, what is missing.

import { h } from "../dom.js";
import { furtherText } from "../goals.js";
import { actionButton, emblem, errorNumber, heading, hero } from "../ui.js";

/** The challenge was completed, and the loan not claimed in time. */
export function expired({ language, journey }, { participation }) {
  const { reward, reward_deadline: until, promotion_id: promotionId } = participation;
  const amount = language.money(reward.amount_cents, reward.currency_code);
  return message({
    emblem: "time",
    title: language.text("expired.title"),
    text: [language.text("expired.text", { amount, until: language.until(until) }), language.text("ended.next")],
    action: actionButton(language, language.text("continue"), () => journey.acknowledge(promotionId)),
  });
}

/** What is said of a challenge that ended before its time. */
const EARLY_ENDS = { QUIT: "over.quit", CANCELLED: "over.cancelled" };

/** The challenge was not completed in time, or ended before. */
export function over({ language, journey }, { participation }) {
  const { rides_completed: done, rides_target: count, challenge_deadline: deadline, promotion_id: promotionId } = participation;
  const key = EARLY_ENDS[participation.expired_reason] ?? "over.text";
  return message({
    emblem: "time",
    title: language.text("over.title"),
    text: [
      language.text(key, { done, count, until: language.until(deadline) }),
      ...[furtherText(language, participation)].filter(Boolean),
      language.text("ended.next"),
    ],
    action: actionButton(language, language.text("continue"), () => journey.acknowledge(promotionId)),
  });
}

/** A loan without a challenge, which is applied for elsewhere. */
export function regular({ language }, { offer }) {
  const title = language.text("regular.title", { amount: language.money(offer.amount_cents, offer.currency_code) });
  return {
    title,
    node: h(
      "div",
      { class: "screen" },
      hero("road", heading(title, language.text("regular.eyebrow")), language.text("regular.text")),
      h("p", { class: "quiet note" }, language.text("regular.valid", { until: language.until(offer.valid_until) })),
    ),
  };
}

/** Nothing to offer; `why` where there was something a moment ago. */
export function nothing({ language, journey }, { why }) {
  return message({
    emblem: "road",
    title: language.text("nothing.title"),
    text: [why, language.text("nothing.text")].filter(Boolean),
    action: actionButton(language, language.text("nothing.again"), () => journey.land(), { kind: "secondary" }),
  });
}

/** The page has no token: the app did not open it. */
export function signIn({ language }) {
  return message({ emblem: "door", title: language.text("sign-in.title"), text: language.text("sign-in.text") });
}

/** The token has expired. */
export function signedOut({ language }) {
  return message({ emblem: "door", title: language.text("signed-out.title"), text: language.text("signed-out.text") });
}

/** The token is none of this service's: broken, or made for another one. */
export function brokenToken({ language }, { error }) {
  return message({
    emblem: "door",
    title: language.text("broken-token.title"),
    text: language.text("broken-token.text"),
    more: errorNumber(language, error),
  });
}

/** Not even the screen could be decided. */
export function trouble({ language, journey }, { error }) {
  return message({
    emblem: "road",
    title: language.text("trouble.title"),
    text: language.text("trouble.text"),
    more: errorNumber(language, error),
    action: actionButton(language, language.text("try-again"), () => journey.land()),
  });
}

function message({ emblem: kind, title, text, more = null, action = null }) {
  const paragraphs = [text].flat().map((paragraph) => h("p", {}, paragraph));
  const body = h("div", { class: "message" }, emblem(kind), heading(title), paragraphs, more);
  return { title, node: h("div", { class: "screen" }, body, action) };
}
