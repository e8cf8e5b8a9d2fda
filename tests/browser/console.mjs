// A promotions manager's day in the console: signing in, a promotion, an import, a change, the audit.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";

import { journey } from "./browser.mjs";

const token = (world) => world.operator("ana@example.com");

await journey(async ({ world, desk }) => {
  const ana = await desk();
  await signsIn(world, ana);
  await setsUpACountryAndAProduct(ana);
  const promotion = await makesAPromotion(world, ana);
  const user = await importsPreOffers(world, ana, promotion);
  await world.client(user, "POST", `/v1/promotions/${promotion.promotion_id}/start`);
  await changesThePromotion(world, ana, promotion);
  await looksAtTheRest(ana, promotion);
  await mayDoLess(world, await desk(), promotion);
});

/** By a pasted token, which is nowhere but in memory, and by a link. */
async function signsIn(world, desk) {
  const { page } = desk;
  await page.goto(`${world.console}/console`);
  await page.getByRole("heading", { level: 1, name: "Sign in" }).waitFor();
  await desk.look("sign-in");
  await desk.field("Token").fill("not a token");
  await desk.button("Sign in").click();
  await desk.text("This is not a token. Copy the whole token and paste it here.").waitFor();

  // Well formed, and signed by someone else: the service refuses it.
  const [head, claims] = token(world).split(".");
  await desk.field("Token").fill(`${head}.${claims}.AAAA`);
  await desk.button("Sign in").click();
  await desk.text("The service did not accept the token: it has ended, or it is for another service.").waitFor();

  await desk.field("Token").fill(token(world));
  await desk.button("Sign in").click();
  await desk.sees("overview", "Overview");
  await desk.text("ana@example.com").waitFor();
  await desk.text("There is no promotion yet.").first().waitFor();
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href]));
  assert.ok(!kept.includes("eyJ"), kept);

  // Whoever has no right here is told so.
  await page.evaluate((token) => (location.hash = `token=${token}`), world.operator("eve@example.com", "openid"));
  await desk.text("The token has no right in this service.").waitFor();

  // A reload forgets it; a link brings another, and is clean at once.
  await page.reload();
  await page.getByRole("heading", { level: 1, name: "Sign in" }).waitFor();
  await desk.signIn(token(world));
  assert.ok(!page.url().includes("token"), page.url());

  // A token that ends signs out by itself.
  await page.evaluate((token) => (location.hash = `token=${token}`), world.operator("ana@example.com", "ride-promo:admin", 2));
  await desk.text("The token has ended. Sign in with a new one.").waitFor();
  await desk.signIn(token(world));
}

async function setsUpACountryAndAProduct(desk) {
  const { page, dialog } = desk;
  await page.getByRole("link", { name: "Countries", exact: true }).click();
  await desk.sees("countries", "Countries");
  await desk.button("Add a country").click();
  await dialog.getByLabel("Country code").fill("m1");
  await dialog.getByRole("button", { name: "Save" }).click();
  // What the service says of it is shown where it was typed, and the dialog stays.
  await dialog.getByRole("alert").waitFor();
  await dialog.getByLabel("Country code").fill("mx");
  await dialog.getByLabel("On", { exact: true }).check();
  await desk.confirm("Save");
  await desk.text("Mexico (MX)").waitFor();
  await desk.button("Turn off Mexico").click();
  await desk.text("No client of this country is shown a promotion or can start one. Challenges in progress go on, with their deadlines and rewards.").waitFor();
  await desk.confirm("Turn off Mexico");
  await desk.button("Turn on Mexico").click();
  await desk.confirm("Turn on Mexico");
  await desk.button("Turn off Mexico").waitFor();
  await desk.lookInEveryLanguage("countries");

  await page.getByRole("link", { name: "Products", exact: true }).click();
  await desk.sees("products", "Products");
  await desk.button("New product").click();
  const fill = (label, value) => dialog.first().getByLabel(label, { exact: true }).fill(value);
  await fill("Number", "80");
  await fill("Product", "First loan");
  await fill("Currency", "MXN");
  await fill("Term in days", "thirty");
  await desk.button("Check the change").click();
  await desk.text("Must be a whole number.").waitFor();
  await fill("Term in days", "30");
  await fill("Terms", "https://example.com/terms");
  await desk.button("Check the change").click();
  await desk.text("Save this change?").waitFor();
  await dialog.last().getByRole("button", { name: "Save", exact: true }).click();
  await dialog.first().waitFor({ state: "detached" });
  await desk.text("First loan").waitFor();
  await desk.lookInEveryLanguage("products");
}

