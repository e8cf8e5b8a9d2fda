// The modules of the pages that need no browser.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Problem, RidePromo, Unreachable } from "../../web/js/api.js";
import { ServerClock } from "../../web/js/clock.js";
import { follow, isNewer } from "../../web/js/follow.js";
import { Language, chooseLocale, periodMilliseconds, untilLeftChanges } from "../../web/js/i18n.js";
import { repayment } from "../../web/js/repayment.js";
import { tokenExpiry } from "../../web/js/token.js";
import { backoff, pause } from "../../web/js/patience.js";
import { SseParser } from "../../web/js/sse.js";
import en from "../../web/js/texts/en.js";
import es from "../../web/js/texts/es.js";
import ru from "../../web/js/texts/ru.js";

const bytes = (text) => new TextEncoder().encode(text);

/** With the spaces that CLDR likes replaced by those that a person types. */
const plain = (text) => text.replace(/[\u00a0\u202f]/g, " ");

test("events are read from any pieces", () => {
  const stream =
    ': hello\n\nevent: participation\nid: 7\ndata: {"a":"ж"}\n\ndata:one\r\ndata: two\r\n\r\n:\n\ndata\n\nevent: empty\n\ndata: cut';
  const whole = new SseParser().push(bytes(stream));
  assert.deepEqual(whole, [
    { event: "participation", id: "7", data: '{"a":"ж"}' },
    { event: "message", id: "7", data: "one\ntwo" },
    { event: "message", id: "7", data: "" },
  ]);
  const parser = new SseParser();
  const pieces = [...bytes(stream)].flatMap((byte) => parser.push(Uint8Array.of(byte)));
  assert.deepEqual(pieces, whole);
});

test("an event without an end is refused, comments without an end are not", () => {
  const parser = new SseParser();
  for (let minute = 0; minute < 100_000; minute++) parser.push(bytes(":\n\n"));
  assert.throws(() => new SseParser().push(bytes("data: ".padEnd(300_000, "x"))), RangeError);
});

test("the server's clock is the one of the fastest answer, and goes on by itself", () => {
  let steady = 1_000;
  const clock = new ServerClock(() => steady);
  const at = (milliseconds) => new Date(Date.UTC(2030, 0, 1) + milliseconds).toISOString();
  clock.observe(at(0));
  steady = 1_500;
  // Took 400 ms longer to get here.
  clock.observe(at(100));
  assert.equal(clock.now(), Date.UTC(2030, 0, 1) + 500);
  // The machine slept, and its clock with it.
  clock.observe(at(60_000));
  assert.equal(clock.until(at(61_000)), 1_000);
  assert.equal(clock.until(at(0)), 0);
  clock.observe("not a time");
  assert.equal(clock.until(at(61_000)), 1_000);
});

test("periods and what is left of them", () => {
  assert.equal(periodMilliseconds("P14D"), 14 * 86_400_000);
  assert.equal(periodMilliseconds("P1WT1H2M3S"), 7 * 86_400_000 + 3_723_000);
  assert.throws(() => periodMilliseconds("P1Y"), RangeError);
  const english = new Language("en-US");
  assert.equal(english.period("P14D"), "14 days");
  assert.equal(english.period("P1DT12H"), "1 day, 12 hours");
  assert.equal(english.left(7 * 86_400_000 - 1), "6 days, 23 hours");
  assert.equal(english.left(3_600_000), "1 hour");
  assert.equal(english.left(3_599_999), "59 minutes, 59 seconds");
  assert.equal(english.left(0), "0 seconds");
  assert.equal(untilLeftChanges(59_500), 501);
  const russian = new Language("ru");
  assert.equal(plain(russian.period("P14D")), "14 дней");
  assert.equal(plain(russian.left(2 * 86_400_000)), "2 дня");
  assert.equal(plain(russian.left(86_400_000 + 3_600_000 * 5)), "1 день 5 часов");
});

