// The runs there are: which are on the chart, which one is looked at, what may be done with each.

import { postJson } from "./api.js";
import { isBroken, LIVING, nameOf, stateWords } from "./train-words.js";
import { makeElement } from "./views.js";

const ACTS = { pause: "Pause", resume: "Go on", stop: "Stop", remove: "Remove" };
/** What may be done from the list; the rest where the run is looked at. */
const isListed = (act, run) => (act === "remove" ? isBroken(run) || run.state === "waiting" : act !== "stop" || run.state !== "paused");

/**
 * @param {HTMLElement} element
 * @param {Map<string, string>} titles of recipes
 * @param {{onChoose: (id: string) => void, onShow: (id: string, shown: boolean) => void}} on
 * @returns {{update: (told: {runs: any[], chosen: string, shown: Set<string>}) => void}}
 */
export function mountRuns(element, titles, on) {
  const list = makeElement("ul", { class: "run-list" });
  element.append(makeElement("h2", { text: "Runs" }), list);
  const rows = new Map();

  function makeRow(id) {
    const box = makeElement("input", { type: "checkbox", onchange: () => on.onShow(id, box.checked) });
    const name = makeElement("button", { class: "plain name", type: "button", onclick: () => on.onChoose(id) });
    const state = makeElement("span", { class: "soft state" });
    const acts = makeElement("span", { class: "acts" });
    const bar = makeElement("span", { class: "done", "aria-hidden": "true" }, makeElement("i"));
    const row = makeElement("li", {}, box, name, state, acts, bar);
    return { row, box, name, state, acts, bar: bar.firstChild };
  }

  function fill(parts, run, { chosen, shown }) {
    const { row, box, name, state, acts, bar } = parts;
    const named = nameOf(run, titles);
    row.classList.toggle("rung", Boolean(run.group));
    row.classList.toggle("broken", isBroken(run));
    row.classList.toggle("alive", LIVING.has(run.state));
    box.checked = shown.has(run.id);
    box.hidden = run.kind === "ladder";
    box.disabled = run.id === chosen || run.group === chosen;
    box.setAttribute("aria-label", `${named} on the chart`);
    setText(name, named);
    name.title = run.title ?? "";
    if (run.id === chosen) name.setAttribute("aria-current", "true");
    else name.removeAttribute("aria-current");
    const done = run.steps ? run.step / run.steps : 0;
    const rungs = run.kind === "ladder" ? `${run.step} of ${run.steps} rungs` : "";
    const at = LIVING.has(run.state) && run.steps && run.kind !== "ladder" ? `${Math.floor(done * 100)} %` : "";
    setText(state, run.id === "own" ? "its timeline" : [rungs, run.state === "silent" ? run.reason : stateWords(run.state), at].filter(Boolean).join(" · "));
    bar.style.width = LIVING.has(run.state) ? `${100 * done}%` : "0";
    const can = run.id === chosen ? [] : (run.can ?? []).filter((act) => isListed(act, run));
    fillActs(acts, { ...run, can }, named);
  }

  return {
    update: (told) => {
      const wanted = told.runs.map(({ id }) => id);
      for (const [id, { row }] of rows) if (!wanted.includes(id)) (row.remove(), rows.delete(id));
      told.runs.forEach((run, place) => {
        if (!rows.has(run.id)) rows.set(run.id, makeRow(run.id));
        const parts = rows.get(run.id);
        fill(parts, run, told);
        // Moved only where it isn't already: what has the focus would lose it.
        if (list.children[place] !== parts.row) list.insertBefore(parts.row, list.children[place] ?? null);
      });
    },
  };
}

/** What was last put into an element of buttons: the run they are for, and its name. */
const meant = new WeakMap();
/** Pause and go on are one button, which stays where it is, and so does the focus. */
const SLOTS = ["turn", "stop", "remove"];
const slotOf = (act) => (SLOTS.includes(act) ? act : "turn");
const wordOf = (act, run) => (act === "resume" && !run.steps ? "Try again" : ACTS[act]);

/**
 * Buttons for what may be done with a run; those that stay are the same elements, and one with the
 * focus stays, without effect, also where there is nothing to do.
 * @param {HTMLElement} element
 * @param {{id: string, can?: string[]}} run
 * @param {string} named
 */
export function fillActs(element, run, named) {
  if (meant.get(element)?.id !== run.id) element.replaceChildren();
  meant.set(element, { id: run.id, named });
  for (const slot of SLOTS) {
    const act = (run.can ?? []).find((one) => slotOf(one) === slot);
    const button = element.querySelector(`[data-slot="${slot}"]`);
    if (act) fillAct(button ?? addButton(element, slot), act, wordOf(act, run), named);
    else if (button && button === document.activeElement) button.setAttribute("aria-disabled", "true");
    else button?.remove();
  }
}

function addButton(element, slot) {
  const button = makeElement("button", { class: "action small", type: "button", "data-slot": slot });
  button.addEventListener("click", () => send(button, button.dataset.act, { item: meant.get(element).id }));
  const later = SLOTS.slice(SLOTS.indexOf(slot) + 1).map((one) => `[data-slot="${one}"]`);
  element.insertBefore(button, element.querySelector([...later, ".problem"].join(", ")));
  return button;
}

function fillAct(button, act, word, named) {
  button.dataset.act = act;
  button.removeAttribute("aria-disabled");
  setText(button, word);
  button.title = act === "remove" ? "moves it to the folder .trash beside it" : "";
  button.setAttribute("aria-label", `${word}: ${named}`);
}

/** A refusal since another run trained goes when none does any more. */
export function dropBusy(element) {
  for (const told of element.querySelectorAll(".acts .problem[data-busy]")) {
    if (told.contains(document.activeElement)) told.parentElement.querySelector("button")?.focus();
    told.remove();
  }
}

async function send(button, act, body) {
  const { parentElement: element } = button;
  if (button.getAttribute("aria-disabled") === "true" || element.dataset.busy) return;
  // Not `disabled`, which would take the focus away.
  element.dataset.busy = "true";
  const old = element.querySelector(".problem");
  if (old?.contains(document.activeElement)) button.focus();
  old?.remove();
  try {
    await postJson(act, body);
    if (act === "remove") element.dispatchEvent(new CustomEvent("qkv-removed", { bubbles: true, detail: body.item }));
  } catch (error) {
    const told = makeElement("p", { class: "problem", role: "alert", text: error.message });
    if (error.kind === "BusyError") {
      told.dataset.busy = "true";
      const again = makeElement("button", { class: "action small", type: "button", text: "Go on all the same" });
      again.addEventListener("click", () => send(button, act, { ...body, beside: true }));
      told.append(" ", again);
    }
    element.append(told);
  } finally {
    delete element.dataset.busy;
  }
}

const setText = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};
