// Charts, by uPlot; each goes with a table or figures that say the same.

import uPlot from "../../vendor/uplot/uPlot.esm.js";
import { h, put } from "../dom.js";
import { number, t } from "../i18n.js";

const HEIGHT = 240;

/**
 * A chart of one or several series over time, or over numbers.
 * @param {object} chart
 * @param {string} chart.label what it shows, for a screen reader
 * @param {string[]} chart.names of the series
 * @param {string|null} [chart.over] what is on the horizontal axis where it is not time
 */
export class Chart {
  #plot = null;
  #place;
  #names;
  #data;
  #over;

  constructor({ label, names, over = null }) {
    this.#names = names;
    this.#over = over;
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

  /** @param {number[][]} data seconds since 1970 or other numbers, then a list of values per series */
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
        scales: { x: this.#over === null ? { range: atLeastAMinute } : { time: false }, y: { range: (_, least, most) => [0, Math.max(1, most * 1.1)] } },
        axes: [{ ...axis, ...(this.#over !== null && { label: this.#over, labelFont: axis.font, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? number(tick) : "")) }) }, { ...axis, size: 56, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? number(tick) : "")) }],
        series: [{ label: this.#over ?? t("chart.time") }, ...this.#names.map((label, at) => ({ label, stroke: colour(`--series-${at + 1}`), width: 2, points: { show: this.#data[0].length < 40, size: 5 } }))],
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