test("amounts are written as the client's locale does, without cents where there are none", () => {
  assert.equal(new Language("en-US").money(100_000, "MXN"), "MX$1,000");
  assert.equal(new Language("en").money(6_550, "MXN"), "MX$65.50");
  assert.equal(new Language("es-MX").money(100_000, "MXN"), "$1,000");
  assert.match(plain(new Language("ru").money(100_000, "MXN")), /^1 000 /);
  assert.equal(new Language("en-US").rate("15"), "15%");
  assert.equal(new Language("en-US").rate("12.75"), "12.75%");
  assert.equal(new Language("en-US").rate("15% weekly"), "15% weekly");
});

test("distances and times of the week are written as the client's locale does", () => {
  const [english, spanish, russian] = ["en-US", "es-MX", "ru"].map((locale) => new Language(locale));
  assert.deepEqual([english, spanish, russian].map((language) => plain(language.distance(1_500))), ["1.5 km", "1.5 km", "1,5 км"]);
  assert.equal(plain(russian.distance(800)), "800 м");
  assert.match(plain(english.timeOfWeek("2026-11-22T18:04:05")), /^Sun,? 6:04 PM$/);
  assert.match(plain(russian.timeOfWeek("2026-11-22T18:04:05")), /^вс,? 18:04$/);
  const window = { days: ["MO", "TU", "WE"], from: "06:00", to: "24:00" };
  assert.equal(plain(english.window(window)), "Mon – Wed 6:00 AM – 12:00 AM");
  assert.match(plain(russian.window({ ...window, days: ["SU", "MO"], to: "10:00" })), /^пн, вс 0?6:00 – 10:00$/);
});

test("a deadline names its zone, or the last whole day", () => {
  // The tests run in UTC.
  const midnight = "2026-12-31T00:00:00.000Z";
  assert.equal(plain(new Language("en-US").until(midnight)), "through December 30, 2026");
  assert.equal(plain(new Language("es-MX").until(midnight)), "hasta el 30 de diciembre de 2026 inclusive");
  assert.equal(plain(new Language("ru").until(midnight)), "до 30 декабря 2026 г. включительно");
  for (const moment of ["2026-12-31T00:00:00.001Z", "2026-12-31T00:01:00Z", "2026-12-30T23:59:59.999Z"]) {
    for (const locale of ["en-US", "es-MX", "ru"]) {
      assert.match(new Language(locale).until(moment), /UTC|GMT/, `${locale} ${moment}`);
    }
  }
  assert.equal(new Language("en").otherZone("Etc/UTC"), null);
  assert.equal(new Language("en").otherZone("America/Mexico_City"), "Mexico City (GMT-06:00)");
  assert.equal(new Language("en").otherZone("Nowhere/At_All"), "Nowhere/At_All");
});

test("the total is computed only where it is said what the rate is of", () => {
  const reward = (amount_cents, repayment_rate) => ({ amount_cents, repayment_rate });
  const now = Date.UTC(2026, 10, 29);
  const once = (amount, rate) => repayment(reward(amount, rate), 30, now, "once-of-amount");
  assert.equal(repayment(reward(100_000, "15"), 30, now, "unstated"), null);
  assert.deepEqual(once(100_000, "15"), { charge: 15_000, total: 115_000, due: Date.UTC(2026, 11, 29) });
  assert.equal(once(100_000, "0").total, 100_000);
  // Half up, and exact where doubles are not.
  assert.equal(once(10, "15").charge, 2);
  assert.equal(once(33_333, "12.75").charge, 4_250);
  assert.equal(once(1_000_000_000_000, "0.0000000003").charge, 3);
  for (const rate of ["", "15%", "-1", "1e3", "1."]) assert.equal(once(100_000, rate), null, rate);
});

test("the expiry of a token is read, and of what is no token it is not", () => {
  const token = (payload) => `x.${Buffer.from(payload).toString("base64url")}.y`;
  assert.equal(tokenExpiry(token('{"exp":1700000000,"sub":"ж?>~"}')), 1_700_000_000_000);
  for (const broken of [null, "", "a.b", "a.!.c", token("{}"), token('{"exp":"soon"}'), token("null")]) {
    assert.equal(tokenExpiry(broken), null, String(broken));
  }
});

