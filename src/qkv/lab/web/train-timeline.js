// A run's probes from its first to its last: a head's scores over steps, births marked, and a slider
// across the whole width to go back and forth.

import { count } from "./train-words.js";
import { briefNumber, makeElement } from "./views.js";

const NS = "http://www.w3.org/2000/svg";
const HIGH = 132;
const TOP = 30;
const KNOB = 16;
const FRAME_MS = 280;
/** What is drawn of a head, and how: plum and ink, told apart by dash and name. */
const SCORES = [
  ["previous", "previous token", ""],
  ["first", "first token", "2 4"],
  ["induction", "induction", "9 4"],
  ["entropy", "entropy (even: 1)", "1 3 6 3"],
];
const MARKS = { previous: "◆", first: "■", induction: "▲" };
const BORN = { previous: "previous-token", first: "first-token", induction: "induction" };
const KINDS = { previous: "looks at the previous token", first: "looks at the first token, a sink", induction: "finds what came after the same token before" };

/**
 * @param {HTMLElement} element
 * @param {HTMLElement} list where births are listed
 * @param {{onStep: (place: number) => void, onBirth: (born: any) => void}} on
 */
export function mountTimeline(element, list, on) {
  let told = { probes: [], births: [], place: 0, head: null };
  let playing = 0;
  const graph = draw("svg", { class: "scores", height: HIGH, role: "img" });
  const slider = makeElement("input", { type: "range", min: "0", max: "0", step: "1", class: "scrub", "aria-label": "step of the run" });
  const play = makeElement("button", { class: "action play", type: "button", text: "Play", "aria-pressed": "false" });
  const step = makeElement("output", { class: "step" });
  const legend = makeElement("p", { class: "soft small legend" });
  const births = makeElement("ol", { class: "births" });
  const none = makeElement("p", { class: "soft", text: "No head does one thing decidedly yet." });
  element.append(makeElement("div", { class: "bar" }, play, step, legend), graph, slider);
  list.append(makeElement("h2", { text: "Heads born: which began to do what, and when" }), births, none);

  const across = () => Math.max(40, graph.clientWidth || element.clientWidth);
  const left = (place) => KNOB / 2 + (told.probes.length > 1 ? place / (told.probes.length - 1) : 0) * (across() - KNOB);

  /** The place of the first probe at a step or after it. */
  const placeOf = (at) => Math.max(0, told.probes.findIndex(({ step: one }) => one >= at));

  function valueOf(probe, kind) {
    const [score, chance] = probe.heads[told.head]?.[kind] ?? [null, null];
    if (score === null) return null;
    return kind === "entropy" ? (chance ? score / chance : null) : score;
  }

  function drawScores() {
    const wide = across();
    const level = (value) => HIGH - 4 - Math.min(1, Math.max(0, value)) * (HIGH - TOP - 8);
    const parts = [0, 0.5, 1].map((value) => draw("line", { class: "rule", x1: 0, x2: wide, y1: level(value), y2: level(value) }));
    const ends = [];
    for (const [kind, name, dash] of SCORES) {
      const points = told.probes.map((probe, place) => [left(place), valueOf(probe, kind)]).filter(([, value]) => value !== null);
      if (points.length === 0) continue;
      const path = points.map(([x, value], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${level(value).toFixed(1)}`).join("");
      parts.push(draw("path", { class: `line ${kind}`, d: path, "stroke-dasharray": dash }));
      ends.push({ name, y: level(points.at(-1)[1]), x: points.at(-1)[0] });
    }
    const here = left(told.place);
    parts.push(draw("line", { class: "here", x1: here, x2: here, y1: TOP - 6, y2: HIGH }), ...drawBirths());
    graph.replaceChildren(...parts);
    const [now] = [told.probes[told.place]];
    const words = SCORES.map(([kind, name]) => [name, now && valueOf(now, kind)]).filter(([, value]) => typeof value === "number");
    graph.setAttribute("aria-label", `${told.head ?? "no head"}: ${words.map(([name, value]) => `${name} ${briefNumber(value)}`).join(", ")}`);
    drawLegend(words);
  }

  /** Marks at the top: one for each head that began to do something, those of one step in a pile. */
  function drawBirths() {
    const piles = new Map();
    return told.births.map((one) => {
      const place = placeOf(one.step);
      const high = piles.get(place) ?? 0;
      piles.set(place, high + 1);
      const mark = draw("text", { class: `birth${one.head === told.head ? " own" : ""}`, x: left(place), y: TOP - 9 - Math.min(high, 2) * 9, "text-anchor": "middle" });
      mark.textContent = MARKS[one.kind];
      const title = draw("title", {});
      title.textContent = `step ${count(one.step)}: ${one.head} ${KINDS[one.kind]}`;
      mark.append(title);
      mark.addEventListener("click", () => on.onBirth(one));
      return mark;
    });
  }

  function drawLegend(words) {
    legend.replaceChildren(`${told.head ?? ""}: `, ...SCORES.filter(([, name]) => words.some(([one]) => one === name)).map(([kind, name, dash]) => {
      const key = draw("svg", { class: "key", width: 26, height: 8 });
      key.append(draw("path", { class: `line ${kind}`, d: "M0 4L26 4", "stroke-dasharray": dash }));
      const value = words.find(([one]) => one === name)[1];
      return makeElement("span", { class: "entry" }, key, ` ${name} ${briefNumber(value)}`);
    }), ...Object.entries(MARKS).filter(([kind]) => told.births.some((one) => one.kind === kind)).map(([kind, mark]) =>
      makeElement("span", { class: "entry" }, makeElement("span", { class: "mark", text: mark }), ` a ${BORN[kind]} head is born`)));
  }

  function listBirths() {
    none.hidden = told.births.length > 0;
    births.replaceChildren(...told.births.map((one) => makeElement("li", { class: one.head === told.head ? "own" : "" },
      makeElement("span", { class: "mark", "aria-hidden": "true", text: MARKS[one.kind] }),
      makeElement("button", { class: "plain", type: "button", onclick: () => on.onBirth(one) },
        makeElement("span", { text: `step ${count(one.step)}` }),
        makeElement("span", { text: `${one.head} ${KINDS[one.kind]}: ${briefNumber(one.score)}, by chance ${briefNumber(one.chance)}` })))));
  }

  function stop() {
    clearTimeout(playing);
    playing = 0;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  }

  function go() {
    const next = told.place + 1;
    if (next >= told.probes.length) return stop();
    Promise.resolve(on.onStep(next)).finally(() => {
      if (playing) playing = setTimeout(go, FRAME_MS);
    });
  }

  play.addEventListener("click", () => {
    if (playing) return stop();
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
    playing = setTimeout(go, 0);
    if (told.place >= told.probes.length - 1) on.onStep(0);
  });
  slider.addEventListener("input", () => {
    if (playing) stop();
    on.onStep(Number(slider.value));
  });
  new ResizeObserver(() => drawScores()).observe(graph);

  return {
    update: (now) => {
      const { births: before, head } = told;
      told = { ...told, ...now };
      const last = Math.max(0, told.probes.length - 1);
      slider.max = String(last);
      slider.value = String(told.place);
      slider.disabled = play.disabled = last === 0;
      const probe = told.probes[told.place];
      step.textContent = probe ? `step ${count(probe.step)}` : "";
      slider.setAttribute("aria-valuetext", probe ? `step ${count(probe.step)}, ${told.place + 1} of ${last + 1}` : "no step");
      drawScores();
      if (told.births !== before || told.head !== head) listBirths();
    },
  };
}

function draw(tag, attributes) {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
