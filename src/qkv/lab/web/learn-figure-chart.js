// A small chart of a few lines, drawn as shapes: axes with few ticks, lines told apart by their
// dashes, a mark at a chosen place. Whoever mounts one says in words what it shows.

import { makeShape } from "./learn-figure-frame.js";
import { makeElement, watchWidth } from "./views.js";

const LINES = ["line", "line second", "line third", "line fourth"];
const MARGIN = { left: 38, right: 12, top: 10, bottom: 34 };

/**
 * @typedef {object} Chart
 * @property {string} label what a screen reader is told
 * @property {[number, number][][]} lines points of each line
 * @property {[number, number]} x from and to
 * @property {[number, number]} y
 * @property {[number, string][]} xTicks
 * @property {[number, string][]} yTicks
 * @property {string} xName
 * @property {boolean} [logX]
 * @property {boolean} [logY]
 * @property {number | null} [at] where a mark stands
 */

/**
 * As wide as its element, so that what is written on it has its size.
 * @param {HTMLElement} element
 * @param {number} height
 */
export function mountLines(element, height) {
  const root = makeShape("svg", { role: "img", height });
  element.append(root);
  let width = 0;
  let last = null;
  const end = watchWidth(element, (wide) => {
    width = wide;
    root.setAttribute("width", String(width));
    if (last) lines.draw(last);
  });
  const lines = {
    end,
    /** @param {Chart} chart */
    draw(chart) {
      last = chart;
      if (!width) return root.setAttribute("aria-label", chart.label);
      const across = scale(chart.x, [MARGIN.left, width - MARGIN.right], chart.logX);
      const up = scale(chart.y, [height - MARGIN.bottom, MARGIN.top], chart.logY);
      root.setAttribute("aria-label", chart.label);
      root.replaceChildren(
        ...chart.yTicks.flatMap(([value, text]) => [
          makeShape("path", { class: "axis", d: `M${MARGIN.left} ${up(value)}H${width - MARGIN.right}` }),
          makeShape("text", { x: MARGIN.left - 6, y: up(value) + 4, "text-anchor": "end", text }),
        ]),
        ...chart.xTicks.map(([value, text]) => makeShape("text", { x: across(value), y: height - MARGIN.bottom + 16, "text-anchor": "middle", text })),
        makeShape("text", { x: (MARGIN.left + width - MARGIN.right) / 2, y: height - 1, "text-anchor": "middle", text: chart.xName }),
        ...(chart.at === null || chart.at === undefined ? [] : [makeShape("path", { class: "cursor", d: `M${across(chart.at)} ${MARGIN.top}V${height - MARGIN.bottom}` })]),
        ...chart.lines.flatMap((points, at) => {
          const place = ([x, y]) => `${across(x).toFixed(1)} ${up(y).toFixed(1)}`;
          const dots = points.filter(([x]) => x === chart.at || points.length === 1);
          return [
            makeShape("path", { class: LINES[at], d: points.map((point, n) => `${n ? "L" : "M"}${place(point)}`).join("") }),
            ...dots.map(([x, y]) => makeShape("circle", { class: at % 2 ? "dot second" : "dot", cx: across(x), cy: up(y), r: 4 })),
          ];
        }),
      );
    },
  };
  return lines;
}

/** What a line is, beside its dashes. @param {string[]} names */
export const makeKey = (names) =>
  makeElement("p", { class: "note keys" }, ...names.flatMap((text, at) => [
    makeElement("span", { class: `key ${["", "second", "third", "fourth"][at]}` }), text, at + 1 < names.length ? "   " : ""]));

function scale([low, high], [from, to], log) {
  const put = log ? (value) => Math.log(Math.min(Math.max(value, low), high)) : (value) => Math.min(Math.max(value, low), high);
  const [least, most] = log ? [Math.log(low), Math.log(high)] : [low, high];
  return (value) => from + ((put(value) - least) / (most - least || 1)) * (to - from);
}

/** A few round ticks between two numbers. @param {number} low @param {number} high */
export function roundTicks(low, high, count = 4) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const ticks = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) {
    ticks.push([value, String(Number(value.toPrecision(6))).replace(/^0\./, ".").replace("-", "−")]);
  }
  return ticks;
}
