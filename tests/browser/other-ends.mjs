// Each way it can end otherwise, and what there is to see for who has no promotion.

import assert from "node:assert/strict";
import { eventually, journey } from "./browser.mjs";

await journey(async ({ world, phone }) => {
  await Promise.all([
    theChallengeIsOver(world, phone),
    theRewardExpires(world, phone),
    theClientQuits(world, phone),
    anOperatorCancels(world, phone),
    elsewhere(world, phone),
    nobody(world, phone),
    aQuickTap(world, phone),
    theDayItEnds(world, phone),
    aRefusedCall(world, phone),
  ]);
});

/** A client who has started the promotion on their phone. */
async function started(world, phone, promotion) {
  const user = await world.preOffer(world.user(), promotion);
  const mobile = await phone();
  await mobile.open(user);
  await mobile.sees("offer");
  await mobile.tap("Get started");
  await mobile.sees("progress");
  await mobile.mark();
  return { user, mobile };
}

/** Not done in time: it settles first, for as long as a ride may still be unread. */
async function theChallengeIsOver(world, phone) {
  const promotion = await world.promotion({ target_rides: 3, challenge_period: "PT15S" });
  const { user, mobile } = await started(world, phone, promotion);
  // Ended in time, however late it is on this machine.
  const { participations } = await world.known(user);
  const completed_at = participations[0].started_at;
  await world.ride(user, { completed_at });
  // A ride that nobody can read holds the expiry until somebody has looked at it.
  await world.ride(user, { completed_at, amount_cents: "6500" });
  await mobile.page.getByRole("heading", { name: "We are settling your challenge" }).waitFor();
  await mobile.page.locator('[role="progressbar"][aria-valuenow="1"]').waitFor();
  await mobile.assertNotReloaded();
  await mobile.lookInEveryLanguage("progress", "settling");

  const unreadable = await eventually("the ride in quarantine", async () => {
    const { items } = await world.admin("GET", "/quarantine?status=OPEN");
    return items.find((item) => item.user_id === user.id);
  });
  const dismissal = JSON.stringify({ reason: "a test's" });
  await world.admin("POST", `/quarantine/${unreadable.quarantine_id}/dismiss`, dismissal);
  await mobile.sees("over", "The challenge is over");
  await mobile.page.getByText(/^You completed 1 of 3 rides\. Rides counted until .* CST\.$/).waitFor();
  await mobile.assertNotReloaded();
  await mobile.lookInEveryLanguage("over");
  await mobile.doubleTap("Continue");
  await mobile.sees("nothing", "No offer right now");
  assert.equal(mobile.count("/acknowledge"), 1);
  await mobile.lookInEveryLanguage("nothing");

  // A second chance comes with another promotion.
  await world.preOffer(user, await world.promotion());
  await mobile.tap("Look again");
  await mobile.sees("offer");
}

/** Done, and not claimed in time: the countdown ends before the client's eyes. */
async function theRewardExpires(world, phone) {
  const promotion = await world.promotion({ target_rides: 1, claim_period: "PT45S" });
  const { user, mobile } = await started(world, phone, promotion);
  await world.ride(user);
  await mobile.sees("ready");
  await mobile.tap("Continue");
  await mobile.sees("terms");
  // This service says what the rate is of.
  for (const term of ["15% of the amount, once", "MX$150", "Total to repay", "MX$1,150", "Due, in one payment"]) await mobile.text(term).waitFor();
  await mobile.page.getByText(/^\w+ \d+, \d{4}, if you accept today$/).waitFor();
  await mobile.look("terms-cost");
  // Whatever is above it gives way.
  await mobile.sees("expired", "The reward expired");
  await mobile.assertNotReloaded();
  assert.equal((await world.known(user)).applications.length, 0);
  // Why, and what now.
  await mobile.page.getByText(/^You completed the challenge and could apply for the MX\$1,000 loan until .* CST\. No application reached us in that time\.$/).waitFor();
  await mobile.text("This challenge cannot be taken again. Continue to see whether there is another offer for you.").waitFor();
  await mobile.lookInEveryLanguage("expired");
  const second = await world.promotion({ target_rides: 1 });
  await world.preOffer(user, second);
  await mobile.doubleTap("Continue");
  await mobile.sees("offer");

  await mobile.tap("Get started");
  await mobile.sees("progress");
  await world.ride(user);
  // Not the terms of the one before.
  await mobile.sees("ready");
  // Accepted on another device meanwhile: this one follows.
  await world.client(user, "POST", `/v1/promotions/${second.promotion_id}/accept_reward`);
  await mobile.sees("application");
  const { applications } = await world.known(user);
  await mobile.text(applications[0].application_id).waitFor();
}

