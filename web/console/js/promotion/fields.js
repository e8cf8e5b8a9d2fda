// The fields of a promotion: where each is in its JSON, and what it is typed into.

import { t } from "../i18n.js";
import { cents, check, choice, instantInput, integer, integerList, listInput, periodInput, periodList, textInput } from "../ui/fields.js";
import { windowsInput } from "./windows.js";

const upper = (text) => text.toUpperCase();

/** The groups of the form; a field is `{path, hint?, control}`, `wide` are those that take a whole line. `isNew` lets the key be chosen. */
export function groups(isNew) {
  return [
    {
      legend: t("form.basics"),
      fields: [
        { path: "promotion_key", hint: isNew ? t("hint.promotion_key") : t("hint.promotion_key-fixed"), control: textInput({ maxlength: 100, readonly: !isNew, spellcheck: "false" }) },
        { path: "title", hint: t("hint.title"), control: textInput({ maxlength: 200 }) },
        { path: "active", control: check(t("field.active-long")) },
      ],
    },
    {
      legend: t("form.goals"),
      fields: [
        { path: "conditions.target_rides", control: integer() },
        { path: "conditions.target_days", hint: t("hint.target_days"), control: integer() },
        { path: "conditions.target_amount_cents", hint: t("hint.target_amount"), control: cents() },
        { path: "conditions.challenge_period", hint: t("hint.period"), control: periodInput() },
        { path: "conditions.claim_period", hint: t("hint.claim"), control: periodInput() },
      ],
    },
    {
      legend: t("form.counts"),
      fields: [
        { path: "conditions.currency_code", control: textInput({ maxlength: 3, spellcheck: "false" }) },
        { path: "conditions.min_amount_cents", hint: t("hint.money"), control: cents() },
        { path: "conditions.min_distance_m", hint: t("hint.min_distance"), control: integer() },
        { path: "conditions.country_codes", hint: t("hint.countries"), control: listInput(upper) },
        { path: "conditions.city_ids", hint: t("hint.cities"), control: integerList() },
        { path: "conditions.service_types", hint: t("hint.services"), control: listInput() },
        { path: "conditions.max_rides_per_day", hint: t("hint.per-day"), control: integer() },
        { path: "conditions.day_boundary_timezone", hint: t("hint.zone"), control: textInput({ list: "zones", spellcheck: "false" }) },
      ],
      wide: [{ path: "conditions.hours", hint: t("hint.hours"), control: windowsInput() }],
    },
    {
      legend: t("form.reminders"),
      fields: [
        { path: "conditions.reminders.challenge", hint: t("hint.reminders"), control: periodList() },
        { path: "conditions.reminders.reward", hint: t("hint.reminders-reward"), control: periodList() },
      ],
    },
    {
      legend: t("form.schedule"),
      fields: [
        { path: "opens_at", hint: t("hint.opens_at"), control: instantInput() },
        { path: "closes_at", hint: t("hint.closes_at"), control: instantInput() },
        { path: "budget.max_participations", hint: t("hint.max_participations"), control: integer() },
        { path: "budget.max_reward_cents", hint: t("hint.max_reward_cents"), control: cents() },
        { path: "budget.currency_code", hint: t("hint.budget-currency"), control: textInput({ maxlength: 3, spellcheck: "false" }) },
      ],
    },
    {
      legend: t("form.special"),
      fields: [
        { path: "missing_split", hint: t("hint.missing_split"), control: choice([["create", t("missing_split.create")], ["reject", t("missing_split.reject")]]) },
      ],
    },
  ];
}

/** The names of the time zones that this browser knows, for the input's suggestions. */
export const zoneNames = () => Intl.supportedValuesOf("timeZone");

/** What a new promotion begins with. */
export const BLANK = {
  promotion_key: "",
  title: "",
  conditions: { target_rides: 20, min_amount_cents: 5000, currency_code: "MXN", challenge_period: "P14D", claim_period: "P7D" },
  missing_split: "create",
  active: true,
  opens_at: null,
  closes_at: null,
  budget: null,
};

/** What of a promotion is written, without what the service adds. */
export function written(promotion) {
  return Object.fromEntries(Object.keys(BLANK).map((name) => [name, promotion[name]]));
}

/** What is at a path, `conditions.target_rides`. */
export const at = (value, path) => path.split(".").reduce((inner, name) => inner?.[name], value);

/** A copy with another value at a path; `undefined` takes the field away. */
export function withValue(object, path, value) {
  const [name, ...rest] = path.split(".");
  let inner = rest.length === 0 ? value : withValue(object?.[name] ?? {}, rest.join("."), value);
  // An object whose last field went goes too.
  if (rest.length > 0 && value === undefined && Object.keys(inner).length === 0) inner = undefined;
  const { [name]: _, ...others } = object ?? {};
  if (inner === undefined) return others;
  // The order of the fields stays.
  return Object.hasOwn(object ?? {}, name) ? Object.fromEntries(Object.entries(object).map(([key, old]) => [key, key === name ? inner : old])) : { ...others, [name]: inner };
}
