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
export function rideFields(given) {
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

/** The ride that was typed into {@link rideFields}; throws where something typed is not of its kind. */
export function readRide(fields) {
  const values = readFields(fields);
  if (!values) throw new RangeError(t("field.faults"));
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined).map(([name, value]) => [name.slice("ride.".length), value]));
}

const verdictOf = (receipt) => receipt && `${word("verdict", receipt.verdict)}: ${verdictInWords(receipt)}`;

/** Says what came of a ride that was judged by the call. */
export function tellOutcome({ outcome, receipt }, call) {
  toast([t(`outcome.${outcome}`), verdictOf(receipt)].filter(Boolean).join(" "), auditLink(call));
}

/** Says what would come of it, as the dry run found. */
export const showOutcome = ({ outcome, receipt }) => [h("p", {}, h("strong", {}, t(`outcome-would.${outcome}`))), receipt && h("p", {}, verdictOf(receipt))];

const DRY_RUN = { query: { dry_run: true } };

/** Judges a record as it is. */
export async function replay(api, record) {
  const call = `/quarantine/${record.quarantine_id}/replay`;
  const done = await ask({
    title: t("quarantine.replay-title"),
    says: [h("p", {}, t("quarantine.replay-does"))],
    does: t("quarantine.replay"),
    trial: { act: () => api.change("POST", call, undefined, DRY_RUN), shows: showOutcome },
    act: () => api.change("POST", call),
  });
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
    trial: { act: async () => api.change("POST", call, { ride: readRide(fields) }, DRY_RUN), shows: showOutcome },
    act: async () => api.change("POST", call, { ride: readRide(fields) }),
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

/** Resolves every open record of a selection `{reason, from, to}`, after saying what would come of them. */
export async function resolveMany(api, how, selection) {
  const call = `/quarantine:${how}`;
  const chosen = Object.fromEntries(Object.entries(selection).filter(([, value]) => value));
  const done = await ask({
    title: t(`quarantine.${how}-many-title`),
    says: [
      h("p", {}, Object.keys(chosen).length === 0 ? t("quarantine.selection-all") : t("quarantine.selection", { selection: Object.entries(chosen).map(([name, value]) => `${t(`quarantine.by-${name}`)} ${name === "reason" ? word("quarantine", value) : value}`).join(", ") })),
      h("p", {}, t(`quarantine.${how}-does`)),
    ],
    does: t(`quarantine.${how}-many`),
    danger: how === "dismiss",
    reason: "note",
    trial: {
      act: (note) => api.change("POST", call, { ...chosen, note }, DRY_RUN),
      shows: ({ resolved, left_open }) => [h("p", {}, h("strong", {}, t(`quarantine.${how}-would`, { count: resolved }))), left_open > 0 && h("p", {}, t("quarantine.left-would", { count: left_open }))],
    },
    act: (note) => api.change("POST", call, { ...chosen, note }),
  });
  if (done) toast(t("quarantine.resolved", { resolved: done.resolved, left: done.left_open }), auditLink(`POST ${call}`));
  return done;
}
