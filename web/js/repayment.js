// What a loan costs, as far as it is known.

const DAY = 86_400_000;

/**
 * What `repayment_rate` is a percentage of. The service passes the rate on as scoring wrote it and does
 * not know; the operator says it in `api.repayment_rate`, which comes with the page:
 *
 * - `unstated`: not said. Nothing is computed.
 * - `once-of-amount`: of the amount, charged once, repaid with the amount in one payment `term_days`
 *   days after the acceptance.
 */
export function statedRate(root = document) {
  return root.querySelector('meta[name="ride-promo:repayment-rate"]')?.content ?? "unstated";
}

/**
 * `{charge, total, due}`: cents, cents, and milliseconds since 1970 for a loan accepted at `now`;
 * `null` where it cannot be known. The charge is rounded half up to a whole cent.
 * @param {{amount_cents: number, repayment_rate: string}} reward
 * @param {number} termDays
 * @param {number} now milliseconds since 1970
 * @param {string} stated as {@link statedRate} returns it
 */
export function repayment({ amount_cents: amount, repayment_rate: rate }, termDays, now, stated) {
  const decimal = /^(\d+)(?:\.(\d+))?$/.exec(rate);
  if (stated !== "once-of-amount" || !decimal) return null;
  // In whole numbers: 0.1 + 0.2 is not 0.3.
  const [, whole, fraction = ""] = decimal;
  const divisor = 100n * 10n ** BigInt(fraction.length);
  const charge = Number((BigInt(amount) * BigInt(whole + fraction) * 2n + divisor) / (2n * divisor));
  return { charge, total: amount + charge, due: now + termDays * DAY };
}
