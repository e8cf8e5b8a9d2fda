// From the offer to the application: what the client sees, taps and may do wrong.

import assert from "node:assert/strict";
import { PATIENCE, journey } from "./browser.mjs";

await journey(async ({ world, phone }) => {
  const promotion = await world.promotion({
    target_rides: 20,
    country_codes: ["MX"],
    service_types: ["city"],
    max_rides_per_day: 50,
    day_boundary_timezone: "America/Mexico_City",
  });
  const user = await world.preOffer(world.user(), promotion);
  const mobile = await phone();
  const { page } = mobile;
  const call = (name) => `/v1/promotions/${promotion.promotion_id}/${name}`;

  // The offer. The token is out of the address before anything else happens.
  await mobile.open(user);
  await mobile.sees("offer", "A loan of MX$1,000 for your rides");
  assert.equal(page.url(), `${world.pages}/app`);
  for (const condition of ["Complete 20 rides in 14 days", "A fare of MX$50 or more", "At most 50 rides a day count", "In Mexico", "Kind of ride: city", "Then read the terms and apply for the loan within 7 days"]) {
    await mobile.text(condition).waitFor();
  }
  await mobile.text("Complete the challenge, then apply for this pre-approved loan. You see the terms before you decide.").waitFor();
  // The pre-offer is valid until a moment, and the phone's zone has a name.
  await page.getByText(/^You can start until .* at .* CST\. The challenge can be taken once\.$/).waitFor();
  await mobile.lookInEveryLanguage("offer");

  // Get started, twice, while nothing answers.
  await world.pause();
  await mobile.doubleTap("Get started");
  await page.locator('button[aria-busy="true"]').waitFor();
  await mobile.doubleTap("Get started");
  await world.resume();
  await mobile.sees("progress", "Your challenge");
  assert.equal(mobile.count("/start"), 1);
  await page.getByRole("progressbar", { name: "Your challenge" }).waitFor();
  await mobile.text("20 rides to go").waitFor();
  await mobile.text("None yet. A ride shows up here moments after it ends.").waitFor();

  // Rides move it without a reload, and one that does not count says why.
  await mobile.mark();
  await world.ride(user, { amount_cents: 4_200 });
  await world.ride(user, { service_type: "delivery" });
  await world.ride(user, { currency_code: "USD", amount_cents: 900 });
  await world.ride(user);
  const ring = page.getByRole("progressbar");
  await page.locator('[role="progressbar"][aria-valuenow="1"]').waitFor();
  assert.equal(await ring.getAttribute("aria-valuetext"), "1 of 20 rides");
  await mobile.text("The fare is below MX$50").waitFor();
  await mobile.text("Another kind of ride; city counts").waitFor();
  await mobile.text("Paid in USD; only MXN counts").waitFor();
  await mobile.text("Counted").waitFor();
  assert.equal(await page.locator("#says").textContent(), "1 of 20 rides");
  await mobile.button("3 rides did not count. Why?").waitFor();
  for (let number = 0; number < 12; number++) {
    if (number === 10) await world.ride(user, { amount_cents: 4_150 });
    await world.ride(user, { amount_cents: 5_000 + 275 * number });
  }
  await page.locator('[role="progressbar"][aria-valuenow="13"]').waitFor();
  await mobile.text("7 rides to go").waitFor();
  await mobile.text("MX$80.25").waitFor();
  assert.equal(await page.locator("#says").textContent(), "13 of 20 rides");
  await mobile.assertNotReloaded();

  // Five that counted have pushed the first ones off the list; that they did not count stays, and why.
  assert.equal(await mobile.text("Paid in USD; only MXN counts").count(), 0);
  await mobile.tap("4 rides did not count. Why?");
  await mobile.sees("uncounted", "Rides that did not count");
  await mobile.text("Paid in USD; only MXN counts").waitFor();
  assert.equal(await page.locator(".ride").count(), 4);
  assert.equal(await page.locator(".ride.counted").count(), 0);
  await mobile.lookInEveryLanguage("uncounted");
  await mobile.tap("Back");
  await mobile.sees("progress");
  await mobile.lookInEveryLanguage("progress");

  // All rides, more than a page of them; back by the browser's button and by the page's.
  const yesterday = new Date(Date.now() - 86_400_000).toISOString();
  for (let number = 0; number < 60; number++) {
    const differs = [{ amount_cents: 2_000 + 35 * number }, { service_type: "delivery" }, { completed_at: yesterday }];
    await world.ride(user, differs[number % 3]);
  }
  await mobile.tap("Show all rides");
  await mobile.sees("rides", "All rides");
  await page.goBack();
  await mobile.sees("progress");
  await page.waitForFunction(
    async ([path, token]) => {
      const answer = await fetch(path, { headers: { authorization: `Bearer ${token}` } });
      return (await answer.json()).items.length === 77;
    },
    [`${call("rides")}?limit=200`, user.token],
  );
  await page.reload();
  await mobile.sees("progress");
  await mobile.tap("Show all rides");
  await mobile.sees("rides");
  await page.locator(".ride:nth-child(50)").waitFor();
  assert.equal(await page.locator(".ride").count(), 50);
  await mobile.look("rides");
  await mobile.doubleTap("Show more");
  await page.locator(".ride:nth-child(77)").waitFor();
  assert.equal(await page.locator(".ride").count(), 77);
  assert.equal(await mobile.button("Show more").count(), 0);
  await mobile.tap("Back");
  await mobile.sees("progress");

  // The last rides.
  await mobile.mark();
  for (let number = 0; number < 6; number++) await world.ride(user);
  await mobile.text("1 ride to go").waitFor();
  await world.ride(user);
  await mobile.sees("ready", "Your pre-approved MX$1,000 loan is ready");
  // What a screen reader was told of the challenge is not left standing.
  assert.equal(await page.locator("#says").textContent(), "");
  await mobile.text("You completed all 20 rides. Well done. Read the terms, then decide whether to apply.").waitFor();
  await mobile.text("6 days, 23 hours").waitFor();
  await mobile.assertNotReloaded();
  await mobile.lookInEveryLanguage("ready");

  // Two taps on Continue show the terms, and accept nothing.
  await mobile.tapWhatComes();
  await mobile.doubleTap("Continue");
  await mobile.sees("terms", "The terms of your loan");
  assert.equal(mobile.count("/accept_reward"), 0);
  for (const term of ["MX$1,000", "15%", "30 days", "First loan"]) await mobile.text(term).waitFor();
  assert.equal(await page.getByRole("link").getAttribute("href"), "https://example.com/terms");
  // A rate that is not configured is not computed, and the setting is named.
  await mobile.text("The full terms say what the rate applies to, how much you repay in all and when.").waitFor();
  assert.equal(await mobile.text("Total to repay").count(), 0);
  await mobile.lookInEveryLanguage("terms");
  await page.goBack();
  await mobile.sees("ready");
  await page.goForward();
  await mobile.sees("terms");
  await mobile.tap("Back");
  await mobile.sees("ready");

  // By the keyboard.
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await mobile.sees("terms");

  await world.pause();
  await mobile.doubleTap("Accept and continue");
  await page.locator('button[aria-busy="true"]').waitFor();
  await mobile.doubleTap("Accept and continue");
  await world.resume();
  await mobile.sees("done", "Done! Your application is in");
  assert.equal(mobile.count("/accept_reward"), 1);
  const known = await world.known(user);
  assert.equal(known.applications.length, 1);
  assert.equal(known.sessions[0].sequence_id, 8);
  await mobile.text(known.applications[0].application_id).waitFor();

  // There is a way on: the app that listens gets the session, any other client is told where to go.
  await mobile.text("You have applied for your pre-approved MX$1,000 loan.").waitFor();
  await mobile.look("done");
  await page.evaluate(() => {
    addEventListener("ride-promo:continue", (event) => (event.preventDefault(), (globalThis.continued = event.detail)), { once: true });
  });
  await mobile.tap("Continue");
  const { application_id, session_id, sequence_id } = known.sessions[0];
  assert.deepEqual(await page.evaluate(() => globalThis.continued), { application_id, session_id, sequence_id });
  const elsewhere = mobile.text("Please open the loans in the app to go on, and have your application number at hand.");
  assert.equal(await elsewhere.count(), 0);
  await mobile.tap("Continue");
  await elsewhere.waitFor();

  // The number can be copied.
  await mobile.context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.getByRole("button", { name: "Copy: Application number" }).tap();
  await mobile.text("Copied").first().waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), application_id);

  // Neither back nor forward nor a reload leads to terms that are accepted already, and who comes
  // back finds the application.
  await page.waitForFunction(() => !history.state?.view, null, { timeout: PATIENCE });
  await page.goForward();
  assert.equal(await page.locator("main").getAttribute("data-screen"), "done");
  await page.reload();
  await mobile.sees("application", "Your application is in");
  await mobile.text(application_id).waitFor();
  await mobile.lookInEveryLanguage("application");
  assert.equal(mobile.count("/accept_reward"), 1);

  // Beside a loan without a challenge, too.
  await world.preOffer(user, null, { segment: "regular", amount_cents: 250_000 });
  await page.reload();
  await mobile.sees("application", "Your application is in");
  await mobile.text("There is also another pre-approved loan of MX$2,500 for you, in the app's loans.").waitFor();
});
