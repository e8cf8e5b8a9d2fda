// How far each partition is, and what this process says of its roles.

import { h } from "../dom.js";
import { duration, number, t } from "../i18n.js";
import { flag } from "../ui/badges.js";
import { facts, table } from "../ui/table.js";

export async function operations({ signal, api, refresh }) {
  const [stats, readiness] = await Promise.all([api.get("/stats", {}, signal), roles(signal)]);
  const again = h("button", { type: "button", onclick: refresh }, t("operations.refresh"));
  return { title: t("nav.operations"), actions: [again], body: [readiness, flow(stats), partitions(stats.ingest)] };
}

/** What `/readyz` says; it is on the same listener and takes no token. */
async function roles(signal) {
  const response = await fetch("/readyz", { signal, credentials: "omit", cache: "no-store" });
  const said = await response.json().catch(() => ({ roles: {} }));
  return table({
    caption: t("operations.roles"),
    shown: true,
    rows: Object.entries(said.roles ?? {}),
    columns: [
      { label: t("operations.role"), head: true, cell: ([name]) => h("code", {}, name) },
      { label: t("client.status"), cell: ([, status]) => flag(status === "ok", [t("operations.ok"), t("operations.not-ok")], ["good", "bad"]) },
      { label: t("operations.says"), cell: ([, status]) => (status === "ok" ? "–" : status) },
    ],
  });
}

function flow({ outbox, sweep, quarantine_open }) {
  return h(
    "section",
    { class: "card" },
    h("h2", {}, t("operations.flow")),
    facts([
      [t("overview.outbox"), number(outbox.depth)],
      [t("operations.outbox-age"), duration(Math.round(outbox.oldest_age_seconds) * 1000)],
      [t("overview.quarantine"), number(quarantine_open)],
      [t("operations.held-quarantine"), number(sweep.held_back_by_quarantine)],
      [t("operations.held-lag"), number(sweep.held_back - sweep.held_back_by_quarantine)],
    ]),
  );
}

function partitions({ partitions }) {
  const lag = ({ position, end }) => (end === null ? null : end - (position ?? 0));
  return table({
    caption: t("operations.partitions"),
    shown: true,
    rows: partitions,
    columns: [
      { label: t("operations.partition"), head: true, cell: ({ partition }) => String(partition) },
      { label: t("operations.position"), number: true, cell: ({ position }) => (position === null ? t("operations.never") : number(position)) },
      { label: t("operations.end"), number: true, cell: ({ end }) => (end === null ? "?" : number(end)) },
      { label: t("overview.lag"), number: true, cell: (row) => (lag(row) === null ? "?" : number(lag(row))) },
    ],
  });
}
