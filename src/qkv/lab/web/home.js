// Home: one trained head on one sentence that can be retyped, and the doors.

import { getJson } from "./api.js";
import { openText } from "./heads.js";
import { cellSentence } from "./sentence.js";
import { LIVING, stateWords } from "./train-words.js";
import { makeElement, mountMap } from "./views.js";

const SENTENCE = "ROMEO:\nWhat light through yonder window breaks?\n";
const MOST = 256;
const PAUSE_MS = 250;
const SLOW_MS = 150;
const DOORS = [
  ["learn", "Learn it", "Seven short sections with figures to change: why tokens look back, queries and keys, the mask, the heads. And an examiner that names the mistake."],
  ["inspect", "Look inside a model", "Every head on your own text: where each token looks, the whole arithmetic of one weight, and what changes when a head is taken out."],
  ["train", "Train one", "From bigram to Transformer, on your text: watch the loss fall, samples sharpen and heads emerge."],
];
const MOST_RUNS = 5;

/**
 * @param {HTMLElement} main
 * @param {{theme: () => Theme}} shell
 */
export async function mount(main, shell) {
  const read = makeElement("p", { class: "read", "aria-live": "polite" });
  const sub = makeElement("p", { class: "sub" });
  const picture = makeElement("div", { class: "picture" });
  const busy = makeElement("p", { class: "busy", role: "status", hidden: true });
  const box = makeElement("textarea", { id: "sentence", rows: "3", spellcheck: "false", maxlength: MOST, "aria-describedby": "most" });
  box.value = new URLSearchParams(location.search).get("text")?.slice(0, MOST) || SENTENCE;
  const most = makeElement("p", { class: "soft small", id: "most", role: "status", hidden: true, text: `No more than ${MOST} characters here; Inspect reads longer texts.` });
  const problem = makeElement("p", { class: "problem", role: "alert", hidden: true });
  const words = makeElement(
    "div",
    { class: "words" },
    makeElement("p", { class: "prose", text:
      "A small model learnt from Shakespeare what comes next, one character at a time. To guess, each character looks " +
      "back at those before it. Here is one of its heads: every row is a character, and says how much of its " +
      "attention each earlier one is given." }),
    makeElement("label", { for: "sentence", text: "Its sentence. Type another:" }),
    box,
    most,
    problem,
  );
  const doors = makeElement("ul", { class: "doors" }, ...DOORS.map(([path, name, text]) =>
    makeElement("li", {}, makeElement("a", { href: path, text: name }), makeElement("p", { text }))));
  main.append(
    makeElement("h1", { class: "qkv-unseen", text: "qkv" }), read, sub,
    makeElement("div", { class: "first-head" }, makeElement("div", {}, busy, picture), words),
  );
  words.append(doors);

  let text = null;
  let shown = null;
  let map = null;
  let cursor = [0, 0];
  let log = true;
  let asking = null;
  let attempts = 0;

  async function choose(row, col) {
    cursor = [row, col];
    map.update({ cursor });
    const reading = await shown.source.read(row, col);
    if (cursor[0] === row && cursor[1] === col) read.replaceChildren(...cellSentence(text.labels(shown.name), row, col, reading));
  }

  async function load(sentence) {
    asking?.abort();
    asking = new AbortController();
    const { signal } = asking;
    const found = await openText({ item: "own", text: sentence, cut: true }, signal);
    // The head stays the one that was shown first: it's the sentence that changes.
    const name = shown?.name ?? found.header.begin;
    const head = await found.head(name);
    if (signal.aborted) return;
    [text, shown] = [found, { name, ...head }];
    const entry = text.entry(name);
    sub.textContent = [`${name} of ${text.heads.length} heads`, entry.kind && `it is called ${entry.kind}`].filter(Boolean).join(" · ");
    const start = entry.strongest?.slice(0, 2) ?? [0, 0];
    const props = { source: head.source, name, labels: text.labels(name), tracks: null, theme: shell.theme(), log, cursor: start };
    map ??= mountMap(picture, { ...props, onCursor: choose, onLog: (now) => map.update({ log: (log = now) }) });
    map.update(props);
    await choose(...start);
  }

  let timer = 0;
  /** Read what stands in the box; the picture stays as it was until that is done. */
  async function attempt() {
    const asked = (attempts += 1);
    const slow = setTimeout(() => {
      busy.textContent = shown ? "It is reading …" : "The model is being loaded: a few seconds, once.";
      busy.hidden = false;
    }, SLOW_MS);
    try {
      await load(box.value);
      problem.hidden = true;
    } catch (error) {
      if (error.name !== "AbortError" && asked === attempts) {
        problem.textContent = shown ? `${error.message}. The picture is of the sentence before.` : error.message;
        problem.hidden = false;
      }
    } finally {
      clearTimeout(slow);
      if (asked === attempts) busy.hidden = true;
    }
  }
  /** The sentence goes along: into the address, and through the door to all of the model's heads. */
  function carry() {
    most.hidden = box.value.length < MOST;
    const query = box.value === SENTENCE ? "" : `?${new URLSearchParams({ text: box.value })}`;
    history.replaceState(null, "", `./${query}`);
    doors.querySelector('a[href^="inspect"]').href = `inspect${query}`;
  }

  box.addEventListener("input", () => {
    carry();
    clearTimeout(timer);
    timer = setTimeout(attempt, PAUSE_MS);
  });
  document.addEventListener("qkv-theme", ({ detail }) => map?.update({ theme: detail }));
  carry();
  await attempt();
  // The head comes first; without the lists, the doors are there.
  Promise.allSettled([listDue(), listRuns()]).then((lists) => doors.after(...lists.flatMap(({ value }) => value ?? [])));
}

/** What is due of the questions and cards, for who has begun with them. */
async function listDue() {
  const { begun, ...queues } = await getJson("practice/due");
  const links = { question: "practice?mode=questions", card: "practice?mode=cards" };
  const due = Object.entries(links).filter(([kind]) => begun && queues[kind].count > 0);
  if (due.length === 0) return [];
  const list = makeElement("ul", { class: "runs", "aria-labelledby": "due" }, ...due.map(([kind, href]) =>
    makeElement("li", {}, makeElement("a", { href, text: queues[kind].says }))));
  return [makeElement("h2", { id: "due", class: "runs-title", text: "To be gone through again" }), list];
}

/** What there is to go back to: what runs, and what was trained last. */
async function listRuns() {
  const runs = (await getJson("runs")).filter((run) => !run.group);
  if (runs.length === 0) return [];
  const living = runs.filter(({ state }) => LIVING.has(state));
  const listed = [...living, ...runs.filter((run) => !living.includes(run))].slice(0, MOST_RUNS);
  const more = runs.length - listed.length;
  const summary = living.length ? `${living.length} of ${runs.length} ${runs.length === 1 ? "run" : "runs"} going on` : "Runs, the newest first";
  const list = makeElement("ul", { class: "runs", "aria-labelledby": "runs" }, ...listed.map((run) => {
    const steps = run.steps ? `step ${run.step.toLocaleString("en")} of ${run.steps.toLocaleString("en")}` : "";
    return makeElement("li", {},
      makeElement("a", { href: `train?${new URLSearchParams({ run: run.id })}`, text: run.title }),
      makeElement("span", { class: "soft", text: ` ${[stateWords(run.state), steps].filter(Boolean).join(" · ")}` }));
  }));
  if (more > 0) list.append(makeElement("li", {}, makeElement("a", { href: "train", text: `${more} more` })));
  return [makeElement("h2", { id: "runs", class: "runs-title", text: summary }), list];
}
