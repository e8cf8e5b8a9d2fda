// The parts that screens are made of.

import { Problem } from "./api.js";
import { copyable } from "./copy.js";
import { h, setText, svg } from "./dom.js";
import { untilLeftChanges } from "./i18n.js";

/** The heading of a screen; takes the focus when the screen comes up. */
export function heading(text, eyebrow = null) {
  return h(
    "header",
    { class: "heading" },
    eyebrow && h("p", { class: "eyebrow" }, eyebrow),
    h("h1", { tabindex: "-1" }, text),
  );
}

/**
 * A button for something that takes time. While it is under way further presses do nothing; what
 * goes wrong is said below it. It keeps the focus, which a `disabled` one would lose.
 * @param {import("./i18n.js").Language} language
 * @param {string} label
 * @param {() => Promise<void>} press
 */
export function actionButton(language, label, press, { kind = "primary" } = {}) {
  const error = h("p", { class: "error", role: "alert" });
  const number = h("div", {});
  const button = h("button", { type: "button", class: kind }, h("span", { class: "label" }, label));
  let busy = false;
  button.addEventListener("click", async (event) => {
    if (busy || event.detail > 1) return;
    busy = true;
    setText(error, "");
    number.replaceChildren();
    button.setAttribute("aria-disabled", "true");
    button.setAttribute("aria-busy", "true");
    try {
      await press();
    } catch (failure) {
      setText(error, errorText(language, failure));
      number.replaceChildren(...[errorNumber(language, failure)].filter(Boolean));
      // The button is at the screen's lower edge, and this is below it.
      number.scrollIntoView({ block: "nearest" });
    } finally {
      busy = false;
      button.removeAttribute("aria-disabled");
      button.removeAttribute("aria-busy");
    }
  });
  return h("div", { class: "action" }, button, error, number);
}

/** The way back to the screen beneath a view. */
export function backButton(language, journey) {
  return h("button", { type: "button", class: "back", onclick: () => journey.back() }, language.text("back"));
}

/** The number by which the support finds a failed call in the log; `null` where there was no answer. */
export function errorNumber(language, failure) {
  return failure?.requestId ? copyable(language, language.text("error.request"), failure.requestId) : null;
}

/** What a client can make of a failed call. */
function errorText(language, failure) {
  if (!(failure instanceof Problem)) return language.text("error.unreachable");
  return language.text(failure.passes ? "error.busy" : "error.refused");
}

/** A ring that fills; `update(done, target)`. */
export function ring(language, label) {
  const bar = svg("circle", { class: "bar", cx: 60, cy: 60, r: 52, pathLength: 100 });
  const done = h("span", { class: "done" });
  const of = h("span", { class: "of" });
  const node = h(
    "div",
    { class: "ring", role: "progressbar", "aria-label": label, "aria-valuemin": 0 },
    svg(
      "svg",
      { viewBox: "0 0 120 120", "aria-hidden": "true", focusable: "false" },
      svg("circle", { class: "track", cx: 60, cy: 60, r: 52 }),
      bar,
    ),
    h("div", { class: "figures", "aria-hidden": "true" }, done, of),
  );
  return {
    node,
    update(count, target) {
      const values = { done: count, count: target };
      setText(done, language.number(count));
      setText(of, language.text("progress.of", values));
      bar.setAttribute("stroke-dashoffset", String(100 - (100 * count) / target));
      bar.classList.toggle("empty", count === 0);
      node.setAttribute("aria-valuemax", String(target));
      node.setAttribute("aria-valuenow", String(count));
      node.setAttribute("aria-valuetext", language.text("progress.ring", values));
    },
  };
}

/**
 * A label and the time that is left until an instant by the server's clock, kept up to date;
 * `onEnd` is called once it has passed. Stop it with `close`.
 */
export function countdown({ language, clock, label, note, until, onEnd = () => {} }) {
  const value = h("p", { class: "value" });
  let timer;
  const tick = () => {
    const left = clock.until(until);
    setText(value, language.left(left));
    if (left === 0) return onEnd();
    timer = setTimeout(tick, Math.min(untilLeftChanges(left), left + 1));
  };
  tick();
  // Timers sleep while a phone does.
  const look = () => {
    clearTimeout(timer);
    tick();
  };
  document.addEventListener("visibilitychange", look);
  return {
    node: h(
      "section",
      { class: "card countdown" },
      h("h2", { class: "quiet" }, label),
      value,
      h("p", { class: "quiet" }, note),
    ),
    close() {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", look);
    },
  };
}

/** The conditions of a promotion, in words: what to do, what counts, and what then. */
export function conditionsList(language, conditions) {
  const say = (key, values) => language.text(`conditions.${key}`, values);
  const narrowings = [
    conditions.min_amount_cents > 0 &&
      say("minimum", { amount: language.money(conditions.min_amount_cents, conditions.currency_code) }),
    conditions.max_rides_per_day && daily(language, conditions),
    conditions.country_codes &&
      say("countries", { countries: language.anyOf(conditions.country_codes.map((code) => language.country(code))) }),
    conditions.city_ids && say("cities"),
    conditions.service_types && say("services", { services: language.anyOf(conditions.service_types) }),
    conditions.min_distance_m && say("distance", { distance: language.distance(conditions.min_distance_m) }),
    conditions.hours && hours(language, conditions),
  ].filter(Boolean);
  const period = language.period(conditions.challenge_period);
  return h(
    "ol",
    { class: "steps" },
    h(
      "li",
      {},
      h("p", {}, say("target", { count: conditions.target_rides, period })),
      conditions.target_days && h("p", {}, say("days", { count: conditions.target_days })),
      conditions.target_amount_cents &&
        h("p", {}, say("amount", { amount: language.money(conditions.target_amount_cents, conditions.currency_code) })),
      narrowings.length > 0 && h("ul", { class: "narrowings" }, narrowings.map((narrowing) => h("li", {}, narrowing))),
    ),
    h("li", {}, h("p", {}, say("claim", { period: language.period(conditions.claim_period) }))),
  );
}

