// A run's probes from its first to its last: a head's scores over steps, births marked, and a slider
// across the whole width to go back and forth.

import { count } from "./train-words.js";
import { briefNumber, makeElement } from "./views.js";

const NS = "http://www.w3.org/2000/svg";
const HIGH = 132;
const TOP = 30;
const KNOB = 16;
const FRAME_MS = 280;
/** Of a step that stands for many, when it plays: no longer than so many others. */
const LONGEST_FRAMES = 6;
const SCALE = 1000;
/** Between two probes so far apart it isn't known when a head was born. */
const GAP = 2;
const GAP_STEPS = 10;
/** What is drawn of a head, and how: plum and ink, told apart by dash and name. */
const SCORES = [
  ["previous", "previous token", ""],
  ["first", "first token", "2 4"],
  ["induction", "induction", "9 4"],
  ["entropy", "entropy (even: 1)", "1 3 6 3"],
];
const MARKS = { previous: "◆", first: "■", induction: "▲", duplicate: "●", retrieval: "▼" };
const BORN = { previous: "previous-token", first: "first-token, a sink", induction: "induction", duplicate: "duplicate-token", retrieval: "retrieval" };
/** What a head that is born does, as a fact: a name says more than a score of .2 can. */
const DOES = {
  previous: (score) => `gives ${score} to the previous token`,
  first: (score) => `gives ${score} to the first token`,
  induction: (score) => `gives ${score} to what came after the same token before`,
  duplicate: (score) => `gives ${score} to the same token before`,
  retrieval: (score) => `looks most at what comes next, ${score} of the time`,
};
const says = ({ head, kind, score }) => `${head} ${DOES[kind](briefNumber(score))}`;

/**
 * @param {HTMLElement} element
 * @param {HTMLElement} list where births are listed
 * @param {{onStep: (place: number) => void, onBirth: (born: any) => void}} on
 */
export function mountTimeline(element, list, on) {
  let told = { probes: [], births: [], place: 0, head: null };
  let playing = 0;
  const rows = new Map();
  const graph = draw("svg", { class: "scores", height: HIGH, role: "img" });
  const slider = makeElement("input", { type: "range", min: "0", max: String(SCALE), step: "any", class: "scrub", "aria-label": "step of the run" });
  const play = makeElement("button", { class: "action play", type: "button", text: "Play" });
  const step = makeElement("output", { class: "step" });
  const legend = makeElement("p", { class: "soft small legend" });
  const births = makeElement("ol", { class: "births" });
  const none = makeElement("p", { class: "soft", text: "No head does one thing decidedly yet." });
  element.append(makeElement("div", { class: "bar" }, play, step, legend), graph, slider);
  list.append(makeElement("h2", { text: "Heads born: which began to do what, and when" }), births, none);

  const across = () => Math.max(40, graph.clientWidth || element.clientWidth);
  /** Where a probe stands in the run, from 0 to 1, by the logarithm of its step: a gap is seen as one. */
  const share = (place) => (told.probes.length > 1 ? Math.log1p(told.probes[place].step) / Math.log1p(told.probes.at(-1).step) : 0);
  const left = (place) => KNOB / 2 + share(place) * (across() - KNOB);
  const nearest = (where) => told.probes.reduce((best, _, place) => (Math.abs(share(place) - where) < Math.abs(share(best) - where) ? place : best), 0);

  /** The place of the first probe at a step or after it. */
  const placeOf = (at) => Math.max(0, told.probes.findIndex(({ step: one }) => one >= at));

  /** When something began: where no probe came before it for long, between which two steps. */
  function whenOf(step) {
    const before = told.probes.findLast((one) => one.step < step)?.step ?? 0;
    return step > GAP * before && step - before > GAP_STEPS ? `between ${count(before)} and ${count(step)}` : `step ${count(step)}`;
  }

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
      title.textContent = `${whenOf(one.step)}: ${says(one)}`;
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
      makeElement("span", { class: "entry" }, makeElement("span", { class: "mark", text: mark }), ` ${kind === "induction" ? "an" : "a"} ${BORN[kind]} head`)));
  }

  /** Rows are kept, for one of them may have the focus. */
  function listBirths() {
    const { probes } = told;
    none.hidden = told.births.length > 0;
    const last = probes.at(-1);
    const wanted = told.births.map((one) => {
      const key = `${one.head} ${one.kind} ${one.step}`;
      const row = rows.get(key) ?? makeBirth(one);
      rows.set(key, row);
      setText(row.when, whenOf(one.step));
      row.item.classList.toggle("own", one.head === told.head);
      const lost = last && last.heads[one.head] && !last.heads[one.head].does.includes(one.kind);
      setText(row.later, lost ? `; not called so at step ${count(last.step)}` : "");
      return key;
    });
    for (const [key, { item }] of rows) if (!wanted.includes(key)) (item.remove(), rows.delete(key));
    wanted.forEach((key, at) => {
      const { item } = rows.get(key);
      if (births.children[at] !== item) births.insertBefore(item, births.children[at] ?? null);
    });
  }

  function makeBirth(one) {
    const later = makeElement("span");
    const when = makeElement("span");
    const words = makeElement("span", { text: `${says(one)}, by chance ${briefNumber(one.chance)}` });
    words.append(later);
    const item = makeElement("li", {},
      makeElement("span", { class: "mark", "aria-hidden": "true", text: MARKS[one.kind] }),
      makeElement("button", { class: "plain", type: "button", onclick: () => on.onBirth(one) }, when, words));
    return { item, later, when };
  }

  function stop() {
    clearTimeout(playing);
    playing = 0;
    play.textContent = "Play";
  }

  function go() {
    const next = told.place + 1;
    if (next >= told.probes.length) return stop();
    Promise.resolve(on.onStep(next)).finally(() => {
      if (playing) playing = setTimeout(go, restOf(next));
    });
  }

  /** How long a probe is shown as it plays: as long as the run took to the next, by the logarithm. */
  function restOf(place) {
    if (place + 1 >= told.probes.length) return FRAME_MS;
    const frames = (share(place + 1) - share(place)) * (told.probes.length - 1);
    return FRAME_MS * Math.min(LONGEST_FRAMES, Math.max(0.5, frames));
  }

  play.addEventListener("click", () => {
    if (playing) return stop();
    play.textContent = "Pause";
    playing = setTimeout(go, 0);
    if (told.place >= told.probes.length - 1) on.onStep(0);
  });
  slider.addEventListener("input", () => {
    if (playing) stop();
    on.onStep(nearest(Number(slider.value) / SCALE));
  });
  slider.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    if (playing) stop();
    on.onStep(told.place + by);
  });
  slider.addEventListener("change", () => (slider.value = String(SCALE * share(told.place))));
  new ResizeObserver(() => drawScores()).observe(graph);

  return {
    update: (now) => {
      const { births: before, head, probes } = told;
      told = { ...told, ...now };
      const last = Math.max(0, told.probes.length - 1);
      slider.value = String(SCALE * share(told.place));
      slider.disabled = play.disabled = last === 0;
      const probe = told.probes[told.place];
      step.textContent = probe ? `step ${count(probe.step)}` : "";
      slider.setAttribute("aria-valuetext", probe ? `step ${count(probe.step)}, ${told.place + 1} of ${last + 1}` : "no step");
      drawScores();
      if (told.births !== before || told.head !== head || told.probes !== probes) listBirths();
    },
  };
}

function draw(tag, attributes) {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const setText = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};
