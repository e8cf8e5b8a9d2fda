// A promotions manager's day: a promotion from its form to the audit.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";

import { eventually, journey } from "./browser.mjs";

const DAY = 86_400_000;

/** A minute as the form's input of an instant takes it, in the desk's time zone. */
const local = (milliseconds) => new Date(milliseconds - 6 * 3_600_000).toISOString().slice(0, 16);

await journey(async ({ world, desk }) => {
  const ana = await desk();
  await ana.signIn(world.operator("ana@example.com"));
  await world.promotion(); // beside it another, with its country and its product
  const promotion = await schedulesAPromotion(world, ana);
  await backTestsIt(world, ana, promotion);
  const user = await importsPreOffers(world, ana, promotion);
  await opensIt(world, ana, promotion);
  const short = await watchesRidesComeIn(world, ana, user, promotion);
  await answersWhy(ana, user, short);
  await creditsARide(world, ana, user);
  await extendsForAnOutage(world, ana);
  await extendsAChallenge(world, ana, promotion);
  await exportsTheParticipants(ana, user, promotion);
  await findsItInTheAudit(ana, promotion);
});

/** By the form, with every kind of condition; it opens tomorrow. */
async function schedulesAPromotion(world, desk) {
  const { page, dialog } = desk;
  await desk.goes("#/promotions/new");
  await desk.sees("promotions/new", "New promotion");
  const fill = (label, value) => desk.field(label).fill(value);
  await fill("Key", "mx-amount-3");
  await fill("Title", "3 rides for a loan");
  await fill("Rides to complete", "3");
  await fill("Fares in total", "150");
  await fill("Shortest distance in metres", "1000");
  await fill("Countries", "MX");
  await fill("Time zone", "America/Mexico_City");
  await fill("Before the deadline", "3d, 24h");
  await fill("Before the reward expires", "P1D");
  await fill("Opens", local(Date.now() + DAY));
  await fill("Participations at most", "100");
  await fill("Rewards at most", "100000");
  await fill("Currency of the rewards", "MXN");
  await desk.button("Add hours").click();
  const hours = page.getByRole("group", { name: "Hours 1" });
  for (const day of ["Sat", "Sun"]) await hours.getByLabel(day).check();
  await hours.getByLabel("from").fill("00:00");
  await hours.getByLabel("until").fill("24:00");
  await desk.text("Ride for MX$150.00 in total.").waitFor();
  await desk.text("Reminders before the deadline: 3 days and 1 day.").waitFor();
  await desk.button("Check and create").click();
  await dialog.getByText("The service has checked this. Nothing is saved yet.").waitFor();
  assert.equal((await world.admin("GET", "/promotions")).items.length, 1, "only checked");
  await desk.confirm("Create");
  await desk.sees("promotions/:id", "3 rides for a loan");
  await page.locator('[data-state="scheduled"]').waitFor();
  const { items } = await world.admin("GET", "/promotions");
  const made = items.find(({ promotion_key }) => promotion_key === "mx-amount-3");
  assert.deepEqual(made.conditions.hours, [{ days: ["MO", "TU", "WE", "TH", "FR", "SA", "SU"], from: "00:00", to: "24:00" }]);
  assert.deepEqual(made.conditions.reminders, { challenge: ["P3D", "PT24H"], reward: ["P1D"] });
  assert.deepEqual([made.conditions.target_amount_cents, made.conditions.min_distance_m], [15_000, 1_000]);
  return made;
}

/** On the topic's rides: the command that the page fills in, and its result as a table and a chart. */
async function backTestsIt(world, desk, { promotion_id }) {
  const { page } = desk;
  for (let client = 1; client <= 4; client++) {
    for (let ride = 0; ride < client; ride++) await world.ride({ id: client }, { distance_m: 5_000 });
  }
  await desk.goes(`#/promotions/${promotion_id}`);
  await page.getByRole("link", { name: "Try it on past rides" }).click();
  await desk.sees("promotions/:id/back-test", "Back-test of “3 rides for a loan”");
  const downloading = page.waitForEvent("download");
  await desk.button("Save mx-amount-3.conditions.json").click();
  const conditions = await (await downloading).path();
  assert.equal(JSON.parse(await readFile(conditions, "utf8")).target_rides, 3);
  await desk.field("Targets to compare").fill("1..4");
  await desk.field("Reward").fill("1000");
  const line = await page.locator("[data-command] pre").textContent();
  const [program, ...words] = line.replace(/ > back-test\.json$/, "").split(" ");
  assert.equal(program, "ride-promo");
  const report = await world.run(words.map((word) => (word === "mx-amount-3.conditions.json" ? conditions : word)));
  await page.locator('input[type="file"]').setInputFiles({ name: "back-test.json", mimeType: "application/json", buffer: Buffer.from("{}") });
  await page.getByRole("alert").waitFor();
  await page.locator('input[type="file"]').setInputFiles({ name: "back-test.json", mimeType: "application/json", buffer: Buffer.from(report) });
  const result = page.getByRole("table", { name: "Result" });
  const row = await result.getByRole("row").nth(3).getByRole("cell").allTextContents();
  assert.deepEqual(row.slice(0, 2), ["4", "2 50%"], row.join(" | "));
  assert.equal(row.at(-1), "MX$2,000.00");
  await page.locator("[data-back-test] .chart canvas").waitFor();
  await desk.lookInEveryLanguage("back-test");
}

