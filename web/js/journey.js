// What happens: which screen is shown when, and what its buttons do.

import { Problem, newKey } from "./api.js";
import { follow } from "./follow.js";
import { goalsText, haveFallen } from "./goals.js";
import { pause } from "./patience.js";
import * as screens from "./screens.js";
import { tokenExpiry } from "./token.js";

/** How many rides the progress screen lists. */
const LATEST_RIDES = 5;

/** How many rides are read for it, to count those that did not count: the most of one page. */
const RIDES_READ = 200;

/** How many pages are read at one press for a list that leaves rides out. */
const MAX_PAGES = 10;

/**
 * How often the rides are read besides at every change, in milliseconds: one that did not count
 * changes nothing else.
 */
const RIDES_EVERY = 15_000;

/** Who comes back after so long, in milliseconds, is shown what is true now. */
const STALE = 60_000;

/** The screens above the one that the service has decided on, each a step of the browser's history. */
const VIEWS = { terms: "ready", rides: "progress", uncounted: "progress", quit: "progress" };

/** The views that list rides, each with which ones. */
const RIDE_LISTS = { rides: () => true, uncounted: (ride) => !ride.counted };

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
    // Calls in flight belong to the token before; their results are dropped.
    this.#flights.clear();
    if (this.#token.get() === null) this.#go({ screen: "signIn" });
    else {
      this.#render();
      await this.land().catch((error) => this.#go({ screen: "trouble", error }));
    }
  }

  // What buttons do. Each is one flight at a time: who presses again gets the one under way. -------

  /** Asks the service what to show. Where that is nothing, `why` says what became of an offer. */
  land(why = null) {
    return this.#once("land", async () => {
      const landing = await this.#api.landing();
      this.#landedAt = performance.now();
      const { screen, participation, promotion, offer, application } = landing;
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
      // To a client who has applied, the application matters most.
      if (application) return this.#go({ screen: "application", application, offer });
      this.#go(screen === "REGULAR_OFFER" ? { screen: "regular", offer } : { screen: "nothing", why });
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
        const { language } = this.#scene;
        const key = `reason.${error.body.reason}`;
        const why = language.text(language.has(key) ? key : "error.gone");
        await this.land(why);
        this.#stage.say(why);
      }
    });
  }

  /** Gives the challenge up; the client has confirmed it. */
  quit(promotionId) {
    return this.#once("quit", async () => {
      try {
        this.#stand(await this.#api.quit(promotionId));
      } catch (error) {
        // It is completed or over already.
        if (error.slug !== "challenge-not-in-progress" && error.slug !== "not-participating") throw error;
        await this.land();
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
      const { rewarded_at: created_at, reward } = accepted.participation;
      this.#go({ screen: "done", application: { ...accepted, status: "CREATED", created_at, reward } });
    } catch (error) {
      if (await this.#endedOtherwise(error)) return;
      if (error.slug !== "split-missing" || again) throw error;
      // A landing creates the split again where there is a valid pre-offer.
      await this.land();
      await this.#accept(promotionId, true);
    }
  }

  /**
   * Hands the application over to the app around this page, which continues it; an app that does
   * says so with `preventDefault`. Returns whether one did.
   */
  continueApplication({ application_id, session_id, sequence_id }) {
    const detail = { application_id, session_id, sequence_id };
    return !dispatchEvent(new CustomEvent("ride-promo:continue", { detail, cancelable: true }));
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

  /** The next page of the list of rides: further ones until there is something to show. */
  moreRides() {
    return this.#once("more rides", async () => {
      const isWanted = RIDE_LISTS[history.state?.view] ?? (() => true);
      for (let pages = 0; pages < MAX_PAGES; pages++) {
        const { participation, allRides } = this.#home;
        const page = await this.#api.rides(participation.promotion_id, { cursor: allRides?.next_cursor });
        const items = [...(allRides?.items ?? []), ...page.items];
        this.#home = { ...this.#home, allRides: { items, next_cursor: page.next_cursor } };
        if (!page.next_cursor || page.items.some(isWanted)) break;
      }
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
    const expiry = tokenExpiry(this.#token.get());
    const hasExpired = expiry !== null && expiry <= (error.serverTime ?? Date.now());
    this.#token.forget();
    this.#go({ screen: hasExpired ? "signedOut" : "brokenToken", error });
    // The app around this page may hand over a new one.
    dispatchEvent(new CustomEvent("ride-promo:token-needed"));
  }

  // Where it stands --------------------------------------------------------------------------------

  /** Shows a participation as it is now. */
  #stand(participation) {
    const { status, expired_reason: reason } = participation;
    if (status === "REWARDED") {
      // By this page, which is about to hear of it, or elsewhere.
      if (!this.#flights.has("accept")) this.land().catch((error) => this.#failed(error));
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
    this.#sayProgress(kept.participation);
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

  /** Tells a screen reader what the ring shows, where that has changed before its reader's eyes. */
  #sayProgress(before) {
    const { screen, participation } = this.#home;
    if (screen !== "progress" || !before) return;
    const { language } = this.#scene;
    const [was, is] = [goalsText(language, before), goalsText(language, participation)];
    if (haveFallen(before, participation)) this.#stage.say(`${language.text("progress.fell")} ${is}`);
    else if (was !== is) this.#stage.say(is);
    else if (participation.settling && !before.settling) this.#stage.say(language.text("settling.title"));
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
    const { screen } = this.#home;
    const view = history.state?.view;
    const isRideList = Object.hasOwn(RIDE_LISTS, view ?? "");
    // A list that is opened again shows the rides of now.
    if (!isRideList && this.#home.allRides) this.#home = { ...this.#home, allRides: null };
    if (VIEWS[view] === screen && view === "terms" && !this.#home.terms) {
      await this.#once("terms", () => this.#readTerms()).catch(() => {});
    }
    this.#render();
    if (VIEWS[view] === screen && isRideList && !this.#home.allRides) {
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
        this.#go({ screen: "over", participation: { ...participation, expired_reason: error.body.expired_reason } });
        return true;
      case "already-rewarded":
      case "challenge-not-completed":
      case "not-participating":
        await this.land();
        return true;
      default:
        return false;
    }
  }

  #failed(error) {
    if (error.status === 401) this.#refused(error);
    else this.#go({ screen: "trouble", error });
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
    const hasMoved = participation.version !== before?.version;
    if (participation.status === "IN_PROGRESS" && hasMoved) this.#readRides(participation.promotion_id, this.#following.signal);
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
      const rides = await this.#api.rides(promotionId, { limit: RIDES_READ, signal });
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
    const isDecided = !["loading", "signIn", "signedOut", "brokenToken", "done"].includes(this.#home.screen);
    if (isShown && isStale && isDecided && !isFollowed) this.land().catch(() => {});
  }
}
