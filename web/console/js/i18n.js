// Texts in the operator's language; amounts, instants and periods as their locale writes them.

import en from "./texts/en.js";
import es from "./texts/es.js";
import ru from "./texts/ru.js";

const TEXTS = { en, es, ru };

/** The languages there are, as each calls itself. */
export const LANGUAGES = { en: "English", es: "Español", ru: "Русский" };

const SECOND = 1000;
const UNITS = { day: 86_400 * SECOND, hour: 3_600 * SECOND, minute: 60 * SECOND, second: SECOND };

let locale = "en";
let texts = TEXTS.en;
let plural = new Intl.PluralRules("en");

/** Takes the first of these BCP 47 tags whose language there are texts in. */
export function setLanguage(wanted) {
  locale = wanted.find((tag) => tag && Object.hasOwn(TEXTS, tag.split("-")[0])) ?? "en";
  texts = TEXTS[language()];
  plural = new Intl.PluralRules(locale);
  document.documentElement.lang = language();
}

/** The language alone. */
export const language = () => locale.split("-")[0];

/** A text with its `{places}` filled; one with plural forms takes the form for `count`. */
export function t(key, values = {}) {
  let text = texts[key] ?? TEXTS.en[key];
  if (text === undefined) throw new RangeError(`no text ${key}`);
  if (typeof text !== "string") text = text[plural.select(values.count)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name];
    return typeof value === "number" ? number(value) : value;
  });
}

/** The text of a word of the API, such as a status; the word itself where there is no text. */
export const word = (kind, name) => (name === null || name === undefined ? "" : (texts[`${kind}.${name}`] ?? name));

export const number = (value) => new Intl.NumberFormat(locale).format(value);

/** From this depth on the service does not count every event of the outbox: it tells a lower bound. */
const COUNTED_DEPTH = 10_000;

/** How many events wait in the outbox. */
export const outboxDepth = ({ depth }) => (depth < COUNTED_DEPTH ? number(depth) : `≥ ${number(depth)}`);

/** A number with so many digits behind the point at most. */
export const decimal = (value, digits) => new Intl.NumberFormat(locale, { maximumFractionDigits: digits }).format(value);

export const percent = (part, whole) =>
  whole === 0 ? "–" : new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 1 }).format(part / whole);

/** Cents: `MX$65.50`. */
export function money(cents, currency) {
  try {
    return new Intl.NumberFormat(locale, { style: "currency", currency }).format(cents / 100);
  } catch {
    return `${number(cents / 100)} ${currency}`;
  }
}

/** An instant by this machine's clock and zone, to the second. */
export function moment(instant) {
  if (instant === null || instant === undefined) return "–";
  return new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "medium" }).format(new Date(instant));
}

/** An ISO 8601 duration in words, "14 days"; `null` for what is not one. */
export function period(iso) {
  const milliseconds = periodMilliseconds(iso);
  return milliseconds === null ? null : duration(milliseconds);
}

/** A time in its largest units: "1 day, 6 hours". */
export function duration(milliseconds) {
  const parts = [];
  let rest = milliseconds;
  for (const [unit, size] of Object.entries(UNITS)) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count > 0) parts.push(unitOf(count, unit));
  }
  if (parts.length === 0) parts.push(unitOf(0, "second"));
  return new Intl.ListFormat(locale, { type: "unit" }).format(parts);
}

const unitOf = (count, unit) => new Intl.NumberFormat(locale, { style: "unit", unit, unitDisplay: "long" }).format(count);

/** An ISO 8601 duration of weeks, days, hours, minutes and seconds in milliseconds, or `null`. */
export function periodMilliseconds(iso) {
  const match = /^P(?=.)(?:(\d+)W)?(?:(\d+)D)?(?:T(?=.)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?$/.exec(iso ?? "");
  if (!match) return null;
  const [weeks, days, hours, minutes, seconds] = match.slice(1).map((digits) => Number(digits ?? 0));
  return (weeks * 7 + days) * UNITS.day + hours * UNITS.hour + minutes * UNITS.minute + seconds * SECOND;
}

export function country(code) {
  try {
    return new Intl.DisplayNames(locale, { type: "region" }).of(code);
  } catch {
    return code;
  }
}

/** The name of a weekday, `MO`. */
export function weekday(code) {
  const at = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"].indexOf(code);
  // 5 January 1970 was a Monday
  return new Intl.DateTimeFormat(locale, { weekday: "short", timeZone: "UTC" }).format(new Date((4 + at) * UNITS.day));
}

export const list = (items) => new Intl.ListFormat(locale, { type: "conjunction" }).format(items);
