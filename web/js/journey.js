// What happens: which screen is shown when, and what its buttons do.

import { Problem, newKey } from "./api.js";
import { follow } from "./follow.js";
import { pause } from "./patience.js";
import * as screens from "./screens.js";

/** How many rides the progress screen lists. */
const LATEST_RIDES = 5;

/**
 * How often the rides are read besides at every change, in milliseconds: one that did not count
 * changes nothing else.
 */
const RIDES_EVERY = 15_000;

/** Who comes back after so long, in milliseconds, is shown what is true now. */
const STALE = 60_000;

/** The screens above the one that the service has decided on, each a step of the browser's history. */
const VIEWS = { terms: "ready", rides: "progress" };

/** One client's way from the landing to the end. */
export class Journey {
  #api;
  #clock;
  #token;
  #stage;
  #scene;
  /** The screen without the view above it, and what it shows. */
  #home = { screen: "loading" };
  #following = new AbortController();
  #flights = new Map();
  #key = newKey();
  #landedAt = -Infinity;
  #linkLost = false;
  /** On the way back to the screen beneath a view. */
  #leaving = false;

  /** How many rides the progress screen lists. */
  latestRides = LATEST_RIDES;

  constructor({ api, clock, language, token, stage }) {
    this.#api = api;
    this.#clock = clock;
    this.#token = token;
    this.#stage = stage;
    this.#scene = { language, clock, journey: this };
  }

  /** Begins, and listens to the browser from now on. */
  begin() {
    addEventListener("popstate", () => {
      this.#leaving = false;
      this.#viewChanged();
    });
    addEventListener("hashchange", () => this.#token.takeFromAddress() && this.#open());
    addEventListener("online", () => this.#networkChanged());
    addEventListener("offline", () => this.#networkChanged());
    document.addEventListener("visibilitychange", () => this.#cameBack());
    this.#networkChanged();
    return this.#open();
  }

  async #open() {
    this.#follow(null);
    this.#home = { screen: "loading" };
    // What is under way is of the token before, and nobody's to wait for.
    this.#flights.clear();
    if (this.#token.get() === null) this.#go({ screen: "signIn" });
    else {
      this.#render();
      await this.land().catch(() => this.#go({ screen: "trouble" }));
    }
  }

  // What buttons do. Each is one flight at a time: who presses again gets the one under way. -------

  /** Asks the service what to show. */
  land() {
    return this.#once("land", async () => {
      const landing = await this.#api.landing();
      this.#landedAt = performance.now();
      const { screen, participation, promotion, offer } = landing;
      switch (screen) {
        case "PROMO_OFFER":
          return this.#go({ screen: "offer", offer, promotion });
        case "PROMO_PROGRESS":
          return this.#go({ screen: "progress", participation });
        case "REWARD_READY":
          return this.#go({ screen: "ready", participation });
        case "CHALLENGE_OVER":
          return this.#go({ screen: "over", participation });
        case "REWARD_EXPIRED":
          return this.#go({ screen: "expired", participation });
      }
      // Who has just applied and loads the page again is not told that there is nothing.
      const rewarded = history.state?.rewarded;
      if (rewarded && (await this.#showDone(rewarded).catch(() => false))) return;
      this.#go(screen === "REGULAR_OFFER" ? { screen: "regular", offer } : { screen: "nothing" });
    });
  }

  /** Get started. */
  start(promotionId) {
    return this.#once("start", async () => {
      try {
        this.#stand(await this.#api.start(promotionId));
      } catch (error) {
        if (error.slug === "already-participated") return this.#stand(error.body.participation);
        if (error.slug !== "not-eligible" && error.slug !== "promotion-not-found") throw error;
        await this.land();
        this.#stage.say(this.#scene.language.text("error.gone"));
      }
    });
  }

  /** The terms, from the ready screen. */
  openTerms() {
    return this.#once("terms", async () => {
      if (await this.#readTerms()) this.openView("terms");
    });
  }

  /** Accepts the loan on the terms. */
  accept() {
    return this.#once("accept", async () => this.#accept(this.#home.participation.promotion_id));
  }

  async #accept(promotionId, again = false) {
    try {
      const accepted = await this.#api.acceptReward(promotionId, this.#key);
      this.#done(accepted.participation, accepted.application_id);
    } catch (error) {
      if (await this.#endedOtherwise(error)) return;
      if (error.slug !== "split-missing" || again) throw error;
      // A landing makes the split anew where there is an offer; where there is none, nobody here can.
      await this.land();
      await this.#accept(promotionId, true);
    }
  }

  /** The client has seen that it is over. */
  acknowledge(promotionId) {
    return this.#once("acknowledge", async () => {
      try {
        await this.#api.acknowledge(promotionId);
      } catch (error) {
        // It may not be over after all; the landing knows.
        if (!(error instanceof Problem) || error.passes) throw error;
      }
      await this.land();
    });
  }

