// The screens. Each is made for one state and answers `{node, title, update?, close?}`: `update`
// takes a newer state without making it anew, `close` stops what it keeps going.

import { h, setText } from "./dom.js";
import { actionButton, conditionsList, countdown, emblem, heading, hero, rideItems, ring } from "./ui.js";

/**
 * What a screen works with.
 * @typedef {object} Scene
 * @property {import("./i18n.js").Language} language
 * @property {import("./clock.js").ServerClock} clock
 * @property {import("./journey.js").Journey} journey what buttons do
 */

/** Before anything is known. */
export function loading({ language }) {
  const title = language.text("loading");
  return { title, node: h("div", { class: "screen loading" }, h("h1", { tabindex: "-1" }, title)) };
}

/** A promotion to take part in. */
export function offer({ language, journey }, { offer, promotion }) {
  const title = language.text("offer.title", { amount: language.money(offer.amount_cents, offer.currency_code) });
  return {
    title,
    node: h(
      "div",
      { class: "screen" },
      hero("road", heading(title, language.text("offer.eyebrow")), language.text("offer.lead")),
      h("section", { class: "card" }, h("h2", {}, language.text("offer.conditions")), conditionsList(language, promotion.conditions)),
      h("p", { class: "quiet note" }, language.text("offer.valid", { moment: language.moment(offer.valid_until) })),
      actionButton(language, language.text("offer.start"), () => journey.start(promotion.promotion_id)),
    ),
  };
}

/** How far the challenge has come. */
export function progress({ language, clock, journey }, state) {
  const title = language.text("progress.title");
  const { reward, conditions } = state.participation;
  const circle = ring(language, title);
  const toGo = h("p", { class: "to-go" });
  const time = h("div", {});
  const list = h("ul", { class: "rides" });
  const none = h("p", { class: "quiet" }, language.text("rides.none"));
  const all = actionButton(language, language.text("rides.all"), () => journey.openView("rides"), { kind: "secondary" });
  let left = null;
  let shownRides = null;

  const showTime = ({ settling, challenge_deadline: deadline }) => {
    if (left?.settling === settling) return;
    left?.close();
    const moment = language.moment(deadline);
    if (settling) {
      const node = h(
        "section",
        { class: "card settling" },
        h("h2", {}, language.text("settling.title")),
        h("p", {}, language.text("settling.text", { moment })),
      );
      left = { settling, close() {}, node };
    } else {
      const note = language.text("progress.until", { moment });
      left = { settling, ...countdown({ language, clock, label: language.text("progress.left"), note, until: deadline }) };
    }
    time.replaceChildren(left.node);
  };

  const update = ({ participation, rides }) => {
    const { rides_completed: done, rides_target: target } = participation;
    circle.update(done, target);
    setText(toGo, language.text("progress.to-go", { count: target - done }));
    toGo.hidden = participation.settling;
    showTime(participation);
    if (rides && rides !== shownRides) {
      shownRides = rides;
      list.replaceChildren(...rideItems(language, rides.items.slice(0, journey.latestRides)));
      all.hidden = rides.items.length <= journey.latestRides && !rides.next_cursor;
    }
    list.hidden = !rides || rides.items.length === 0;
    none.hidden = !rides || rides.items.length > 0;
  };
  all.hidden = true;
  update(state);
  return {
    title,
    update,
    close: () => left.close(),
    node: h(
      "div",
      { class: "screen" },
      heading(title, language.text("progress.reward", { amount: language.money(reward.amount_cents, reward.currency_code) })),
      h("section", { class: "card way", "aria-label": title }, circle.node, toGo),
      time,
      h("section", { class: "card" }, h("h2", {}, language.text("rides.title")), none, list, all),
      h("details", { class: "card" }, h("summary", {}, language.text("progress.conditions")), conditionsList(language, conditions)),
    ),
  };
}

/** Every ride that was judged, page by page. */
export function rides({ language, journey }, state) {
  const title = language.text("rides.all-title");
  const list = h("ul", { class: "rides" });
  const more = actionButton(language, language.text("rides.more"), () => journey.moreRides(), { kind: "secondary" });
  let shown = 0;
  const update = ({ allRides }) => {
    if (!allRides) return;
    // Those that are there stay, so that nobody loses their place.
    list.append(...rideItems(language, allRides.items.slice(shown)));
    shown = allRides.items.length;
    more.hidden = !allRides.next_cursor;
  };
  more.hidden = true;
  update(state);
  return {
    title,
    update,
    node: h("div", { class: "screen" }, back(language, journey), heading(title), h("section", { class: "card", "aria-label": title }, list, more)),
  };
}

