// Participations of all clients: filtered, paged, and exported as a file.

import { h } from "../dom.js";
import { money, moment, number, t, word } from "../i18n.js";
import { link } from "../router.js";
import { badge } from "../ui/badges.js";
import { saveAs } from "../ui/download.js";
import { choice, instantInput, integer } from "../ui/fields.js";
import { problemBox } from "../ui/problem.js";
import { filters, pager, table } from "../ui/table.js";

const STATUSES = ["IN_PROGRESS", "COMPLETED", "REWARDED", "EXPIRED"];

/** The files of an export, by their media types. */
const FORMATS = { csv: "text/csv", ndjson: "application/x-ndjson" };

export async function participations({ query, signal, api }) {
  const page = await api.get("/participations", query, signal);
  const { cursor: _, ...filter } = query;
  const faults = h("div");
  return {
    title: t("nav.participations"),
    says: t("participations.says"),
    actions: Object.keys(FORMATS).map((format) => exportButton(api, format, filter, faults)),
    body: [
      filters(
        ["participations"],
        [
          { name: "promotion_id", label: t("promotion.number"), control: integer() },
          { name: "status", label: t("client.status"), control: choice([["", t("list.all")], ...STATUSES.map((name) => [name, word("status", name)])]) },
          { name: "user_id", label: t("client.number"), control: integer() },
          { name: "started_from", label: t("participations.from"), control: instantInput() },
          { name: "started_to", label: t("participations.to"), control: instantInput() },
        ],
        query,
      ),
      faults,
      table({
        caption: t("nav.participations"),
        rows: page.items,
        columns: [
          { label: t("quarantine.client"), head: true, cell: ({ user_id }) => h("a", { href: link("clients", user_id) }, String(user_id)) },
          { label: t("promotion.title"), cell: (row) => h("a", { href: link("promotions", row.promotion_id) }, row.promotion_key) },
          { label: t("client.status"), cell: (row) => [badge("status", row.status), row.expired_reason && h("div", { class: "quiet small" }, word("expired_reason", row.expired_reason))] },
          { label: t("client.goals"), number: true, cell: (row) => row.goals.map(({ goal, completed, target }) => h("div", {}, t(`goal.${goal}`, goal === "AMOUNT" ? { completed: number(completed / 100), target: number(target / 100) } : { completed, target }))) },
          { label: t("client.started"), cell: ({ started_at }) => moment(started_at) },
          { label: t("client.deadline"), cell: ({ challenge_deadline, reward_deadline }) => moment(reward_deadline ?? challenge_deadline) },
          { label: t("client.reward"), number: true, cell: ({ reward }) => money(reward.amount_cents, reward.currency_code) },
        ],
      }),
      pager(["participations"], query, page.next_cursor),
    ],
  };
}

/** What is filtered, as a file: all of it, not only this page. */
function exportButton(api, format, filter, faults) {
  const button = h("button", { type: "button", onclick: save }, t("participations.export", { format: format.toUpperCase() }));
  async function save() {
    if (button.getAttribute("aria-busy") === "true") return;
    button.setAttribute("aria-busy", "true");
    try {
      saveAs(`participations.${format}`, await api.download("/participations:export", filter, FORMATS[format]));
      faults.replaceChildren();
    } catch (error) {
      faults.replaceChildren(problemBox(error));
    } finally {
      button.removeAttribute("aria-busy");
    }
  }
  return button;
}