/** The limit a day; whose day, where the phone's would be another one. */
function daily(language, { max_rides_per_day: count, day_boundary_timezone: zone }) {
  const other = zone && language.otherZone(zone);
  return language.text(other ? "conditions.daily-zone" : "conditions.daily", { count, ...(other && { zone: other }) });
}

/** When rides count; by which clock, where the phone's would be another one. */
function hours(language, { hours: windows, day_boundary_timezone: zone }) {
  const other = zone && language.otherZone(zone);
  const key = other ? "conditions.hours-zone" : "conditions.hours";
  return language.text(key, { hours: language.anyOf(windows.map((window) => language.window(window))), ...(other && { zone: other }) });
}

/** Judged rides under these conditions, each with why it did not count. */
export function rideItems(language, conditions, rides) {
  return rides.map((ride) =>
    h(
      "li",
      { class: ride.counted ? "ride counted" : "ride" },
      h("span", { class: "mark", "aria-hidden": "true" }, mark(ride.counted)),
      h(
        "div",
        { class: "what" },
        h("p", {}, rideTime(language, ride)),
        h("p", { class: "quiet" }, verdict(language, conditions, ride)),
      ),
      ride.amount_cents !== null && h("p", { class: "fare" }, language.money(ride.amount_cents, ride.currency_code)),
    ),
  );
}

/** When it ended; of a ride of which only the reversal came, when that was recorded. */
function rideTime(language, ride) {
  const instant = ride.completed_at ?? ride.recorded_at;
  return h("time", { datetime: instant }, language.shortMoment(instant));
}

function mark(counted) {
  const drawn = counted ? "M5 12.5l4.5 4.5L19 7.5" : "M7 12h10";
  return svg("svg", { viewBox: "0 0 24 24", focusable: "false" }, svg("path", { d: drawn }));
}

function verdict(language, conditions, ride) {
  if (ride.counted) return language.text("rides.counted");
  const { required, actual } = ride.details ?? {};
  if (ride.verdict === "BELOW_MIN_DISTANCE" && actual === null) {
    return language.text("verdict.distance-unknown", { required: language.distance(required) });
  }
  if (ride.verdict === "OUTSIDE_HOURS") return outsideHours(language, conditions, ride.details);
  const values = {
    BELOW_MIN_AMOUNT: () => ({ required: language.money(required, ride.currency_code) }),
    BELOW_MIN_DISTANCE: () => ({ required: language.distance(required), actual: language.distance(actual) }),
    WRONG_CURRENCY: () => ({ required, actual }),
    WRONG_SERVICE_TYPE: () => ({ required: language.anyOf(required) }),
    DAILY_LIMIT_REACHED: () => ({ count: required }),
  };
  const key = `verdict.${ride.verdict}`;
  // A verdict that is newer than this page.
  if (!language.has(key)) return language.text("verdict.other");
  return language.text(key, values[ride.verdict]?.());
}

/** When it ended and when rides count; by which clock, where the phone's would be another one. */
function outsideHours(language, { day_boundary_timezone: zone }, { required, actual }) {
  const other = zone && language.otherZone(zone);
  return language.text(other ? "verdict.OUTSIDE_HOURS-zone" : "verdict.OUTSIDE_HOURS", {
    actual: language.timeOfWeek(actual),
    required: language.anyOf(required.map((window) => language.window(window))),
    ...(other && { zone: other }),
  });
}

/** What a screen is about, in large. */
export function hero(kind, header, text) {
  const way = "M250 -10C250 60 120 50 120 120S250 170 250 240";
  return h(
    "div",
    { class: `hero ${kind}` },
    svg(
      "svg",
      { class: "way-picture", viewBox: "0 0 240 220", "aria-hidden": "true", focusable: "false" },
      svg("path", { class: "lane", d: way }),
      svg("path", { class: "middle", d: way }),
    ),
    emblem(kind),
    header,
    h("p", {}, text),
  );
}

/** A picture for a screen that has little to say. */
export function emblem(kind) {
  const drawings = {
    done: [svg("path", { d: "M20 33l8.5 8.5L45 24.5" })],
    ready: [svg("path", { d: "M18 27h28v19H18zM15 20h34v7H15zM32 20v26M32 20c-3-9-13-9-12-3 .6 3 7 3 12 3zM32 20c3-9 13-9 12-3-.6 3-7 3-12 3z" })],
    time: [svg("circle", { cx: 32, cy: 32, r: 14 }), svg("path", { d: "M32 24v8l6 4" })],
    road: [svg("path", { d: "M20 48c0-10 24-8 24-18 0-7-12-6-12-13" }), svg("circle", { cx: 20, cy: 48, r: 2.5 }), svg("circle", { cx: 32, cy: 17, r: 2.5 })],
    door: [svg("path", { d: "M24 17h18v30H24M15 32h16M26 26l6 6-6 6" })],
  };
  return h(
    "div",
    { class: `emblem ${kind}`, "aria-hidden": "true" },
    svg("svg", { viewBox: "0 0 64 64", focusable: "false" }, drawings[kind]),
  );
}
