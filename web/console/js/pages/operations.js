// How far each partition is, outages and extensions, and what the process that answers says of itself.

import { may } from "../app.js";
import { h } from "../dom.js";
import { duration, number, outboxDepth, t } from "../i18n.js";
import { extensions, outages } from "../extension/lists.js";
import { flag } from "../ui/badges.js";
import { command } from "../ui/command.js";
import { facts, table } from "../ui/table.js";

export async function operations({ signal, api, refresh }) {
  const maySeeExtensions = may("edit") || may("support");
  const get = (path) => api.get(path, {}, signal);
  const [stats, system, geo, gaps, extended] = await Promise.all([get("/stats"), get("/system"), get("/geo-config"), maySeeExtensions && get("/outages"), maySeeExtensions && get("/extensions")]);
  const codes = geo.items.map(({ country_code }) => country_code);
  const again = h("button", { type: "button", onclick: refresh }, t("operations.refresh"));
  return {
    title: t("nav.operations"),
    says: t("operations.version", { version: system.version }),
    actions: [again],
    body: [roles(system.roles), flow(stats), partitions(stats.ingest, system.owners), maySeeExtensions && outages(api, gaps.items, codes, refresh), maySeeExtensions && extensions(extended.items), verify(system.settings), settings(system.settings)],
  };
}

function roles(rows) {
  return table({
    caption: t("operations.roles"),
    shown: true,
    rows,
    columns: [
      { label: t("operations.role"), head: true, cell: ({ role }) => h("code", {}, role) },
      { label: t("client.status"), cell: ({ ready }) => flag(ready, [t("operations.ok"), t("operations.not-ok")], ["good", "bad"]) },
      { label: t("operations.says"), cell: ({ reason }) => reason ?? "–" },
    ],
  });
}

/** What is not set has its default, which is not to recount by itself. */
function verify(rows) {
  const interval = rows.find(({ key }) => key === "verify.interval")?.value ?? "PT0S";
  return h(
    "section",
    { class: "card stack tight", "data-verify": true },
    h("h2", {}, t("verify.title")),
    h("p", {}, t("verify.says")),
    h("p", {}, /[1-9]/.test(interval) ? t("verify.runs", { interval }) : t("verify.off")),
    h("p", {}, t("verify.no-call")),
    command("ride-promo verify --format text"),
  );
}

function settings(rows) {
  return h(
    "section",
    { class: "stack tight" },
    table({
      caption: t("operations.settings"),
      shown: true,
      rows,
      columns: [
        { label: t("operations.setting"), head: true, cell: ({ key }) => h("code", {}, key) },
        { label: t("operations.setting-value"), cell: ({ value }) => (value === null ? h("span", { class: "quiet" }, t("operations.secret")) : h("code", {}, value)) },
        { label: t("operations.setting-from"), cell: ({ variable }) => (variable === null ? t("operations.file") : h("code", {}, variable)) },
      ],
    }),
    h("p", { class: "quiet small" }, t("operations.settings-says")),
  );
}

function flow({ outbox, sweep, quarantine_open }) {
  return h(
    "section",
    { class: "card" },
    h("h2", {}, t("operations.flow")),
    facts([
      [t("overview.outbox"), outboxDepth(outbox)],
      [t("operations.outbox-age"), duration(Math.round(outbox.oldest_age_seconds) * 1000)],
      [t("overview.quarantine"), number(quarantine_open)],
      [t("operations.held-quarantine"), number(sweep.held_back_by_quarantine)],
      [t("operations.held-lag"), number(sweep.held_back - sweep.held_back_by_quarantine)],
    ]),
  );
}

/** `owners` is `null` while they are unknown. */
function partitions({ partitions }, owners) {
  const lag = ({ position, end }) => (end === null ? null : end - (position ?? 0));
  const ownerOf = ({ partition }) => {
    if (owners === null) return "?";
    const owner = owners.find((one) => one.partition === partition);
    return owner ? [owner.host, h("br"), h("code", { class: "quiet" }, owner.member_id)] : h("span", { class: "badge bad" }, t("operations.no-owner"));
  };
  return table({
    caption: t("operations.partitions"),
    shown: true,
    rows: partitions,
    columns: [
      { label: t("operations.partition"), head: true, cell: ({ partition }) => String(partition) },
      { label: t("operations.owner"), cell: ownerOf },
      { label: t("operations.position"), number: true, cell: ({ position }) => (position === null ? t("operations.never") : number(position)) },
      { label: t("operations.end"), number: true, cell: ({ end }) => (end === null ? "?" : number(end)) },
      { label: t("overview.lag"), number: true, cell: (row) => (lag(row) === null ? "?" : number(lag(row))) },
    ],
  });
}
