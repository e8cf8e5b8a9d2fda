// The hours in which rides count: windows of weekdays and times.

import { h, put } from "../dom.js";
import { t, weekday } from "../i18n.js";

const DAYS = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"];

const MAX_WINDOWS = 28;

/** A control whose value is `[{days, from, to}]`, or `undefined` without a window. */
export function windowsInput() {
  const rows = h("div", { class: "stack tight" });
  const add = h("button", { type: "button", onclick: () => (rows.append(row({ days: DAYS.slice(0, 5), from: "06:00", to: "10:00" })), changed()) }, t("windows.add"));
  const element = h("div", { role: "group", class: "stack tight" }, rows, h("div", {}, add));

  function changed() {
    add.disabled = rows.children.length >= MAX_WINDOWS;
    element.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function row({ days = [], from = "", to = "" }) {
    const number = rows.children.length + 1;
    const boxes = DAYS.map((day) => h("label", { class: "check" }, h("input", { type: "checkbox", value: day, ...(days.includes(day) && { checked: true }) }), weekday(day)));
    const time = (name, value) => h("input", { type: "text", class: "time", name, value, placeholder: "06:00", maxlength: 5, "aria-label": t(`windows.${name}`) });
    const one = h(
      "div",
      { class: "window", role: "group", "aria-label": t("windows.one", { number }) },
      boxes,
      time("from", from),
      "–",
      time("to", to),
      h("button", { type: "button", class: "plain", "aria-label": t("windows.remove", { number }), onclick: () => (one.remove(), changed()) }, "✕"),
    );
    return one;
  }

  return {
    element,
    get() {
      const windows = [...rows.children].map((one) => ({
        days: [...one.querySelectorAll("input:checked")].map(({ value }) => value),
        from: one.querySelector('[name="from"]').value.trim(),
        to: one.querySelector('[name="to"]').value.trim(),
      }));
      return windows.length === 0 ? undefined : windows;
    },
    set(value) {
      put(rows);
      for (const one of Array.isArray(value) ? value : []) rows.append(row(one ?? {}));
      add.disabled = rows.children.length >= MAX_WINDOWS;
    },
  };
}
