// Where screens are shown: one at a time, announced, with the focus on its heading.

import { setText } from "./dom.js";

/** Two taps at one place within this time are a double tap, in milliseconds. */
const DOUBLE_TAP = 350;

/** A tap so soon after a screen came up, in milliseconds, cannot be a reaction to it. */
const REACTION = 150;

/** Taps that are not further apart than this, in CSS pixels, are at one place. */
const ONE_PLACE = 32;

/** How long a connection may be lost, in milliseconds, before the page says so. */
const LINK_TIMEOUT = 1_500;

export class Stage {
  #main = document.querySelector("main");
  #link = document.querySelector("#link");
  #says = document.querySelector("#says");
  #language;
  #shown = null;
  /** When the present screen came up, and how many came up before it. */
  #shownAt = 0;
  #count = 0;
  /** The tap before: when, where, and on which screen. */
  #lastTap = null;
  #linkTimer;

  /** @param {import("./i18n.js").Language} language */
  constructor(language) {
    this.#language = language;
    // The second tap of a double tap may come down on the next screen, and means nothing there: it
    // neither presses what is under it nor takes the focus. Every other tap counts from the screen's
    // first moment. Clicks by keys and screen readers have no `detail`; they are never meant here.
    this.#main.addEventListener("mousedown", (event) => this.#isLeftOver(event) && swallow(event), { capture: true });
    this.#main.addEventListener("click", (event) => this.#tapped(event), { capture: true });
  }

  #tapped(event) {
    if (event.detail === 0) return;
    const isLeftOver = this.#isLeftOver(event);
    // A client who goes on tapping means the screen of the first tap.
    const screen = isLeftOver ? this.#lastTap.screen : this.#count;
    this.#lastTap = { at: event.timeStamp, x: event.clientX, y: event.clientY, screen };
    if (isLeftOver) swallow(event);
  }

  /** Whether a tap was meant for a screen that has gone: it repeats one that was made there. */
  #isLeftOver({ detail, timeStamp: at, clientX, clientY }) {
    const last = this.#lastTap;
    if (detail === 0 || last === null || last.screen === this.#count) return false;
    const isAtOnePlace = Math.hypot(clientX - last.x, clientY - last.y) <= ONE_PLACE;
    return isAtOnePlace && (at - last.at <= DOUBLE_TAP || at - this.#shownAt <= REACTION);
  }

  /**
   * Shows a state on its screen: the one that is there where it has the same name and can be
   * brought up to date, else a new one.
   */
  show(name, make, scene, state) {
    if (this.#shown?.name === name) {
      if (this.#shown.state === state) return;
      if (this.#shown.screen.update) {
        this.#shown.state = state;
        this.#shown.screen.update(state);
        return;
      }
    }
    this.#shown?.screen.close?.();
    const screen = make(scene, state);
    this.#shown = { name, screen, state };
    document.title = `${screen.title} · ${this.#language.text("app.name")}`;
    this.#main.dataset.screen = name;
    this.#shownAt = performance.now();
    this.#count++;
    // What was said is of the screen before.
    this.say("");
    this.#main.replaceChildren(screen.node);
    globalThis.scrollTo(0, 0);
    screen.node.querySelector("h1").focus({ preventScroll: true });
  }

  /** The name of the screen that is there. */
  get screen() {
    return this.#shown?.name ?? null;
  }

  /** Tells a screen reader what others see. */
  say(text) {
    setText(this.#says, text);
  }

  /** Says what is the matter with the connection: `null` for nothing, `lost`, `offline`. */
  link(state) {
    clearTimeout(this.#linkTimer);
    const show = () => {
      this.#link.hidden = state === null;
      setText(this.#link, state === null ? "" : this.#language.text(`link.${state}`));
    };
    if (state === "lost") this.#linkTimer = setTimeout(show, LINK_TIMEOUT);
    else show();
  }
}

function swallow(event) {
  event.preventDefault();
  event.stopPropagation();
}
