// What a promotion would have come to on past rides. The admin API has no call for it: the page gives the
// command, filled in, and shows its result.

import { h, put } from "../dom.js";
import { decimal, money, moment, number, percent, t } from "../i18n.js";
import { link } from "../router.js";
import { conditionsInWords } from "../promotion/conditions.js";
import { command } from "../ui/command.js";
import { badge } from "../ui/badges.js";
import { Chart } from "../ui/chart.js";
import { saveAs } from "../ui/download.js";
import { cents, choice, field, instantInput, readFields, textInput } from "../ui/fields.js";
import { facts, table } from "../ui/table.js";

const DAY = 86_400_000;

export async function backTest({ params, signal, api }) {
  const promotion = await api.get(`/promotions/${params.id}`, {}, signal);
  const { conditions, promotion_key } = promotion;
  const file = `${promotion_key.replaceAll(/[^\w.-]/g, "_")}.conditions.json`;
  const place = h("div", { class: "stack" });
  const control = {
    source: choice([["topic", t("back-test.topic")], ["file", t("back-test.file")], ["debs2015", t("back-test.debs2015")]], { value: "topic" }),
    from: instantInput(),
    rides: textInput({ spellcheck: "false" }),
    targets: textInput({ spellcheck: "false" }),
    reward_cents: cents(),
  };
  control.from.set(new Date(Date.now() - 28 * DAY).toISOString());
  control.rides.set("rides.ndjson.gz");
  control.targets.set(`1..${Math.min(10_000, conditions.target_rides * 2)}`);
  const fields = Object.entries(control).map(([name, one]) => field({ name, label: t(`back-test.${name}`), hint: name === "reward_cents" ? t("back-test.reward-hint") : null, control: one }));
  const show = () => {
    const values = readFields(fields);
    if (values) put(place, command(commandLine(file, values)));
  };
  for (const one of fields) one.control.element.addEventListener("input", show);
  const result = h("div", { class: "stack" });
  return {
    title: t("back-test.of", { title: promotion.title }),
    back: { address: link("promotions", promotion.promotion_id), text: promotion.title },
    says: t("back-test.says"),
    body: [
      result,
      h("section", { class: "card" }, h("h2", {}, t("promotion.rules")), h("ul", {}, conditionsInWords(conditions).map((said) => h("li", {}, said)))),
      h(
        "section",
        { class: "card stack" },
        h("h2", {}, t("back-test.run")),
        h("p", {}, t("back-test.no-call")),
        h("div", {}, h("button", { type: "button", onclick: () => saveAs(file, JSON.stringify(conditions, null, 2), "application/json") }, t("back-test.conditions", { file }))),
        h("div", { class: "fields" }, fields.map(({ element }) => element)),
        place,
      ),
      chooser(result, conditions.currency_code),
    ],
    started: show,
  };
}

/** What a shell takes as one word. */
const quoted = (text) => (/^[\w./:=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** The command that makes the report. */
export function commandLine(file, { source, from, rides, targets, reward_cents }) {
  const of = source === "topic" ? ["--from", from ?? ""] : ["--rides", rides ?? "", ...(source === "debs2015" ? ["--format", "debs2015"] : [])];
  const words = ["ride-promo", "back-test", "--conditions", file, ...of, ...(targets ? ["--targets", targets] : []), ...(reward_cents === undefined ? [] : ["--reward-cents", String(reward_cents)]), "--output", "json"];
  return `${words.map(quoted).join(" ")} > back-test.json`;
}

/** Takes a report of the command and shows it. */
function chooser(result, currency) {
  const input = h("input", { type: "file", class: "hidden", id: "back-test-file", accept: ".json", tabindex: -1, onchange: () => input.files[0] && open(input.files[0]) });
  async function open(file) {
    try {
      const report = JSON.parse(await file.text());
      if (!Array.isArray(report?.targets) || report.targets.length === 0) throw new SyntaxError(t("back-test.no-report"));
      const shown = reportOf(report, currency);
      put(result, shown.element);
      shown.show();
      result.scrollIntoView();
    } catch (error) {
      put(result, h("p", { class: "notice error", role: "alert" }, t("back-test.unreadable", { message: error.message })));
    }
    input.value = "";
  }
  return h("section", { class: "card drop" }, h("p", {}, t("back-test.open-says")), h("button", { type: "button", onclick: () => input.click() }, t("back-test.open")), h("label", { class: "hidden", for: "back-test-file" }, t("back-test.open")), input);
}

/** @param {object} report as `ride-promo back-test --output json` gives it */
function reportOf({ targets, rides, period, conditions }, currency) {
  const chart = new Chart({ label: t("back-test.chart"), names: [t("back-test.rate")], over: t("field.target_rides") });
  const days = (row, name) => (row.days_to_completion ? decimal(row.days_to_completion[name], 1) : "–");
  const element = h(
    "section",
    { class: "card stack", "data-back-test": true },
    h("h2", {}, t("back-test.result")),
    facts([
      period && [t("back-test.period"), `${moment(period.from)} – ${moment(period.to)}`],
      [t("back-test.read"), number(rides.read)],
      [t("back-test.malformed"), number(rides.malformed)],
      [t("back-test.duplicates"), number(rides.duplicates)],
      [t("back-test.outside"), number(rides.outside)],
    ]),
    targets.length > 1 && chart.element,
    table({
      caption: t("back-test.result"),
      rows: targets,
      columns: [
        { label: t("field.target_rides"), number: true, head: true, cell: ({ target_rides }) => [number(target_rides), target_rides === conditions?.target_rides && " ◂"] },
        { label: t("promotion.clients"), number: true, cell: ({ clients }) => number(clients) },
        { label: t("funnel.completed"), number: true, cell: (row) => [number(row.completed), h("span", { class: "quiet" }, ` ${percent(row.completed, row.clients)}`)] },
        { label: t("back-test.still-open"), number: true, cell: ({ still_open }) => number(still_open) },
        { label: t("back-test.days"), number: true, cell: (row) => `${days(row, "p10")} / ${days(row, "p50")} / ${days(row, "p90")}` },
        { label: t("back-test.near-misses"), number: true, cell: ({ near_misses }) => [1, 2, 3].map((short) => number(near_misses[short])).join(" / ") },
        { label: t("back-test.cost"), number: true, cell: ({ cost_cents }) => (cost_cents === null ? "–" : money(cost_cents, currency)) },
      ],
    }),
    h("details", {}, h("summary", {}, t("outcomes.verdicts")), table({
      caption: t("outcomes.verdicts"),
      rows: targets,
      columns: [
        { label: t("field.target_rides"), number: true, head: true, cell: ({ target_rides }) => number(target_rides) },
        { label: t("outcomes.verdicts"), cell: ({ verdicts }) => h("div", { class: "row" }, Object.entries(verdicts).filter(([, count]) => count > 0).map(([verdict, count]) => h("span", {}, badge("verdict", verdict), ` ${number(count)}`))) },
      ],
    })),
  );
  return { element, show: () => targets.length > 1 && chart.show([targets.map(({ target_rides }) => target_rides), targets.map(({ completed, clients }) => (clients === 0 ? 0 : (100 * completed) / clients))]) };
}
