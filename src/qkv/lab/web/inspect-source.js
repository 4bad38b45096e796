// What is read: a model, a text that is typed or pasted, or a step of its probes.

import { getJson } from "./api.js";
import { makeElement, uniqueId } from "./views.js";

const KINDS = { own: null, run: "Runs", model: "Models", trace: "Saved traces" };

/**
 * @param {HTMLElement} element
 * @param {{onWanted: (wanted: Partial<import("./inspect-state.js").Wanted>) => void,
 *   onProblem: (error: Error | null) => void}} on
 */
export function mountSource(element, { onWanted, onProblem }) {
  const ids = { model: uniqueId("model"), text: uniqueId("text"), step: uniqueId("step") };
  const select = makeElement("select", { id: ids.model });
  const range = makeElement("input", { id: ids.step, type: "range", min: "0", step: "1" });
  const said = makeElement("output", { for: ids.step, class: "small soft" });
  const steps = makeElement("div", { class: "steps", hidden: true },
    makeElement("div", { class: "line" }, makeElement("label", { for: ids.step, text: "As it learnt" }), said), range);
  const box = makeElement("textarea", { id: ids.text, rows: "2", spellcheck: "false", "aria-describedby": uniqueId("hint") });
  const hint = makeElement("span", { id: box.getAttribute("aria-describedby"), class: "small soft", text: "or Ctrl+Enter" });
  const read = makeElement("button", { type: "button", class: "action first", text: "Read it" });
  const words = makeElement("div", { class: "words" },
    makeElement("label", { for: ids.text, text: "Text" }), box,
    makeElement("div", { class: "line" }, read, hint));
  element.append(makeElement("div", { class: "which" }, makeElement("label", { for: ids.model, text: "Model" }), select), steps, words);

  let listed = [];
  let described = null;
  let typed = false;
  let chosen = null;

  const readIt = (more = {}) => {
    typed = false;
    onWanted({ item: select.value, text: box.value, step: null, cut: false, ...more });
  };
  read.addEventListener("click", () => readIt());
  box.addEventListener("input", () => (typed = true));
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    readIt();
  });
  select.addEventListener("change", () => {
    const item = listed.find(({ id }) => id === select.value);
    // A text of one's own goes along from model to model; a passage stays with its model.
    const own = typed || (described && box.value !== described.passage);
    typed = false;
    onWanted({ item: select.value, text: item?.kind !== "trace" && own && box.value ? box.value : null, step: null, cut: false, changes: {} });
  });
  let timer = 0;
  range.addEventListener("input", () => {
    sayStep(Number(range.value));
    clearTimeout(timer);
    timer = setTimeout(() => onWanted({ step: described.steps[Number(range.value)], text: null, cut: false, changes: {} }), 60);
  });

  function sayStep(at) {
    const loss = described.losses[at];
    said.textContent = `step ${described.steps[at].toLocaleString("en")}${loss === null ? "" : ` · loss ${loss.toFixed(2)}`}`;
  }

  function fill() {
    const option = (item) => makeElement("option", { value: item.id, text: item.title });
    const groups = Object.entries(KINDS).map(([kind, label]) => {
      const options = listed.filter((item) => item.kind === kind).map(option);
      if (!label || !options.length) return options;
      return [makeElement("optgroup", { label }, ...options)];
    });
    select.replaceChildren(...groups.flat());
    // The list may come after what a link opened.
    if (chosen !== null) select.value = chosen;
  }

  /** Learn what there is to open. */
  async function list() {
    const found = await getJson("items");
    // What was opened by a link, or is gone, stays named.
    listed = [...found, ...listed.filter((item) => !found.some(({ id }) => id === item.id))];
    fill();
  }

  /** Learn what an item is: its kind, its own passage, its steps. */
  async function describe(item) {
    // A run may have gone on.
    if (described?.id === item && described.kind !== "run") return;
    const found = await getJson(`item?${new URLSearchParams({ item })}`).catch((error) => onProblem(error));
    described = found ?? null;
  }

  /** Show what is wanted: the model, its steps, its text. */
  async function show({ item, text, step }) {
    chosen = item;
    if (!listed.some(({ id }) => id === item)) {
      // Opened by a link, or gone: it is named all the same.
      listed = [...listed, { id: item, kind: "model", title: item }];
      fill();
    }
    select.value = item;
    await describe(item);
    if (select.value !== item) return;
    const known = described ?? { kind: "", passage: "", steps: [], losses: [] };
    steps.hidden = known.steps.length < 2;
    if (!steps.hidden) {
      const at = step === null ? known.steps.length - 1 : nearest(known.steps, step);
      range.max = String(known.steps.length - 1);
      range.value = String(at);
      range.classList.toggle("idle", step === null);
      if (step === null) said.textContent = `${known.steps.length} steps`;
      else sayStep(at);
      range.setAttribute("aria-valuetext", said.textContent);
    }
    words.hidden = known.kind === "trace";
    if (!typed) box.value = text ?? known.passage;
    box.scrollTop = 0;
  }

  const nearest = (steps, step) =>
    steps.reduce((best, one, at) => (Math.abs(one - step) < Math.abs(steps[best] - step) ? at : best), 0);

  return {
    list, show,
    cut: () => readIt({ cut: true }),
    /** What a person would expect the keyboard to stand on after a refusal. */
    focus: () => box.focus(),
    describe,
    get kind() {
      return described?.kind ?? "";
    },
    get text() {
      return box.value;
    },
    get passage() {
      return described?.passage ?? "";
    },
  };
}
