// The audit: every change, with what it was before and after.

import { h } from "../dom.js";
import { moment, t } from "../i18n.js";
import { link } from "../router.js";
import { diffTable } from "../ui/diff.js";
import { choice, instantInput, textInput } from "../ui/fields.js";
import { filters, pager } from "../ui/table.js";

export async function audit({ query, signal, api }) {
  const page = await api.get("/audit", query, signal);
  return {
    title: t("nav.audit"),
    says: t("audit.says"),
    body: [
      filters(
        ["audit"],
        [
          { name: "actor", label: t("audit.actor"), control: textInput() },
          { name: "call", label: t("audit.call"), control: textInput({ placeholder: "PATCH /promotions/1" }) },
          { name: "from", label: t("list.from"), control: instantInput() },
          { name: "to", label: t("list.to"), control: instantInput() },
          { name: "imports", label: t("audit.imports"), control: choice([["", t("list.all")], ["false", t("audit.imports-without")]]) },
        ],
        query,
      ),
      page.items.length === 0
        ? h("p", { class: "card empty" }, t("list.empty"))
        : h("ol", { class: "stack list-plain" }, page.items.map((entry) => h("li", { class: "card stack tight" }, entryHead(entry), entryBody(entry)))),
      pager(["audit"], query, page.next_cursor),
    ],
  };
}

function entryHead({ audit_id, actor, at, call, after }) {
  return h(
    "div",
    { class: "row spread" },
    h("h2", {}, h("code", {}, call)),
    // An import says which file it was of.
    after?.file && h("p", {}, after.file),
    h("p", { class: "small quiet" }, t("audit.by", { actor, moment: moment(at) }), " · ", t("audit.number", { number: String(audit_id) })),
  );
}

/** What changed, folded where it is long. */
export function entryBody({ before, after, call }) {
  if (before === null && after === null) return null;
  const changed = diffTable(before, after, t("diff.caption-of", { call }));
  return h("details", { open: changed.querySelectorAll("tbody tr").length <= 6 }, h("summary", {}, t("audit.changes")), changed);
}

/** The way to the entries of a call, said after a change was made. */
export const auditLink = (call) => ({ text: t("audit.see"), address: link("audit", { call }) });
