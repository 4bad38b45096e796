// The ladder as the conclusion: the rungs of a ladder among the reader's runs, their losses and what
// each writes; where there is none yet, a button that trains one, and the door to Train.

import { getJson, postJson } from "./api.js";
import { hundredths, makeProblem, makeSentence } from "./learn-figure-frame.js";
import { fold, fresh, watchRuns } from "./learn-figure-training.js";
import { LIVING, stateWords } from "./train-words.js";
import { makeElement } from "./views.js";

/** At which the rungs stand in the order that the text tells. */
const BUDGET = "1000000";
const LOOK_MS = 1500;

/**
 * @param {HTMLElement} element
 * @param {{budget?: number, corpus?: string}} options
 */
export async function mount(element, options) {
  let chosen = null;
  let ladder = null;
  let rungs = [];
  let timer = 0;
  let socket = null;
  let listed = [];
  let ended = false;
  const titles = new Map();
  let planned = [];
  let corpus = "";
  const known = new Map();
  const sentence = makeSentence();
  const problem = makeProblem();
  const body = makeElement("tbody");
  const sample = makeElement("pre");
  const note = makeElement("p", { class: "note" });
  const start = makeElement("button", { type: "button", class: "action first", text: "Train the ladder, a minute or two", onclick: () => begin(false) });
  const anyway = makeElement("button", { type: "button", class: "action", text: "Train all the same", hidden: true, onclick: () => begin(true) });
  const stop = makeElement("button", { type: "button", class: "action", text: "Stop", hidden: true, onclick: () => halt() });
  const state = makeElement("span", { class: "soft", role: "status" });
  const heading = makeElement("h3");
  element.append(
    makeElement("table", { class: "bars rungs" },
      makeElement("thead", {}, makeElement("tr", {}, makeElement("th", { scope: "col" }, makeElement("b", { text: "rung" })), makeElement("th", { scope: "col" }, makeElement("b", { text: "validation loss" }), "nats a character"))),
      body),
    makeElement("div", { class: "acts" }, start, anyway, stop, state, makeElement("a", { href: "train", text: "or on the page Train" })),
    sentence.element, problem.element,
    makeElement("div", { class: "samples" }, makeElement("div", {}, heading, note, sample)),
  );

  /** What there is of a ladder: the one that was started here, else the newest. */
  function take(runs) {
    ladder = runs.find(({ kind, id }) => kind === "ladder" && (!ladder || id === ladder.id)) ?? ladder;
    const mine = ladder ? runs.filter(({ group }) => group === ladder.id) : [];
    mine.sort((one, other) => one.title.localeCompare(other.title));
    for (const { id } of mine) if (!known.has(id)) known.set(id, fresh());
    rungs = mine.map(({ id, title }) => {
      const name = title.replace(/^\d\d-/, "");
      return { id, title: titles.get(name) ?? name, loss: known.get(id).validation.at(-1)?.[1] ?? null, sample: known.get(id).samples.at(-1) ?? null };
    });
    if (mine.length) {
      socket ??= watchRuns(hear);
      socket.watch(mine.map(({ id }) => id));
    }
    listed = runs;
    draw();
  }

  function hear(message) {
    if (message.kind === "run" && known.has(message.head.id)) fold(known.get(message.head.id), message);
    take(message.kind === "runs" ? message.runs : listed);
  }

  function draw() {
    const alive = ladder && (LIVING.has(ladder.state) || ladder.state === "waiting");
    start.hidden = Boolean(alive);
    start.textContent = ladder ? "Train it again" : "Train the ladder, a minute or two";
    stop.hidden = !alive;
    state.textContent = alive ? `${stateWords(ladder.state)}, rung ${rungs.length} of ${ladder.steps || planned.length}` : "";
    const rows = rungs.length ? rungs : planned.map((name) => ({ id: name, title: titles.get(name), loss: null, sample: null }));
    const most = Math.max(1, ...rows.map(({ loss }) => loss ?? 0));
    const focused = document.activeElement?.closest?.(".rungs button")?.dataset.rung;
    body.replaceChildren(...rows.map((rung) => {
      const bar = makeElement("span", { class: "bar", hidden: rung.loss === null });
      bar.style.width = `${((rung.loss ?? 0) / most) * 70}%`;
      const button = makeElement("button", { type: "button", class: "plain", "data-rung": rung.id, disabled: !rung.sample, text: rung.title, onclick: () => {
        chosen = rung.id;
        draw();
      } });
      return makeElement("tr", {}, makeElement("th", { scope: "row" }, button), makeElement("td", { class: "wide" }, bar, makeElement("span", { text: rung.loss === null ? "" : hundredths(rung.loss) })));
    }));
    if (focused) body.querySelector(`[data-rung="${focused}"]`)?.focus();
    say();
  }

  function say() {
    const told = rungs.filter(({ loss }) => loss !== null);
    const rung = told.find(({ id }) => id === chosen) ?? told.at(-1);
    for (const button of body.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.rung === rung?.id));
    heading.textContent = rung?.title ?? "";
    note.textContent = rung ? `validation loss ${hundredths(rung.loss)}` : "";
    sample.replaceChildren(...(rung?.sample ? [makeElement("i", { text: rung.sample.prompt }), rung.sample.text.slice(0, 240)] : []));
    if (!rung) {
      sentence.say(`${planned.length} rungs from a guess to a Transformer. None is trained here yet.`);
      return;
    }
    const before = told[told.indexOf(rung) - 1];
    const step = before ? before.loss - rung.loss : 0;
    const change = before ? `, ${hundredths(Math.abs(step))} nats ${step >= 0 ? "better" : "worse"} than ${before.title}` : "";
    sentence.say(`${rung.title[0].toUpperCase()}${rung.title.slice(1)} reaches ${hundredths(rung.loss)}${change}.`);
  }

  async function begin(beside) {
    try {
      problem.tell(null);
      anyway.hidden = true;
      const { id } = await postJson("start", { preset: "ladder", corpus, budget: String(options.budget ?? BUDGET), beside });
      ladder = { id, state: "starting", steps: planned.length };
      chosen = null;
      rungs = [];
      await look();
    } catch (error) {
      problem.tell(error.message);
      anyway.hidden = error.kind !== "BusyError";
    }
  }

  async function halt() {
    try {
      await postJson("stop", { item: ladder.id });
    } catch (error) {
      problem.tell(error.message);
    }
  }

  /** Look again until the first rung is there; from then on the lab tells by itself. */
  async function look() {
    clearTimeout(timer);
    try {
      take(await getJson("runs"));
    } catch (error) {
      problem.tell(error.message);
    }
    if (!ended && ladder && rungs.length === 0) timer = setTimeout(look, LOOK_MS);
  }

  const { presets, corpora } = await getJson("presets");
  corpus = options.corpus ?? corpora[0].name;
  for (const { name, title } of presets) titles.set(name, title);
  planned = presets.map(({ name }) => name).slice(1, presets.findIndex(({ name }) => name === "tiny"));
  await look();
  return { end: () => {
    ended = true;
    clearTimeout(timer);
    socket?.close();
  } };
}
