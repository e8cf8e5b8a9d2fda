// The browser, the phones in it, and what is looked at on every screen.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { chromium } from "playwright-core";

import { Desk } from "./desk.mjs";
import { World } from "./world.mjs";

/** How long anything may take to come up, on a machine that runs other tests beside. */
export const PATIENCE = 60_000;

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const SCREENSHOTS = process.env.UPDATE_SCREENSHOTS ? new URL("../../docs/screens/", import.meta.url).pathname : null;

const PHONE = { width: 390, height: 844 };

/** Tells a journey: `tell({world, phone, desk})`. A failure ends the process with 1. */
export async function journey(tell) {
  const world = new World(JSON.parse(process.argv[2]));
  const browser = await chromium.launch({
    executablePath: browserPath(),
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
  const opened = [];
  const open = (kind) => async (options) => {
    opened.push(await kind.open(browser, world, options));
    return opened.at(-1);
  };
  let failed = false;
  try {
    await tell({ world, phone: open(Phone), desk: open(Desk) });
    for (const one of opened) one.assertWell();
  } catch (error) {
    failed = true;
    console.error(error);
    for (const [number, one] of opened.entries()) await one.describe(join(world.failures, `browser-${number}.png`));
  }
  await browser.close();
  process.exit(failed ? 1 : 0);
}

function browserPath() {
  const named = process.env.RIDE_PROMO_TEST_BROWSER;
  if (named) return named;
  for (const name of ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"]) {
    for (const dir of (process.env.PATH ?? "").split(delimiter)) {
      if (existsSync(join(dir, name))) return join(dir, name);
    }
  }
  throw new Error("no Chromium: scripts/setup.sh test installs it, or RIDE_PROMO_TEST_BROWSER names one");
}

/** Asks again and again until there is an answer, at most as long as anything may take. */
export async function eventually(what, ask) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    if (Date.now() > end) throw new Error(`${what} did not come within ${PATIENCE} ms`);
    await setTimeout(200);
  }
}

/** What axe finds on the present page, by every rule or by these. */
export async function violations(page, rules = null) {
  await page.evaluate(AXE);
  const found = await page.evaluate((rules) => axe.run(document, { resultTypes: ["violations"], ...(rules && { runOnly: rules }) }), rules);
  return found.violations.map(({ id, help, nodes }) => `${id}: ${help}\n    ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join("\n    ")}`);
}

/** A phone on which the pages are open. */
export class Phone {
  /** Requests to the API, as `POST /v1/landing`. */
  calls = [];
  #faults = [];

  static async open(browser, world, { locale = "en-US", ...options } = {}) {
    const context = await browser.newContext({
      viewport: PHONE,
      isMobile: true,
      hasTouch: true,
      locale,
      timezoneId: "America/Mexico_City",
      reducedMotion: "reduce",
      ...options,
    });
    context.setDefaultTimeout(PATIENCE);
    const phone = new Phone();
    phone.world = world;
    phone.context = context;
    phone.page = await context.newPage();
    phone.#listen();
    return phone;
  }

  #listen() {
    const { page, world } = this;
    page.on("pageerror", (error) => this.#faults.push(`an uncaught error: ${error.stack ?? error}`));
    page.on("console", (message) => {
      // A refused or lost call is logged by the browser itself, and is the journey's to judge.
      const ofNetwork = message.text().startsWith("Failed to load resource");
      if (["error", "warning"].includes(message.type()) && !ofNetwork) this.#faults.push(`said in the console: ${message.text()}`);
    });
    page.on("request", (request) => {
      const url = new URL(request.url());
      if (url.origin !== world.pages) this.#faults.push(`asked another host: ${url}`);
      if (/[?&]token=|eyJ/.test(url.href)) this.#faults.push(`a token in an address: ${url}`);
      if (url.pathname.startsWith("/v1/")) this.calls.push(`${request.method()} ${url.pathname}`);
    });
  }

  /** How often a call was sent; `call` is the end of its address. */
  count(call) {
    return this.calls.filter((made) => made.endsWith(call)).length;
  }

  /** Opens the pages as an app does that hands over its client's token. */
  async open(user, query = "") {
    await this.page.goto(`${this.world.pages}/app${query}#token=${user.token}`);
    // Would be gone after a reload.
    await this.mark();
  }

  mark() {
    return this.page.evaluate(() => (globalThis.unreloaded = true));
  }

  async assertNotReloaded() {
    assert.equal(await this.page.evaluate(() => globalThis.unreloaded), true, "the page was loaded again");
  }

  /** Waits for a screen; it has the focus on its heading and says its name in the title. */
  async sees(screen, heading = null) {
    const { page } = this;
    await page.locator(`main[data-screen="${screen}"]`).waitFor();
    const seen = await page.evaluate(() => ({
      heading: document.querySelector("h1").textContent,
      headings: document.querySelectorAll("h1").length,
      focused: document.activeElement === document.querySelector("h1"),
      title: document.title,
    }));
    assert.equal(seen.headings, 1);
    if (heading !== null) assert.equal(seen.heading, heading);
    assert.ok(seen.title.startsWith(seen.heading), seen.title);
    assert.ok(seen.focused, `the heading of ${screen} has the focus`);
    return seen.heading;
  }

  button(name) {
    return this.page.getByRole("button", { name, exact: true });
  }

  /** A tap after the screen was read, not the second one of a double tap. */
  async tap(name) {
    await setTimeout(400);
    await this.button(name).tap();
  }

