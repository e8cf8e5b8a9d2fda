// What support does for a client: credit a ride, extend a deadline, cancel. Each with a reason.

import { may } from "../app.js";
import { h } from "../dom.js";
import { t } from "../i18n.js";
import { askToExtend } from "../extension/ask.js";
import { auditLink } from "../pages/audit.js";
import { readRide, rideFields, showOutcome, tellOutcome } from "../quarantine/correct.js";
import { ask } from "../ui/dialog.js";
import { toast } from "../ui/toast.js";

const LIVE = ["IN_PROGRESS", "COMPLETED"];

/** The buttons beside a participation; none where it is over. */
export function participationActions(api, one, refresh) {
  if (!may("support") || !LIVE.includes(one.status)) return [];
  const does = (act) => async () => (await act()) && refresh();
  return [
    h("button", { type: "button", onclick: does(() => extend(api, one)) }, t("client.extend")),
    h("button", { type: "button", onclick: does(() => cancel(api, one)) }, t("client.cancel")),
  ];
}

function extend(api, { user_id, promotion_id, promotion_key, status }) {
  const whom = t("extension.client", { number: String(user_id), promotion: promotion_key });
  return askToExtend(api, { promotion_id, user_id }, whom, { of: status === "COMPLETED" ? "REWARD" : "CHALLENGE" });
}

async function cancel(api, { user_id, promotion_id, promotion_key }) {
  const call = `/users/${user_id}/participations/${promotion_id}:cancel`;
  const done = await ask({
    title: t("client.cancel-title", { promotion: promotion_key }),
    says: [h("p", { class: "notice warn" }, t("client.cancel-does"))],
    does: t("client.cancel"),
    danger: true,
    reason: "reason",
    act: (reason) => api.change("POST", call, { reason }),
  });
  // The audit names the client in the entry's content only.
  if (done) toast(t("client.cancelled"), auditLink(`POST /users/{user_id}/participations/${promotion_id}:cancel`));
  return done;
}

/** A ride that the platform did not send; `given` is what of it is known. */
export async function creditRide(api, userId, refresh, given = {}) {
  const call = `/users/${userId}/rides`;
  const fields = rideFields({ ...given, user_id: Number(userId) });
  const credit = async (reason, query) => api.change("POST", call, { ride: readRide(fields), reason }, { query });
  const done = await ask({
    title: t("client.credit-title"),
    says: [h("p", {}, t("client.credit-does"))],
    fields,
    does: t("client.credit"),
    reason: "reason",
    trial: { act: (reason) => credit(reason, { dry_run: true }), shows: showOutcome },
    act: (reason) => credit(reason),
  });
  if (!done) return;
  tellOutcome(done, "POST /users/{user_id}/rides");
  refresh();
}
