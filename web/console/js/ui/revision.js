// Changing what another operator may be changing at the same time (`If-Match`).

import { h, put } from "../dom.js";
import { t } from "../i18n.js";
import { diffTable } from "./diff.js";

/** What was read, and the place where another operator's change is shown. */
export class Revision {
  /** To be put into the dialog that asks. */
  element = h("div");
  #api;
  #path;
  #read;
  #shown;

  /**
   * @param {{body: object, etag: string}} read as {@link Api#read} returned it
   * @param {(body: object) => object} [shown] what of it is compared
   */
  constructor(api, path, read, shown = (body) => body) {
    this.#api = api;
    this.#path = path;
    this.#read = read;
    this.#shown = shown;
  }

  /**
   * Changes it, unless another operator did since it was read. Then their change is shown, the error is
   * thrown, and the next call is made on top of theirs.
   */
  async change(method, body, options = {}) {
    try {
      return await this.#api.change(method, this.#path, body, { ...options, etag: this.#read.etag });
    } catch (error) {
      if (error.status === 412) {
        const theirs = await this.#api.read(this.#path);
        put(this.element, h("section", { class: "stack tight" }, h("h3", {}, t("theirs.title")), h("p", {}, t("theirs.says")), diffTable(this.#shown(this.#read.body), this.#shown(theirs.body), t("theirs.title"))));
        this.#read = theirs;
      }
      throw error;
    }
  }
}
