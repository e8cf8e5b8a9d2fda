// Each way it can end otherwise, and what there is to see for who has no promotion.

import assert from "node:assert/strict";
import { eventually, journey } from "./browser.mjs";

await journey(async ({ world, phone }) => {
  await Promise.all([
    theChallengeIsOver(world, phone),
    theRewardExpires(world, phone),
    theClientQuits(world, phone),
    severalGoals(world, phone),
    outsideTheHours(world, phone),
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
  // A record that cannot be read holds the expiry until an operator resolves it.
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
  // The expiry replaces the terms.
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

/** A bar for each goal beside the ring; a ride that is taken back lowers them all, and it says why. */
async function severalGoals(world, phone) {
  const promotion = await world.promotion({
    target_rides: 3,
    target_days: 2,
    target_amount_cents: 20_000,
    min_distance_m: 1_000,
    day_boundary_timezone: "America/Mexico_City",
  });
  const user = await world.preOffer(world.user(), promotion);
  const mobile = await phone();
  const { page } = mobile;
  await mobile.open(user);
  await mobile.sees("offer");
  for (const condition of ["On at least 2 different days", "With fares of MX$200 or more in all", "1 km or longer"]) await mobile.text(condition).waitFor();
  await mobile.tap("Get started");
  await mobile.sees("progress");
  const shows = async (rides, days, fares, said) => {
    for (const [text, now, max] of [[rides, rides[0], "3"], [days, days[0], "2"], [fares, null, "20000"]]) {
      const bar = page.locator(`[role="progressbar"][aria-valuetext="${text}"]`);
      await bar.waitFor();
      assert.equal(await bar.getAttribute("aria-valuemax"), max);
      if (now) assert.equal(await bar.getAttribute("aria-valuenow"), now);
    }
    const all = [rides, days, fares].join("; ");
    await page.waitForFunction((text) => document.querySelector("#says").textContent === text, said ? `${said} ${all}` : all);
  };
  await mobile.mark();
  const taken = { distance_m: 5_200, ride_id: crypto.randomUUID() };
  await world.ride(user, taken);
  await shows("1 of 3 rides", "1 of 2 days with a ride", "MX$65 of MX$200 in fares");
  await world.ride(user, { distance_m: 800, amount_cents: 8_100 });
  await world.ride(user, { amount_cents: 8_200 });
  await world.ride(user, { distance_m: 1_000, amount_cents: 9_000 });
  await shows("2 of 3 rides", "1 of 2 days with a ride", "MX$155 of MX$200 in fares");
  await mobile.text("800 m long; 1 km or more counts").waitFor();
  await mobile.text("Its distance is not known; 1 km or more counts").waitFor();
  await mobile.assertNotReloaded();
  await mobile.lookInEveryLanguage("progress", "goals", {
    "es-MX": ["1 de 2 días con un viaje", "De 800 m; cuenta a partir de 1 km", "No se conoce su distancia; cuenta a partir de 1 km"],
    ru: ["1 из 2 дней с поездкой", "Длина 800 м, засчитывается от 1 км", "Длина неизвестна, засчитывается от 1 км"],
  });

  await world.publish(user, JSON.stringify({ reversed_ride_id: taken.ride_id, user_id: user.id }));
  const fell = "A ride was canceled or refunded afterwards, so it does not count any more.";
  await shows("1 of 3 rides", "1 of 2 days with a ride", "MX$90 of MX$200 in fares", fell);
  assert.ok(await mobile.text(fell).isVisible());
  await mobile.text("Canceled or refunded afterwards").waitFor();
  await mobile.text("2 rides to go").waitFor();
  await mobile.button("3 rides did not count. Why?").waitFor();
  assert.equal(await page.locator("main").getAttribute("data-screen"), "progress");
  await mobile.assertNotReloaded();
  await mobile.look("fell");

  // Once it rises again, that is over. The rides are reached before the days, and there is no end yet.
  for (const amount_cents of [6_000, 6_500]) await world.ride(user, { distance_m: 3_000, amount_cents });
  await shows("3 of 3 rides", "1 of 2 days with a ride", "MX$200 of MX$200 in fares");
  assert.equal(await mobile.text(fell).isVisible(), false);
  assert.equal(await page.locator(".to-go").isVisible(), false);
  await mobile.assertNotReloaded();
}

/** A ride at a time of the week that does not count, by another clock than the phone's. */
async function outsideTheHours(world, phone) {
  const days = ["SU", "MO", "TU", "WE", "TH", "FR", "SA"];
  const threeDaysAhead = days[(new Date().getUTCDay() + 3) % 7];
  const hours = [{ days: [threeDaysAhead], from: "06:00", to: "10:00" }];
  const promotion = await world.promotion({ hours, day_boundary_timezone: "Asia/Tokyo" });
  const { user, mobile } = await started(world, phone, promotion);
  await world.ride(user);
  const why = "1 ride did not count. Why?";
  await mobile.button(why).waitFor();
  await mobile.tap(why);
  await mobile.sees("uncounted");
  await mobile.page.getByText(/^Finished \w{3},? [\d:]+\s[AP]M by the time of Tokyo \(GMT\+09:00\); rides count only \w{3} 6:00\sAM – 10:00\sAM$/).waitFor();
  await mobile.lookInEveryLanguage("uncounted", "uncounted-hours", {
    "es-MX": [/^Terminó .+, según la hora de Tokyo \(GMT\+09:00\); los viajes cuentan solo .+$/],
    ru: [/^Закончилась .+ по времени Tokyo \(GMT\+09:00\), засчитываются только поездки .+$/],
  });
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
