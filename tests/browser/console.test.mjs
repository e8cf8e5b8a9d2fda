// The console's modules that need no page: its texts, addresses, differences, forms.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

const web = new URL("../../web/console/js/", import.meta.url);
const from = (path) => import(new URL(path, web));

const sources = readdirSync(web, { recursive: true })
  .filter((name) => name.endsWith(".js"))
  .map((name) => [name, readFileSync(new URL(name, web), "utf8")]);

test("every text is there in every language, with its places and its plural forms", async () => {
  const [en, es, ru] = (await Promise.all(["en", "es", "ru"].map((code) => from(`texts/${code}.js`)))).map((module) => module.default);
  const places = (text) => [...new Set(JSON.stringify(text).match(/\{\w+\}/g))].sort();
  for (const [code, texts, forms] of [["en", en, ["one", "other"]], ["es", es, ["one", "other"]], ["ru", ru, ["one", "few", "many", "other"]]]) {
    assert.deepEqual(Object.keys(texts).sort(), Object.keys(en).sort(), code);
    for (const [key, text] of Object.entries(texts)) {
      assert.deepEqual(places(text), places(en[key]), `${code}: ${key}`);
      if (typeof text !== "string") assert.deepEqual(Object.keys(text), forms, `${code}: ${key}`);
    }
  }
});

