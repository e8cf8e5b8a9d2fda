// Extending deadlines: of a promotion, a country, or one client.

import { h } from "../dom.js";
import { t } from "../i18n.js";
import { ask } from "../ui/dialog.js";
import { choice, field, periodInput, readFields } from "../ui/fields.js";
import { toast } from "../ui/toast.js";
import { auditLink } from "../pages/audit.js";

/**
 * Asks for an extension, says whom it would cover, and orders it.
 *
 * @param {{promotion_id?: number, country_code?: string, user_id?: number}} scope whom it covers
 * @param {string} whom the same in words
 * @param {{of?: string, outage_id?: string}} [given] what is decided already
 */
export async function askToExtend(api, scope, whom, given = {}) {
  const of = field({ name: "of", label: t("extension.of"), control: choice([["CHALLENGE", t("extension.CHALLENGE")], ["REWARD", t("extension.REWARD")]]) });
  const by = field({ name: "by", label: t("extension.by"), hint: t("extension.by-hint"), control: periodInput() });
  if (given.of) of.control.set(given.of);
  const fields = given.outage_id ? [] : [of, by];
  // The same request keeps its key, so that a repeat after a lost response extends nothing twice.
  let sent = { text: null, key: null };
  const order = (reason, query) => {
    const values = readFields(fields);
    if (!values) throw new RangeError(t("field.faults"));
    const body = { ...scope, ...(given.outage_id ? { outage_id: given.outage_id } : values), reason };
    const text = JSON.stringify(body);
    if (sent.text !== text) sent = { text, key: crypto.randomUUID() };
    return api.change("POST", "/extensions", body, { idempotencyKey: sent.key, query });
  };
  const done = await ask({
    title: t("extension.title"),
    says: [h("p", {}, t("extension.whom", { whom })), h("p", {}, given.outage_id ? t("extension.outage-does") : t("extension.does"))],
    fields,
    does: t("extension.button"),
    reason: "reason",
    trial: {
      act: (reason) => order(reason, { dry_run: true }),
      shows: ({ matched }) => [h("p", {}, h("strong", {}, t("extension.would", { count: matched })))],
    },
    act: (reason) => order(reason),
  });
  if (done) toast(t("extension.started", { count: done.matched }), auditLink("POST /extensions"));
  return done;
}