  /** One step up the history: to a view above the present screen. */
  async openView(view) {
    history.pushState({ ...history.state, view }, "");
    await this.#viewChanged();
  }

  /** As the browser's own button. */
  back() {
    history.back();
  }

  /** The next page of all rides. */
  moreRides() {
    return this.#once("more rides", async () => {
      const { participation, allRides } = this.#home;
      const page = await this.#api.rides(participation.promotion_id, { cursor: allRides?.next_cursor });
      const items = [...(allRides?.items ?? []), ...page.items];
      this.#home = { ...this.#home, allRides: { items, next_cursor: page.next_cursor } };
      this.#render();
    });
  }

  /** The countdown has come to its end; the service's own clock decides. */
  async claimPeriodEnded() {
    for (let tries = 0; tries < 10 && this.#home.screen === "ready"; tries++) {
      await this.land().catch(() => {});
      if (this.#home.screen === "ready") await pause(1_000);
    }
  }

  #once(name, work) {
    let flight = this.#flights.get(name);
    if (!flight) {
      flight = work()
        .catch((error) => this.#refused(error))
        .finally(() => this.#flights.get(name) === flight && this.#flights.delete(name));
      this.#flights.set(name, flight);
    }
    return flight;
  }

  /** Nothing goes on without a token; everything else is the button's to say. */
  #refused(error) {
    if (error.status !== 401) throw error;
    this.#token.forget();
    this.#go({ screen: "signedOut" });
    // The app around this page may hand over a new one.
    dispatchEvent(new CustomEvent("ride-promo:token-needed"));
  }

  // Where it stands --------------------------------------------------------------------------------

  /** Shows a participation as it is now. */
  #stand(participation) {
    const { status, expired_reason: reason } = participation;
    if (status === "REWARDED") {
      this.#showDone(participation.promotion_id).catch((error) => this.#failed(error));
    } else if (status === "EXPIRED") {
      this.#go({ screen: reason === "REWARD_NOT_CLAIMED" ? "expired" : "over", participation });
    } else {
      this.#go({ screen: status === "COMPLETED" ? "ready" : "progress", participation });
    }
  }

  #go(home) {
    const { promotion_id: before } = this.#home.participation ?? {};
    const { promotion_id: now } = home.participation ?? {};
    // What is known of the same participation besides stays.
    const kept = before === now && home.screen === this.#home.screen ? this.#home : {};
    this.#home = { ...kept, ...home };
    const view = history.state?.view;
    if (view && VIEWS[view] !== home.screen) this.#leaveView();
    this.#render();
    if (home.screen === "progress" || home.screen === "ready") {
      this.#follow(home.participation);
      if (view) this.#viewChanged();
    } else {
      this.#follow(null);
    }
  }

  /** Takes away the view above a screen that has gone: going back must not lead to it. */
  #leaveView() {
    if (this.#leaving) return;
    this.#leaving = true;
    history.back();
  }

  #render() {
    const { screen } = this.#home;
    const view = history.state?.view;
    const above = VIEWS[view] === screen && (view !== "terms" || this.#home.terms);
    const name = above ? view : screen;
    this.#stage.show(name, screens[name], this.#scene, this.#home);
  }

  /** The history has moved, or the screen beneath a view has come up. */
  async #viewChanged() {
    this.#remember();
    const { screen } = this.#home;
    const view = history.state?.view;
    // Whoever comes again to the list of rides sees those of now.
    if (view !== "rides" && this.#home.allRides) this.#home = { ...this.#home, allRides: null };
    if (VIEWS[view] === screen && view === "terms" && !this.#home.terms) {
      await this.#once("terms", () => this.#readTerms()).catch(() => {});
    }
    this.#render();
    if (VIEWS[view] === screen && view === "rides" && !this.#home.allRides) {
      await this.moreRides().catch((error) => this.#failed(error));
    }
  }

  async #readTerms() {
    try {
      const terms = await this.#api.getReward(this.#home.participation.promotion_id);
      this.#home = { ...this.#home, terms };
      return true;
    } catch (error) {
      if (await this.#endedOtherwise(error)) return false;
      throw error;
    }
  }

  /** Whether a refused claim has an explanation that is a screen of its own. */
  async #endedOtherwise(error) {
    const { participation } = this.#home;
    switch (error.slug) {
      case "reward-expired":
        this.#go({ screen: "expired", participation });
        return true;
      case "challenge-over":
        this.#go({ screen: "over", participation });
        return true;
      case "already-rewarded":
        this.#done(participation, error.body.application.application_id);
        return true;
      case "challenge-not-completed":
      case "not-participating":
        await this.land();
        return true;
      default:
        return false;
    }
  }

  #done(participation, applicationId) {
    const { reward, promotion_id: promotionId } = participation;
    this.#go({ screen: "done", reward, applicationId, promotionId });
    // Else when the terms are left.
    if (!this.#leaving) this.#remember();
  }

  /** For whoever loads the page again: the landing no longer knows that anything is done. */
  #remember() {
    const { screen, promotionId } = this.#home;
    if (screen === "done") history.replaceState({ rewarded: promotionId }, "");
  }

  /** Shows a loan that was applied for elsewhere or earlier; false where it was not. */
  async #showDone(promotionId) {
    const { participation } = await this.#api.poll(promotionId);
    if (participation.status !== "REWARDED") return false;
    try {
      await this.#api.getReward(promotionId);
      return false;
    } catch (error) {
      if (error.slug !== "already-rewarded") throw error;
      this.#done(participation, error.body.application.application_id);
      return true;
    }
  }

  #failed(error) {
    if (error.status === 401) this.#refused(error);
    else this.#go({ screen: "trouble" });
  }

  // Following it -----------------------------------------------------------------------------------

  #follow(participation) {
    const { promotionId } = this.#following;
    if (participation && promotionId === participation.promotion_id) return;
    this.#following.abort();
    this.#linkLost = false;
    this.#showLink();
    this.#following = new AbortController();
    if (!participation) return;
    const { signal } = this.#following;
    this.#following.promotionId = participation.promotion_id;
    const options = {
      api: this.#api,
      clock: this.#clock,
      promotionId: participation.promotion_id,
      known: participation,
      signal,
      onState: (next) => this.#moved(next),
      onLink: (live) => {
        if (signal.aborted) return;
        this.#linkLost = !live;
        this.#showLink();
      },
    };
    follow(options).catch((error) => signal.aborted || this.#failed(error));
    this.#watchRides(participation.promotion_id, signal);
  }

  #moved(participation) {
    const before = this.#home.participation;
    this.#stand(participation);
    if (participation.status !== "IN_PROGRESS") return;
    if (participation.rides_completed !== before?.rides_completed) {
      const { rides_completed: done, rides_target: count } = participation;
      this.#stage.say(this.#scene.language.text("progress.ring", { done, count }));
      this.#readRides(participation.promotion_id, this.#following.signal);
    } else if (participation.settling) {
      this.#stage.say(this.#scene.language.text("settling.title"));
    }
  }

  async #watchRides(promotionId, signal) {
    while (!signal.aborted) {
      if (this.#home.screen === "progress" && document.visibilityState === "visible") {
        await this.#readRides(promotionId, signal);
      }
      await pause(RIDES_EVERY, signal).catch(() => {});
    }
  }

  async #readRides(promotionId, signal) {
    try {
      const rides = await this.#api.rides(promotionId, { limit: LATEST_RIDES + 1, signal });
      if (signal.aborted || this.#home.screen !== "progress") return;
      this.#home = { ...this.#home, rides };
      this.#render();
    } catch {
      // The list is an extra; the next look may work.
    }
  }

  // The phone --------------------------------------------------------------------------------------

  #networkChanged() {
    this.#showLink();
    if (navigator.onLine && this.#home.screen === "trouble") this.land().catch(() => {});
  }

  #showLink() {
    if (!navigator.onLine) this.#stage.link("offline");
    else this.#stage.link(this.#linkLost ? "lost" : null);
  }

  #cameBack() {
    const isShown = document.visibilityState === "visible";
    const isStale = performance.now() - this.#landedAt > STALE;
    const isFollowed = ["progress", "ready"].includes(this.#home.screen);
    const isDecided = !["loading", "signIn", "signedOut", "done"].includes(this.#home.screen);
    if (isShown && isStale && isDecided && !isFollowed) this.land().catch(() => {});
  }
}
