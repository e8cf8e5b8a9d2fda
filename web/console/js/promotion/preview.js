// What clients would read on their phone: the offer's screen, made by the modules of the client's pages, so
// that no text is written twice. Their styles stay inside it.

import { Language } from "../../app/js/i18n.js";
import { offer } from "../../app/js/screens/challenge.js";
import { h, put } from "../dom.js";
import { language, LANGUAGES, money, t } from "../i18n.js";
import { choice, field } from "../ui/fields.js";

const STYLES = ["base", "screens", "rides", "buttons"];

/** The loan of the shown offer, in cents: the real one comes with each client's pre-offer. */
const SAMPLE_CENTS = 100_000;

/** How long the shown offer is valid. */
const SAMPLE_DAYS = 30;

let sheets;

/** The styles of the client's pages, for a part of this page instead of all of it. */
async function styles() {
  sheets ??= Promise.all(
    STYLES.map(async (name) => {
      const text = await (await fetch(new URL(`../../app/css/${name}.css`, import.meta.url))).text();
      const sheet = new CSSStyleSheet();
      sheet.replaceSync(text.replace(/^(\s*)(?::root|html)(?= \{)/gm, "$1:host"));
      return sheet;
    }),
  );
  return sheets;
}

export class ClientPreview {
  #phone = h("div", { class: "phone", inert: true });
  #inside = this.#phone.attachShadow({ mode: "open" });
  #language;
  #says = h("p", { class: "quiet small" });
  #promotion = null;

  constructor() {
    this.#language = field({ name: "preview-language", label: t("preview.language"), control: choice(Object.entries(LANGUAGES)) });
    this.#language.control.set(language());
    this.#language.control.element.addEventListener("change", () => this.#draw());
    styles().then((sheets) => (this.#inside.adoptedStyleSheets = sheets));
    this.element = h("section", { class: "card stack tight", "data-preview": true }, h("h2", {}, t("preview.title")), this.#language.element, this.#says, this.#phone);
  }

  /** @param {object} promotion as in the form; conditions that are not complete yet leave the screen as it is */
  show(promotion) {
    this.#promotion = promotion;
    this.#draw();
  }

  #draw() {
    const { conditions } = this.#promotion;
    const shown = new Language(this.#language.control.get());
    const sample = { amount_cents: SAMPLE_CENTS, currency_code: conditions?.currency_code, valid_until: new Date(Date.now() + SAMPLE_DAYS * 86_400_000).toISOString() };
    let screen;
    try {
      screen = offer({ language: shown, journey: null }, { offer: sample, promotion: this.#promotion });
    } catch {
      return; // a condition is not there yet, or not of its kind
    }
    put(this.#says, t("preview.says", { amount: money(SAMPLE_CENTS, conditions.currency_code) }));
    screen.node.setAttribute("lang", shown.code);
    this.#inside.replaceChildren(screen.node);
  }
}
