// Models that a figure trains: ordinary runs, one after another, started as the Train page starts
// them and followed by the same WebSocket. What was trained stays known while the lab is open.

import { getJson, listen, postJson } from "./api.js";
import { makeProblem } from "./learn-figure-frame.js";
import { LIVING } from "./train-words.js";
import { makeElement } from "./views.js";

const LISTS = ["losses", "validation", "samples", "probes", "births"];
/** Of figures by name, so that a reader who comes back finds what was trained. */
const kept = new Map();

/**
 * @typedef {object} Wanted
 * @property {string} name as readers know it
 * @property {string} preset
 * @property {Record<string, string>} settings
 * @property {string} budget in tokens
 *
 * @typedef {object} Trained
 * @property {string | null} id
 * @property {any} head how it stands
 * @property {[number, number, number][]} losses step, mean, smoothed
 * @property {[number, number][]} validation
 * @property {{step: number, prompt: string, text: string}[]} samples
 */

/**
 * Buttons that train some models and stop them.
 * @param {HTMLElement} element
 * @param {{figure: string, offer: string, wanted: Wanted[], corpus?: string, onNews: (trained: Trained[], working: boolean) => void}} props
 */
export function mountTraining(element, { figure, offer, wanted, corpus: given, onNews }) {
  const trained = kept.get(figure) ?? wanted.map(() => fresh());
  kept.set(figure, trained);
  const problem = makeProblem();
  const begin = makeElement("button", { type: "button", class: "action first", text: offer, onclick: () => train(false) });
  const anyway = makeElement("button", { type: "button", class: "action", text: "Train all the same", hidden: true, onclick: () => train(true) });
  const stop = makeElement("button", { type: "button", class: "action", text: "Stop", hidden: true, onclick: halt });
  const state = makeElement("span", { class: "soft", role: "status" });
  element.append(makeElement("div", { class: "acts" }, begin, anyway, stop, state), problem.element);
  let socket = null;
  let working = false;
  let stopped = false;
  let ended = false;
  let settle = null;

  const lives = (run) => run.id !== null && (!run.head || LIVING.has(run.head.state) || run.head.state === "waiting");

  function watch() {
    socket ??= watchRuns((message) => {
      const run = trained.find(({ id }) => id === message.head?.id);
      if (!run) return;
      fold(run, message);
      if (!lives(run)) settle?.();
      show();
    });
    socket.watch(trained.flatMap(({ id }) => id ?? []));
  }

  async function train(beside) {
    stopped = false;
    trained.forEach((run) => Object.assign(run, fresh()));
    await goOn(0, beside);
  }

  /** Train one after another, from the one that isn't begun or not ended yet. */
  async function goOn(first, beside) {
    working = true;
    problem.tell(null);
    anyway.hidden = true;
    show();
    try {
      const corpus = given ?? (await getJson("presets")).corpora[0].name;
      for (const [at, { preset, settings, budget }] of wanted.entries()) {
        if (stopped || ended) break;
        if (at < first) continue;
        trained[at].id ??= (await postJson("start", { preset, settings, budget, corpus, beside: beside || at > 0 })).id;
        if (ended) return; // whoever comes back follows it
        await follow(trained[at]);
      }
    } catch (error) {
      problem.tell(error.message);
      anyway.hidden = error.kind !== "BusyError";
    }
    working = false;
    rest();
    show();
  }

  /** Until a run has ended. */
  function follow(run) {
    watch();
    return new Promise((resolve) => {
      settle = () => !lives(run) && resolve();
    });
  }

  /** Nothing is listened to while nothing trains. */
  function rest() {
    socket?.close();
    socket = null;
    settle = null;
  }

  async function halt() {
    stopped = true;
    const run = trained.find((one) => lives(one));
    try {
      if (run) await postJson("stop", { item: run.id });
    } catch (error) {
      problem.tell(error.message);
    }
  }

  function show() {
    if (ended) return;
    begin.disabled = working;
    begin.textContent = trained.some(({ id }) => id) && !working ? "Train again" : offer;
    stop.hidden = !working;
    state.textContent = stateWords();
    onNews(trained, working);
  }

  function stateWords() {
    const at = trained.findIndex((run) => lives(run));
    const failed = trained.find((run) => run.head && ["failed", "ended"].includes(run.head.state));
    if (failed) return failed.head.reason ?? "";
    if (!working) return "";
    if (at < 0) return "starting …";
    const { head } = trained[at];
    const step = head?.steps ? `step ${head.step.toLocaleString("en")} of ${head.steps.toLocaleString("en")}` : "starting …";
    return `${wanted[at].name}: ${step}`;
  }

  // A reader who left while it trained and comes back sees it go on.
  const left = trained.findIndex(lives);
  if (left >= 0) goOn(left, true);
  show();
  return { end: () => {
    ended = true;
    rest();
  } };
}

/** Take in what is new of a run. @param {Trained} run @param {any} message of the WebSocket */
export function fold(run, { head, lists }) {
  run.head = head;
  for (const [name, { from, items }] of Object.entries(lists)) run[name] = [...run[name].slice(0, from), ...items];
}

/**
 * Follow some runs, and what runs there are, until closed.
 * @param {(message: any) => void} onMessage
 */
export function watchRuns(onMessage) {
  let ids = [];
  const socket = listen(onMessage, (connected) => connected && socket?.send({ watch: ids }));
  return {
    watch: (now) => {
      if (now.join() === ids.join()) return;
      ids = now;
      socket.send({ watch: ids });
    },
    close: socket.close,
  };
}

/** A run of which nothing is known yet. @returns {Trained} */
export const fresh = () => ({ id: null, head: null, ...Object.fromEntries(LISTS.map((name) => [name, []])) });

/** Whether a run has ended as it should. @param {Trained} run */
export const isDone = (run) => run.head?.state === "finished";

/** The loss that counts: on validation text where there is one, else the smoothed training loss. */
export function lossOf(run) {
  const last = run.validation.at(-1);
  return last ? last[1] : (run.losses.at(-1)?.[2] ?? null);
}

/**
 * What models write, side by side, as they learn.
 * @param {HTMLElement} element
 * @param {{name: string}[]} wanted
 */
export function mountSamples(element, wanted) {
  const boxes = wanted.map(({ name }) => ({
    name, note: makeElement("p", { class: "note" }), text: makeElement("pre"),
  }));
  element.append(makeElement("div", { class: "samples" }, ...boxes.map(({ name, note, text }) => makeElement("div", {}, makeElement("h3", { text: name }), note, text))));
  return {
    /** @param {Trained[]} trained @param {(run: Trained) => string} words */
    draw: (trained, words) => trained.forEach((run, at) => {
      const { note, text } = boxes[at];
      const sample = run.samples.at(-1);
      note.textContent = words(run);
      if (sample) text.replaceChildren(makeElement("i", { text: sample.prompt }), sample.text.slice(0, 160));
      else text.replaceChildren();
    }),
  };
}