  /** Two taps after the screen was read, faster than any response. */
  async doubleTap(name) {
    await setTimeout(400);
    const button = this.button(name);
    await button.scrollIntoViewIfNeeded();
    const box = await button.boundingBox();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    await this.page.touchscreen.tap(x, y);
    await this.page.touchscreen.tap(x, y);
  }

  /**
   * The moment the next screen is there, its button is tapped: where the last tap was, as by somebody
   * who goes on tapping, or, with `elsewhere`, at another place, as by somebody who waited for it.
   */
  tapWhatComes({ elsewhere = false } = {}) {
    return this.page.evaluate((elsewhere) => {
      const main = document.querySelector("main");
      let last = { clientX: 0, clientY: 0 };
      document.addEventListener("click", ({ clientX, clientY }) => (last = { clientX, clientY }), { capture: true });
      const tap = () => {
        const place = elsewhere ? { clientX: last.clientX + 60, clientY: last.clientY } : last;
        main.querySelector(".primary").dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true, detail: 1, ...place }));
      };
      new MutationObserver((_, observer) => (observer.disconnect(), tap())).observe(main, { childList: true });
    }, elsewhere);
  }

  text(text) {
    return this.page.getByText(text, { exact: true });
  }

  /**
   * Looks at the present screen with other eyes: it must be usable with a screen reader, in both
   * themes, and nothing may be cut off on the narrowest phone, with letters twice as large, in any
   * language. Takes the pictures for the documentation where they are asked for.
   */
  async look(name) {
    const { page } = this;
    const theme = (colorScheme) => page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    for (const scheme of ["light", "dark"]) {
      await theme(scheme);
      await this.#assertAccessible(`${name}, ${scheme}`);
      if (SCREENSHOTS) {
        mkdirSync(SCREENSHOTS, { recursive: true });
        const suffix = scheme === "dark" ? "-dark" : "";
        await page.screenshot({ path: join(SCREENSHOTS, `${name}${suffix}.png`), caret: "hide" });
      }
    }
    await theme("light");
    await this.#assertFits(name);
  }

  /**
   * The same screen in every language, each loaded again; ends in the first one. `said` has texts that
   * must be there, by language: strings that are the whole of an element's text, or expressions.
   */
  async lookInEveryLanguage(screen, name = screen, said = {}) {
    await this.look(name);
    const { page } = this;
    const before = page.url();
    for (const [tag, code] of [["es-MX", "es-MX"], ["ru", "ru"]]) {
      await page.evaluate((tag) => history.replaceState(history.state, "", `?lang=${tag}`), tag);
      await page.reload();
      await this.sees(screen);
      assert.equal(await page.locator("html").getAttribute("lang"), code);
      for (const text of said[tag] ?? []) await page.getByText(text, { exact: true }).first().waitFor();
      await this.#assertFits(`${name}, ${tag}`);
      if (SCREENSHOTS && ["offer", "progress", "ready"].includes(name)) {
        await page.screenshot({ path: join(SCREENSHOTS, `${name}-${tag.slice(0, 2)}.png`), caret: "hide" });
      }
    }
    await page.evaluate((url) => history.replaceState(history.state, "", url), before);
    await page.reload();
    await this.sees(screen);
    await this.mark();
  }

  async #assertAccessible(where) {
    assert.deepEqual(await violations(this.page), [], where);
    // What is pressed is large enough for a thumb.
    const small = await this.page.evaluate(() =>
      [...document.querySelectorAll("button, a, summary")]
        .filter((element) => element.checkVisibility())
        .map((element) => [element.textContent, element.getBoundingClientRect()])
        .filter(([, box]) => box.width < 44 || box.height < 44)
        .map(([text, box]) => `${text}: ${box.width} x ${box.height}`),
    );
    assert.deepEqual(small, [], `${where}: too small to press`);
  }

  async #assertFits(where) {
    const { page } = this;
    for (const [width, size] of [[320, "100%"], [320, "200%"], [360, "100%"], [390, "100%"]]) {
      await page.setViewportSize({ ...PHONE, width });
      const clipped = await page.evaluate((size) => {
        document.documentElement.style.fontSize = size;
        const edge = document.documentElement.clientWidth;
        const clipped = [...document.querySelectorAll("main *, #link")].filter((element) => {
          if (!element.checkVisibility() || element.closest(".hidden, svg")) return false;
          const box = element.getBoundingClientRect();
          const cut = getComputedStyle(element).overflowX !== "visible" && element.scrollWidth > element.clientWidth;
          return cut || box.left < -0.5 || box.right > edge + 0.5;
        });
        const wide = document.scrollingElement.scrollWidth > edge;
        document.documentElement.style.fontSize = "";
        return [...(wide ? ["the page scrolls sideways"] : []), ...clipped.map((element) => element.outerHTML.slice(0, 200))];
      }, size);
      assert.deepEqual(clipped, [], `${where}: cut off at ${width} px and letters of ${size}`);
    }
  }

  /** Nothing went wrong that a screen does not show. */
  assertWell() {
    assert.deepEqual(this.#faults, []);
  }

  /** Prints what helps to find the cause of a failure, and takes a picture. */
  async describe(path) {
    try {
      console.error(`--- a phone at ${this.page.url()}, its picture ${path}`);
      console.error(await this.page.locator("body").innerText({ timeout: 2_000 }));
      console.error([...this.#faults, ...this.calls.slice(-20)].join("\n"));
      await this.page.screenshot({ path, timeout: 5_000 });
    } catch (error) {
      console.error(`it shows nothing: ${error.message}`);
    }
  }
}
