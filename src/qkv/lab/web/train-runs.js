// The runs there are: which are on the chart, which one is looked at, what may be done with each.

import { postJson } from "./api.js";
import { isBroken, LIVING, nameOf, stateWords } from "./train-words.js";
import { makeElement } from "./views.js";

const ACTS = { pause: "Pause", resume: "Go on", stop: "Stop" };

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
    setText(state, run.id === "own" ? "its timeline" : [rungs, stateWords(run.state), at].filter(Boolean).join(" · "));
    bar.style.width = LIVING.has(run.state) ? `${100 * done}%` : "0";
    fillActs(acts, run.id === chosen ? { id: run.id } : run, named);
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

/**
 * Buttons for what may be done with a run; those that stay are the same elements.
 * @param {HTMLElement} element
 * @param {{id: string, can?: string[]}} run
 * @param {string} named
 */
export function fillActs(element, run, named) {
  const wanted = (run.can ?? []).join(" ");
  if (element.dataset.acts === `${run.id} ${wanted}`) return;
  element.dataset.acts = `${run.id} ${wanted}`;
  element.replaceChildren(...(run.can ?? []).map((act) => {
    const button = makeElement("button", { class: "action small", type: "button", text: ACTS[act], "aria-label": `${ACTS[act]}: ${named}` });
    button.addEventListener("click", () => send(button, act, { item: run.id }));
    return button;
  }));
}

async function send(button, act, body) {
  button.disabled = true;
  const old = button.parentElement.querySelector(".problem");
  old?.remove();
  try {
    await postJson(act, body);
  } catch (error) {
    const told = makeElement("p", { class: "problem", role: "alert", text: error.message });
    if (error.kind === "BusyError") {
      const again = makeElement("button", { class: "action small", type: "button", text: "Go on all the same" });
      again.addEventListener("click", () => send(button, act, { ...body, beside: true }));
      told.append(" ", again);
    }
    button.parentElement?.append(told);
  } finally {
    button.disabled = false;
  }
}

const setText = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};
