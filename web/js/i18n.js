// Texts in the client's language; amounts, dates and durations in the client's locale.

import en from "./texts/en.js";
import es from "./texts/es.js";
import ru from "./texts/ru.js";

const TEXTS = { en, es, ru };

const LONG_DAY = { year: "numeric", month: "long", day: "numeric" };

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/**
 * The locale to speak: the first of the wanted ones whose language there are texts in, with its
 * region, which decides how amounts and dates are written.
 * @param {readonly (string|null)[]} wanted BCP 47 tags, the most wanted first
 */
export function chooseLocale(wanted) {
  for (const tag of wanted) {
    let locale;
    try {
      locale = new Intl.Locale(tag ?? "");
    } catch {
      continue; // no tag at all
    }
    if (Object.hasOwn(TEXTS, locale.language)) return locale.baseName;
  }
  return "en";
}

/** Everything that is said in one locale. */
export class Language {
  #texts;
  #plural;

  /** @param {string} locale as {@link chooseLocale} returns it */
  constructor(locale) {
    this.locale = locale;
    /** The language alone: the texts are in it. */
    this.code = new Intl.Locale(locale).language;
    this.#texts = TEXTS[this.code];
    this.#plural = new Intl.PluralRules(locale);
  }

  /**
   * A text with its `{places}` filled. A text with plural forms takes the one for `count`.
   * @param {string} key
   * @param {Record<string, string|number>} [values]
   */
  text(key, values = {}) {
    let text = this.#texts[key];
    if (text === undefined) throw new RangeError(`no text ${key} in ${this.code}`);
    if (typeof text !== "string") text = text[this.#plural.select(values.count)] ?? text.other;
    const filled = text.replace(/\{(\w+)\}/g, (_, name) => {
      const value = values[name];
      return typeof value === "number" ? this.number(value) : value;
    });
    // What is put at a sentence's end may bring a full stop of its own: "5:14 p.m.".
    return filled.replace(/\.\.(?=\s|$)/g, ".");
  }

  /** Whether there is such a text. */
  has(key) {
    return Object.hasOwn(this.#texts, key);
  }

  number(value) {
    return new Intl.NumberFormat(this.locale).format(value);
  }

  /** An amount of cents: `MX$1,000`, `MX$65.50`. */
  money(cents, currency) {
    const digits = cents % 100 === 0 ? 0 : 2;
    const format = new Intl.NumberFormat(this.locale, {
      style: "currency",
      currency,
      minimumFractionDigits: digits,
      maximumFractionDigits: digits,
    });
    return format.format(cents / 100);
  }

  /** A rate as scoring wrote it; a plain number is one in percent. */
  rate(text) {
    if (!/^\d+(\.\d+)?$/.test(text)) return text;
    const format = new Intl.NumberFormat(this.locale, { style: "percent", maximumFractionDigits: 20 });
    return format.format(Number(text) / 100);
  }

  /** A day and a time of the day by the phone's clock, with the name of its zone: for deadlines. */
  moment(instant) {
    const format = new Intl.DateTimeFormat(this.locale, { ...LONG_DAY, hour: "numeric", minute: "2-digit", timeZoneName: "short" });
    return format.format(new Date(instant));
  }

  /** A day by the phone's clock. */
  day(instant) {
    return new Intl.DateTimeFormat(this.locale, LONG_DAY).format(new Date(instant));
  }

  /**
   * Until an instant, exclusive: "until December 9, 2026 at 5:21 PM CST". Where that is midnight by
   * the phone's clock, the last whole day: "through December 30, 2026".
   */
  until(instant) {
    const end = new Date(instant);
    const isMidnight = end.getHours() + end.getMinutes() + end.getSeconds() + end.getMilliseconds() === 0;
    if (isMidnight) return this.text("until.day", { day: this.day(end.getTime() - 1) });
    return this.text("until.moment", { moment: this.moment(instant) });
  }

  /**
   * A zone that is not the phone's, for people: "Mexico City (GMT-6)"; `null` where both have the
   * same time now, so that one cannot be mistaken for the other.
   * @param {string} zone a name of the tz database
   */
  otherZone(zone) {
    const offset = (timeZone) =>
      new Intl.DateTimeFormat("en", { timeZone, timeZoneName: "longOffset" })
        .formatToParts(new Date())
        .find(({ type }) => type === "timeZoneName").value;
    try {
      if (offset(zone) === offset(undefined)) return null;
      return `${zone.split("/").at(-1).replaceAll("_", " ")} (${offset(zone)})`;
    } catch {
      return zone; // newer than this browser's tz database
    }
  }

  /** The same, short: for lists. */
  shortMoment(instant) {
    const format = new Intl.DateTimeFormat(this.locale, {
      day: "numeric",
      month: "short",
      hour: "numeric",
      minute: "2-digit",
    });
    return format.format(new Date(instant));
  }

  country(code) {
    return new Intl.DisplayNames(this.locale, { type: "region" }).of(code);
  }

  currency(code) {
    return new Intl.DisplayNames(this.locale, { type: "currency" }).of(code);
  }

  /** One thing, another or a third. */
  anyOf(items) {
    return new Intl.ListFormat(this.locale, { type: "disjunction" }).format(items);
  }

  /** A distance in metres: "800 m", "1.5 km". Short, because a text has no other cases of the word. */
  distance(metres) {
    const [value, unit] = metres < 1_000 ? [metres, "meter"] : [metres / 1_000, "kilometer"];
    const format = new Intl.NumberFormat(this.locale, { style: "unit", unit, unitDisplay: "short", maximumFractionDigits: 3 });
    return format.format(value);
  }

  /** A time of the week that has no zone, such as "2026-11-22T18:04:05": "Sun 6:04 PM". */
  timeOfWeek(local) {
    const format = new Intl.DateTimeFormat(this.locale, { weekday: "short", hour: "numeric", minute: "2-digit", timeZone: "UTC" });
    return format.format(new Date(`${local}Z`));
  }

  /** A window of the week: "Mon, Wed 6:00 AM – 10:00 AM"; days in a row as "Mon – Fri". */
  window({ days, from, to }) {
    const week = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"];
    // The first of January 2024 was a Monday.
    const at = (day, time = "00:00") => Date.UTC(2024, 0, 1 + day, ...time.split(":").map(Number));
    const format = (options) => new Intl.DateTimeFormat(this.locale, { ...options, timeZone: "UTC" });
    const places = days.map((day) => week.indexOf(day)).sort((one, other) => one - other);
    const names = places.map((place) => format({ weekday: "short" }).format(at(place)));
    const inARow = places.length > 2 && places.at(-1) - places[0] === places.length - 1;
    const time = (text) => format({ hour: "numeric", minute: "2-digit" }).format(at(0, text));
    return `${inARow ? `${names[0]} – ${names.at(-1)}` : names.join(", ")} ${time(from)} – ${time(to)}`;
  }

  /** A period of the conditions, `P14D`: "14 days". */
  period(iso) {
    return this.#units(periodMilliseconds(iso), ["day", "hour", "minute", "second"], 4);
  }

  /** Time left, rounded down, in its two largest units: "6 days, 23 hours". */
  left(milliseconds) {
    const units = milliseconds >= HOUR ? ["day", "hour", "minute"] : ["minute", "second"];
    return this.#units(milliseconds, units, 2);
  }

  #units(milliseconds, units, most) {
    const sizes = { day: DAY, hour: HOUR, minute: MINUTE, second: SECOND };
    const parts = [];
    let rest = milliseconds;
    for (const unit of units) {
      const count = Math.floor(rest / sizes[unit]);
      rest -= count * sizes[unit];
      if (count > 0) parts.push(this.unit(count, unit));
    }
    if (parts.length === 0) parts.push(this.unit(0, units.at(-1)));
    return new Intl.ListFormat(this.locale, { type: "unit", style: "long" }).format(parts.slice(0, most));
  }

  /** "1 day", "5 дней". */
  unit(count, unit) {
    return new Intl.NumberFormat(this.locale, { style: "unit", unit, unitDisplay: "long" }).format(count);
  }
}

/** How long until what is written by {@link Language#left} reads otherwise. */
export function untilLeftChanges(milliseconds) {
  const unit = milliseconds >= HOUR ? MINUTE : SECOND;
  return (milliseconds % unit) + 1;
}

/** An ISO 8601 duration of weeks, days, hours, minutes and seconds, in milliseconds. */
export function periodMilliseconds(iso) {
  const match = /^P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?$/.exec(iso);
  if (!match) throw new RangeError(`not a period: ${iso}`);
  const [weeks, days, hours, minutes, seconds] = match.slice(1).map((digits) => Number(digits ?? 0));
  return (weeks * 7 + days) * DAY + hours * HOUR + minutes * MINUTE + seconds * SECOND;
}
