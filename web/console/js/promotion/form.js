// The form of a promotion, with its JSON beside it: each follows the other, and the JSON is what is sent.

import { h, put } from "../dom.js";
import { t } from "../i18n.js";
import { field, textArea } from "../ui/fields.js";
import { conditionsInWords } from "./conditions.js";
import { at, groups, withValue, zoneNames } from "./fields.js";
import { ClientPreview } from "./preview.js";

export class PromotionForm {
  /** What the form says; sent as it is. */
  document;
  #fields;
  #json;
  #preview = h("div", { class: "stack tight" });
  #client = new ClientPreview();

  /** @param {object} document as `written` gives it */
  constructor(document, { isNew }) {
    this.document = document;
    const make = ({ path, hint = null, control }) => field({ name: path, label: t(`field.${path.replace(/^conditions\./, "")}`), hint, control });
    const made = groups(isNew).map(({ legend, fields, wide = [] }) => ({ legend, fields: fields.map(make), wide: wide.map(make) }));
    this.#fields = made.flatMap(({ fields, wide }) => [...fields, ...wide]);
    this.#json = field({ name: "json", label: t("form.json"), hint: t("form.json-hint"), control: textArea({ rows: 24, spellcheck: "false", class: "mono" }) });
    this.#json.control.element.addEventListener("input", () => this.#fromJson());
    for (const one of this.#fields) one.control.element.addEventListener("input", () => this.#fromField(one));
    this.#showFields();
    this.#showJson();
    this.element = h(
      "div",
      { class: "beside" },
      h(
        "div",
        { class: "stack" },
        made.map(({ legend, fields, wide }) => h("fieldset", { class: "group card" }, h("legend", { class: "hidden" }, legend), h("h2", { "aria-hidden": "true" }, legend), h("div", { class: "fields" }, fields.map(({ element }) => element)), wide.map(({ element }) => element))),
        h("datalist", { id: "zones" }, zoneNames().map((name) => h("option", { value: name }))),
      ),
      h("div", { class: "json stack" }, h("section", { class: "card" }, h("h2", {}, t("form.preview")), this.#preview), this.#client.element, h("section", { class: "card" }, this.#json.element)),
    );
  }

  #fromField(one) {
    one.fault(null);
    try {
      this.document = withValue(this.document, one.name, one.control.get());
      this.#showJson();
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      one.fault(error.message);
    }
  }

  #fromJson() {
    this.#json.fault(null);
    try {
      const document = JSON.parse(this.#json.control.element.value);
      if (document === null || typeof document !== "object" || Array.isArray(document)) throw new SyntaxError(t("form.json-object"));
      this.document = document;
      this.#showFields();
      this.#showPreview();
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      this.#json.fault(error.message);
    }
  }

  #showFields() {
    for (const one of this.#fields) {
      one.fault(null);
      one.control.set(at(this.document, one.name));
    }
  }

  #showJson() {
    this.#json.fault(null);
    this.#json.control.element.value = JSON.stringify(this.document, null, 2);
    this.#showPreview();
  }

  #showPreview() {
    let said;
    try {
      said = conditionsInWords(this.document.conditions).map((sentence) => h("li", {}, sentence));
    } catch {
      said = []; // not there yet, or not of its kind
    }
    this.#client.show(this.document);
    put(this.#preview, h("p", {}, h("strong", {}, String(this.document.title ?? ""))), h("ul", {}, said));
  }

  /** Whether everything typed is of its kind; else the first that is not has the focus. */
  isReadable() {
    const bad = [...this.#fields, this.#json].filter(({ element }) => element.querySelector("[aria-invalid]"));
    bad[0]?.element.querySelector("[aria-invalid]").focus();
    return bad.length === 0;
  }

  /** Shows what the service says of fields beside them; returns the names of those that have a place. */
  showErrors(errors) {
    const beside = this.#fields.filter(({ name }) => errors.some(({ field }) => belongs(field, name)));
    for (const one of beside) one.fault(errors.find(({ field }) => belongs(field, one.name)).reason);
    beside[0]?.element.querySelector("[aria-invalid]").focus();
    return errors.map(({ field }) => field).filter((name) => beside.some((one) => belongs(name, one.name)));
  }
}

/** Whether what is wrong at a path, `conditions.hours[0].from`, is within a field. */
const belongs = (path, name) => path === name || path.startsWith(`${name}.`) || path.startsWith(`${name}[`);