/** By the form and by the JSON beside it; faults are beside the fields. */
async function makesAPromotion(world, desk) {
  const { page, dialog } = desk;
  await page.getByRole("link", { name: "Promotions", exact: true }).click();
  await desk.sees("promotions", "Promotions");
  await page.getByRole("link", { name: "New promotion" }).click();
  await desk.sees("promotions/new", "New promotion");
  await desk.field("Key").fill("mx newbie");
  await desk.field("Title").fill("A loan for 3 rides");
  await desk.field("Rides to complete").fill("0");
  await desk.field("Time to complete them").fill("2w");
  await desk.text("14 days").waitFor();
  await desk.field("Lowest fare that counts").fill("50.5");
  await desk.field("Countries").fill("mx, br");
  await desk.field("Participations at most").fill("10");
  await desk.field("Closes").fill("2037-12-31T18:00");
  const json = async () => JSON.parse(await desk.field("JSON").inputValue());
  assert.deepEqual((await json()).conditions, { target_rides: 0, min_amount_cents: 5050, currency_code: "MXN", challenge_period: "P2W", claim_period: "P7D", country_codes: ["MX", "BR"] });

  assert.deepEqual((await json()).budget, { max_participations: 10 });
  assert.equal((await json()).closes_at, "2038-01-01T00:00:00.000Z");

  // The service checks it before anything is saved: what it refuses is shown beside its field, with the
  // number for the log.
  await desk.field("Fares in total").fill("0");
  await desk.button("Check and create").click();
  await page.getByText("Request id:").waitFor();
  assert.equal(await dialog.count(), 0);
  for (const name of ["promotion_key", "conditions.target_rides", "conditions.target_amount_cents"]) await page.locator(`[data-field="${name}"] .fault:not([hidden])`).waitFor();
  assert.equal(await desk.field("Rides to complete").getAttribute("aria-invalid"), "true");
  await desk.look("promotion-faults");

  // The JSON leads the form as well.
  const changed = await json();
  Object.assign(changed, { promotion_key: "mx-newbie-3" });
  delete changed.conditions.target_amount_cents;
  const hours = [{ days: ["MO", "FR"], from: "06:00", to: "10:00" }, { days: ["MO", "TU", "WE", "TH", "FR", "SA", "SU"], from: "00:00", to: "24:00" }];
  Object.assign(changed.conditions, { target_rides: 3, country_codes: ["MX"], max_rides_per_day: 10, day_boundary_timezone: "America/Mexico_City", min_amount_cents: 5000, hours });
  await desk.field("JSON").fill(JSON.stringify(changed));
  assert.equal(await desk.field("Rides per day at most").inputValue(), "10");
  assert.equal(await desk.field("Lowest fare that counts").inputValue(), "50");
  await desk.text("At most 10 rides a day count.").waitFor();
  const windows = page.locator('[data-field="conditions.hours"] .window');
  assert.equal(await windows.count(), 2);
  // And the form leads the JSON: hours without a day are refused beside the hours.
  await desk.button("Add hours").click();
  for (const day of ["Mon", "Tue", "Wed", "Thu", "Fri"]) await windows.nth(2).getByLabel(day).uncheck();
  assert.deepEqual((await json()).conditions.hours[2], { days: [], from: "06:00", to: "10:00" });
  await desk.button("Check and create").click();
  await page.locator('[data-field="conditions.hours"] .fault:not([hidden])').waitFor();
  await desk.button("Remove hours 3").click();
  assert.deepEqual((await json()).conditions.hours, hours);
  await desk.field("JSON").fill("{");
  assert.equal(await desk.field("JSON").getAttribute("aria-invalid"), "true");
  await desk.field("JSON").fill(JSON.stringify(changed));
  // What clients see is made of their own pages, in each of their languages.
  const phone = page.locator("[data-preview] .phone");
  await phone.getByText("Complete 3 rides in 14 days").waitFor();
  await desk.field("Language of the screen").selectOption("ru");
  await phone.getByText("Совершите 3 поездки за 14 дней").waitFor();
  await desk.field("Language of the screen").selectOption("es");
  await phone.getByText(/^Un préstamo de .*1.?000.* por tus viajes$/).waitFor();
  await desk.field("Language of the screen").selectOption("en");
  await page.locator(".beside > .json").evaluate((place) => place.scrollTo(0, 0));
  await desk.look("promotion-form");
  await desk.button("Check and create").click();
  await dialog.getByRole("cell", { name: "mx-newbie-3" }).waitFor();
  await desk.look("promotion-create");
  await desk.confirm("Create");
  await desk.sees("promotions/:id", "A loan for 3 rides");
  await page.getByRole("link", { name: "See the audit" }).last().waitFor();
  const { items } = await world.admin("GET", "/promotions");
  assert.equal(items.length, 1);
  assert.deepEqual(items[0].conditions.country_codes, ["MX"]);
  await desk.lookInEveryLanguage("promotion");
  return items[0];
}