/** A file with faults is checked first, then imported. */
async function importsPreOffers(world, desk, { promotion_key }) {
  const { page } = desk;
  const user = world.user();
  const line = (differs) => JSON.stringify({ external_id: randomUUID(), user_id: user.id, segment: "newbie", product_id: 80, amount_cents: 100_000, currency_code: "MXN", repayment_rate: "15", country_code: "MX", valid_until: new Date(Date.now() + 45 * DAY).toISOString(), promotion_key, ...differs });
  const file = [line({}), line({ user_id: 48_190, amount_cents: -1 }), line({ user_id: 48_191, valid_until: "soon" })].join("\n");
  await desk.goes("#/imports");
  await desk.sees("imports");
  await page.locator('input[type="file"]').setInputFiles({ name: "november.ndjson", mimeType: "application/x-ndjson", buffer: Buffer.from(file) });
  await desk.button("Check the file").click();
  await desk.text("What november.ndjson would come to").waitFor();
  assert.equal(await page.getByRole("table", { name: "Rejected lines" }).getByRole("row").count(), 3);
  await desk.button("Import").click();
  await desk.text("Result of november.ndjson").waitFor();
  assert.equal((await world.known(user)).pre_offers.length, 1);
  return user;
}

/** The change is tried, said, and made; the audit's entry is on the page. */
async function opensIt(world, desk, { promotion_id }) {
  const { page, dialog } = desk;
  await desk.goes(`#/promotions/${promotion_id}/edit`);
  await desk.sees("promotions/:id/edit");
  await desk.field("Opens").fill(local(Date.now() - 60_000));
  await desk.button("What will change?").click();
  await dialog.getByRole("rowheader", { name: "opens_at" }).waitFor();
  await desk.confirm("Save the change");
  await desk.sees("promotions/:id");
  await page.locator('[data-state="open"]').waitFor();
  await page.locator("[data-revisions]").getByText(/^ana@example.com, /).waitFor();
}

/** The figures change while the page is open. */
async function watchesRidesComeIn(world, desk, user, { promotion_id }) {
  const { page } = desk;
  await world.client(user, "POST", `/v1/promotions/${promotion_id}/start`);
  await desk.goes("#/overview");
  await desk.sees("overview");
  const rate = page.locator(".figure").filter({ hasText: "Records per second" }).locator(".value");
  await rate.getByText("0", { exact: true }).waitFor();
  const short = randomUUID();
  await world.ride(user, { distance_m: 5_000 });
  await world.ride(user, { distance_m: 400, ride_id: short });
  await world.ride(user, { distance_m: 5_000 });
  await rate.getByText(/[1-9]/).waitFor();
  await page.getByRole("table", { name: "The last 24 hours" }).waitFor();
  await eventually("the rides", async () => ((await world.known(user)).participations[0].receipts.length === 3 ? true : undefined));
  return short;
}

/** The values that were compared, and how far every goal is. */
async function answersWhy(desk, user, short) {
  const { page } = desk;
  await desk.goes("#/clients");
  await desk.sees("clients");
  await desk.field("Client number (user_id)").fill(String(user.id));
  await desk.field("Ride id").fill(short);
  await desk.button("Show the client").click();
  await desk.sees("clients/:id");
  await page.locator("#why").getByText("The distance was 400 m; 1,000 m or more counts.").waitFor();
  assert.deepEqual(await page.locator("[data-goal] > div:first-child").allTextContents(), ["2 of 3 rides", "MX$130.00 of MX$150.00"]);
  await page.locator("summary").getByText("Reminders", { exact: true }).click();
  assert.equal(await page.getByText(/: (3 days|24 hours|1 day) before the deadline$/).count(), 2);
  await page.getByText("History", { exact: true }).click();
  await page.getByRole("table", { name: "History of mx-amount-3" }).getByText("the client").waitFor();
  await desk.lookInEveryLanguage("client-goals");

  // What was typed need not be an id.
  await page.getByRole("textbox", { name: "Why did this ride not count?" }).fill("no id");
  await desk.button("Find the ride").click();
  await page.getByText("Not found").first().waitFor();
}