/** Given up, after a question; the one who goes back goes on. */
async function theClientQuits(world, phone) {
  const promotion = await world.promotion({ target_rides: 3 });
  const { user, mobile } = await started(world, phone, promotion);
  await world.ride(user);
  await mobile.page.locator('[role="progressbar"][aria-valuenow="1"]').waitFor();
  await mobile.tap("Quit the challenge");
  await mobile.sees("quit", "Quit the challenge?");
  await mobile.text("You have completed 1 of 3 rides. If you quit, they are lost, and so is this pre-approved loan of MX$1,000.").waitFor();
  await mobile.lookInEveryLanguage("quit");
  await mobile.tap("Keep going");
  await mobile.sees("progress");
  assert.equal(mobile.count("/quit"), 0);

  await mobile.tap("Quit the challenge");
  await mobile.sees("quit");
  await mobile.doubleTap("Quit the challenge");
  await mobile.sees("over", "The challenge is over");
  await mobile.text("You quit the challenge after 1 of 3 rides.").waitFor();
  await mobile.assertNotReloaded();
  assert.equal(mobile.count("/quit"), 1);
  await mobile.look("over-quit");
  await mobile.tap("Continue");
  await mobile.sees("nothing");
  // Going back leads to no question that is answered already.
  await mobile.page.goForward();
  assert.equal(await mobile.page.locator("main").getAttribute("data-screen"), "nothing");
}

/** Cancelled by an operator while the client looks, and while the client decides on the terms. */
async function anOperatorCancels(world, phone) {
  const cancel = (user, { promotion_id }) =>
    world.admin("POST", `/users/${user.id}/participations/${promotion_id}:cancel`, JSON.stringify({ reason: "a test's" }));
  const said = "We have cancelled your challenge. If you have questions about it, please ask the support in the app.";
  const promotion = await world.promotion({ target_rides: 1 });
  const { user, mobile } = await started(world, phone, promotion);
  await cancel(user, promotion);
  await mobile.sees("over");
  await mobile.text(said).waitFor();
  await mobile.look("over-cancelled");

  const second = await world.promotion({ target_rides: 1 });
  await world.preOffer(user, second);
  await mobile.tap("Continue");
  await mobile.sees("offer");
  await mobile.tap("Get started");
  await mobile.sees("progress");
  await world.ride(user);
  await mobile.sees("ready");
  await mobile.tap("Continue");
  await mobile.sees("terms");
  await cancel(user, second);
  await mobile.sees("over");
  await mobile.text(said).waitFor();
}

/** A loan without a challenge; an offer that goes while it is looked at. */
async function elsewhere(world, phone) {
  const promotion = await world.promotion();
  const user = await world.preOffer(world.user(), null, { segment: "regular" });
  const mobile = await phone();
  await mobile.open(user);
  await mobile.sees("regular", "A loan of MX$1,000 is waiting");
  await mobile.lookInEveryLanguage("regular");
  await mobile.page.goto("about:blank");

  const other = await world.preOffer(world.user(), promotion);
  await mobile.open(other);
  await mobile.sees("offer");
  await world.admin("PATCH", `/promotions/${promotion.promotion_id}`, JSON.stringify({ active: false }));
  await mobile.tap("Get started");
  await mobile.sees("nothing");
  assert.equal(await mobile.page.locator("#says").textContent(), "This challenge is no longer offered.");
  await mobile.page.locator("main").getByText("This challenge is no longer offered.").waitFor();
  await mobile.look("nothing-why");

  // Started on another device: this one shows where it stands.
  const third = await world.preOffer(world.user(), await world.promotion());
  await mobile.page.goto("about:blank");
  await mobile.open(third);
  await mobile.sees("offer");
  const { promotions } = await world.admin("GET", "/stats");
  const newest = Math.max(...promotions.map((promotion) => promotion.promotion_id));
  await world.client(third, "POST", `/v1/promotions/${newest}/start`);
  await mobile.tap("Get started");
  await mobile.sees("progress");
}

