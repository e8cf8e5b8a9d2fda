// What changed between two JSON values, path by path.

import { h } from "../dom.js";
import { t } from "../i18n.js";
import { table } from "./table.js";

/** `[{path, before, after}]`; `undefined` is "was not there". Lists are compared as a whole. */
export function changes(before, after, path = "") {
  if (isObject(before) && isObject(after)) {
    const names = [...new Set([...Object.keys(before), ...Object.keys(after)])];
    return names.flatMap((name) => changes(before[name], after[name], path ? `${path}.${name}` : name));
  }
  if (JSON.stringify(before) === JSON.stringify(after)) return [];
  // What came or went as a whole is told field by field.
  if (isObject(before) && after === undefined) return changes(before, {}, path);
  if (isObject(after) && before === undefined) return changes({}, after, path);
  return [{ path, before, after }];
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** The changes as a table. */
export function diffTable(before, after, caption = t("diff.caption")) {
  const found = changes(before ?? undefined, after ?? undefined);
  const cell = (kind, value) => (value === undefined ? h("span", { class: "quiet" }, "–") : h(kind, {}, shown(value)));
  const made = table({
    caption,
    columns: [
      { label: t("diff.field"), head: true, cell: ({ path }) => h("code", {}, path || t("diff.value")) },
      { label: t("diff.before"), cell: (row) => cell("del", row.before) },
      { label: t("diff.after"), cell: (row) => cell("ins", row.after) },
    ],
    rows: found,
    empty: t("diff.nothing"),
  });
  made.classList.add("diff");
  for (const row of made.querySelectorAll("tbody tr")) {
    if (row.cells[1].querySelector("del")) row.cells[1].classList.add("before");
    if (row.cells[2].querySelector("ins")) row.cells[2].classList.add("after");
  }
  return made;
}