/** A file with faults: what went in, what did not, and the lines to send back. */
async function importsPreOffers(world, desk, { promotion_key }) {
  const { page } = desk;
  const user = world.user();
  const header = "external_id,user_id,segment,product_id,amount_cents,currency_code,repayment_rate,country_code,valid_until,promotion_key";
  const line = (differs) => {
    const row = { external_id: randomUUID(), user_id: user.id, segment: "newbie", product_id: 80, amount_cents: 100000, currency_code: "MXN", repayment_rate: "15", country_code: "MX", valid_until: new Date(Date.now() + 45 * 86_400_000).toISOString(), promotion_key, ...differs };
    return header.split(",").map((name) => row[name]).join(",");
  };
  const lines = [header, line({}), line({ user_id: 48160, amount_cents: 0 }), line({ user_id: 48161, product_id: 99 }), line({ user_id: 48162, promotion_key: "mx-newbie-4" })];
  await page.getByRole("link", { name: "Imports", exact: true }).click();
  await desk.sees("imports", "Imports");
  await page.locator('input[type="file"]').setInputFiles({ name: "offers.csv", mimeType: "text/csv", buffer: Buffer.from(lines.join("\n")) });
  await desk.text("Good lines are imported: new pre-offers are added, known ones are updated. Bad lines change nothing and are listed.").waitFor();
  // What it would come to first.
  await desk.button("Check the file").click();
  await desk.text("What offers.csv would come to").waitFor();
  await desk.text("Nothing was changed: the file was only checked.").waitFor();
  assert.deepEqual((await world.known(user)).pre_offers, []);
  await desk.button("Import").click();
  await desk.text("Result of offers.csv").waitFor();
  const rejected = page.getByRole("table", { name: "Rejected lines" });
  await rejected.getByRole("row").nth(2).waitFor();
  assert.equal(await rejected.getByRole("row").count(), 3);
  await page.getByRole("table", { name: "Imported, but without a promotion" }).getByText("there is no promotion with this key").waitFor();
  const downloading = page.waitForEvent("download");
  await desk.button("Download the lines as CSV").click();
  const file = await readFile(await (await downloading).path(), "utf8");
  assert.equal(file.split("\r\n").length, 4, file);
  assert.ok(file.startsWith('"line","field","reason"'), file);
  await desk.look("imports");
  await desk.goes("#/overview");
  await desk.sees("overview");
  await desk.goes("#/imports");
  await desk.sees("imports");
  await page.getByRole("table", { name: "The last imports" }).getByText("offers.csv").waitFor();
  await desk.lookInEveryLanguage("imports-history");
  return user;
}

