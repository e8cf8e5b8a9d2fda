// The goals of a challenge: what is told of each, and the bars of those beyond the rides.

import { h, setText } from "./dom.js";

/** The goals beyond the number of rides. */
export function furtherGoals({ goals = [] }) {
  return goals.filter(({ goal }) => texts[goal]);
}

const texts = {
  DAYS: (language, { completed, target }) => language.text("goal.days", { done: completed, count: target }),
  AMOUNT: (language, { completed, target }, currency) =>
    language.text("goal.amount", { done: language.money(completed, currency), target: language.money(target, currency) }),
};

/** All goals of a participation in words, for a screen reader. */
export function goalsText(language, participation) {
  const { rides_completed: done, rides_target: count } = participation;
  return [language.text("progress.ring", { done, count }), furtherText(language, participation)].filter(Boolean).join("; ");
}

/** The goals beyond the rides, in words; empty where there are none. */
export function furtherText(language, participation) {
  const { currency_code: currency } = participation.conditions;
  return furtherGoals(participation).map((goal) => texts[goal.goal](language, goal, currency)).join("; ");
}

/** Whether a goal has fallen: the platform took a ride back. */
export function haveFallen(before, after) {
  if (after.rides_completed < before.rides_completed) return true;
  const was = new Map(furtherGoals(before).map(({ goal, completed }) => [goal, completed]));
  return furtherGoals(after).some(({ goal, completed }) => completed < (was.get(goal) ?? 0));
}

/** Whether every goal but perhaps the rides' is reached. */
export function areReached(participation) {
  return furtherGoals(participation).every(({ completed, target }) => completed >= target);
}

/** A bar for each goal beyond the rides; `update(participation)`. */
export function goalBars(language, currency) {
  const bars = new Map();
  const node = h("div", { class: "goals" });
  const bar = (name) => {
    const fill = h("span", { class: "fill" });
    const label = h("p", { class: "quiet" });
    const track = h("div", { class: "goal-bar", role: "progressbar", "aria-valuemin": 0 }, fill);
    node.append(h("div", { class: "goal" }, label, track));
    const made = { fill, label, track };
    bars.set(name, made);
    return made;
  };
  return {
    node,
    update(participation) {
      for (const goal of furtherGoals(participation)) {
        const { fill, label, track } = bars.get(goal.goal) ?? bar(goal.goal);
        const text = texts[goal.goal](language, goal, currency);
        setText(label, text);
        fill.style.inlineSize = `${(100 * goal.completed) / goal.target}%`;
        track.setAttribute("aria-label", text);
        track.setAttribute("aria-valuemax", String(goal.target));
        track.setAttribute("aria-valuenow", String(goal.completed));
        track.setAttribute("aria-valuetext", text);
      }
      node.hidden = bars.size === 0;
    },
  };
}
