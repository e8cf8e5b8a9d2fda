// Errors: what the service says, and the number under which its log has it.

import { h } from "../dom.js";
import { t } from "../i18n.js";

/** Tells an error; fields that are shown beside an input are left out by their names. */
export function problemBox(error, besideInputs = []) {
  // What was typed is not of its kind; said beside the inputs as well.
  if (error instanceof RangeError) return h("div", { class: "notice error", role: "alert" }, error.message);
  if (error.name !== "Problem") {
    console.error(error);
    return h("div", { class: "notice error", role: "alert" }, t("error.unexpected", { message: String(error.message ?? error) }));
  }
  const rest = error.errors.filter(({ field }) => !besideInputs.includes(field));
  return h(
    "div",
    { class: "notice error stack tight", role: "alert" },
    h("p", {}, h("strong", {}, titleOf(error))),
    error.detail && h("p", {}, error.detail),
    rest.length > 0 && h("ul", {}, rest.map(({ field, reason }) => h("li", {}, h("code", {}, field), ` ${reason}`))),
    error.requestId && h("p", { class: "small" }, t("error.request"), " ", h("code", {}, error.requestId)),
  );
}

function titleOf({ status, slug, title }) {
  if (status === 0) return t("error.unreachable");
  if (slug === "precondition-failed") return t("error.precondition");
  if (status === 403) return t("error.forbidden");
  if (slug === "upgrade-unfinished") return t("error.upgrade");
  return title ?? t("error.status", { status });
}
