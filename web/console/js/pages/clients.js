// Finding a client, and why a ride of theirs did not count.

import { h } from "../dom.js";
import { t } from "../i18n.js";
import { go, link } from "../router.js";
import { field, integer, readFields, textInput } from "../ui/fields.js";

export function clients() {
  const user = field({ name: "user_id", label: t("client.number"), control: integer() });
  const ride = field({ name: "ride", label: t("client.ride-id"), hint: t("client.ride-hint"), control: textInput({ class: "mono", spellcheck: "false" }) });
  const submit = (event) => {
    event.preventDefault();
    const values = readFields([user, ride]);
    if (!values) return;
    if (values.user_id === undefined) return user.fault(t("field.required"));
    go(link("clients", values.user_id, { ride: values.ride }));
  };
  return {
    title: t("nav.clients"),
    says: t("clients.says"),
    body: h("form", { class: "card stack", novalidate: true, onsubmit: submit }, h("div", { class: "fields" }, user.element, ride.element), h("div", {}, h("button", { type: "submit", class: "primary" }, t("clients.find")))),
  };
}
