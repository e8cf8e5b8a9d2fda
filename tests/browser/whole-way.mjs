// From the offer to the application: what the client sees, taps and may do wrong.

import assert from "node:assert/strict";
import { PATIENCE, journey } from "./browser.mjs";

await journey(async ({ world, phone }) => {
  const promotion = await world.promotion({
    target_rides: 4,
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
  await mobile.sees("offer", "A MX$1,000 loan for your rides");
  assert.equal(page.url(), `${world.pages}/app`);
  for (const condition of ["Complete 4 rides in 14 days", "Each with a fare of MX$50 or more", "At most 50 rides a day count", "Rides in Mexico", "Only rides of the kind city", "Then claim your loan within 7 days"]) {
    await mobile.text(condition).waitFor();
  }
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
  await mobile.text("4 rides to go").waitFor();
  await mobile.text("None yet. A ride shows up here moments after it ends.").waitFor();

  // Rides move it without a reload, and one that does not count says why.
  await mobile.mark();
  await world.ride(user, { amount_cents: 4_200 });
  await world.ride(user, { service_type: "delivery" });
  await world.ride(user, { currency_code: "USD", amount_cents: 900 });
  await world.ride(user);
  const ring = page.getByRole("progressbar");
  await page.locator('[role="progressbar"][aria-valuenow="1"]').waitFor();
  assert.equal(await ring.getAttribute("aria-valuetext"), "1 of 4 rides");
  await mobile.text("The fare is below MX$50").waitFor();
  await mobile.text("Another kind of ride; city counts").waitFor();
  await mobile.text("Paid in USD; only MXN counts").waitFor();
  await mobile.text("Counted").waitFor();
  assert.equal(await page.locator("#says").textContent(), "1 of 4 rides");
  await world.ride(user);
  await world.ride(user, { amount_cents: 8_250 });
  await page.locator('[role="progressbar"][aria-valuenow="3"]').waitFor();
  await mobile.text("1 ride to go").waitFor();
  await mobile.text("MX$82.50").waitFor();
  await mobile.assertNotReloaded();
  await mobile.lookInEveryLanguage("progress");

  // All rides, more than a page of them; back by the browser's button and by the page's.
  for (let number = 0; number < 60; number++) await world.ride(user, { amount_cents: 100 + number });
  await mobile.button("Show all rides").tap();
  await mobile.sees("rides", "All rides");
  await page.goBack();
  await mobile.sees("progress");
  await page.waitForFunction(
    async ([path, token]) => {
      const answer = await fetch(path, { headers: { authorization: `Bearer ${token}` } });
      return (await answer.json()).items.length > 65;
    },
    [`${call("rides")}?limit=200`, user.token],
  );
  await page.reload();
  await mobile.sees("progress");
  await mobile.button("Show all rides").tap();
  await mobile.sees("rides");
  await page.locator(".ride:nth-child(50)").waitFor();
  assert.equal(await page.locator(".ride").count(), 50);
  await mobile.look("rides");
  await mobile.doubleTap("Show more");
  await page.locator(".ride:nth-child(66)").waitFor();
  assert.equal(await page.locator(".ride").count(), 66);
  assert.equal(await mobile.button("Show more").count(), 0);
  await mobile.button("Back").tap();
  await mobile.sees("progress");

  // The last ride.
  await mobile.mark();
  await world.ride(user);
  await mobile.sees("ready", "Your MX$1,000 loan is ready!");
  await mobile.text("You completed all 4 rides. Well done.").waitFor();
  await mobile.text("6 days, 23 hours").waitFor();
  await mobile.assertNotReloaded();
  await mobile.lookInEveryLanguage("ready");

  // Two taps on Continue show the terms, and accept nothing.
  await mobile.doubleTap("Continue");
  await mobile.sees("terms", "The terms of your loan");
  assert.equal(mobile.count("/accept_reward"), 0);
  for (const term of ["MX$1,000", "15%", "30 days", "First loan"]) await mobile.text(term).waitFor();
  assert.equal(await page.getByRole("link").getAttribute("href"), "https://example.com/terms");
  await mobile.lookInEveryLanguage("terms");
  await page.goBack();
  await mobile.sees("ready");
  await page.goForward();
  await mobile.sees("terms");
  await mobile.button("Back").tap();
  await mobile.sees("ready");

  // By the keyboard, as whoever has no finger to spare.
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await mobile.sees("terms");

  await world.pause();
  await mobile.doubleTap("Continue");
  await page.locator('button[aria-busy="true"]').waitFor();
  await mobile.doubleTap("Continue");
  await world.resume();
  await mobile.sees("done", "Done! Your application is in");
  assert.equal(mobile.count("/accept_reward"), 1);
  const known = await world.known(user);
  assert.equal(known.applications.length, 1);
  assert.equal(known.sessions[0].sequence_id, 8);
  await mobile.text(known.applications[0].application_id).waitFor();

  // Neither back nor forward nor a reload leads to terms that are accepted already.
  await page.waitForFunction(() => history.state?.rewarded && !history.state.view, null, { timeout: PATIENCE });
  await mobile.lookInEveryLanguage("done");
  await page.goForward();
  await mobile.sees("done");
  await page.reload();
  await mobile.sees("done");
  await mobile.text(known.applications[0].application_id).waitFor();
  await page.goBack();
  await mobile.sees("done");
  assert.equal(mobile.count("/accept_reward"), 1);
});
