// A desk at which the operators' console is open, and what is looked at on every page of it.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { PATIENCE, violations } from "./browser.mjs";

const SCREENSHOTS = process.env.UPDATE_SCREENSHOTS ? new URL("../../docs/screens/console/", import.meta.url).pathname : null;

/** The page that shows the pictures: only those that it names are taken. */
const PAGE = readFileSync(new URL("../../docs/console.md", import.meta.url), "utf8");

const WINDOW = { width: 1280, height: 800 };

/** Where the console's files come from in place of the binary, so that a change of them needs no build. */
const FILES = process.env.RIDE_PROMO_TEST_CONSOLE_FILES ?? null;

/** The file of an address; those beneath `app/` are the client's pages', in the folder around the console's. */
function fileOf({ pathname }) {
  const [first, ...rest] = pathname.split("/").slice(3);
  return first === "app" ? join(FILES, "..", ...rest) : join(FILES, first, ...rest);
}

export class Desk {
  /** Calls to the admin API, as `GET /admin/v1/stats`. */
  calls = [];
  #faults = [];
  #origins;

  /** `also` are origins beside the console's that the browser goes to. */
  static async open(browser, world, { also = [], ...options } = {}) {
    const context = await browser.newContext({ viewport: WINDOW, locale: "en-US", timezoneId: "America/Mexico_City", reducedMotion: "reduce", ...options });
    context.setDefaultTimeout(PATIENCE);
    const desk = new Desk();
    desk.world = world;
    desk.#origins = [world.console, ...also];
    desk.context = context;
    if (FILES) await context.route(/\/console\/[0-9a-f]{32}\//, (route) => route.fulfill({ path: fileOf(new URL(route.request().url())) }));
    desk.page = await context.newPage();
    desk.#listen();
    return desk;
  }

  #listen() {
    const { page, world } = this;
    page.on("pageerror", (error) => this.#faults.push(`an error that was not caught: ${error.stack ?? error}`));
    page.on("console", (message) => {
      const ofNetwork = message.text().startsWith("Failed to load resource");
      if (["error", "warning"].includes(message.type()) && !ofNetwork) this.#faults.push(`said in the console: ${message.text()}`);
    });
    page.on("request", (request) => {
      const url = new URL(request.url());
      const isOurs = request.frame().url().startsWith(world.console);
      if (isOurs && url.protocol !== "blob:" && !this.#origins.includes(url.origin)) this.#faults.push(`asked another host: ${url}`);
      if (/[?&]token=|eyJ/.test(url.href)) this.#faults.push(`a token in an address: ${url}`);
      if (url.pathname.startsWith("/admin/")) this.calls.push(`${request.method()} ${url.pathname}`);
    });
  }

  /** Opens the console with a link that signs in. */
  async signIn(token, address = "") {
    await this.page.goto(`${this.world.console}/console#token=${token}`);
    await this.sees("overview", "Overview");
    if (address) await this.goes(address);
  }

  /** Goes to an address of the console, such as `#/audit`. */
  async goes(address) {
    await this.page.evaluate((address) => (location.hash = address), address);
  }

  /** Waits for a page; its heading has the focus and is in the title. */
  async sees(name, heading = null) {
    const { page } = this;
    await page.locator(`main:not([aria-busy]) .inner[data-page="${name}"]`).waitFor();
    if (heading !== null) await page.getByRole("heading", { level: 1, name: heading, exact: true }).waitFor();
    const seen = await page.evaluate(() => ({ heading: document.querySelector("h1").textContent, focused: document.activeElement === document.querySelector("h1"), title: document.title }));
    assert.ok(seen.title.startsWith(seen.heading), seen.title);
    assert.ok(seen.focused, `the heading of ${name} has the focus`);
  }

  button(name) {
    return this.page.getByRole("button", { name, exact: true });
  }

  field(label) {
    return this.page.getByLabel(label, { exact: true });
  }

  text(text) {
    return this.page.getByText(text, { exact: true });
  }

  get dialog() {
    return this.page.getByRole("dialog");
  }

  /** Presses a button of the dialog that is open, and waits until it is closed. */
  async confirm(name) {
    await this.dialog.getByRole("button", { name, exact: true }).click();
    await this.dialog.waitFor({ state: "detached" });
  }

  /**
   * Looks at the present page in both themes with axe, in a narrow and a wide window, and in every
   * language; takes its pictures where they are asked for.
   */
  async look(name) {
    const { page } = this;
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
      // Of a page that is shown in another theme only the colours are others.
      const rules = colorScheme === "dark" ? ["color-contrast"] : null;
      assert.deepEqual(await violations(page, rules), [], `${name}, ${colorScheme}`);
      if (SCREENSHOTS && PAGE.includes(`screens/console/${name}.png`)) {
        mkdirSync(SCREENSHOTS, { recursive: true });
        await page.evaluate(() => (document.getElementById("toasts").replaceChildren(), scrollTo(0, 0)));
        await page.screenshot({ path: join(SCREENSHOTS, `${name}${colorScheme === "dark" ? "-dark" : ""}.png`), caret: "hide" });
      }
    }
    await page.emulateMedia({ colorScheme: "light", reducedMotion: "reduce" });
    await this.#assertFits(name);
  }

  /** The same in every language; what was typed is gone then. */
  async lookInEveryLanguage(name) {
    await this.look(name);
    const { page } = this;
    for (const code of ["es", "ru", "en"]) {
      await page.locator('select[name="language"]').selectOption(code);
      await page.locator(`html[lang="${code}"]`).waitFor();
      await page.locator("main:not([aria-busy]) h1").waitFor();
      await this.#assertFits(`${name}, ${code}`, [360]);
    }
  }

  async #assertFits(where, widths = [360, 768, 1440]) {
    const { page } = this;
    for (const width of widths) {
      await page.setViewportSize({ ...WINDOW, width });
      const cut = await page.evaluate(() => {
        const edge = document.documentElement.clientWidth;
        const cut = [...document.querySelectorAll("main *, dialog *")].filter((element) => {
          if (!element.checkVisibility() || element.closest(".hidden, .chart, thead")) return false;
          const box = element.getBoundingClientRect();
          return box.width > 0 && (box.left < -0.5 || box.right > edge + 0.5);
        });
        return [...(document.scrollingElement.scrollWidth > edge ? ["the page scrolls sideways"] : []), ...cut.map((element) => element.outerHTML.slice(0, 200))];
      });
      assert.deepEqual(cut, [], `${where}: cut off at ${width} px`);
    }
    await page.setViewportSize(WINDOW);
  }

  /** Nothing went wrong that a page does not show. */
  assertWell() {
    assert.deepEqual(this.#faults, []);
  }

  /** For those who have to find out why. */
  async describe(path) {
    try {
      console.error(`--- a desk at ${this.page.url()}, its picture ${path}`);
      console.error(await this.page.locator("body").innerText({ timeout: 2_000 }));
      console.error([...this.#faults, ...this.calls.slice(-20)].join("\n"));
      await this.page.screenshot({ path, timeout: 5_000 });
    } catch (error) {
      console.error(`it shows nothing: ${error.message}`);
    }
  }
}
