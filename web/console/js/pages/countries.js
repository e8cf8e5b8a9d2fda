// The switch per country that allows promotions.

import { may } from "../app.js";
import { h } from "../dom.js";
import { country, moment, t } from "../i18n.js";
import { flag } from "../ui/badges.js";
import { ask } from "../ui/dialog.js";
import { check, field, textInput } from "../ui/fields.js";
import { Revision } from "../ui/revision.js";
import { pager, table } from "../ui/table.js";
import { toast } from "../ui/toast.js";
import { auditLink } from "./audit.js";

export async function countries({ query, signal, api, refresh }) {
  const page = await api.get("/geo-config", query, signal);
  return {
    title: t("nav.countries"),
    says: t("countries.says"),
    actions: may("edit") && [h("button", { type: "button", class: "primary", onclick: () => add(api, refresh) }, t("countries.new"))],
    body: [
      table({
        caption: t("nav.countries"),
        rows: page.items,
        columns: [
          { label: t("country"), head: true, cell: ({ country_code }) => `${country(country_code)} (${country_code})` },
          { label: t("countries.promotions"), cell: ({ promotions_enabled }) => flag(promotions_enabled, [t("on"), t("off")]) },
          { label: t("updated-at"), cell: ({ updated_at }) => moment(updated_at) },
          ...(may("edit") ? [{ label: t("list.actions"), cell: (row) => button(api, row, refresh) }] : []),
        ],
      }),
      pager(["countries"], query, page.next_cursor),
    ],
  };
}

function button(api, { country_code, promotions_enabled }, refresh) {
  const name = country(country_code);
  const does = promotions_enabled ? t("countries.turn-off", { country: name }) : t("countries.turn-on", { country: name });
  const act = async () => {
    const path = `/geo-config/${country_code}`;
    const revision = new Revision(api, path, await api.read(path));
    const enabled = !promotions_enabled;
    const done = await ask({
      title: does,
      says: [h("p", {}, enabled ? t("countries.on-does") : t("countries.off-does")), revision.element],
      does,
      act: () => revision.change("PUT", { promotions_enabled: enabled }),
    });
    if (!done) return;
    toast(t("saved"), auditLink(`PUT ${path}`));
    refresh();
  };
  return h("button", { type: "button", onclick: act }, does);
}

async function add(api, refresh) {
  const code = field({ name: "country_code", label: t("countries.code"), hint: t("hint.country"), control: textInput({ maxlength: 2 }) });
  const enabled = field({ name: "promotions_enabled", label: t("countries.promotions"), control: check(t("on")) });
  const done = await ask({
    title: t("countries.new"),
    says: [h("p", {}, t("countries.on-does"))],
    fields: [code, enabled],
    does: t("save"),
    act: () => api.change("PUT", `/geo-config/${encodeURIComponent((code.control.get() ?? "-").toUpperCase())}`, { promotions_enabled: enabled.control.get() }),
  });
  if (!done) return;
  toast(t("saved"), auditLink(`PUT /geo-config/${done.country_code}`));
  refresh();
}
