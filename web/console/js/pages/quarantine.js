// Records that could not be read as rides.

import { h } from "../dom.js";
import { moment, t, word } from "../i18n.js";
import { link } from "../router.js";
import { readable } from "../quarantine/bytes.js";
import { correct, dismiss, replay, resolveMany } from "../quarantine/correct.js";
import { badge } from "../ui/badges.js";
import { choice, field, instantInput, integer } from "../ui/fields.js";
import { facts, filters, pager } from "../ui/table.js";

const STATUSES = ["OPEN", "REPLAYED", "DISMISSED"];

const REASONS = ["NOT_JSON", "MISSING_FIELD", "WRONG_TYPE", "INVALID_VALUE", "NEGATIVE_AMOUNT", "IN_FUTURE", "TOO_LARGE"];

/** What stands for every status in the address; without a status the open ones are shown. */
const ALL = "ALL";

export async function quarantine({ query, signal, api, refresh }) {
  const { open, status = "OPEN", ...rest } = query;
  const page = await api.get("/quarantine", { ...rest, status: status === ALL ? null : status }, signal);
  return {
    title: t("nav.quarantine"),
    says: t("quarantine.says"),
    body: [
      filters(["quarantine"], specs(), { ...query, status }),
      status === "OPEN" && !query.user_id && page.items.length > 0 && many(api, refresh, query),
      page.items.length === 0 ? h("p", { class: "card empty" }, t("quarantine.none")) : h("ol", { class: "stack list-plain" }, page.items.map((record) => h("li", {}, card(api, record, refresh, page.items.length === 1 || record.quarantine_id === open)))),
      pager(["quarantine"], query, page.next_cursor),
    ],
  };
}

const specs = () => [
  { name: "status", label: t("client.status"), control: choice([...STATUSES.map((name) => [name, word("quarantine-status", name)]), [ALL, t("list.all")]]) },
  { name: "reason", label: t("quarantine.reason"), control: choice(reasons()) },
  { name: "user_id", label: t("client.number"), control: integer() },
  { name: "from", label: t("list.from"), control: instantInput() },
  { name: "to", label: t("list.to"), control: instantInput() },
];

const reasons = () => [["", t("list.all")], ...REASONS.map((name) => [name, word("quarantine", name)])];

function card(api, record, refresh, isOpen) {
  const done = (act) => async () => (await act(api, record)) && refresh();
  return h(
    "details",
    { class: "card", open: isOpen, "data-record": record.quarantine_id },
    h("summary", {}, h("span", { class: "row" }, badge("quarantine", record.reason), badge("quarantine-status", record.status), h("span", {}, record.detail), h("span", { class: "quiet small" }, moment(record.received_at)))),
    h(
      "div",
      { class: "stack" },
      facts([
        [t("quarantine.client"), record.user_id ? h("a", { href: link("clients", record.user_id) }, String(record.user_id)) : t("quarantine.no-client")],
        [t("quarantine.place"), h("code", {}, `${record.topic} [${record.partition}] @ ${record.offset}`)],
        [t("quarantine.key"), record.key && h("code", {}, record.key)],
        record.resolved_at && [t("quarantine.resolved-at"), moment(record.resolved_at)],
        record.resolution && [t("quarantine.resolution"), h("code", {}, JSON.stringify(record.resolution))],
      ]),
      readable(record),
      record.status === "OPEN" &&
        h(
          "div",
          { class: "row" },
          h("button", { type: "button", class: "primary", onclick: done(correct) }, t("quarantine.correct")),
          h("button", { type: "button", onclick: done(replay) }, t("quarantine.replay")),
          h("button", { type: "button", onclick: done(dismiss) }, t("quarantine.dismiss")),
        ),
    ),
  );
}

/** Resolving many at once, by reason and time; it begins with what the list is filtered by. */
function many(api, refresh, query) {
  const fields = [
    field({ name: "reason", label: t("quarantine.reason"), control: choice(reasons()) }),
    field({ name: "from", label: t("list.from"), control: instantInput() }),
    field({ name: "to", label: t("list.to"), control: instantInput() }),
  ];
  for (const { name, control } of fields) control.set(query[name]);
  const act = (how) => async () => {
    const selection = Object.fromEntries(fields.map(({ name, control }) => [name, control.get()]));
    if (await resolveMany(api, how, selection)) refresh();
  };
  return h(
    "details",
    { class: "card" },
    h("summary", {}, t("quarantine.many-title")),
    h("div", { class: "filters" }, fields.map(({ element }) => element), h("button", { type: "button", onclick: act("replay") }, t("quarantine.replay-many")), h("button", { type: "button", onclick: act("dismiss") }, t("quarantine.dismiss-many"))),
  );
}
