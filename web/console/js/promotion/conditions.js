// Conditions in words: what a client has to do, and which rides count.

import { country, list, money, number, period, t, weekday } from "../i18n.js";

/** The rules as sentences, in the order of the form. */
export function conditionsInWords(conditions) {
  const said = [];
  const say = (key, values) => said.push(t(`rule.${key}`, values));
  const c = conditions;
  say("target", { count: c.target_rides, period: period(c.challenge_period) ?? c.challenge_period });
  if (c.target_days) say("days", { count: c.target_days });
  if (c.target_amount_cents) say("amount", { amount: money(c.target_amount_cents, c.currency_code) });
  if (c.min_amount_cents > 0) say("min-amount", { amount: money(c.min_amount_cents, c.currency_code) });
  else say("currency", { currency: c.currency_code });
  if (c.min_distance_m) say("min-distance", { metres: number(c.min_distance_m) });
  if (c.country_codes) say("countries", { countries: list(c.country_codes.map(country)) });
  if (c.city_ids) say("cities", { cities: c.city_ids.join(", ") });
  if (c.service_types) say("services", { services: c.service_types.join(", ") });
  if (c.hours) say("hours", { hours: c.hours.map(windowInWords).join("; ") });
  if (c.max_rides_per_day) say("per-day", { count: c.max_rides_per_day });
  if (c.day_boundary_timezone) say("zone", { zone: c.day_boundary_timezone });
  for (const of of ["challenge", "reward"]) {
    const leads = c.reminders?.[of];
    if (leads) say(`reminders-${of}`, { leads: list(leads.map((lead) => period(lead) ?? lead)) });
  }
  say("claim", { period: period(c.claim_period) ?? c.claim_period });
  return said;
}

/** One window of hours: "Mon, Tue 06:00–10:00". */
export function windowInWords({ days, from, to }) {
  return `${days.map(weekday).join(", ")} ${from}–${to}`;
}
