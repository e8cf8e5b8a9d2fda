// The frame: signing in, the navigation, and the page that the address names.

import { api, onSignedOut, session } from "./app.js";
import { h, newId, put, svg } from "./dom.js";
import { LANGUAGES, language, moment, setLanguage, t, word } from "./i18n.js";
import { NAVIGATION, ROUTES } from "./pages.js";
import * as oidc from "./oidc.js";
import { find, go, parse } from "./router.js";
import { tokenFromAddress } from "./session.js";
import * as settings from "./settings.js";
import { choice, field, textArea } from "./ui/fields.js";
import { problemBox } from "./ui/problem.js";
import { say } from "./ui/toast.js";

/** The first page that the token allows. */
const home = () => `#/${(NAVIGATION.find(({ scope }) => session.may(scope)) ?? NAVIGATION[0]).name}`;

/** Longest time that the browser's timers take. */
const MAX_TIMEOUT = 2 ** 31 - 1;

/** How often the service is asked for the token's rights while it is unavailable, and how long it waits between. */
const MAX_TRIES = 5;
const RETRY_AFTER = 1_000;

export class Shell {
  #root;
  #main = null;
  #showing = new AbortController();
  #ends = null;

  constructor(root) {
    this.#root = root;
  }

  start() {
    onSignedOut.call = () => this.#signOut(t("sign-in.refused"));
    addEventListener("hashchange", () => this.#arrive());
    if (oidc.isReturn()) this.#returned();
    else this.#arrive();
  }

  /** The address has changed: it brings a token, or names another page. */
  #arrive() {
    const token = tokenFromAddress();
    if (token !== null) this.#signIn(token);
    else if (session.isSignedIn) this.#show();
    else this.#signInPage();
  }