test("every text that is used is there, and none that is not", async () => {
  const { default: en } = await from("texts/en.js");
  const used = new Set();
  const beginnings = new Set();
  for (const [name, source] of sources.filter(([name]) => !name.startsWith("texts/"))) {
    for (const [, key] of source.matchAll(/\bt\(\s*"([^"]+)"/g)) {
      assert.ok(Object.hasOwn(en, key), `${name}: ${key}`);
    }
    for (const [, key] of source.matchAll(/"([\w-]+(?:\.[\w-]+)*)"/g)) used.add(key);
    for (const [, beginning] of source.matchAll(/`([\w-]+\.)(?:\$\{|[\w-]+\$)/g)) beginnings.add(beginning);
    for (const [, kind] of source.matchAll(/\b(?:word|badge)\("([^"]+)"/g)) beginnings.add(`${kind}.`);
  }
  const unused = Object.keys(en).filter((key) => !used.has(key) && ![...beginnings].some((beginning) => key.startsWith(beginning)));
  assert.deepEqual(unused, []);
});

test("no value goes into the page but as text", () => {
  for (const [name, source] of sources) {
    assert.ok(!/innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function/.test(source), name);
  }
});

test("an address says which page, and what is filtered", async () => {
  const { find, link, parse } = await from("router.js");
  assert.equal(link("audit", { call: "PATCH /promotions/1", cursor: null }), "#/audit?call=PATCH+%2Fpromotions%2F1");
  assert.deepEqual(parse(link("audit", { call: "PATCH /promotions/1" })), { parts: ["audit"], query: { call: "PATCH /promotions/1" } });
  assert.deepEqual(parse("#/clients/a%2Fb"), { parts: ["clients", "a/b"], query: {} });
  assert.deepEqual(parse("#/clients/%zz").parts, ["clients", "%zz"]);
  const routes = [{ path: ["promotions", "new"] }, { path: ["promotions", ":id"] }];
  assert.equal(find(routes, parse("#/promotions/new")).route, routes[0]);
  assert.deepEqual(find(routes, parse("#/promotions/7")).params, { id: "7" });
  assert.equal(find(routes, parse("#/promotions")), null);
});

test("differences are told field by field, lists as a whole", async () => {
  const { changes } = await from("ui/diff.js");
  assert.deepEqual(changes({ a: 1, b: { c: [1], d: 2 } }, { a: 1, b: { c: [2], e: 3 } }), [
    { path: "b.c", before: [1], after: [2] },
    { path: "b.d", before: 2, after: undefined },
    { path: "b.e", before: undefined, after: 3 },
  ]);
  assert.deepEqual(changes(undefined, { a: { b: null } }), [{ path: "a.b", before: undefined, after: null }]);
  assert.deepEqual(changes({ a: [1] }, { a: [1] }), []);
});

test("a field of a form is put where it belongs, and the order stays", async () => {
  const { at, withValue } = await from("promotion/fields.js");
  const before = { title: "A", conditions: { target_rides: 1, claim_period: "P7D" } };
  const after = withValue(before, "conditions.target_rides", 2);
  assert.equal(JSON.stringify(after), '{"title":"A","conditions":{"target_rides":2,"claim_period":"P7D"}}');
  assert.equal(before.conditions.target_rides, 1);
  assert.deepEqual(withValue(after, "conditions.claim_period", undefined).conditions, { target_rides: 2 });
  assert.deepEqual(withValue({}, "budget.max", 3), { budget: { max: 3 } });
  assert.equal(at(after, "conditions.target_rides"), 2);
  assert.equal(at({}, "a.b"), undefined);
});

test("a promotion's state follows its schedule and its budget", async () => {
  const { stateOf, usedShare } = await from("promotion/state.js");
  const now = Date.parse("2026-11-22T12:00:00Z");
  const [before, after] = ["2026-11-22T11:00:00Z", "2026-11-22T13:00:00Z"];
  const use = (reserved, spent, max) => ({ participations: { reserved, spent, max }, reward_cents: { reserved: 0, spent: 0, max: null } });
  const state = (promotion, used = null) => stateOf(promotion, used, now);
  assert.equal(state({ active: true }), "open");
  assert.equal(state({ active: true, opens_at: after }), "scheduled");
  assert.equal(state({ active: true, opens_at: before, closes_at: after }), "open");
  assert.equal(state({ active: true, closes_at: before }), "over");
  assert.equal(state({ active: false, opens_at: before }), "inactive");
  assert.equal(state({ active: true }, use(8, 1, 10)), "open");
  assert.equal(state({ active: true }, use(8, 2, 10)), "exhausted");
  assert.equal(state({ active: true, opens_at: after }, use(8, 2, 10)), "scheduled");
  assert.equal(usedShare(use(8, 1, 10)), 0.9);
  assert.equal(usedShare({ participations: { reserved: 1, spent: 0, max: 10 }, reward_cents: { reserved: 50, spent: 30, max: 100 } }), 0.8);
  assert.equal(usedShare(use(1, 1, null)), null);
  assert.equal(usedShare(null), null);
});

test("reminders are due before the deadline, and never before the start", async () => {
  const { plannedReminders } = await from("client/parts.js");
  const one = {
    conditions: { reminders: { challenge: ["P1D", "P20D"], reward: ["PT6H"] } },
    started_at: "2026-11-01T00:00:00Z",
    challenge_deadline: "2026-11-15T00:00:00Z",
    completed_at: null,
    reward_deadline: null,
  };
  assert.deepEqual(plannedReminders(one), [{ kind: "challenge", lead: "P1D", at: "2026-11-14T00:00:00.000Z" }]);
  const completed = { ...one, completed_at: "2026-11-10T00:00:00Z", reward_deadline: "2026-11-17T00:00:00Z" };
  assert.deepEqual(plannedReminders(completed)[1], { kind: "reward", lead: "PT6H", at: "2026-11-16T18:00:00.000Z" });
  assert.deepEqual(plannedReminders({ ...one, conditions: {} }), []);
});

test("the command of a back-test can be pasted into a shell", async () => {
  const { commandLine } = await from("pages/back-test.js");
  const of = (values) => commandLine("mx.conditions.json", values);
  assert.equal(of({ source: "topic", from: "2026-11-01T00:00:00.000Z", targets: "1..40" }), "ride-promo back-test --conditions mx.conditions.json --from 2026-11-01T00:00:00.000Z --targets 1..40 --output json > back-test.json");
  assert.equal(of({ source: "debs2015", rides: "it's here.csv", reward_cents: 10_000 }), "ride-promo back-test --conditions mx.conditions.json --rides 'it'\\''s here.csv' --format debs2015 --reward-cents 10000 --output json > back-test.json");
});

test("the funnel asks for changes by the hour, or for starts by the day", async () => {
  const { funnelQuery } = await from("promotion/funnel.js");
  const now = Date.parse("2026-11-22T12:00:00Z");
  assert.deepEqual(funnelQuery({}, now), { from: "2026-11-21T12:00:00.000Z", to: "2026-11-22T12:00:00.000Z", interval: "PT1H" });
  assert.deepEqual(funnelQuery({ by: "starts" }, now), { from: "2026-11-08T12:00:00.000Z", to: "2026-11-22T12:00:00.000Z", interval: "P1D", by_start: true });
  assert.equal(funnelQuery({ by: "starts", interval: "PT1M" }, now).from, "2026-11-21T19:20:00.000Z", "no more intervals than there may be");
  assert.deepEqual(funnelQuery({ by: "changes", from: "a", to: "2026-11-22T12:00:00Z", interval: "PT1M" }, now).from, "a");
});

test("bytes are read where they are text, and faulty fields are found", async () => {
  const { bytesOf, faultyFields } = await from("quarantine/bytes.js");
  const base64 = (bytes) => Buffer.from(bytes).toString("base64");
  assert.deepEqual(bytesOf(base64('{"user_id":1}')).json, { user_id: 1 });
  assert.equal(bytesOf(base64([0xff, 0xfe])).text, null);
  assert.equal(bytesOf(base64("")).text, "");
  assert.deepEqual(faultyFields("amount_cents must be at least 0, got -1; ride_id is required"), ["ride_id", "amount_cents"]);
});

test("the service says what a token may do, and what cannot be one is refused", async () => {
  const { Session } = await from("session.js");
  const session = new Session();
  session.signIn("a.b.c");
  assert.ok(!session.may("view"));
  session.learn({ subject: "ána", scopes: ["ride-promo:view", "ride-promo:audit"], expires_at: "1970-01-01T00:00:10Z" });
  assert.deepEqual([session.actor, session.scopes, session.expiresAt], ["ána", ["audit", "view"], 10_000]);
  assert.deepEqual(["view", "edit", "audit"].map((scope) => session.may(scope)), [true, false, true]);
  session.signOut();
  assert.deepEqual([session.token, session.actor, session.may("view")], [null, null, false]);
  for (const broken of ["", "a.b", "a.!.c", "a b.c.d"]) assert.throws(() => session.signIn(broken), RangeError);
});

test("periods are read in every way that the service takes", async () => {
  const { periodMilliseconds } = await from("i18n.js");
  assert.equal(periodMilliseconds("P14D"), 14 * 86_400_000);
  assert.equal(periodMilliseconds("P1DT12H"), 36 * 3_600_000);
  for (const bad of ["", "P", "PT", "14d", "P1M", null]) assert.equal(periodMilliseconds(bad), null, String(bad));
});