/** An edit of a live promotion says whom it does not touch. */
async function changesThePromotion(world, desk, { promotion_id }) {
  const { page, dialog } = desk;
  await desk.goes(`#/promotions/${promotion_id}`);
  await desk.sees("promotions/:id");
  await page.getByRole("link", { name: "Change", exact: true }).click();
  await desk.sees("promotions/:id/edit");
  await desk.button("What will change?").click();
  await desk.text("Nothing changes.").waitFor();
  await desk.field("Rides to complete").fill("5");
  await desk.button("What will change?").click();
  await dialog.getByText("The title still says “A loan for 3 rides”, but 5 rides are needed now.").waitFor();
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await desk.field("Title").fill("A loan for 5 rides");
  await desk.button("What will change?").click();
  await dialog.getByText("The service has checked this. Nothing is saved yet.").waitFor();
  await dialog.getByText("1 challenge in progress keeps the rules that it started under. The new rules hold for clients who start from now on.").waitFor();
  assert.deepEqual(await dialog.getByRole("row").nth(1).getByRole("cell").allTextContents(), ["A loan for 3 rides", "A loan for 5 rides"]);
  await desk.look("promotion-change");
  // Another operator is faster: their change is shown, and nothing is overwritten unseen.
  await world.admin("PATCH", `/promotions/${promotion_id}`, JSON.stringify({ title: "A loan for three rides" }));
  await dialog.getByRole("button", { name: "Save the change" }).click();
  const theirs = dialog.getByRole("table", { name: "Another operator's change" });
  await theirs.getByRole("cell", { name: "A loan for three rides" }).waitFor();
  assert.deepEqual(await theirs.getByRole("row").nth(1).getByRole("cell").allTextContents(), ["A loan for 3 rides", "A loan for three rides"]);
  await desk.look("promotion-conflict");
  await desk.confirm("Save the change");
  await desk.sees("promotions/:id", "A loan for 5 rides");
  const budget = page.locator("[data-budget]");
  await budget.getByText("10%").waitFor();
  await budget.getByText("The figures as a table").click();
  const burnDown = budget.getByRole("table", { name: "Participations over time" });
  assert.deepEqual(await burnDown.getByRole("row").nth(1).getByRole("cell").allTextContents(), ["1", "0", "9"]);
  const way = page.getByRole("table", { name: "From offered to claimed" });
  assert.deepEqual(await way.getByRole("row").getByRole("cell").allTextContents(), ["1", "–", "1", "100%", "1", "100%", "0", "0%", "0", "–"]);
  await page.locator("[data-funnel]").getByText("The figures as a table").click();
  const funnel = page.getByRole("table", { name: "Over time", exact: true });
  assert.deepEqual((await funnel.getByRole("row").nth(1).getByRole("cell").allTextContents()).slice(0, 4), ["1", "1", "1", "0"]);
  await page.getByRole("combobox", { name: "Each point" }).selectOption("PT15M");
  await page.locator(".inner", { has: page.locator("select[name=interval]") }).getByRole("heading", { name: "Over time", exact: true }).waitFor();
  assert.ok(page.url().includes("interval=PT15M"), page.url());
  await desk.sees("promotions/:id");
  await desk.look("promotion-funnel");
  await page.getByRole("combobox", { name: "Count" }).selectOption("starts");
  await desk.text("Of those who started in each interval: how many ever completed, claimed or expired, and why.").waitFor();
  await desk.sees("promotions/:id");
  const changed = await world.admin("GET", `/promotions/${promotion_id}`);
  assert.equal(changed.conditions.target_rides, 5);

  await desk.button("Deactivate").click();
  await dialog.getByText("No client can start it any more. 1 challenge in progress goes on, with its deadline and its reward.").waitFor();
  await desk.confirm("Deactivate");
  await page.getByText("inactive", { exact: true }).waitFor();
  await page.getByRole("link", { name: "Copy", exact: true }).click();
  await desk.sees("promotions/:id/copy", "Copy of “A loan for 5 rides”");
  assert.equal(await desk.field("Key").inputValue(), "mx-newbie-3-copy");
  await page.getByRole("link", { name: "Promotions", exact: true }).first().click();
  await desk.sees("promotions");
  await desk.lookInEveryLanguage("promotions");
  await page.getByRole("combobox", { name: "State" }).selectOption("inactive");
  await page.locator('[data-state="inactive"]').waitFor();
  await page.getByRole("combobox", { name: "State" }).selectOption("open");
  await desk.text("Nothing was found.").waitFor();
}

