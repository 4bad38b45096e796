// Why scores are divided by √d: q and k drawn from N(0, 1), heads of width 1 to 512, with and
// without the scale. Drawn and worked by the server, afresh for each seed.

import { getJson } from "./api.js";
import { makeKey, mountLines, roundTicks } from "./learn-figure-chart.js";
import { asker, makeProblem, makeSentence, onTheme } from "./learn-figure-frame.js";
import { makeElement, rampColor, rampPlace, uniqueId } from "./views.js";
import { digits } from "./worksheet-words.js";

const PANELS = [
  ["variance", "variance of the scores", true],
  ["entropy", "entropy of a row, in nats", false],
  ["gradient", "gradient of the softmax", false],
];
const FIRST_WIDTH = 64;

/**
 * @param {HTMLElement} element
 * @param {{seed?: number, width?: number}} options
 * @param {{theme: () => Theme}} shell
 */
export async function mount(element, options, shell) {
  let reply = null;
  let seed = options.seed ?? 1;
  let at = null;
  const sentence = makeSentence();
  const problem = makeProblem();
  const charts = PANELS.map(([name, title]) => {
    const box = makeElement("div", {}, makeElement("p", { class: "title" }, makeElement("b", { text: title })));
    return { name, box, lines: mountLines(box, 170) };
  });
  const slider = makeElement("input", { id: uniqueId("width"), type: "range", min: "0", max: "9", step: "1", oninput: () => {
    at = Number(slider.value);
    draw();
  } });
  const shown = makeElement("output", { for: slider.id });
  const draws = makeElement("input", { id: uniqueId("seed"), type: "text", inputmode: "numeric", autocomplete: "off" });
  draws.value = String(seed);
  draws.addEventListener("input", () => {
    if (!/^\d{1,9}$/.test(draws.value.trim())) return;
    seed = Number(draws.value);
    ask();
  });
  const rows = makeElement("div", { class: "rows" });
  element.append(
    makeElement("div", { class: "charts" }, ...charts.map(({ box }) => box)),
    makeKey(["with 1/√d", "without"]),
    makeElement("div", { class: "slider" }, makeElement("label", { for: slider.id, text: "width d" }), slider, shown),
    rows,
    makeElement("div", { class: "acts" },
      makeElement("label", { for: draws.id, text: "drawn from seed" }), draws,
      makeElement("button", { type: "button", class: "action", text: "Draw again", onclick: () => {
        seed = (seed + 1) % 1e9;
        draws.value = String(seed);
        ask();
      } })),
    sentence.element, problem.element,
  );
  const ask = asker(() => getJson(`figure/root?seed=${seed}`), (found) => {
    reply = found;
    at ??= Math.max(0, found.scaled.widths.indexOf(options.width ?? FIRST_WIDTH));
    slider.max = String(found.scaled.widths.length - 1);
    slider.value = String(at);
    draw();
  }, problem.tell);

  function draw() {
    const { scaled, raw } = reply;
    const { widths, keys } = scaled;
    const width = widths[at];
    shown.textContent = slider.ariaValueText = String(width);
    PANELS.forEach(([name, title, log], place) => {
      const both = [scaled[name], raw[name]];
      const most = Math.max(...both.flat());
      charts[place].lines.draw({
        label: `${title} by width, with and without the scale; at ${width}: ${digits(scaled[name][at])} and ${digits(raw[name][at])}`,
        lines: both.map((numbers) => numbers.map((number, n) => [widths[n], number])),
        x: [widths[0], widths.at(-1)], logX: true,
        y: log ? [Math.min(0.5, ...both.flat()), most] : [0, name === "entropy" ? Math.log(keys) : most * 1.1], logY: log,
        xTicks: [1, 8, 64, 512].map((tick) => [tick, String(tick)]), xName: "d",
        yTicks: log ? [1, 10, 100].map((tick) => [tick, String(tick)]) : roundTicks(0, name === "entropy" ? Math.log(keys) : most, 3),
        at: width,
      });
    });
    drawRows();
    const flat = Math.log(keys);
    sentence.say(
      `At width ${width} the scores have a variance of ${brief(raw.variance[at])}. Divided by √${width} it is ${digits(scaled.variance[at])}, and a row over ${keys} keys keeps an entropy of ` +
      `${digits(scaled.entropy[at])} of at most ${digits(flat)}; without, ${digits(raw.entropy[at])} is left, and a gradient of ${digits(raw.gradient[at])} in place of ${digits(scaled.gradient[at])}.`);
  }

  /** One query's weights, both ways. */
  function drawRows() {
    rows.replaceChildren(...[["with", reply.scaled], ["without", reply.raw]].map(([name, { row }]) => makeElement("div", { class: "strip", role: "img", "aria-label": `one row ${name} the scale, its weights: ${row[at].map(digits).join(", ")}` },
      makeElement("span", { class: "note", text: `one row ${name}` }),
      ...row[at].map((weight) => {
        const cell = makeElement("span", { class: "cell", title: digits(weight) });
        cell.style.background = rampColor(shell.theme(), rampPlace(weight, true));
        return cell;
      }))));
  }

  const untheme = onTheme(() => reply && drawRows());
  await ask();
  return { end: () => {
    untheme();
    for (const { lines } of charts) lines.end();
  } };
}

const brief = (number) => (number < 10 ? digits(number) : String(Math.round(number)));
