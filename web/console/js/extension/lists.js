// Extensions and outages, as operators look back at them.

import { may } from "../app.js";
import { h } from "../dom.js";
import { country, duration, moment, number, period, t } from "../i18n.js";
import { link } from "../router.js";
import { badge } from "../ui/badges.js";
import { table } from "../ui/table.js";
import { askToExtend } from "./ask.js";

/** `rows` as `GET /extensions` gives them. */
export function extensions(rows) {
  return table({
    caption: t("extension.list"),
    shown: true,
    rows,
    empty: t("extension.none"),
    columns: [
      { label: t("extension.at"), head: true, cell: ({ at }) => moment(at) },
      { label: t("extension.scope"), cell: whom },
      { label: t("extension.of"), cell: ({ of }) => t(`extension.${of}`) },
      { label: t("extension.by"), cell: ({ by }) => (by === null ? t("extension.by-outage") : period(by)) },
      { label: t("reason"), cell: ({ reason }) => reason },
      { label: t("client.status"), cell: ({ state }) => badge("extension-state", state) },
      { label: t("extension.matched"), number: true, cell: ({ matched }) => number(matched) },
      { label: t("extension.done"), number: true, cell: ({ done }) => number(done) },
      { label: t("extension.skipped"), number: true, cell: ({ skipped }) => number(skipped) },
    ],
  });
}

function whom({ promotion_id, country_code, user_id }) {
  return [
    promotion_id !== null && h("div", {}, h("a", { href: link("promotions", promotion_id) }, t("promotion.by-number", { number: String(promotion_id) }))),
    country_code !== null && h("div", {}, country(country_code)),
    user_id !== null && h("div", {}, may("support") ? h("a", { href: link("clients", user_id) }, String(user_id)) : String(user_id)),
  ];
}

/** `codes` are the countries whose clients can get the time back. */
export function outages(api, rows, codes, refresh) {
  const extend = (outage_id, code) => async () => (await askToExtend(api, { country_code: code }, t("extension.country", { country: country(code) }), { outage_id })) && refresh();
  const buttons = ({ outage_id }) => codes.map((code) => h("button", { type: "button", onclick: extend(outage_id, code) }, t("outage.extend", { country: country(code) })));
  return h(
    "section",
    { class: "stack tight" },
    table({
      caption: t("outage.list"),
      shown: true,
      rows,
      empty: t("outage.none"),
      columns: [
        { label: t("list.from"), head: true, cell: ({ from }) => moment(from) },
        { label: t("list.to"), cell: ({ to }) => moment(to) },
        { label: t("outage.length"), cell: ({ from, to }) => duration(new Date(to) - new Date(from)) },
        may("edit") && { label: t("list.actions"), cell: (row) => h("div", { class: "row" }, buttons(row)) },
      ].filter(Boolean),
    }),
    h("p", { class: "quiet small" }, t("outage.says")),
  );
}
