// Losses of all chosen runs on one chart, drawn by plotly; the numbers as a table beside it.

import { brief, nats } from "./train-words.js";
import { makeElement, SANS, themeColors } from "./views.js";

// Neither blue, vermilion nor green: those are q, k and v. Told apart by lightness, dash and label,
// and dark or light enough for the label's letters: contrast 4.5 with the paper.
const LINES = {
  light: ["#4A2359", "#B03F7C", "#73716B", "#8A5FAE", "#55565E"],
  dark: ["#D9B8E8", "#E88BB8", "#8F8E88", "#9B7FC4", "#C9C7C1"],
};
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const HEIGHT = 420;
const LABEL_GAP = 17;
const REDRAW_MS = 1000;
const MARGIN = { l: 52, t: 12, b: 48 };

let loading = null;

/** Plotly's script, loaded once and only here. */
function loadPlotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = makeElement("script", { src: "assets/plotly.js" });
    script.addEventListener("load", () => resolve(globalThis.Plotly));
    script.addEventListener("error", () => reject(new Error("plotly's script can't be loaded")));
    document.head.append(script);
  });
  return loading;
}

/**
 * @param {HTMLElement} element
 * @param {{theme: () => Theme, onStep: (step: number) => void}} on
 * @returns {{update: (told: {runs: {id: string, name: string, run: any}[], chosen: string | null, step: number | null}) => void}}
 */
