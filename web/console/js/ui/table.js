// Tables, and lists that filter and page; what is chosen is in the address.

import { h } from "../dom.js";
import { t } from "../i18n.js";
import { go, link } from "../router.js";
import { field, readFields } from "./fields.js";

/**
 * @param {object} table
 * @param {string} table.caption read out by a screen reader
 * @param {{label: string, cell: (row) => Node|string|null, number?: boolean, nowrap?: boolean, head?: boolean}[]} table.columns
 * @param {object[]} table.rows
 * @param {string} [table.empty] said where there are no rows
 * @param {boolean} [table.shown] whether the caption is seen as well
 */
export function table({ caption, columns, rows, empty = t("list.empty"), shown = false }) {
  if (rows.length === 0) return h("div", { class: "table-wrap" }, h("p", { class: "empty" }, empty));
  // Rows are cards on a narrow screen, and the roles say that they are still a table.
  return h(
    "div",
    { class: "table-wrap" },
    h(
      "table",
      { class: "data", role: "table" },
      h("caption", { class: shown ? null : "hidden" }, caption),
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map((column) => h("th", { role: "columnheader", scope: "col", class: classOf(column) }, column.label)))),
      h(
        "tbody",
        { role: "rowgroup" },
        rows.map((row) =>
          h(
            "tr",
            { role: "row" },
            columns.map((column) => {
              const attributes = { "data-label": column.label, class: classOf(column) };
              return column.head
                ? h("th", { ...attributes, role: "rowheader", scope: "row" }, h("span", {}, column.cell(row)))
                : h("td", { ...attributes, role: "cell" }, h("div", {}, column.cell(row)));
            }),
          ),
        ),
      ),
    ),
  );
}

const classOf = ({ number, nowrap }) => [number && "number", nowrap && "nowrap"].filter(Boolean).join(" ") || null;

/**
 * The filters of a list. `specs` are `{name, label, control}`; what they hold comes from the address and
 * goes there.
 */
export function filters(path, specs, query, label = t("list.filters")) {
  const fields = specs.map((spec) => field(spec));
  for (const one of fields) one.control.set(query[one.name]);
  const apply = (event) => {
    event?.preventDefault();
    const values = readFields(fields);
    if (values) go(link(...path, values));
  };
  for (const { control } of fields) {
    if (control.element.tagName === "SELECT") control.element.addEventListener("change", () => apply());
  }
  return h(
    "form",
    { class: "filters", role: "search", "aria-label": label, novalidate: true, onsubmit: apply },
    fields.map(({ element }) => element),
    h("button", { type: "submit" }, t("list.filter")),
    specs.some(({ name }) => query[name]) && h("a", { class: "button plain", href: link(...path) }, t("list.clear")),
  );
}

/** The way to the next page of a list, and back to its first. */
export function pager(path, query, nextCursor) {
  if (!nextCursor && !query.cursor) return null;
  const { cursor, ...rest } = query;
  return h(
    "nav",
    { class: "row spread", "aria-label": t("list.pages") },
    cursor ? h("a", { class: "button", href: link(...path, rest) }, t("list.first")) : h("span"),
    nextCursor ? h("a", { class: "button", href: link(...path, { ...rest, cursor: nextCursor }) }, t("list.next")) : h("span", { class: "quiet" }, t("list.end")),
  );
}

/** Names and values beneath each other. */
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value ?? "–")]));
}
