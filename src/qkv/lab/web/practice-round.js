// A round of cards or questions: what is next, its grade, undo. What is shown of one is the mode's.

import { getJson, postJson } from "./api.js";
import { tightenRoots } from "./lessons.js";
import { capital } from "./sentence.js";
import { makeElement } from "./views.js";

const MORE = { card: 7, question: 5 };

/**
 * @typedef {{id: string, section: string, title: string, front: string, back: string, rests: string[]}} Item
 * @typedef {{says: string, left: number, waiting: number, suspended: number, next: string | null,
 *   undoable: boolean, notice: string | null, sections: [string, string][], item: Item | null, undone?: string}} Queue
 */

/**
 * @param {HTMLElement} element
 * @param {{
 *   kind: "card" | "question", title: string, intro: string, grades: string[], section?: () => string,
 *   face: (item: Item, turn: () => void) => {element: HTMLElement, turn: () => void, focus: () => void, answer: () => string},
 *   tools: HTMLElement[], onQueue?: (queue: Queue) => void,
 * }} mode
 * @returns {{end: () => void, start: () => Promise<void>}}
 */
export function mountRound(element, mode) {
  const heading = makeElement("h1", { text: mode.title });
  const sub = makeElement("p", { class: "sub", text: mode.intro });
  const notice = makeElement("p", { class: "problem", role: "status", hidden: true });
  const place = makeElement("div", { class: "place" });
  const problem = makeElement("p", { class: "problem", role: "alert", hidden: true });
  const said = makeElement("p", { class: "said", role: "status" });
  const undo = makeElement("button", { class: "plain", type: "button", onclick: () => change("undo", {}) },
    makeElement("kbd", { text: "u" }), " undo");
  const suspend = makeElement("button", { class: "plain", type: "button", title: "It isn't asked until it is brought back: qkv cards unsuspend", onclick: () => queue.item && change("suspend", { item: queue.item.id }) },
    makeElement("kbd", { text: "s" }), " suspend");
  const foot = makeElement("div", { class: "bar round-foot" }, undo, mode.kind === "card" ? suspend : null, said);
  element.append(heading, sub, notice, place, problem, foot, ...mode.tools);

  /** @type {Queue} */
  let queue = null;
  let face = null;
  let turned = false;
  let busy = false;
  let loads = 0;
  let changing = Promise.resolve();
  let more = 0;
  let shownAt = 0;
  let ended = false;
  let setting = null;
  const asked = () => ({ kind: mode.kind, more, section: mode.section?.() ?? "" });

  function tighten() {
    setting?.end();
    setting = tightenRoots(place);
  }

  function show(found, focus) {
    queue = found;
    turned = false;
    sub.textContent = found.item ? `${capital(found.says)} · ${found.item.title}` : mode.intro;
    if (found.notice) [notice.textContent, notice.hidden] = [`${capital(found.notice)}.`, false];
    undo.hidden = !found.undoable;
    suspend.hidden = !found.item;
    if (found.item) {
      face = mode.face(found.item, turn);
      place.replaceChildren(face.element);
      shownAt = performance.now();
      tighten();
      if (focus) face.focus();
    } else {
      face = null;
      place.replaceChildren(rest(found));
      if (focus) place.querySelector("p").focus();
    }
    mode.onQueue?.(found);
  }

  /** Nothing is due: when the next one is, and how to go on all the same. */
  function rest({ next, waiting }) {
    const words = [`No ${mode.kind}s are due now.`, next && `The next comes back in ${next}.`, waiting > 0 && `${waiting} have not been begun.`];
    const begin = makeElement("button", { class: "action", type: "button", text: `Begin ${Math.min(MORE[mode.kind], waiting)} more`, onclick: () => {
      more += MORE[mode.kind];
      load(true);
    } });
    return makeElement("div", { class: "rest" }, makeElement("p", { class: "prose", tabindex: "-1", text: words.filter(Boolean).join(" ") }), waiting > 0 ? begin : null);
  }

  function turn() {
    if (turned || !face) return;
    turned = true;
    face.turn();
    tighten();
    face.element.append(makeElement("div", { class: "grades", role: "group", "aria-label": "How well did you know it?" },
      ...mode.grades.map((name, at) => makeElement("button", { class: "action grade", type: "button", onclick: () => grade(at + 1) },
        makeElement("span", {}, makeElement("kbd", { text: String(at + 1) }), ` ${name}`),
        makeElement("span", { class: "soft small", text: queue.item.rests[at] })))));
  }

  function grade(rating) {
    const { id, rests } = queue.item;
    const seconds = (performance.now() - shownAt) / 1000;
    change("grade", { item: id, rating, seconds, answer: face.answer() }, `${capital(mode.grades[rating - 1])}: again in ${rests[rating - 1]}.`);
  }

  function change(path, body, words = "") {
    if (busy) return;
    busy = true;
    changing = send(path, body, words);
  }

  async function send(path, body, words) {
    const mine = loads;
    try {
      const found = await postJson(`practice/${path}`, { ...asked(), ...body });
      if (ended || mine !== loads) return; // another section is wanted by now, and asked for
      problem.hidden = true;
      show(found, true);
      said.textContent = words || (path === "undo" ? (found.undone ? "Undone." : "Nothing to undo.") : "Taken out.");
    } catch (error) {
      fail(error);
    } finally {
      busy = false;
    }
  }

  /** What is due, once a grade on its way is written; until it is here, the item shown isn't graded. */
  async function load(focus) {
    const mine = (loads += 1);
    problem.hidden = true;
    await changing;
    if (ended || mine !== loads) return;
    busy = true;
    try {
      const found = await getJson(`practice?${new URLSearchParams(asked())}`);
      if (ended || mine !== loads) return;
      said.textContent = "";
      show(found, focus);
    } catch (error) {
      if (mine === loads) fail(error);
    } finally {
      if (mine === loads) busy = false;
    }
  }

  function fail(error) {
    problem.textContent = error.message;
    problem.hidden = false;
  }

  /** Keys, where nothing is being typed. */
  function press(event) {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || target.closest?.("input, textarea, select")) return;
    if (key === " " && !turned && face && !target.closest?.("button, a")) turn();
    else if (/^[1-4]$/.test(key) && turned) grade(Number(key));
    else if (key === "u" && !undo.hidden) change("undo", {});
    else if (key === "s" && !suspend.hidden && mode.kind === "card") change("suspend", { item: queue.item.id });
    else return;
    event.preventDefault();
  }
  document.addEventListener("keydown", press);
  return {
    start: (focus = false) => load(focus),
    end: () => {
      ended = true;
      document.removeEventListener("keydown", press);
    },
  };
}