/** Without a token, with one that has run out, and with a new one after that. */
async function nobody(world, phone) {
  const mobile = await phone();
  await mobile.page.goto(`${world.pages}/app`);
  await mobile.sees("signIn", "Please open this page in the app");
  await mobile.lookInEveryLanguage("signIn", "sign-in");

  const user = await world.preOffer(world.user(), await world.promotion());
  await mobile.page.evaluate(() => addEventListener("ride-promo:token-needed", () => (globalThis.needed = true)));
  await mobile.page.evaluate((token) => (location.hash = `token=${token}`), world.token(user.id, -600));
  await mobile.sees("signedOut", "Your access has run out");
  assert.equal(await mobile.page.evaluate(() => globalThis.needed), true);
  await mobile.look("signed-out");
  await mobile.mark();
  await mobile.page.evaluate((token) => (location.hash = `token=${token}`), user.token);
  await mobile.sees("offer");
  await mobile.assertNotReloaded();
  assert.equal(mobile.page.url(), `${world.pages}/app`);

  // Broken on its way, signed for another service, or no token at all: each time it says so.
  for (const broken of [user.token.slice(0, -9), "eyJhbGciOi", ""]) {
    await mobile.page.evaluate((token) => (location.hash = `token=${token}`), broken);
    await mobile.sees("brokenToken", "This link does not work");
    await mobile.page.evaluate((token) => (location.hash = `token=${token}`), user.token);
    await mobile.sees("offer");
  }
  await mobile.page.evaluate(() => (location.hash = "token=broken"));
  await mobile.sees("brokenToken");
  await mobile.look("broken-token");
}

/** A tap in a screen's first moment counts; the rest of a double tap does not. */
async function aQuickTap(world, phone) {
  const promotion = await world.promotion();
  const mobile = await phone();
  await mobile.page.goto(`${world.pages}/app`);
  await mobile.sees("signIn");
  const user = await world.preOffer(world.user(), promotion);
  await mobile.page.evaluate(() => {
    // Past the screen that says that it loads: the first one with a button is tapped at once.
    const main = document.querySelector("main");
    new MutationObserver((_, observer) => {
      const button = main.querySelector(".primary");
      if (!button) return;
      observer.disconnect();
      button.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true, detail: 1 }));
    }).observe(main, { childList: true });
  });
  await mobile.page.evaluate((token) => (location.hash = `token=${token}`), user.token);
  await mobile.sees("progress");
  assert.equal(mobile.count("/start"), 1);

  // After a tap on the screen before, a tap at another place counts at once as well.
  const second = await world.promotion({ target_rides: 1 });
  const other = await world.preOffer(world.user(), second);
  await mobile.page.evaluate((token) => (location.hash = `token=${token}`), other.token);
  await mobile.sees("offer");
  await mobile.tap("Get started");
  await mobile.sees("progress");
  await world.ride(other);
  await mobile.sees("ready");
  await mobile.tapWhatComes({ elsewhere: true });
  await mobile.tap("Continue");
  await mobile.sees("done");
}

/** An offer that ends at midnight by the phone's clock; a rate of which it is said what it is of. */
async function theDayItEnds(world, phone) {
  const promotion = await world.promotion({ max_rides_per_day: 3, day_boundary_timezone: "Asia/Tokyo" });
  const midnight = { valid_until: "2037-12-31T06:00:00Z" };
  const user = await world.preOffer(world.user(), promotion, midnight);
  const mobile = await phone();
  await mobile.open(user);
  await mobile.sees("offer");
  await mobile.text("You can start through December 30, 2037. The challenge can be taken once.").waitFor();
  await mobile.text("At most 3 rides a day count; the day is that of Tokyo (GMT+09:00)").waitFor();
}

/** A refused call says by which number the support finds it. */
async function aRefusedCall(world, phone) {
  const user = await world.preOffer(world.user(), await world.promotion());
  const mobile = await phone();
  await mobile.open(user);
  await mobile.sees("offer");
  const problem = { type: "/problems/forbidden", title: "Not allowed", status: 403 };
  const requestId = "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b77";
  await mobile.page.route("**/start", (route) =>
    route.fulfill({ status: 403, headers: { "x-request-id": requestId }, contentType: "application/problem+json", body: JSON.stringify(problem) }),
  );
  await mobile.tap("Get started");
  await mobile.text("This cannot be done right now. Please ask the support in the app.").waitFor();
  await mobile.text(requestId).waitFor();
  await mobile.context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await mobile.page.getByRole("button", { name: "Copy: Number for the support" }).tap();
  await mobile.text("Copied").first().waitFor();
  assert.equal(await mobile.page.evaluate(() => navigator.clipboard.readText()), requestId);
  await mobile.look("refused");
}