  /** Back from the provider of OpenID Connect. */
  async #returned() {
    try {
      await this.#signIn(await oidc.finish());
    } catch (error) {
      this.#signInPage(t("sign-in.provider-failed", { message: String(error.error_description ?? error.error ?? error.message) }));
    }
  }

  /** To the provider; while that is not possible, it says why. */
  async #goToProvider() {
    try {
      await oidc.begin();
    } catch (error) {
      this.#signInPage(t("sign-in.provider-failed", { message: String(error.message) }));
    }
  }

  async #signIn(token) {
    try {
      session.signIn(token);
    } catch {
      this.#signInPage(t("sign-in.broken"));
      return;
    }
    try {
      await this.#learn();
    } catch (error) {
      // A refused token has been told already.
      if (session.isSignedIn) this.#signOut(error.status === 403 ? t("sign-in.no-scope") : t("error.unreachable-short"));
      return;
    }
    clearTimeout(this.#ends);
    const left = session.expiresAt - Date.now();
    this.#ends = setTimeout(() => this.#signOut(t("sign-in.ended")), Math.min(Math.max(left, 0), MAX_TIMEOUT));
    if (location.hash === "" || location.hash === "#") history.replaceState(null, "", home());
    this.#main = null;
    this.#show();
  }

  /** Asks what the token may do; `503` for a moment, while the service fetches the keys of tokens. */
  async #learn() {
    for (let attempt = 1; ; attempt++) {
      try {
        return session.learn(await api.get("/me"));
      } catch (error) {
        if (error.status !== 503 || attempt === MAX_TRIES) throw error;
        await new Promise((resolve) => setTimeout(resolve, RETRY_AFTER));
      }
    }
  }

  #signOut(says = null) {
    if (!session.isSignedIn) return;
    session.signOut();
    clearTimeout(this.#ends);
    this.#showing.abort();
    for (const dialog of document.querySelectorAll("dialog")) dialog.close();
    this.#signInPage(says);
  }

  #signInPage(says = null) {
    this.#main = null;
    document.title = `${t("sign-in.title")} · ${t("app.name")}`;
    const token = field({ name: "token", label: t("sign-in.token"), hint: t("sign-in.hint"), control: textArea({ rows: 4, class: "mono", spellcheck: "false", autocomplete: "off" }) });
    const heading = h("h1", { tabindex: -1 }, t("sign-in.title"));
    const submit = (event) => {
      event.preventDefault();
      const given = token.control.get();
      if (given) this.#signIn(given.replace(/^Bearer\s+/i, ""));
      else token.fault(t("field.required"));
    };
    const form = h(
      "form",
      { class: "card", novalidate: true, onsubmit: submit },
      h("div", { class: "brand" }, logo(), t("app.name")),
      heading,
      says && h("p", { class: "notice warn", role: "alert" }, says),
      oidc.isConfigured() && h("button", { type: "button", class: "primary", onclick: () => this.#goToProvider() }, t("sign-in.provider")),
      token.element,
      h("button", { type: "submit", class: oidc.isConfigured() ? null : "primary" }, t("sign-in.button")),
      h("p", { class: "quiet small" }, t("sign-in.memory")),
      this.#choices(),
    );
    put(this.#root, h("main", { class: "sign-in" }, form));
    token.control.element.addEventListener("keydown", (event) => {
      if (event.key === "Enter") submit(event);
    });
    token.control.element.focus();
  }

  /** The frame around every page, once. */
  #frame() {
    if (this.#main) return;
    const restId = newId("menu");
    const side = h("header", { class: "side" });
    const menu = h("button", { type: "button", class: "menu-button", "aria-expanded": "false", "aria-controls": restId }, t("menu"));
    const toggle = (open) => {
      side.classList.toggle("open", open);
      menu.setAttribute("aria-expanded", String(open));
    };
    menu.addEventListener("click", () => toggle(!side.classList.contains("open")));
    side.addEventListener("click", (event) => event.target.closest("nav a") && toggle(false));
    const items = NAVIGATION.filter(({ scope }) => session.may(scope));
    put(
      side,
      h("div", { class: "brand" }, logo(), t("app.name")),
      menu,
      h(
        "div",
        { class: "side-rest", id: restId },
        h("nav", { "aria-label": t("menu") }, h("ul", {}, items.map(({ name }) => h("li", {}, h("a", { href: `#/${name}`, "data-page": name }, t(`nav.${name}`)))))),
        h(
          "div",
          { class: "who" },
          h(
            "div",
            { class: "small" },
            h("p", { class: "actor" }, session.actor ?? "–"),
            h("p", { class: "quiet" }, session.scopes.map((scope) => word("scope", scope)).join(", ")),
            h("p", { class: "quiet" }, t("session.until", { moment: moment(session.expiresAt) })),
          ),
          this.#choices(),
          h("button", { type: "button", onclick: () => this.#signOut() }, t("sign-out")),
        ),
      ),
    );
    this.#main = h("main", { class: "page", id: "main" });
    const skip = h("a", { class: "skip", href: "#main", onclick: (event) => (event.preventDefault(), this.#main.querySelector("h1")?.focus()) }, t("skip"));
    put(this.#root, skip, h("div", { class: "shell" }, side, this.#main));
  }

  /** Language and theme. */
  #choices() {
    const languages = choice(Object.entries(LANGUAGES), { value: language() });
    languages.element.addEventListener("change", () => {
      settings.language.set(languages.get());
      setLanguage([languages.get()]);
      this.#main = null;
      if (session.isSignedIn) this.#show();
      else this.#signInPage();
    });
    const themes = choice(["system", "light", "dark"].map((name) => [name, t(`theme.${name}`)]), { value: settings.theme.get() });
    themes.element.addEventListener("change", () => settings.theme.set(themes.get()));
    return h("div", { class: "fields" }, field({ name: "language", label: t("language"), control: languages }).element, field({ name: "theme", label: t("theme"), control: themes }).element);
  }

  /** Shows the page of the present address. */
  async #show() {
    this.#showing.abort();
    this.#showing = new AbortController();
    const { signal } = this.#showing;
    this.#frame();
    if (location.hash === "" || location.hash === "#" || location.hash === "#/") return go(home(), { replace: true });
    const address = parse(location.hash);
    const found = find(ROUTES, address);
    for (const item of this.#root.querySelectorAll("nav a[data-page]")) {
      if (item.dataset.page === address.parts[0]) item.setAttribute("aria-current", "page");
      else item.removeAttribute("aria-current");
    }
    // What was there stays until the next is ready, unless that takes a while.
    const slow = setTimeout(() => put(this.#main, h("div", { class: "inner" }, h("p", { class: "loading", role: "status" }, t("loading")))), 300);
    this.#main.setAttribute("aria-busy", "true");
    const page = await this.#made(found, signal);
    clearTimeout(slow);
    if (signal.aborted) return;
    this.#main.removeAttribute("aria-busy");
    const heading = h("h1", { tabindex: -1 }, page.title);
    document.title = `${page.title} · ${t("app.name")}`;
    const head = h(
      "div",
      { class: "head" },
      h("div", {}, page.back && h("p", { class: "crumbs" }, h("a", { href: page.back.address }, `← ${page.back.text}`)), heading, page.says && h("p", { class: "quiet" }, page.says)),
      page.actions && h("div", { class: "actions" }, page.actions),
    );
    put(this.#main, h("div", { class: "inner", "data-page": found?.route.path.join("/") ?? "" }, head, page.body));
    page.started?.();
    heading.focus({ preventScroll: true });
    if (!address.query.cursor) scrollTo(0, 0);
    say("");
  }

  async #made(found, signal) {
    if (!found) return { title: t("error.no-page"), body: h("p", {}, h("a", { href: home() }, t("error.home"))) };
    const { route, params, query } = found;
    const missing = route.scopes.find((scope) => !session.may(scope));
    if (missing) return { title: t("error.forbidden"), body: h("p", { class: "notice warn" }, t("error.scope", { scope: `ride-promo:${missing}` })) };
    try {
      return await route.page({ params, query, signal, api, refresh: () => this.#show() });
    } catch (error) {
      if (error.name === "AbortError") return { title: "", body: null };
      const isMissing = error.name === "Problem" && error.status === 404;
      const again = h("button", { type: "button", onclick: () => this.#show() }, t("try-again"));
      return { title: isMissing ? t("error.missing") : t("error.title"), body: [problemBox(error), h("div", {}, again)] };
    }
  }
}

function logo() {
  const stroke = { fill: "none", stroke: "#fff", "stroke-width": 5, "stroke-linecap": "round" };
  return svg(
    "svg",
    { viewBox: "0 0 64 64", "aria-hidden": "true" },
    svg("rect", { width: 64, height: 64, rx: 16, fill: "#0b6b4f" }),
    svg("path", { d: "M20 48c0-10 24-8 24-18 0-7-12-6-12-13", ...stroke }),
    svg("circle", { cx: 32, cy: 15, r: 5, fill: "#b9f2d8" }),
  );
}