/** What a token does not allow is not shown. */
async function mayDoLess(world, desk, { promotion_id }) {
  const { page } = desk;
  const open = async (scope) => {
    await page.goto("about:blank");
    await page.goto(`${world.console}/console#token=${world.operator("bo@example.com", scope)}`);
    await page.getByRole("navigation", { name: "Menu" }).waitFor();
    return page.locator("nav a[data-page]").allTextContents();
  };
  assert.deepEqual(await open("ride-promo:support"), ["Clients", "Participations", "Quarantine"]);
  await desk.sees("clients");
  await desk.goes("#/audit");
  await page.getByText("This page takes the scope ride-promo:audit.").waitFor();
  assert.deepEqual(await open("ride-promo:view"), ["Overview", "Promotions", "Countries", "Products", "Operations"]);
  await desk.goes(`#/promotions/${promotion_id}`);
  await desk.sees("promotions/:id");
  assert.equal(await page.locator(".head .actions").count(), 0);
  await desk.goes("#/countries");
  await desk.sees("countries");
  assert.equal(await page.getByRole("main").getByRole("button").count(), 0);
  assert.ok(desk.calls.every((call) => call.startsWith("GET ")), desk.calls.join("\n"));
}

async function looksAtTheRest(desk, { promotion_id }) {
  const { page } = desk;
  await page.getByRole("link", { name: "Audit", exact: true }).click();
  await desk.sees("audit", "Audit");
  const newest = page.locator("main li.card").first();
  assert.equal(await newest.getByRole("heading").textContent(), `PATCH /promotions/${promotion_id}`);
  assert.deepEqual(await newest.locator("tbody tr").first().locator("th, td").allTextContents(), ["active", "true", "false"]);
  await desk.lookInEveryLanguage("audit");
  await desk.field("Call").fill("POST /promotions");
  await desk.button("Filter").click();
  await page.getByRole("link", { name: "Clear" }).waitFor();
  await desk.sees("audit");
  assert.deepEqual(await page.locator("main li.card h2").allTextContents(), ["POST /promotions"]);

  await page.getByRole("link", { name: "Operations", exact: true }).click();
  await desk.sees("operations", "Operations");
  await page.getByRole("table", { name: "Roles of this process" }).getByText("ready").first().waitFor();
  const setting = page.getByRole("row").filter({ hasText: "database.url" });
  assert.deepEqual((await setting.getByRole("cell").allTextContents())[0], "secret");
  await desk.lookInEveryLanguage("operations");

  await page.getByRole("link", { name: "Overview", exact: true }).click();
  await desk.sees("overview", "Overview");
  await page.locator(".figure").filter({ hasText: "Records per second" }).getByText("0", { exact: true }).waitFor();
  await desk.lookInEveryLanguage("overview");

  // The service is away: the page says so, and a change's outcome is open.
  await page.route("**/admin/v1/**", (route) => route.abort());
  await desk.goes("#/products");
  await page.getByText("The service did not respond. A change may or may not have been made: look before you repeat it.").waitFor();
  await page.unroute("**/admin/v1/**");
  await desk.button("Try again").click();
  await desk.sees("products");
  await desk.goes("#/nowhere");
  await page.getByRole("heading", { level: 1, name: "There is no such page" }).waitFor();

  // By keyboard: past the menu to the content.
  await desk.goes("#/promotions");
  await desk.sees("promotions");
  await page.locator(".brand").click();
  await page.keyboard.press("Shift+Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Go to the content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "H1");
  await desk.button("Sign out").click();
  await page.getByRole("heading", { level: 1, name: "Sign in" }).waitFor();
}
