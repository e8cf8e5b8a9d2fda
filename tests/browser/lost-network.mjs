// The network goes and comes back, at the phone and at the other end; streams do not come through.

import assert from "node:assert/strict";
import { journey } from "./browser.mjs";

const OFFLINE = "No connection. This page goes on by itself as soon as it is back.";

await journey(async ({ world, phone }) => {
  const promotion = await world.promotion({ target_rides: 5 });
  const user = await world.preOffer(world.user(), promotion);
  const mobile = await phone();
  const { page, context } = mobile;
  const counts = (rides) => page.locator(`[role="progressbar"][aria-valuenow="${rides}"]`).waitFor();

  // A tap without a network waits for it.
  await mobile.open(user);
  await mobile.sees("offer");
  await context.setOffline(true);
  await mobile.text(OFFLINE).waitFor();
  await mobile.look("offline");
  await mobile.button("Get started").tap();
  await page.locator('button[aria-busy="true"]').waitFor();
  await context.setOffline(false);
  await mobile.sees("progress");
  assert.equal((await world.known(user)).participations.length, 1);
  await page.locator("#link").waitFor({ state: "hidden" });
  await world.ride(user);
  await counts(1);

  // The phone loses it while it follows.
  await mobile.mark();
  await context.setOffline(true);
  await mobile.text(OFFLINE).waitFor();
  await world.ride(user);
  await context.setOffline(false);
  await counts(2);
  await page.locator("#link").waitFor({ state: "hidden" });

  // The service goes away and comes back.
  await world.vanish();
  await mobile.text("Connecting …").waitFor();
  await world.ride(user);
  await world.return();
  await counts(3);
  await page.locator("#link").waitFor({ state: "hidden" });
  await mobile.assertNotReloaded();

  // Something on the way keeps streams back: it is long polls then.
  const other = await phone();
  const held = [];
  await other.page.route("**/progress/stream", (route) => held.push(route));
  await other.open(user);
  await other.sees("progress");
  await other.mark();
  const polled = other.page.waitForRequest((request) => request.url().includes("/progress?wait="));
  await polled;
  assert.ok(held.length >= 2, `${held.length} streams were tried`);
  await world.ride(user);
  await other.page.locator('[role="progressbar"][aria-valuenow="4"]').waitFor();
  await counts(4);
  await other.assertNotReloaded();
  await world.ride(user);
  await other.sees("ready");

  // The response to the accept is lost; the page finds out.
  await mobile.sees("ready");
  await mobile.tap("Continue");
  await mobile.sees("terms");
  await world.loseAnswer("accept_reward");
  await mobile.tap("Accept and continue");
  await mobile.sees("done");
  assert.equal(await world.answersLost(), 1);
  const known = await world.known(user);
  assert.equal(known.applications.length, 1);
  await mobile.text(known.applications[0].application_id).waitFor();
  await other.sees("application", "Your application is in");

  // Nothing answers at all when the page is opened; it helps itself when something does.
  const late = await phone();
  await late.open(await world.preOffer(world.user(), promotion));
  await late.sees("offer");
  await world.vanish();
  await late.page.evaluate(() => (location.hash = "token=anything"));
  await late.sees("trouble", "We cannot show this right now");
  await late.look("trouble");
  await late.page.evaluate((token) => (location.hash = `token=${token}`), user.token);
  await world.return();
  await late.sees("application");
});
