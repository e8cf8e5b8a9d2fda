// The screens of the challenge: the offer, the progress, the rides.

import { h, setText } from "../dom.js";
import { areReached, goalBars, haveFallen } from "../goals.js";
import { actionButton, backButton, conditionsList, countdown, heading, hero, rideItems, ring } from "../ui.js";

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
      h("p", { class: "quiet note" }, language.text("offer.valid", { until: language.until(offer.valid_until) })),
      actionButton(language, language.text("offer.start"), () => journey.start(promotion.promotion_id)),
    ),
  };
}

/** How far the challenge has come. */
export function progress({ language, clock, journey }, state) {
  const title = language.text("progress.title");
  const { reward, conditions } = state.participation;
  const circle = ring(language, title);
  const goals = goalBars(language, conditions.currency_code);
  const fell = h("p", { class: "quiet note" }, language.text("progress.fell"));
  const toGo = h("p", { class: "to-go" });
  const time = h("div", {});
  const list = h("ul", { class: "rides" });
  const why = h("button", { type: "button", class: "secondary why", onclick: () => journey.openView("uncounted") });
  const none = h("p", { class: "quiet" }, language.text("rides.none"));
  const all = actionButton(language, language.text("rides.all"), () => journey.openView("rides"), { kind: "secondary" });
  let left = null;
  let shown = state.participation;
  let shownRides = null;

  const showTime = ({ settling, challenge_deadline: deadline }) => {
    if (left?.settling === settling) return;
    left?.close();
    const until = language.until(deadline);
    if (settling) {
      const node = h(
        "section",
        { class: "card settling" },
        h("h2", {}, language.text("settling.title")),
        h("p", {}, language.text("settling.text", { until })),
      );
      left = { settling, close() {}, node };
    } else {
      const note = language.text("progress.until", { until });
      left = { settling, ...countdown({ language, clock, label: language.text("progress.left"), note, until: deadline }) };
    }
    time.replaceChildren(left.node);
  };

  // Rides that counted push the others down the list; that there are some stays here.
  const showUncounted = ({ items, next_cursor: more }) => {
    const count = items.filter((ride) => !ride.counted).length;
    why.hidden = count === 0;
    const key = more ? "rides.uncounted-latest" : "rides.uncounted";
    setText(why, language.text(key, { count, latest: items.length }));
  };

  const update = ({ participation, rides }) => {
    const { rides_completed: done, rides_target: target } = participation;
    circle.update(done, target);
    goals.update(participation);
    // Why it shows less than before, until it shows more again.
    if (haveFallen(shown, participation)) fell.hidden = false;
    else if (participation.version !== shown.version) fell.hidden = true;
    shown = participation;
    setText(toGo, language.text("progress.to-go", { count: target - done }));
    toGo.hidden = participation.settling || (done === target && !areReached(participation));
    showTime(participation);
    if (rides && rides !== shownRides) {
      shownRides = rides;
      list.replaceChildren(...rideItems(language, conditions, rides.items.slice(0, journey.latestRides)));
      showUncounted(rides);
      all.hidden = rides.items.length <= journey.latestRides && !rides.next_cursor;
    }
    list.hidden = !rides || rides.items.length === 0;
    none.hidden = !rides || rides.items.length > 0;
  };
  all.hidden = true;
  why.hidden = true;
  fell.hidden = true;
  update(state);
  return {
    title,
    update,
    close: () => left.close(),
    node: h(
      "div",
      { class: "screen" },
      heading(title, language.text("progress.reward", { amount: language.money(reward.amount_cents, reward.currency_code) })),
      h("section", { class: "card way", "aria-label": title }, circle.node, goals.node, toGo, fell),
      time,
      h("section", { class: "card" }, h("h2", {}, language.text("rides.title")), why, none, list, all),
      h("details", { class: "card" }, h("summary", {}, language.text("progress.conditions")), conditionsList(language, conditions)),
      h("button", { type: "button", class: "quit", onclick: () => journey.openView("quit") }, language.text("quit.open")),
    ),
  };
}

/** Asks before the challenge is given up: it cannot be undone. */
export function quit({ language, journey }, state) {
  const title = language.text("quit.title");
  const { promotion_id: promotionId, reward } = state.participation;
  const amount = language.money(reward.amount_cents, reward.currency_code);
  const text = h("p", {});
  const update = ({ participation: { rides_completed: done, rides_target: count } }) => {
    setText(text, language.text("quit.text", { done, count, amount }));
  };
  update(state);
  return {
    title,
    update,
    node: h(
      "div",
      { class: "screen" },
      backButton(language, journey),
      heading(title),
      h("section", { class: "card", "aria-label": title }, text, h("p", { class: "quiet" }, language.text("quit.once"))),
      actionButton(language, language.text("quit.keep"), async () => journey.back()),
      actionButton(language, language.text("quit.confirm"), () => journey.quit(promotionId), { kind: "secondary" }),
    ),
  };
}

/** Every ride that was judged, page by page. */
export function rides(scene, state) {
  return rideList(scene, state, "rides.all-title", () => true);
}

/** The rides that did not count, each with the reason. */
export function uncounted(scene, state) {
  return rideList(scene, state, "rides.uncounted-title", (ride) => !ride.counted);
}

function rideList({ language, journey }, state, titleKey, isWanted) {
  const title = language.text(titleKey);
  const list = h("ul", { class: "rides" });
  const { conditions } = state.participation;
  const more = actionButton(language, language.text("rides.more"), () => journey.moreRides(), { kind: "secondary" });
  let shown = 0;
  const update = ({ allRides }) => {
    if (!allRides) return;
    // Those that are there stay, so that readers keep their place.
    list.append(...rideItems(language, conditions, allRides.items.slice(shown).filter(isWanted)));
    shown = allRides.items.length;
    more.hidden = !allRides.next_cursor;
  };
  more.hidden = true;
  update(state);
  return {
    title,
    update,
    node: h("div", { class: "screen" }, backButton(language, journey), heading(title), h("section", { class: "card", "aria-label": title }, list, more)),
  };
}
