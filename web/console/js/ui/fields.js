// Inputs. A control is `{element, get(), set(value), faulty}`; `get` throws a `RangeError` with a text
// for the operator where what was typed is not a value of its kind, and returns `undefined` for nothing.

import { h, newId, put } from "../dom.js";
import { period, periodMilliseconds, t } from "../i18n.js";

/**
 * A control with its label, its hint, and a place for what is wrong with it.
 * @param {{name: string, label: string, hint?: string|null, control: object}} of
 */
export function field({ name, label, hint = null, control }) {
  const id = newId("field");
  const [hintId, faultId] = [`${id}-hint`, `${id}-fault`];
  const target = control.focus ?? control.element;
  target.id ||= id;
  target.name ||= name;
  const isGroup = control.element.getAttribute("role") === "group";
  const label_ = isGroup ? h("span", { class: "label", id: `${id}-label` }, label) : h("label", { for: target.id }, label);
  if (isGroup) control.element.setAttribute("aria-labelledby", `${id}-label`);
  const fault = h("span", { class: "fault", id: faultId, hidden: true });
  const reading = control.says && h("span", { class: "reading" });
  const hints = (hint !== null || reading) && h("span", { class: "hint", id: hintId }, hint, " ", reading);
  target.setAttribute("aria-describedby", hints ? `${hintId} ${faultId}` : faultId);
  control.says?.((text) => (reading.textContent = text));
  return {
    name,
    control,
    element: h("div", { class: "field", "data-field": name }, label_, control.element, hints || null, fault),
    /** Says what is wrong, or with `null` that nothing is. */
    fault(text) {
      fault.hidden = text === null;
      put(fault, text ?? "");
      if (text === null) target.removeAttribute("aria-invalid");
      else target.setAttribute("aria-invalid", "true");
    },
  };
}

function simple(element, read = (text) => text, write = String) {
  return {
    element,
    get() {
      const text = element.value.trim();
      return text === "" ? undefined : read(text);
    },
    set(value) {
      element.value = value === undefined || value === null ? "" : write(value);
      element.dispatchEvent(new Event("shown"));
    },
  };
}

export const textInput = (attributes = {}) => simple(h("input", { type: "text", autocomplete: "off", ...attributes }));

export const textArea = (attributes = {}) => simple(h("textarea", { rows: 3, ...attributes }));

/** @param {[string, string][]} options value and text */
export const choice = (options, attributes = {}) =>
  simple(h("select", attributes, options.map(([value, text]) => h("option", { value }, text))));

export const integer = (attributes = {}) =>
  simple(h("input", { type: "text", inputmode: "numeric", autocomplete: "off", ...attributes }), (text) => {
    const plain = text.replaceAll(/[\s_]/g, "");
    if (!/^-?\d{1,15}$/.test(plain)) throw new RangeError(t("field.integer"));
    return Number(plain);
  });

/** Cents, typed in units of the currency: `50` or `50.25`. */
export const cents = (attributes = {}) =>
  simple(
    h("input", { type: "text", inputmode: "decimal", autocomplete: "off", ...attributes }),
    (text) => {
      const match = /^(\d{1,13})(?:[.,](\d{1,2}))?$/.exec(text.replaceAll(/[\s_]/g, ""));
      if (!match) throw new RangeError(t("field.money"));
      return Number(match[1]) * 100 + Number((match[2] ?? "").padEnd(2, "0"));
    },
    (value) => (Number.isSafeInteger(value) ? `${Math.trunc(value / 100)}${value % 100 ? `.${String(value % 100).padStart(2, "0")}` : ""}` : String(value)),
  );

/** A period, `P14D`, also typed as `14d` or `36h`; what it means is said beneath. */
export function periodInput(attributes = {}) {
  const element = h("input", { type: "text", autocomplete: "off", spellcheck: "false", ...attributes });
  const control = simple(element, readPeriod);
  control.says = (tell) => {
    const show = () => tell(period(element.value.trim()) ?? period(fromShort(element.value.trim()) ?? "") ?? "");
    element.addEventListener("input", show);
    element.addEventListener("shown", show);
  };
  return control;
}

function readPeriod(text) {
  const iso = fromShort(text) ?? text.toUpperCase();
  if (periodMilliseconds(iso) === null) throw new RangeError(t("field.period"));
  return iso;
}

function fromShort(text) {
  const match = /^(\d+)\s*([wdhm])$/i.exec(text);
  if (!match) return null;
  const unit = match[2].toUpperCase();
  return unit === "H" || unit === "M" ? `PT${match[1]}${unit}` : `P${match[1]}${unit}`;
}

/** Words with commas between them; each is read by `read`. An empty list is nothing. */
export function listInput(read = (text) => text, attributes = {}) {
  const element = h("input", { type: "text", autocomplete: "off", spellcheck: "false", ...attributes });
  return simple(
    element,
    (text) => {
      const parts = text.split(",").map((part) => part.trim()).filter((part) => part !== "");
      return parts.length === 0 ? undefined : parts.map(read);
    },
    (value) => (Array.isArray(value) ? value.join(", ") : String(value)),
  );
}

export const periodList = (attributes) => listInput(readPeriod, attributes);

export const integerList = (attributes) =>
  listInput((text) => {
    if (!/^\d{1,15}$/.test(text)) throw new RangeError(t("field.integers"));
    return Number(text);
  }, attributes);

/** An instant, chosen by this machine's clock and sent in UTC. */
export function instantInput(attributes = {}) {
  const element = h("input", { type: "datetime-local", step: 1, ...attributes });
  let given; // milliseconds that the input cannot show are kept while it is not changed
  return {
    element,
    get() {
      if (element.value === "") return undefined;
      if (given && element.value === localTime(given)) return given;
      return new Date(element.value).toISOString();
    },
    set(value) {
      given = value ?? undefined;
      element.value = given ? localTime(given) : "";
    },
  };
}

function localTime(instant) {
  const at = new Date(instant);
  if (Number.isNaN(at.getTime())) return "";
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

export function check(label, attributes = {}) {
  const box = h("input", { type: "checkbox", ...attributes });
  return {
    element: h("label", { class: "check" }, box, h("span", {}, label)),
    focus: box,
    get: () => box.checked,
    set: (value) => (box.checked = Boolean(value)),
  };
}

/** Reads a form's fields into an object by their names; says what is wrong beside each. */
export function readFields(fields) {
  const values = {};
  let first = null;
  for (const one of fields) {
    one.fault(null);
    try {
      values[one.name] = one.control.get();
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      one.fault(error.message);
      first ??= one;
    }
  }
  first?.control.element.focus();
  return first ? null : values;
}

