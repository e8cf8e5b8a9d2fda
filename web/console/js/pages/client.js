// Everything about one client.

import { may } from "../app.js";
import { h } from "../dom.js";
import { moment, t } from "../i18n.js";
import { go, link } from "../router.js";
import { eligibility, originations, participation, preOffers } from "../client/parts.js";
import { creditRide, participationActions } from "../client/actions.js";
import { events, KINDS, timeline } from "../client/timeline.js";
import { whyNot } from "../client/why.js";
import { choice, field, readFields, textInput } from "../ui/fields.js";
import { problemBox } from "../ui/problem.js";
import { filters } from "../ui/table.js";

export async function client({ params, query, signal, api, refresh }) {
  const [user, ride] = await Promise.all([api.get(`/users/${params.id}`, {}, signal), query.ride && rideOf(api, params.id, query.ride, signal)]);
  const found = events(user);
  const path = ["clients", params.id];
  const credit = (given) => may("support") && h("button", { type: "button", onclick: () => creditRide(api, params.id, refresh, given) }, t("client.credit"));
  return {
    title: t("client.title", { number: params.id }),
    back: { address: link("clients"), text: t("nav.clients") },
    actions: credit({}),
    body: [
      !user.known && h("p", { class: "notice warn" }, t("client.unknown")),
      user.erased_at && h("p", { class: "notice warn" }, t("client.erased", { moment: moment(user.erased_at) })),
      askWhy(path, query),
      ride?.problem && problemBox(ride.problem),
      ride?.found && whyNot(user, ride.found, credit({ ride_id: ride.found.ride_id })),
      user.participations.map((one) => participation(one, participationActions(api, one, refresh))),
      h("div", { class: "grid" }, eligibility(user.eligibility)),
      user.pre_offers.length > 0 && preOffers(user.pre_offers),
      user.applications.length > 0 && originations(user),
      found.length > 0 && line(found, path, query),
    ],
  };
}

/** What is known of a ride, or the error: what was typed need not be an id. */
async function rideOf(api, userId, rideId, signal) {
  try {
    return { found: await api.get(`/rides/${encodeURIComponent(rideId.trim())}`, { user_id: userId }, signal) };
  } catch (problem) {
    if (problem.name !== "Problem") throw problem;
    return { problem };
  }
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
