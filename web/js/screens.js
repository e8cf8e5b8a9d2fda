// The screens. Each is made for one state and returns `{node, title, update?, close?}`: `update`
// takes a newer state without making the screen again, `close` stops what it keeps going.

/**
 * What a screen works with.
 * @typedef {object} Scene
 * @property {import("./i18n.js").Language} language
 * @property {import("./clock.js").ServerClock} clock
 * @property {import("./journey.js").Journey} journey what buttons do
 */

export * from "./screens/challenge.js";
export * from "./screens/messages.js";
export * from "./screens/reward.js";
