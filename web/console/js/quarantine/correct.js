// Replaying and dismissing: one record, its correction, or many.

import { h } from "../dom.js";
import { t, word } from "../i18n.js";
import { badge } from "../ui/badges.js";
import { ask } from "../ui/dialog.js";
import { field, integer, readFields, textInput, cents } from "../ui/fields.js";
import { toast } from "../ui/toast.js";
import { verdictInWords } from "../client/verdict.js";
import { auditLink } from "../pages/audit.js";
import { bytesOf } from "./bytes.js";

/** The inputs of a ride, filled with what of it can be read. */
function rideFields(given) {
  const specs = [
    ["ride_id", textInput({ class: "mono", spellcheck: "false" })],
    ["user_id", integer()],
    ["completed_at", textInput({ spellcheck: "false" }), t("hint.completed_at")],
    ["amount_cents", cents(), t("hint.money")],
    ["currency_code", textInput({ maxlength: 3 })],
    ["country_code", textInput({ maxlength: 2 })],
    ["city_id", integer()],
    ["service_type", textInput({ maxlength: 64 })],
    ["distance_m", integer()],
  ];
  return specs.map(([name, control, hint = null]) => {
    const one = field({ name: `ride.${name}`, label: t(`ride.${name}`), hint, control });
    one.control.set(given?.[name]);
    return one;
  });
}

function tellOutcome({ outcome, receipt }, call) {
  const verdict = receipt && `${word("verdict", receipt.verdict)}: ${verdictInWords(receipt)}`;
  toast([t(`outcome.${outcome}`), verdict].filter(Boolean).join(" "), auditLink(call));
}

/** Judges a record as it is. */
export async function replay(api, record) {
  const call = `/quarantine/${record.quarantine_id}/replay`;
  const done = await ask({ title: t("quarantine.replay-title"), says: [h("p", {}, t("quarantine.replay-does"))], does: t("quarantine.replay"), act: () => api.change("POST", call) });
  if (done) tellOutcome(done, `POST ${call}`);
  return done;
}

/** Judges a corrected ride in a record's place. */
export async function correct(api, record) {
  const call = `/quarantine/${record.quarantine_id}/replay`;
  const { json } = bytesOf(record.value_base64);
  const given = json !== null && typeof json === "object" && !Array.isArray(json) ? json : {};
  const fields = rideFields({ ...(record.user_id && { user_id: record.user_id }), ...given });
  const done = await ask({
    title: t("quarantine.correct-title"),
    says: [h("p", {}, t("quarantine.correct-does")), h("p", { class: "notice error" }, record.detail)],
    fields,
    does: t("quarantine.correct"),
    act: () => {
      const values = readFields(fields);
      if (!values) throw new RangeError(t("field.faults"));
      const ride = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined).map(([name, value]) => [name.slice("ride.".length), value]));
      return api.change("POST", call, { ride });
    },
  });
  if (done) tellOutcome(done, `POST ${call}`);
  return done;
}

export async function dismiss(api, record) {
  const call = `/quarantine/${record.quarantine_id}/dismiss`;
  const done = await ask({
    title: t("quarantine.dismiss-title"),
    says: [h("p", {}, t("quarantine.dismiss-does")), h("p", {}, badge("quarantine", record.reason), " ", record.detail)],
    does: t("quarantine.dismiss"),
    danger: true,
    reason: "reason",
    act: async (reason) => {
      await api.change("POST", call, { reason });
      return true;
    },
  });
  if (done) toast(t("quarantine.dismissed"), auditLink(`POST ${call}`));
  return done;
}

/** How many pages are counted before it says "more than". */
const MAX_PAGES = 10;

/** Counts the open records of a selection, up to a bound. */
async function count(api, { reason, from, to }) {
  let found = 0;
  let cursor = null;
  for (let page = 0; page < MAX_PAGES; page++) {
    const { items, next_cursor } = await api.get("/quarantine", { status: "OPEN", reason, limit: 200, cursor });
    const within = items.filter(({ received_at }) => (!from || received_at >= from) && (!to || received_at < to));
    found += within.length;
    if (!next_cursor) return { found, more: false };
    cursor = next_cursor;
  }
  return { found, more: true };
}

/** Resolves every open record of a selection `{reason, from, to}`, after saying how many that are. */
export async function resolveMany(api, how, selection) {
  const { found, more } = await count(api, selection);
  const chosen = Object.fromEntries(Object.entries(selection).filter(([, value]) => value));
  const done = await ask({
    title: t(`quarantine.${how}-many-title`),
    says: [
      h("p", { class: "notice warn" }, more ? t("quarantine.many-more", { count: found }) : t("quarantine.many", { count: found })),
      h("p", {}, Object.keys(chosen).length === 0 ? t("quarantine.selection-all") : t("quarantine.selection", { selection: Object.entries(chosen).map(([name, value]) => `${t(`quarantine.by-${name}`)} ${name === "reason" ? word("quarantine", value) : value}`).join(", ") })),
      h("p", {}, t(`quarantine.${how}-does`)),
    ],
    does: t(`quarantine.${how}-many`),
    danger: how === "dismiss",
    reason: "note",
    act: (note) => api.change("POST", `/quarantine:${how}`, { ...chosen, note }),
  });
  if (done) toast(t("quarantine.resolved", { resolved: done.resolved, left: done.left_open }), auditLink(`POST /quarantine:${how}`));
  return done;
}