/** A ride that never came: the verdict is shown before it is recorded. */
async function creditsARide(world, desk, user) {
  const { page, dialog } = desk;
  const lost = randomUUID();
  await desk.goes(`#/clients/${user.id}?ride=${lost}`);
  await page.locator("#why").getByText("This client has no such ride here.").waitFor();
  await page.locator("#why").getByRole("button", { name: "Credit a ride" }).click();
  assert.equal(await dialog.getByLabel("Ride id").inputValue(), lost);
  const fill = (label, value) => dialog.getByLabel(label, { exact: true }).fill(value);
  await fill("Completed at", new Date().toISOString());
  await fill("Fare", "65");
  await fill("Currency", "MXN");
  await fill("Country", "MX");
  await fill("Distance in metres", "5000");
  await fill("Reason", "the platform lost it");
  await dialog.getByRole("button", { name: "What would happen?" }).click();
  await dialog.locator("[data-trial]").getByText("counted: It counted.").waitFor();
  assert.equal((await world.known(user)).participations[0].status, "IN_PROGRESS", "only tried");
  await desk.look("client-credit");
  await desk.confirm("Credit a ride");
  await page.locator('[data-word="COMPLETED"]').first().waitFor();
  await page.getByText("credited by an operator").waitFor();
}

/** An outage is listed by itself; giving its time back is an operator's decision. */
async function extendsForAnOutage(world, desk) {
  const { page, dialog } = desk;
  await world.outage();
  await eventually("an outage", async () => ((await world.admin("GET", "/outages")).items.length === 1 ? true : undefined));
  await desk.goes("#/operations");
  await desk.sees("operations");
  await desk.button("Give the time back: Mexico").click();
  await dialog.getByLabel("Reason").fill("we were away");
  await dialog.getByRole("button", { name: "What would happen?" }).click();
  await dialog.getByText("1 participation would be extended.").waitFor();
  assert.equal((await world.admin("GET", "/extensions")).items.length, 0, "only tried");
  await desk.look("operations-outage");
  await desk.confirm("Extend");
  await page.getByRole("table", { name: "Extensions" }).getByText("we were away").waitFor();
  await page.getByRole("table", { name: "Partitions of the ride topic" }).getByText(/^ride-promo-/).first().waitFor();
  await page.locator("[data-verify]").getByText("ride-promo verify --format text").waitFor();
}

/** Everyone's deadline, by a length. */
async function extendsAChallenge(world, desk, { promotion_id }) {
  const { page, dialog } = desk;
  const late = await world.preOffer(world.user(), { promotion_key: "mx-amount-3" });
  const { challenge_deadline } = await world.client(late, "POST", `/v1/promotions/${promotion_id}/start`);
  await desk.goes(`#/promotions/${promotion_id}`);
  await desk.sees("promotions/:id");
  await desk.button("Extend deadlines").click();
  await dialog.getByLabel("By how much").fill("6h");
  await dialog.getByText("6 hours").waitFor();
  await dialog.getByLabel("Reason").fill("roads were closed");
  await dialog.getByRole("button", { name: "What would happen?" }).click();
  await dialog.getByText("1 participation would be extended.").waitFor();
  await desk.look("extension");
  await desk.confirm("Extend");
  const known = await eventually("the extension", async () => {
    const known = await world.known(late);
    return known.participations[0].challenge_deadline === challenge_deadline ? undefined : known;
  });
  assert.equal(new Date(known.participations[0].challenge_deadline) - new Date(challenge_deadline), 6 * 3_600_000);
  await desk.goes(`#/clients/${late.id}`);
  await page.locator(".timeline").getByText("deadline extended: an operator").waitFor();
}

async function exportsTheParticipants(desk, user, { promotion_id }) {
  const { page } = desk;
  await desk.goes(`#/participations?promotion_id=${promotion_id}&status=COMPLETED`);
  await desk.sees("participations");
  await page.getByRole("rowheader", { name: String(user.id) }).waitFor();
  const downloading = page.waitForEvent("download");
  await desk.button("Export as NDJSON").click();
  const lines = (await readFile(await (await downloading).path(), "utf8")).trim().split("\n");
  assert.deepEqual(lines.map((line) => JSON.parse(line).user_id), [user.id]);
}

/** All of it, under her name, and nothing that was only tried. */
async function findsItInTheAudit(desk, { promotion_id }) {
  const { page } = desk;
  await desk.goes("#/audit?actor=ana%40example.com");
  await desk.sees("audit");
  const calls = await page.locator("main li.card h2").allTextContents();
  assert.deepEqual(calls, ["POST /extensions", "POST /extensions", "POST /users/{user_id}/rides", `PATCH /promotions/${promotion_id}`, "pre-offers:import", "POST /promotions"]);
  await page.locator("main li.card").filter({ hasText: "pre-offers:import" }).getByText("november.ndjson").first().waitFor();
}