test("the language is the first wanted one that there is, with its region", () => {
  assert.equal(chooseLocale(["fr-FR", "es-MX", "en"]), "es-MX");
  assert.equal(chooseLocale([null, "RU-ru"]), "ru-RU");
  assert.equal(chooseLocale(["", "*", "not a tag", "pt"]), "en");
  assert.equal(chooseLocale(["constructor", "es-u-nu-arab"]), "es");
});

test("every language says everything, with the same places and every plural form", () => {
  const places = (text) => [...new Set(text.match(/\{\w+\}/g) ?? [])].sort().join();
  for (const [code, texts] of Object.entries({ en, es, ru })) {
    assert.deepEqual(Object.keys(texts), Object.keys(en), code);
    const forms = new Intl.PluralRules(code).resolvedOptions().pluralCategories;
    for (const [key, text] of Object.entries(texts)) {
      const expected = places(typeof en[key] === "string" ? en[key] : en[key].other);
      assert.equal(typeof text, typeof en[key], `${code} ${key}`);
      if (typeof text === "string") {
        assert.equal(places(text), expected, `${code} ${key}`);
        continue;
      }
      // Spanish has `many` for millions only, which there are none of.
      const needed = forms.filter((form) => code !== "es" || form !== "many");
      for (const form of needed) assert.equal(places(text[form]), expected, `${code} ${key} ${form}`);
    }
  }
  const russian = new Language("ru");
  const toGo = [1, 2, 5, 21].map((count) => russian.text("progress.to-go", { count }));
  assert.deepEqual(toGo, ["Осталась 1 поездка", "Осталось 2 поездки", "Осталось 5 поездок", "Осталась 21 поездка"]);
  assert.throws(() => russian.text("nothing.such"), RangeError);
  const spanish = new Language("es-MX").text("offer.valid", { until: "hasta las 5:14 p.m." });
  assert.equal(spanish, "Puedes empezar hasta las 5:14 p.m. El reto se puede hacer una sola vez.");
});

test("pauses grow to a bound, and end with their signal", async () => {
  const pauses = [1, 2, 3, 20].map((attempt) => [backoff(attempt, () => 0), backoff(attempt, () => 1)]);
  assert.deepEqual(pauses, [[250, 500], [500, 1_000], [1_000, 2_000], [10_000, 20_000]]);
  await assert.rejects(pause(60_000, AbortSignal.abort(new Error("stop"))), /stop/);
});

/** An API whose answers are written down. */
function scripted(...answers) {
  const requests = [];
  const fetch = async (url, { method, headers, signal }) => {
    requests.push({ url, method, headers });
    const answer = answers.shift();
    if (!answer) throw new TypeError("no more answers");
    if (answer === "hangs") {
      return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    }
    if (answer instanceof Error) throw answer;
    return answer;
  };
  const clock = new ServerClock();
  return { api: new RidePromo({ token: () => "a.b.c", clock, fetch }), clock, requests };
}

const json = (body, init) => new Response(JSON.stringify(body), init);

const SERVER_TIME = "2030-01-01T00:00:00.000Z";

const participation = (version, differs = {}) => ({
  promotion_id: 1,
  version,
  status: "IN_PROGRESS",
  settling: false,
  server_time: SERVER_TIME,
  ...differs,
});

const stream = (...participations) => {
  const text = participations.map((state) => `event: participation\nid: ${state.version}\ndata: ${JSON.stringify(state)}\n\n`);
  return new Response(text.join(""), { headers: { "content-type": "text/event-stream" } });
};

