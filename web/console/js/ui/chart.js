// Charts over time, by uPlot; each goes with a table or figures that say the same.

import uPlot from "../../vendor/uplot/uPlot.esm.js";
import { h, put } from "../dom.js";
import { number, t } from "../i18n.js";

const HEIGHT = 240;

/**
 * A chart of one or several series over time.
 * @param {object} chart
 * @param {string} chart.label what it shows, for a screen reader
 * @param {string[]} chart.names of the series
 */
export class Chart {
  #plot = null;
  #place;
  #names;
  #data;

  constructor({ label, names }) {
    this.#names = names;
    this.#place = h("div", { class: "chart", role: "img", "aria-label": label });
    this.#data = [[], ...names.map(() => [])];
    const legend = h("ul", { class: "legend small" }, names.map((name, at) => {
      const swatch = h("span", { class: "swatch" });
      swatch.style.setProperty("background", `var(--series-${at + 1})`);
      return h("li", {}, swatch, name);
    }));
    this.element = h("figure", { class: "stack tight" }, this.#place, legend);
    new ResizeObserver(() => this.#resize()).observe(this.#place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  /** @param {number[][]} data seconds since 1970, then a list of values per series */
  show(data) {
    this.#data = data;
    if (this.#plot) this.#plot.setData(data);
    else this.#draw();
  }

  #draw() {
    const width = this.#place.clientWidth;
    if (width === 0) return; // not on the page yet
    this.#plot?.destroy();
    put(this.#place);
    const style = getComputedStyle(this.#place);
    const colour = (name) => resolved(name, this.#place);
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: `12px ${style.fontFamily}` };
    this.#plot = new uPlot(
      {
        width,
        height: HEIGHT,
        legend: { show: false },
        cursor: { y: false },
        scales: { x: { range: atLeastAMinute }, y: { range: (_, least, most) => [0, Math.max(1, most * 1.1)] } },
        axes: [axis, { ...axis, size: 56, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? number(tick) : "")) }],
        series: [{ label: t("chart.time") }, ...this.#names.map((label, at) => ({ label, stroke: colour(`--series-${at + 1}`), width: 2, points: { show: this.#data[0].length < 40, size: 5 } }))],
      },
      this.#data,
      this.#place,
    );
  }

  #resize() {
    if (this.#plot) this.#plot.setSize({ width: this.#place.clientWidth, height: HEIGHT });
    else this.#draw();
  }
}

/** From the first point to the last, and a minute where there are few. */
const atLeastAMinute = (_, first, last) => [Math.min(first, last - 60), last];

/** A token's colour in the present theme: a canvas knows no variables. */
function resolved(name, place) {
  const probe = h("span");
  probe.style.setProperty("color", `var(${name})`);
  place.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}