export function mountChart(element, on) {
  let log = true;
  let told = { runs: [], chosen: null, step: null };
  let drawn = 0;
  let timer = 0;
  let plotly = null;
  const plot = makeElement("div", { class: "plot", role: "img", "aria-label": "training losses by tokens; the table below has the numbers" });
  const scale = makeElement("button", { class: "plain", type: "button", onclick: () => {
    log = !log;
    draw();
  } });
  const body = makeElement("tbody");
  const table = makeElement("table", { class: "numbers" },
    makeElement("thead", {}, makeElement("tr", {}, ...["run", "tokens", "training loss", "validation loss"].map((text) => makeElement("th", { scope: "col", text })))),
    body);
  const empty = makeElement("p", { class: "soft empty", hidden: true, text: "No loss yet." });
  element.append(
    makeElement("div", { class: "head" }, makeElement("h2", { text: "Training loss, nats a token; rings: on validation text" }), scale),
    plot, empty, makeElement("details", {}, makeElement("summary", { text: "The losses as a table" }), makeElement("div", { class: "scrolls", tabindex: "0", role: "group", "aria-label": "losses" }, table)));

  /** Tokens of a step, so that runs with other batches stand on one axis. */
  const stepTokens = ({ run: { head } }) =>
    (head.step ? (head.tokens || 0) / head.step : 0) || (head.about?.tokens ?? 0) / (head.steps || 1) || 1;

  function lineOf(one, at) {
    const chosen = one.id === told.chosen;
    const colors = LINES[on.theme()];
    const color = chosen ? themeColors(on.theme()).ink : colors[at % colors.length];
    return { color, dash: chosen ? "solid" : DASHES[Math.floor(at / colors.length + at) % DASHES.length], width: chosen ? 2.5 : 1.5 };
  }

  function traces() {
    const found = [];
    told.runs.forEach((one, at) => {
      const [each, { losses }] = [stepTokens(one), one.run];
      const line = lineOf(one, at);
      const x = losses.map(([step]) => step * each);
      const [name, common] = [escape(one.name), { type: "scatter", showlegend: false }];
      if (one.id === told.chosen && losses.length > 2) {
        found.push({ ...common, x, y: losses.map((point) => point[1]), mode: "lines", line: { color: line.color, width: 1 }, opacity: 0.22, hoverinfo: "skip" });
      }
      found.push({ ...common, x, y: losses.map((point) => point[2]), mode: "lines", line, hovertemplate: `${name}<br>%{x:,.0f} tokens: %{y:.3f}<extra></extra>` });
      const validated = one.run.validation;
      found.push({
        ...common, x: validated.map(([step]) => Math.max(step, 1) * each), y: validated.map(([, loss]) => loss), mode: "markers", cliponaxis: false,
        marker: { symbol: "circle-open", size: 9, color: line.color, line: { width: 2 } },
        hovertemplate: `${name}, on validation text<br>%{x:,.0f} tokens: %{y:.3f}<extra></extra>`,
      });
    });
    return found;
  }

  /** Names at the ends of lines, pushed apart where they would stand on each other. */
  function labels(range, high) {
    const perPixel = (range[1] - range[0]) / (high - MARGIN.t - MARGIN.b);
    const ends = told.runs.flatMap((one, at) => {
      const last = one.run.losses.at(-1) ?? one.run.validation.at(-1);
      if (!last) return [];
      return [{ one, y: last.at(-1), at, x: Math.max(1, last[0]) * stepTokens(one) }];
    }).sort((a, b) => b.y - a.y);
    let above = Infinity;
    for (const end of ends) {
      end.place = Math.min(end.y, above - LABEL_GAP * perPixel);
      above = end.place;
    }
    const below = range[0] - above;
    if (below > 0) {
      let floor = range[0];
      for (const end of ends.reverse()) {
        if (end.place >= floor) break;
        end.place = floor;
        floor += LABEL_GAP * perPixel;
      }
    }
    return ends.map(({ one, place, at }) => ({
      text: one.id === told.chosen ? `<b>${escape(one.name)}</b>` : escape(one.name), showarrow: false, xref: "paper", x: 1, xanchor: "left", xshift: 8,
      yref: "y", y: place, yanchor: "middle", font: { size: 13, color: lineOf(one, at).color },
    }));
  }

  function layout() {
    const { ink, soft, paper } = themeColors(on.theme());
    const wide = element.clientWidth;
    const values = told.runs.flatMap(({ run }) => [...run.losses.map((point) => point[2]), ...run.validation.map((point) => point[1])]);
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const range = [least - (most - least || 1) * 0.06, most + (most - least || 1) * 0.06];
    const some = told.runs.filter(({ run }) => run.losses.length || run.validation.length);
    const last = Math.max(...some.map((one) => (one.run.head.steps || one.run.head.step || 1) * stepTokens(one)));
    const first = Math.min(...some.map((one) => stepTokens(one)));
    const high = wide < 600 ? 320 : HEIGHT;
    const axis = { gridcolor: mixHex(ink, paper, 0.1), zeroline: false, linecolor: mixHex(ink, paper, 0.3), tickcolor: mixHex(ink, paper, 0.3), fixedrange: true };
    const chosen = told.runs.find(({ id }) => id === told.chosen);
    const at = chosen && told.step !== null ? Math.max(1, told.step) * stepTokens(chosen) : null;
    return {
      height: high, margin: { ...MARGIN, r: roomFor(told.runs, wide) }, paper_bgcolor: paper, plot_bgcolor: paper,
      font: { family: SANS, size: 13, color: soft }, hovermode: "closest", dragmode: false,
      hoverlabel: { bgcolor: paper, bordercolor: soft, font: { family: SANS, size: 13, color: ink } },
      xaxis: { ...axis, type: log ? "log" : "linear", range: log ? [Math.log10(first), Math.log10(last)] : [0, last], title: { text: "tokens trained on", standoff: 8, font: { size: 13 } }, tickformat: "~s", ...(log ? { dtick: 1 } : {}) },
      yaxis: { ...axis, range, tickformat: ".1f" },
      annotations: labels(range, high),
      shapes: at ? [{ type: "line", xref: "x", x0: at, x1: at, yref: "paper", y0: 0, y1: 1, line: { color: soft, width: 1, dash: "dot" } }] : [],
    };
  }

  async function draw() {
    clearTimeout(timer);
    timer = 0;
    drawn = performance.now();
    scale.textContent = log ? "linear scale" : "logarithmic scale";
    const some = told.runs.some(({ run }) => run.losses.length || run.validation.length);
    empty.hidden = some || told.runs.length === 0;
    plot.hidden = !some;
    fillTable();
    if (!some) return;
    plotly ??= await loadPlotly();
    await plotly.react(plot, traces(), layout(), { displayModeBar: false, responsive: false, doubleClick: false });
    if (!plot.dataset.listens) {
      plot.dataset.listens = "true";
      plot.on("plotly_click", ({ points: [point] }) => {
        const chosen = told.runs.find(({ id }) => id === told.chosen);
        if (chosen) on.onStep(point.x / stepTokens(chosen));
      });
    }
  }

  function fillTable() {
    body.replaceChildren(...told.runs.map((one) => {
      const [loss, validated] = [one.run.losses.at(-1), one.run.validation.at(-1)];
      return makeElement("tr", {}, makeElement("th", { scope: "row", text: one.name }),
        ...[brief(one.run.head.tokens || 0), loss ? nats(loss[2]) : "–", validated ? nats(validated[1]) : "–"].map((text) => makeElement("td", { text })));
    }));
  }

  let width = element.clientWidth;
  new ResizeObserver(() => {
    if (Math.abs(element.clientWidth - width) < 2) return;
    width = element.clientWidth;
    draw();
  }).observe(element);

  return {
    /** Drawn at once where what is shown changed, else a second after the last time at the soonest. */
    update: (now, soon = false) => {
      told = now;
      const wait = soon ? 0 : Math.max(0, REDRAW_MS - (performance.now() - drawn));
      if (!timer || soon) {
        clearTimeout(timer);
        timer = setTimeout(draw, wait);
      }
    },
    draw,
  };
}

const LETTER = 6.6;

/** Pixels for the longest name, as long as the lines keep more than half. */
const roomFor = (runs, wide) => Math.min(wide * 0.45, Math.max(110, 14 + LETTER * Math.max(...runs.map(({ name }) => name.length))));

const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");

function mixHex(color, other, share) {
  const channel = (hex, at) => parseInt(hex.slice(1 + 2 * at, 3 + 2 * at), 16);
  return `#${[0, 1, 2].map((at) => Math.round(channel(color, at) * share + channel(other, at) * (1 - share)).toString(16).padStart(2, "0")).join("")}`;
}
