// What support does for a client, each with a reason.

import { may } from "../app.js";
import { h } from "../dom.js";
import { t } from "../i18n.js";
import { ask } from "../ui/dialog.js";
import { toast } from "../ui/toast.js";
import { auditLink } from "../pages/audit.js";

const LIVE = ["IN_PROGRESS", "COMPLETED"];

/** The buttons beside a participation; none where it is over. */
export function participationActions(api, one, refresh) {
  if (!may("support") || !LIVE.includes(one.status)) return [];
  const does = (act) => async () => (await act()) && refresh();
  return [
    h("button", { type: "button", onclick: does(() => cancel(api, one)) }, t("client.cancel")),
  ];
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
  if (done) toast(t("client.cancelled"), auditLink(`POST ${call}`));
  return done;
}