test("what passes is tried again, not before it is due, and what does not pass is not", async () => {
  const busy = json({ type: "/problems/temporarily-unavailable" }, { status: 503, headers: { "retry-after": "1" } });
  const { api, requests, clock } = scripted(new TypeError("cut"), busy, json({ screen: "NO_OFFER", server_time: SERVER_TIME }));
  const began = performance.now();
  assert.equal((await api.landing()).screen, "NO_OFFER");
  assert.ok(performance.now() - began > 1_000, "Retry-After was not kept");
  assert.equal(requests.length, 3);
  assert.equal(requests[0].headers.authorization, "Bearer a.b.c");
  assert.ok(Math.abs(clock.now() - Date.parse(SERVER_TIME)) < 1_000);

  const refused = scripted(json({ type: "/problems/not-eligible", reason: "NO_PRE_OFFER" }, { status: 409 }));
  await assert.rejects(refused.api.start(7), (error) => error instanceof Problem && error.slug === "not-eligible" && error.body.reason === "NO_PRE_OFFER");
  assert.equal(refused.requests[0].url, "/v1/promotions/7/start");

  const gone = scripted(...Array.from({ length: 9 }, () => new TypeError("cut")));
  await assert.rejects(gone.api.getReward(7), Unreachable);
  assert.equal(gone.requests.length, 4);
});

test("what is answered to an older token is seen by nobody", async () => {
  let token = "a";
  const answers = [];
  const fetch = () => new Promise((resolve) => answers.push(resolve));
  const api = new RidePromo({ token: () => token, clock: new ServerClock(), fetch });
  const seen = [];
  const see = (answer) => answer.then((landing) => seen.push(landing.screen), (error) => seen.push(error.status));
  see(api.landing());
  see(api.landing());
  see(api.poll(1));
  token = "b";
  const own = see(api.landing());
  answers[0](json({ screen: "PROMO_PROGRESS", participation: participation(1) }));
  answers[1](json({ type: "/problems/unauthorized" }, { status: 401 }));
  answers[2](json(participation(1)));
  await new Promise((resolve) => setTimeout(resolve));
  answers[3](json({ screen: "NO_OFFER", server_time: SERVER_TIME }));
  await own;
  assert.deepEqual(seen, ["NO_OFFER"]);
});

test("a participation never goes back", () => {
  assert.ok(isNewer(participation(1), null));
  assert.ok(isNewer(participation(3), participation(2)));
  assert.ok(isNewer(participation(2, { settling: true }), participation(2)));
  for (const [next, seen] of [
    [participation(2), participation(2)],
    [participation(1), participation(2)],
    [participation(2), participation(2, { settling: true })],
  ]) {
    assert.ok(!isNewer(next, seen));
  }
});

test("follows streams over their ends to the final state", async () => {
  const { api, clock, requests } = scripted(
    stream(participation(1), participation(2)),
    new TypeError("cut"),
    json(participation(3), { headers: { etag: 'W/"3"' } }),
    new Response(null, { status: 304 }),
    json(participation(4, { status: "EXPIRED" }), { headers: { etag: 'W/"4"' } }),
  );
  const states = [];
  const links = [];
  await follow({
    api,
    clock,
    promotionId: 1,
    known: participation(1),
    onState: ({ version }) => states.push(version),
    onLink: (live) => links.push(live),
    signal: new AbortController().signal,
  });
  assert.deepEqual(states, [2, 3, 4]);
  assert.ok(links.includes(false) && links.at(-1), String(links));
  const polls = requests.filter(({ url }) => !url.endsWith("/stream"));
  assert.deepEqual(polls.map(({ url, headers }) => [url.replace(/.*progress/, ""), headers["if-none-match"]]), [
    ["", undefined],
    ["?wait=25", 'W/"3"'],
    ["?wait=25", 'W/"3"'],
  ]);
});

test("ends at once where nothing will help, and where nobody follows any more", async () => {
  const refused = scripted(json({ type: "/problems/unauthorized" }, { status: 401 }));
  const rest = { promotionId: 1, onState() {} };
  const endless = new AbortController().signal;
  await assert.rejects(follow({ ...rest, ...refused, signal: endless }), (error) => error.status === 401);
  const hanging = scripted("hangs");
  const stop = new AbortController();
  const followed = follow({ ...rest, ...hanging, signal: stop.signal });
  stop.abort();
  await followed;
});
