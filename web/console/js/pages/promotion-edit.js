// Creating, copying and changing a promotion. Before anything is sent it says what will change.

import { h, put } from "../dom.js";
import { t } from "../i18n.js";
import { go, link } from "../router.js";
import { BLANK, written } from "../promotion/fields.js";
import { PromotionForm } from "../promotion/form.js";
import { ask } from "../ui/dialog.js";
import { changes, diffTable } from "../ui/diff.js";
import { problemBox } from "../ui/problem.js";
import { Revision } from "../ui/revision.js";
import { toast } from "../ui/toast.js";
import { auditLink } from "./audit.js";

export function createPromotion({ api }) {
  return editor({ api, title: t("promotions.new"), document: BLANK });
}

export async function copyPromotion({ params, api, signal }) {
  const promotion = await api.get(`/promotions/${params.id}`, {}, signal);
  const document = { ...written(promotion), promotion_key: `${promotion.promotion_key}-copy`, active: false };
  return editor({ api, title: t("promotion.copy-of", { title: promotion.title }), document });
}

export async function changePromotion({ params, api, signal }) {
  const [read, stats] = await Promise.all([api.read(`/promotions/${params.id}`, signal), api.get("/stats", {}, signal)]);
  const promotion = read.body;
  const inProgress = stats.promotions.find((one) => one.promotion_id === promotion.promotion_id)?.in_progress ?? 0;
  const revision = new Revision(api, `/promotions/${params.id}`, read, written);
  return editor({ api, title: t("promotion.change-of", { title: promotion.title }), document: written(promotion), old: { promotion, revision, inProgress } });
}

/** `old` is what is changed, as it was read; without it a promotion is created. */
function editor({ api, title, document, old = null }) {
  const form = new PromotionForm(document, { isNew: old === null });
  const faults = h("div");
  const save = async (event) => {
    event.preventDefault();
    put(faults);
    if (!form.isReadable()) return;
    const patch = old && changedFields(written(old.promotion), form.document);
    if (patch && Object.keys(patch).length === 0) return put(faults, h("p", { class: "notice", role: "status" }, t("diff.nothing")));
    const tried = await attempt(patch);
    if (!tried) return;
    const done = await (old ? askToChange(patch) : askToCreate());
    if (!done) return;
    toast(old ? t("promotion.changed") : t("promotion.created"), auditLink(old ? `PATCH /promotions/${done.promotion_id}` : "POST /promotions"));
    go(link("promotions", done.promotion_id));
  };

  /** The dry run: the service checks all of it, and what it refuses is shown beside the fields. */
  const attempt = async (patch) => {
    submit.setAttribute("aria-busy", "true");
    try {
      const query = { dry_run: true };
      return await beside(old ? api.change("PATCH", `/promotions/${old.promotion.promotion_id}`, patch, { query }) : api.change("POST", "/promotions", form.document, { query }));
    } catch (error) {
      if (!error.errors?.length) put(faults, problemBox(error));
      return null;
    } finally {
      submit.removeAttribute("aria-busy");
    }
  };

  const checked = () => h("p", { class: "quiet" }, t("promotion.checked"));

  const askToCreate = () =>
    ask({
      title: t("promotion.create-title"),
      says: [checked(), diffTable(null, form.document), h("p", { class: "notice" }, form.document.active === false ? t("promotion.create-inactive") : t("promotion.create-active"))],
      does: t("promotion.create"),
      act: () => beside(api.change("POST", "/promotions", form.document)),
    });

  const askToChange = (patch) =>
    ask({
      title: t("promotion.change-title"),
      says: [
        checked(),
        diffTable(written(old.promotion), form.document),
        old.revision.element,
        isTitleOld(old.promotion, form.document) && h("p", { class: "notice warn" }, t("promotion.old-title", { title: form.document.title, count: form.document.conditions.target_rides })),
        patch.active === false && h("p", { class: "notice warn" }, t("promotion.deactivates", { count: old.inProgress })),
        "conditions" in patch && h("p", { class: "notice warn" }, t("promotion.keep-terms", { count: old.inProgress })),
      ],
      does: t("promotion.save"),
      act: () => beside(old.revision.change("PATCH", patch)),
    });

  /** What is wrong with fields is shown beside them, too. */
  const beside = async (call) => {
    try {
      return await call;
    } catch (error) {
      if (error.errors?.length > 0) put(faults, problemBox(error, form.showErrors(error.errors)));
      throw error;
    }
  };

  const submit = h("button", { type: "submit", class: "primary" }, old ? t("promotion.check-changes") : t("promotion.check-new"));
  const back = old ? link("promotions", old.promotion.promotion_id) : link("promotions");
  return {
    title,
    back: { address: link("promotions"), text: t("nav.promotions") },
    body: h(
      "form",
      { class: "stack", novalidate: true, onsubmit: save, oninput: () => put(faults) },
      form.element,
      faults,
      h("div", { class: "row" }, submit, h("a", { class: "button", href: back }, t("cancel"))),
    ),
  };
}

/** Whether the title still names the old number of rides: "Complete 5 rides" of a promotion of 20. */
function isTitleOld({ conditions }, document) {
  const names = (count) => new RegExp(`(?<!\\d)${count}(?!\\d)`).test(String(document.title));
  const [before, now] = [conditions.target_rides, document.conditions?.target_rides];
  return before !== now && names(before) && !names(now);
}

/** A merge patch of the top level: what is another now; `null` takes a field away. */
function changedFields(before, after) {
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])].filter((name) => name !== "promotion_key");
  return Object.fromEntries(names.filter((name) => changes(before[name] ?? undefined, after[name] ?? undefined).length > 0).map((name) => [name, after[name] ?? null]));
}
