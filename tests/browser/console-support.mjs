// Support's day in the console: a client, their rides, the quarantine, participations, a cancellation.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";

import { eventually, journey } from "./browser.mjs";

await journey(async ({ world, desk }) => {
  const promotion = await world.promotion({ target_rides: 3 });
  const user = await world.preOffer(world.user(), promotion);
  const bo = await desk();
  await bo.signIn(world.operator("bo@example.com"));
  const { broken } = await followsAClient(world, bo, promotion, user);
  await resolvesTheQuarantine(world, bo, user, broken);
  await listsParticipations(bo, user);
  await cancelsAChallenge(world, bo, user);
  await findsItInTheAudit(bo);
});

/** Every ride with its verdict in words, and the answer to "why did this ride not count?". */
async function followsAClient(world, desk, { promotion_id }, user) {
  const { page } = desk;
  await world.client(user, "POST", "/v1/landing");
  await world.client(user, "POST", `/v1/promotions/${promotion_id}/start`);
  const [cheap, broken] = [randomUUID(), randomUUID()];
  await world.ride(user);
  await world.ride(user, { ride_id: cheap, amount_cents: 4_200 });
  await world.ride(user, { currency_code: "USD" });
  await world.ride(user, { ride_id: broken, amount_cents: -6_500 });
  await world.publish(user, "<b>not a ride</b>");
  await eventually("the rides", async () => {
    const known = await world.known(user);
    return known.participations[0].receipts.length === 3 && known.quarantine.length === 2 ? known : undefined;
  });
  await page.getByRole("link", { name: "Clients", exact: true }).click();
  await desk.sees("clients", "Clients");
  await desk.lookInEveryLanguage("clients");
  await desk.field("Client number (user_id)").fill(String(user.id));
  await desk.field("Ride id").fill(cheap);
  await desk.button("Show the client").click();
  await desk.sees("clients/:id", `Client ${user.id}`);
  const why = page.locator("#why");
  await why.getByText("The fare was MX$42.00; MX$50.00 or more counts.").waitFor();
  await desk.look("client-why");
  await page.getByRole("cell", { name: "Paid in USD; only MXN counts." }).waitFor();
  await page.locator(".timeline").getByText("Challenge started").waitFor();
  await seesReminders(world, desk);
  await desk.goes(`#/clients/${user.id}?ride=${cheap}`);
  await desk.sees("clients/:id", `Client ${user.id}`);

  await page.getByRole("textbox", { name: "Why did this ride not count?" }).fill(broken);
  await desk.button("Find the ride").click();
  await why.getByText("The record of this ride could not be read and is in quarantine:").waitFor();
  await page.getByRole("textbox", { name: "Why did this ride not count?" }).fill(randomUUID());
  await desk.button("Find the ride").click();
  await why.getByText("This client has no such ride here.").waitFor();
  await why.getByText("Which of these it was cannot be known: the service keeps nothing of rides that come while no challenge is in progress.").waitFor();

  await desk.goes(`#/clients/${user.id}?kind=ride`);
  await desk.sees("clients/:id");
  assert.equal(await page.locator(".timeline > li").count(), 3);
  await desk.lookInEveryLanguage("client");
  await desk.goes("#/clients/999999");
  await desk.text("Nothing is known of this client: no pre-offer, no challenge, no ride. Check the number.").waitFor();
  return { broken };
}

/** A reminder that was sent, and why then. */
async function seesReminders(world, desk) {
  const { page } = desk;
  // It is due a second after the start.
  const promotion = await world.promotion({ challenge_period: "PT1H1S", reminders: { challenge: ["PT1H"] } });
  const user = await world.preOffer(world.user(), promotion);
  await world.client(user, "POST", `/v1/promotions/${promotion.promotion_id}/start`);
  await eventually("the reminder", async () => ((await world.known(user)).participations[0].reminders.length === 1 ? true : undefined));
  await desk.goes(`#/clients/${user.id}?kind=reminder`);
  await desk.sees("clients/:id", `Client ${user.id}`);
  const line = page.locator(".timeline > li");
  assert.equal(await line.count(), 1);
  await line.getByText("Reminder sent").waitFor();
  await line.getByText("1 hour before the deadline, then").waitFor();
  await world.client(user, "POST", `/v1/promotions/${promotion.promotion_id}/quit`);
}

