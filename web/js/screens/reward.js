// The screens of the reward: it is ready, its terms, the application.

import { copyable } from "../copy.js";
import { h, setText } from "../dom.js";
import { repayment, statedRate } from "../repayment.js";
import { actionButton, backButton, countdown, heading, hero } from "../ui.js";

/** The challenge is done; the loan can be applied for. */
export function ready({ language, clock, journey }, { participation }) {
  const { reward, rides_target: count, reward_deadline: until } = participation;
  const title = language.text("ready.title", { amount: language.money(reward.amount_cents, reward.currency_code) });
  const left = countdown({
    language,
    clock,
    label: language.text("ready.left"),
    note: language.text("ready.until", { until: language.until(until) }),
    until,
    onEnd: () => journey.claimPeriodEnded(),
  });
  return {
    title,
    close: left.close,
    node: h(
      "div",
      { class: "screen" },
      hero("ready", heading(title), language.text("ready.lead", { count })),
      left.node,
      actionButton(language, language.text("continue"), () => journey.openTerms()),
    ),
  };
}

/** What the client agrees to with the button, which says so. */
export function terms({ language, clock, journey }, { terms: { reward, product, reward_deadline: until } }) {
  const title = language.text("terms.title");
  const row = (label, value) => h("div", {}, h("dt", {}, label), h("dd", {}, value));
  const money = (cents) => language.money(cents, reward.currency_code);
  const rate = language.rate(reward.repayment_rate);
  const cost = repayment(reward, product.term_days, clock.now(), statedRate());
  const costs = cost
    ? [
        row(language.text("terms.charge", { rate }), money(cost.charge)),
        row(language.text("terms.total"), money(cost.total)),
        row(language.text("terms.due"), language.text("terms.due-day", { day: language.day(cost.due) })),
      ]
    : [row(language.text("terms.rate"), rate)];
  const unstated = product.terms_url ? "terms.rate-unstated" : "terms.rate-ask";
  return {
    title,
    node: h(
      "div",
      { class: "screen" },
      backButton(language, journey),
      heading(title),
      h(
        "section",
        { class: "card", "aria-label": title },
        h(
          "dl",
          { class: "terms" },
          row(language.text("terms.amount"), money(reward.amount_cents)),
          ...costs,
          row(language.text("terms.term"), language.unit(product.term_days, "day")),
          row(language.text("terms.product"), product.name),
          row(language.text("terms.deadline"), language.until(until)),
        ),
        !cost && h("p", { class: "quiet" }, language.text(unstated)),
        product.terms_url &&
          h(
            "a",
            { class: "link", href: product.terms_url, target: "_blank", rel: "noopener noreferrer" },
            language.text("terms.link"),
            h("span", { class: "hidden" }, ` ${language.text("terms.new-window")}`),
          ),
      ),
      h("p", { class: "quiet note" }, language.text("terms.consent")),
      actionButton(language, language.text("terms.accept"), () => journey.accept()),
    ),
  };
}

/** The client has applied just now. */
export function done(scene, { application }) {
  const { language } = scene;
  const amount = language.money(application.reward.amount_cents, application.reward.currency_code);
  return applied(scene, application, language.text("done.title"), language.text("done.lead", { amount }));
}

/** The client applied earlier, and comes back. */
export function application(scene, { application, offer }) {
  const { language } = scene;
  const amount = language.money(application.reward.amount_cents, application.reward.currency_code);
  const moment = language.moment(application.created_at);
  const lead = language.text("application.lead", { amount, moment });
  return applied(scene, application, language.text("application.title"), lead, offer);
}

function applied({ language, journey }, application, title, lead, offer = null) {
  const elsewhere = h("p", { class: "quiet note", role: "status" });
  const goOn = async () => {
    if (!journey.continueApplication(application)) setText(elsewhere, language.text("application.elsewhere"));
  };
  const steps = ["continue", "decision", "return"].map((step) => h("li", {}, h("p", {}, language.text(`application.step-${step}`))));
  const other = offer && { amount: language.money(offer.amount_cents, offer.currency_code) };
  return {
    title,
    node: h(
      "div",
      { class: "screen" },
      hero("done", heading(title), lead),
      h("section", { class: "card" }, h("h2", {}, language.text("application.next")), h("ol", { class: "steps" }, steps)),
      h("section", { class: "card" }, copyable(language, language.text("done.number"), application.application_id)),
      other && h("p", { class: "quiet note" }, language.text("application.other", other)),
      elsewhere,
      actionButton(language, language.text("continue"), goOn),
    ),
  };
}
