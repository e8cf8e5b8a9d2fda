// Importing pre-offers: a file, its progress, what became of its lines; the imports before.

import { may } from "../app.js";
import { h, put } from "../dom.js";
import { moment, number, percent, t, word } from "../i18n.js";
import { saveAs } from "../ui/download.js";
import { problemBox } from "../ui/problem.js";
import { facts, table } from "../ui/table.js";
import { toast } from "../ui/toast.js";
import { auditLink } from "./audit.js";

/** What the audit calls an import. */
const CALL = "pre-offers:import";

export async function imports({ signal, api }) {
  const before = may("audit") ? await history(api, signal) : null;
  const result = h("div", { class: "stack" });
  return { title: t("nav.imports"), says: t("imports.says"), body: [chooser(api, signal, result), result, before] };
}

function chooser(api, signal, result) {
  const input = h("input", { type: "file", class: "hidden", id: "import-file", accept: ".csv,.json,.ndjson,.jsonl,.gz", tabindex: -1, onchange: () => input.files[0] && choose(input.files[0]) });
  const button = h("button", { type: "button", class: "primary", onclick: () => input.click() }, t("imports.choose"));
  const drop = h("section", { class: "card drop" }, h("p", {}, t("imports.drop")), button, h("label", { class: "hidden", for: "import-file" }, t("imports.choose")), input, h("p", { class: "quiet small" }, t("imports.formats")));
  drop.addEventListener("dragover", (event) => (event.preventDefault(), drop.classList.add("over")));
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) choose(file);
  });

  /** A file was chosen: it says what will be done before it is sent. */
  function choose(file) {
    const check = h("button", { type: "button", class: "primary", onclick: () => upload(api, signal, file, result, { dryRun: true }) }, t("imports.check"));
    const send = h("button", { type: "button", onclick: () => upload(api, signal, file, result) }, t("imports.send"));
    put(
      result,
      h(
        "section",
        { class: "card stack" },
        h("h2", {}, file.name),
        h("p", {}, t("imports.bytes", { count: file.size })),
        h("p", { class: "notice" }, t("imports.does")),
        h("div", { class: "row" }, check, send, h("button", { type: "button", onclick: () => put(result) }, t("cancel"))),
      ),
    );
    input.value = "";
    check.focus();
  }
  return drop;
}

/** The name as the audit takes it: printable, and not too long. */
const fileName = (name) => name.replaceAll(/\p{Cc}/gu, "").slice(0, 200) || null;

function typeOf(name) {
  const plain = name.toLowerCase().replace(/\.gz$/, "");
  if (plain.endsWith(".csv")) return "text/csv";
  return /\.(ndjson|jsonl|json)$/.test(plain) ? "application/x-ndjson" : null;
}

/** Sends the file to be imported, or only to be checked, and shows what became of its lines. */
async function upload(api, signal, file, result, { dryRun = false } = {}) {
  const stop = new AbortController();
  signal.addEventListener("abort", () => stop.abort());
  const bar = h("progress", { max: 1, value: 0, "aria-label": t("imports.sending", { name: file.name }) });
  const says = h("p", { role: "status" }, t("imports.sending", { name: file.name }));
  put(result, h("section", { class: "card stack" }, says, bar, h("div", {}, h("button", { type: "button", onclick: () => stop.abort() }, t("imports.stop")))));
  const progress = (sent, total) => {
    bar.value = sent / total;
    if (sent === total) says.textContent = dryRun ? t("imports.checking") : t("imports.applying");
    else says.textContent = t("imports.sent", { share: percent(sent, total) });
  };
  try {
    const query = { file: fileName(file.name), ...(dryRun && { dry_run: true }) };
    const report = await api.upload("/pre-offers:import", file, { type: typeOf(file.name), query, progress, signal: stop.signal });
    const send = dryRun && h("button", { type: "button", class: "primary", onclick: () => upload(api, signal, file, result) }, t("imports.send"));
    put(result, reportOf(report, file.name, send));
    if (dryRun) send.focus();
    else toast(t("imports.done"), may("audit") ? auditLink(CALL) : null);
  } catch (error) {
    const partial = error.body?.report;
    if (error.name === "AbortError") put(result, h("p", { class: "notice warn" }, dryRun ? t("imports.check-stopped") : t("imports.stopped")));
    else put(result, problemBox(error), partial && reportOf(partial, file.name));
  }
}

const COUNTS = ["read", "imported", "updated", "unchanged", "without_promotion", "rejected"];

/** What became of the lines, or would; and those that need a look as a table and a file. */
function reportOf(report, name, send = null) {
  // A line whose promotion_key is unknown went in: it is a warning, no rejection.
  const warnings = report.rejections.filter(({ imported }) => imported);
  const rejected = report.rejections.filter(({ imported }) => !imported);
  const lines = (rows, caption) => rows.length > 0 && table({ caption, shown: true, rows, columns: [{ label: t("imports.line"), number: true, cell: ({ line }) => String(line) }, { label: t("imports.field"), cell: (row) => row.field && h("code", {}, row.field) }, { label: t("imports.reason"), cell: ({ reason }) => word("rejection", reason) }] });
  return h(
    "section",
    { class: "card stack", "data-report": name },
    h("h2", {}, report.dry_run ? t("imports.check-report", { name }) : t("imports.report", { name })),
    report.dry_run && h("p", { class: "notice" }, t("imports.nothing-changed")),
    send && h("div", {}, send),
    facts(COUNTS.map((count) => [t(`imports.${count}`), number(report[count])])),
    report.read === 0 && h("p", { class: "notice warn" }, t("imports.nothing-read")),
    report.rejections.length > 0 && h("div", {}, download(report.rejections, name)),
    lines(rejected, t("imports.rejections")),
    lines(warnings, t("imports.warnings")),
    report.rejected > rejected.length && h("p", { class: "quiet" }, t("imports.first", { count: rejected.length })),
  );
}

/** The rejections as CSV, made here. */
function download(rejections, name) {
  const cell = (value) => `"${String(value ?? "").replaceAll('"', '""').replace(/^[=+\-@]/, "'$&")}"`;
  const lines = [["line", "field", "reason"], ...rejections.map(({ line, field, reason }) => [line, field, reason])];
  const save = () => saveAs(`${name}.rejections.csv`, lines.map((row) => row.map(cell).join(",")).join("\r\n"), "text/csv");
  return h("button", { type: "button", onclick: save }, t("imports.download"));
}

async function history(api, signal) {
  const { items: rows } = await api.get("/audit", { call: CALL, limit: 20 }, signal);
  return table({
    caption: t("imports.history"),
    shown: true,
    rows,
    empty: t("list.empty"),
    columns: [
      { label: t("audit.at"), head: true, cell: ({ at }) => moment(at) },
      { label: t("audit.actor"), cell: ({ actor }) => actor },
      { label: t("imports.file"), cell: ({ after }) => after?.file ?? "–" },
      ...COUNTS.map((count) => ({ label: t(`imports.${count}`), number: true, cell: ({ after }) => (after?.[count] === undefined ? "–" : number(after[count])) })),
    ],
  });
}
