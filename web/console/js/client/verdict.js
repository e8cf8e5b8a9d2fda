// A receipt's verdict in words, with the values that were compared.

import { country, list, moment, money, number, t, word } from "../i18n.js";
import { windowInWords } from "../promotion/conditions.js";

/** "The fare was MX$42.00; at least MX$50.00 counts." */
export function verdictInWords({ verdict, details, currency_code, counted }) {
  if (counted) return t("verdict-why.COUNTED");
  const { required = null, actual = null } = details ?? {};
  const missing = t("verdict-why.missing");
  const amount = (value) => (value === null ? missing : money(value, currency_code));
  switch (verdict) {
    case "BEFORE_START":
    case "AFTER_DEADLINE":
      return t(`verdict-why.${verdict}`, { required: moment(required), actual: moment(actual) });
    case "BELOW_MIN_AMOUNT":
      return t("verdict-why.BELOW_MIN_AMOUNT", { required: amount(required), actual: amount(actual) });
    case "BELOW_MIN_DISTANCE":
      return t("verdict-why.BELOW_MIN_DISTANCE", { required: number(required), actual: actual === null ? missing : number(actual) });
    case "DAILY_LIMIT_REACHED":
      return t("verdict-why.DAILY_LIMIT_REACHED", { required: number(required ?? 0) });
    case "OUTSIDE_HOURS":
      return t("verdict-why.OUTSIDE_HOURS", { required: (required ?? []).map(windowInWords).join("; "), actual: String(actual).replace("T", " ") });
    case "REVERSED":
      return t("verdict-why.REVERSED", { actual: actual === null ? "–" : word("verdict", actual) });
    case "WRONG_CURRENCY":
    case "OUTSIDE_AREA":
    case "WRONG_SERVICE_TYPE":
      return t(`verdict-why.${verdict}`, { required: plain(required), actual: actual === null ? missing : plain(actual) });
    default:
      return `${verdict} ${JSON.stringify(details)}`;
  }
}

/** Codes and lists of codes; of an area its parts. */
function plain(value) {
  if (Array.isArray(value)) return list(value.map(String));
  if (value !== null && typeof value === "object") {
    const parts = Object.entries(value).filter(([, inner]) => inner !== null);
    return parts.map(([name, inner]) => (name === "country_codes" ? list(inner.map(country)) : `${name} ${plain(inner)}`)).join("; ") || "–";
  }
  return String(value);
}
