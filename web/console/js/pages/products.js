// The loan products behind the offers.

import { may } from "../app.js";
import { h } from "../dom.js";
import { t } from "../i18n.js";
import { ask } from "../ui/dialog.js";
import { diffTable } from "../ui/diff.js";
import { field, integer, readFields, textInput } from "../ui/fields.js";
import { Revision } from "../ui/revision.js";
import { pager, table } from "../ui/table.js";
import { toast } from "../ui/toast.js";
import { auditLink } from "./audit.js";

export async function products({ query, signal, api, refresh }) {
  const page = await api.get("/products", query, signal);
  return {
    title: t("nav.products"),
    actions: may("edit") && [h("button", { type: "button", class: "primary", onclick: () => edit(api, null, refresh) }, t("products.new"))],
    body: [
      table({
        caption: t("nav.products"),
        rows: page.items,
        columns: [
          { label: t("product.id"), cell: ({ product_id }) => String(product_id) },
          { label: t("product.name"), head: true, cell: ({ name }) => name },
          { label: t("field.currency_code"), cell: ({ currency_code }) => currency_code },
          { label: t("product.term_days"), number: true, cell: ({ term_days }) => String(term_days) },
          { label: t("product.terms_url"), cell: ({ terms_url }) => terms_url && h("a", { href: terms_url, rel: "noreferrer", target: "_blank" }, terms_url) },
          ...(may("edit") ? [{ label: t("list.actions"), cell: (row) => h("button", { type: "button", "aria-label": t("change-of", { name: row.name }), onclick: () => edit(api, row, refresh) }, t("change")) }] : []),
        ],
      }),
      pager(["products"], query, page.next_cursor),
    ],
  };
}

/** One dialog for a product's fields, and a second that says what will change. */
async function edit(api, old, refresh) {
  const revision = old && new Revision(api, `/products/${old.product_id}`, await api.read(`/products/${old.product_id}`));
  const fields = [
    !old && field({ name: "product_id", label: t("product.id"), control: integer() }),
    field({ name: "name", label: t("product.name"), control: textInput({ maxlength: 200 }) }),
    field({ name: "currency_code", label: t("field.currency_code"), control: textInput({ maxlength: 3 }) }),
    field({ name: "term_days", label: t("product.term_days"), control: integer() }),
    field({ name: "terms_url", label: t("product.terms_url"), hint: t("hint.terms_url"), control: textInput({ type: "url" }) }),
  ].filter(Boolean);
  for (const one of fields) one.control.set(old?.[one.name]);
  const done = await ask({
    title: old ? t("change-of", { name: old.name }) : t("products.new"),
    says: [h("p", {}, t("products.says"))],
    fields,
    does: t("go-on"),
    act: async () => {
      const values = readFields(fields);
      if (!values) throw new RangeError(t("field.faults"));
      const { product_id = old?.product_id, ...product } = values;
      const sent = { terms_url: null, ...product };
      const { product_id: _, ...before } = old ?? {};
      return ask({
        title: t("change-title"),
        says: [diffTable(old ? before : null, sent), revision?.element],
        does: t("save"),
        act: () => (revision ? revision.change("PUT", sent) : api.change("PUT", `/products/${product_id}`, sent)),
      });
    },
  });
  if (!done) return;
  toast(t("saved"), auditLink(`PUT /products/${done.product_id}`));
  refresh();
}
