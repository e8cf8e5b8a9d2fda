// Everything about one client.

import { h } from "../dom.js";
import { t } from "../i18n.js";
import { go, link } from "../router.js";
import { eligibility, originations, participation, preOffers } from "../client/parts.js";
import { participationActions } from "../client/actions.js";
import { events, KINDS, timeline } from "../client/timeline.js";
import { whyNot } from "../client/why.js";
import { choice, field, readFields, textInput } from "../ui/fields.js";
import { filters } from "../ui/table.js";

export async function client({ params, query, signal, api, refresh }) {
  const user = await api.get(`/users/${params.id}`, {}, signal);
  const found = events(user);
  const path = ["clients", params.id];
  return {
    title: t("client.title", { number: params.id }),
    back: { address: link("clients"), text: t("nav.clients") },
    body: [
      found.length === 0 && h("p", { class: "notice warn" }, t("client.unknown")),
      askWhy(path, query),
      query.ride && whyNot(user, query.ride),
      user.participations.map((one) => participation(one, participationActions(api, one, refresh))),
      h("div", { class: "grid" }, eligibility(user.eligibility)),
      user.pre_offers.length > 0 && preOffers(user.pre_offers),
      user.applications.length > 0 && originations(user),
      found.length > 0 && line(found, path, query),
    ],
  };
}

function askWhy(path, query) {
  const ride = field({ name: "ride", label: t("why.title"), hint: t("client.ride-hint"), control: textInput({ class: "mono", spellcheck: "false" }) });
  ride.control.set(query.ride);
  const submit = (event) => {
    event.preventDefault();
    const values = readFields([ride]);
    if (values) go(link(...path, { ...query, ...values }));
  };
  return h("form", { class: "card filters", novalidate: true, role: "search", "aria-label": t("why.title"), onsubmit: submit }, ride.element, h("button", { type: "submit" }, t("why.button")));
}

function line(found, path, query) {
  const kinds = KINDS.filter((kind) => found.some((one) => one.kind === kind));
  const shown = query.kind ? found.filter(({ kind }) => kind === query.kind) : found;
  return h(
    "section",
    { class: "card stack" },
    h("h2", {}, t("client.timeline")),
    filters(path, [{ name: "kind", label: t("client.kind"), control: choice([["", t("list.all")], ...kinds.map((kind) => [kind, t(`kind.${kind}`)])]) }], query),
    timeline(shown),
  );
}
