// Where screens are shown: one at a time, announced, with the focus on its heading.

import { setText } from "./dom.js";

/** How long a new screen takes no taps, in milliseconds: they were meant for the one before. */
const FRESH = 500;

/** A connection has to be away for so long, in milliseconds, before anybody is told. */
const PATIENCE = 1_500;

export class Stage {
  #main = document.querySelector("main");
  #link = document.querySelector("#link");
  #says = document.querySelector("#says");
  #language;
  #shown = null;
  #fresh;
  #linkTimer;

  /** @param {import("./i18n.js").Language} language */
  constructor(language) {
    this.#language = language;
    // The second tap of a double tap may come down on the next screen, and means nothing there:
    // it neither presses what is under it nor takes the focus. Keys and screen readers are never
    // that fast by mistake; their clicks have no `detail`.
    for (const type of ["mousedown", "click"]) {
      this.#main.addEventListener(type, (event) => this.#isFresh(event) && swallow(event), { capture: true });
    }
  }

  #isFresh(event) {
    return event.detail > 0 && this.#main.dataset.fresh !== undefined;
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
    this.#main.dataset.fresh = "";
    clearTimeout(this.#fresh);
    this.#fresh = setTimeout(() => delete this.#main.dataset.fresh, FRESH);
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
    if (state === "lost") this.#linkTimer = setTimeout(show, PATIENCE);
    else show();
  }
}

function swallow(event) {
  event.preventDefault();
  event.stopPropagation();
}