/** The bytes with the fault marked; a correction, a dismissal with its reason, and many at once. */
async function resolvesTheQuarantine(world, desk, user, broken) {
  const { page, dialog } = desk;
  await page.getByRole("link", { name: "Quarantine", exact: true }).click();
  await desk.sees("quarantine", "Quarantine");
  const record = page.locator("[data-record]").filter({ hasText: "negative amount" });
  await record.locator("summary").click();
  assert.equal(await record.locator("mark").textContent(), '  "amount_cents": -6500,');
  await desk.look("quarantine");

  await record.getByRole("button", { name: "Correct and judge" }).click();
  assert.equal(await dialog.getByLabel("Ride id").inputValue(), broken);
  await dialog.getByLabel("Fare").fill("-1");
  await dialog.getByRole("button", { name: "What would happen?" }).click();
  await dialog.getByText("Must be an amount such as 50 or 50.25.").waitFor();
  await dialog.getByLabel("Fare").fill("65");
  await dialog.getByLabel("Currency").fill("mx");
  await dialog.getByRole("button", { name: "What would happen?" }).click();
  await dialog.locator('[data-field="ride.currency_code"] .fault:not([hidden])').waitFor();
  await desk.look("quarantine-correct");
  await dialog.getByLabel("Currency").fill("MXN");
  await dialog.getByRole("button", { name: "What would happen?" }).click();
  await dialog.locator("[data-trial]").getByText("counted: It counted.").waitFor();
  // Another ride has another outcome: it is tried again first.
  await dialog.getByLabel("Fare").fill("42");
  await dialog.getByRole("button", { name: "What would happen?" }).click();
  await dialog.locator("[data-trial]").getByText("The fare was MX$42.00; MX$50.00 or more counts.").waitFor();
  await dialog.getByLabel("Fare").fill("65");
  await dialog.getByRole("button", { name: "What would happen?" }).click();
  await dialog.locator("[data-trial]").getByText("counted: It counted.").waitFor();
  assert.equal((await world.known(user)).participations[0].rides_completed, 1, "nothing was changed");
  await desk.confirm("Correct and judge");
  await page.getByText("The ride was judged. counted: It counted.").waitFor();
  const known = await world.known(user);
  assert.equal(known.participations[0].rides_completed, 2);

  // What is not JSON is text, whatever it looks like.
  await record.waitFor({ state: "detached" });
  const text = page.locator("[data-record]");
  assert.equal(await text.locator("pre").textContent(), "<b>not a ride</b>");
  await text.getByRole("button", { name: "Judge as it is" }).click();
  await dialog.getByRole("button", { name: "What would happen?" }).click();
  await dialog.getByRole("alert").waitFor();
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await text.getByRole("button", { name: "Dismiss" }).click();
  await dialog.getByRole("button", { name: "Dismiss" }).click();
  await dialog.getByText("Required.").waitFor();
  await dialog.getByLabel("Reason").fill("a test of the platform");
  await desk.confirm("Dismiss");
  await page.locator(".empty").getByText("No record.").waitFor();

  await world.publish(user, "[]");
  await world.publish(user, "");
  await eventually("two more", async () => ((await world.admin("GET", "/quarantine?status=OPEN")).items.length === 2 ? true : undefined));
  await desk.goes("#/quarantine?status=OPEN");
  await desk.sees("quarantine");
  await page.getByText("Many at once").click();
  await desk.button("Judge all").click();
  await dialog.getByLabel("Reason").fill("tests");
  await dialog.getByRole("button", { name: "What would happen?" }).click();
  await dialog.getByText("2 records are not rides and would stay open.").waitFor();
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await desk.button("Dismiss all").click();
  await dialog.getByLabel("Reason").fill("tests");
  await dialog.getByRole("button", { name: "What would happen?" }).click();
  await dialog.getByText("2 records would be dismissed.").waitFor();
  await desk.confirm("Dismiss all");
  await page.getByText("2 resolved, 0 left open.").waitFor();
  await page.getByRole("search").getByRole("combobox", { name: "Reason" }).selectOption("TOO_LARGE");
  await page.locator(".empty").getByText("No record.").waitFor();
  await desk.goes("#/quarantine");
  await desk.sees("quarantine");
  await page.getByRole("combobox", { name: "Status" }).selectOption("DISMISSED");
  await page.locator('[data-record] [data-word="DISMISSED"]').nth(2).waitFor();
  await page.getByRole("search").getByLabel("From").fill("2037-01-01T00:00");
  await desk.button("Filter").click();
  await page.locator(".empty").getByText("No record.").waitFor();
  assert.ok(page.url().includes("from=2037-01-01"), page.url());
  await desk.goes("#/quarantine?status=DISMISSED");
  await page.locator('[data-record] [data-word="DISMISSED"]').nth(2).waitFor();
  await desk.lookInEveryLanguage("quarantine-dismissed");
}

/** Filtered, and all of it as a file. */
async function listsParticipations(desk, user) {
  const { page } = desk;
  await page.getByRole("link", { name: "Participations", exact: true }).click();
  await desk.sees("participations", "Participations");
  await page.getByRole("combobox", { name: "Status" }).selectOption("REWARDED");
  await desk.text("Nothing was found.").waitFor();
  await page.getByRole("combobox", { name: "Status" }).selectOption("IN_PROGRESS");
  await page.getByRole("rowheader", { name: String(user.id) }).waitFor();
  const downloading = page.waitForEvent("download");
  await desk.button("Export as CSV").click();
  const lines = (await readFile(await (await downloading).path(), "utf8")).trim().split("\r\n");
  assert.deepEqual([lines.length, lines[0].split(",")[0], lines[1].split(",")[0]], [2, "user_id", String(user.id)]);
  await desk.lookInEveryLanguage("participations");
}

/** What cannot be taken back asks for a reason, and is in the audit. */
async function cancelsAChallenge(world, desk, user) {
  const { page, dialog } = desk;
  await desk.goes(`#/clients/${user.id}`);
  await desk.sees("clients/:id");
  await desk.button("Cancel the challenge").click();
  await dialog.getByLabel("Reason").fill("the client asked for it");
  await desk.look("client-cancel");
  await desk.confirm("Cancel the challenge");
  await page.getByText("cancelled by an operator").first().waitFor();
  const { participations } = await world.known(user);
  assert.deepEqual([participations[0].status, participations[0].expired_reason], ["EXPIRED", "CANCELLED"]);
  assert.equal(await desk.button("Cancel the challenge").count(), 0);
}

/** Everything that was changed is in the audit, under the operator's name. */
async function findsItInTheAudit(desk) {
  const { page } = desk;
  await desk.goes("#/audit?actor=bo%40example.com");
  await desk.sees("audit");
  const calls = await page.locator("main li.card h2").allTextContents();
  assert.equal(calls.length, 4, calls.join("\n"));
  assert.equal(calls[0], "POST /users/{user_id}/participations/1:cancel");
  assert.equal(calls[1], "POST /quarantine:dismiss");
}