/** The challenge is done; the loan can be claimed. */
export function ready({ language, clock, journey }, { participation }) {
  const { reward, rides_target: count, reward_deadline: until } = participation;
  const title = language.text("ready.title", { amount: language.money(reward.amount_cents, reward.currency_code) });
  const left = countdown({
    language,
    clock,
    label: language.text("ready.left"),
    note: language.text("ready.until", { moment: language.moment(until) }),
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

/** What the client agrees to by going on. */
export function terms({ language, journey }, { terms: { reward, product, reward_deadline: until } }) {
  const title = language.text("terms.title");
  const row = (label, value) => h("div", {}, h("dt", {}, label), h("dd", {}, value));
  return {
    title,
    node: h(
      "div",
      { class: "screen" },
      back(language, journey),
      heading(title),
      h(
        "section",
        { class: "card", "aria-label": title },
        h(
          "dl",
          { class: "terms" },
          row(language.text("terms.amount"), language.money(reward.amount_cents, reward.currency_code)),
          row(language.text("terms.rate"), language.rate(reward.repayment_rate)),
          row(language.text("terms.term"), language.unit(product.term_days, "day")),
          row(language.text("terms.product"), product.name),
          row(language.text("terms.deadline"), language.moment(until)),
        ),
        product.terms_url &&
          h(
            "a",
            { class: "link", href: product.terms_url, target: "_blank", rel: "noopener noreferrer" },
            language.text("terms.link"),
            h("span", { class: "hidden" }, ` ${language.text("terms.new-window")}`),
          ),
      ),
      h("p", { class: "quiet note" }, language.text("terms.consent")),
      actionButton(language, language.text("continue"), () => journey.accept()),
    ),
  };
}

/** The loan is applied for. */
export function done({ language }, { reward, applicationId }) {
  const title = language.text("done.title");
  return {
    title,
    node: h(
      "div",
      { class: "screen" },
      hero(
        "done",
        heading(title),
        language.text("done.lead", { amount: language.money(reward.amount_cents, reward.currency_code) }),
      ),
      h("section", { class: "card" }, h("h2", { class: "quiet" }, language.text("done.number")), h("p", { class: "number" }, applicationId)),
    ),
  };
}

/** The challenge was completed, and the loan not claimed in time. */
export function expired({ language, journey }, { participation }) {
  const { reward, reward_deadline: until, promotion_id: promotionId } = participation;
  const amount = language.money(reward.amount_cents, reward.currency_code);
  return message({
    emblem: "time",
    title: language.text("expired.title"),
    text: language.text("expired.text", { amount, moment: language.moment(until) }),
    action: actionButton(language, language.text("continue"), () => journey.acknowledge(promotionId)),
  });
}

/** The challenge was not completed in time. */
export function over({ language, journey }, { participation }) {
  const { rides_completed: rides, rides_target: count, challenge_deadline: deadline, promotion_id: promotionId } = participation;
  return message({
    emblem: "time",
    title: language.text("over.title"),
    text: language.text("over.text", { done: rides, count, moment: language.moment(deadline) }),
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
      h("p", { class: "quiet note" }, language.text("regular.valid", { moment: language.moment(offer.valid_until) })),
    ),
  };
}

/** Nothing to offer. */
export function nothing({ language, journey }) {
  return message({
    emblem: "road",
    title: language.text("nothing.title"),
    text: language.text("nothing.text"),
    action: actionButton(language, language.text("nothing.again"), () => journey.land(), { kind: "secondary" }),
  });
}

/** Nobody has said who the client is. */
export function signIn({ language }) {
  return message({ emblem: "door", title: language.text("sign-in.title"), text: language.text("sign-in.text") });
}

/** The token is not taken any more. */
export function signedOut({ language }) {
  return message({ emblem: "door", title: language.text("signed-out.title"), text: language.text("signed-out.text") });
}

/** Not even the screen could be decided. */
export function trouble({ language, journey }) {
  return message({
    emblem: "road",
    title: language.text("trouble.title"),
    text: language.text("trouble.text"),
    action: actionButton(language, language.text("try-again"), () => journey.land()),
  });
}

function message({ emblem: kind, title, text, action = null }) {
  const body = h("div", { class: "message" }, emblem(kind), heading(title), h("p", {}, text));
  return { title, node: h("div", { class: "screen" }, body, action) };
}

function back(language, journey) {
  return h("button", { type: "button", class: "back", onclick: () => journey.back() }, language.text("back"));
}
