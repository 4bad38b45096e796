// What is read: a model, a text that is typed or pasted, or a step of its probes.

import { getJson } from "./api.js";
import { mountFile } from "./inspect-file.js";
import { makeElement, uniqueId } from "./views.js";

const PAUSE_MS = 60;
const KINDS = { own: null, run: "Runs", model: "Models", trace: "Saved traces" };

/**
 * @typedef {{id: string, kind: string, passage: string, steps: number[], losses: (number | null)[]}}
 *   About an item, as `GET api/item` says it: its name, its own passage, the steps of its probes
 */

/**
 * @param {HTMLElement} element
 * @param {{onWanted: (wanted: Partial<import("./inspect-state.js").Wanted>) => void,
 *   onProblem: (error: Error) => void}} on
 */
export function mountSource(element, { onWanted, onProblem }) {
  const ids = { model: uniqueId("model"), text: uniqueId("text"), step: uniqueId("step") };
  const select = makeElement("select", { id: ids.model });
  const range = makeElement("input", { id: ids.step, type: "range", min: "0", step: "1" });
  const said = makeElement("output", { for: ids.step, class: "small soft" });
  const note = makeElement("p", { class: "small soft", hidden: true });
  const steps = makeElement("div", { class: "steps", hidden: true },
    makeElement("div", { class: "line" }, makeElement("label", { for: ids.step, text: "As it learnt" }), said), range, note);
  const box = makeElement("textarea", { id: ids.text, rows: "2", spellcheck: "false", "aria-describedby": uniqueId("hint") });
  const hint = makeElement("span", { id: box.getAttribute("aria-describedby"), class: "small soft", text: "or Ctrl+Enter" });
  const read = makeElement("button", { type: "button", class: "action first", text: "Read it" });
  const words = makeElement("div", { class: "words" },
    makeElement("label", { for: ids.text, text: "Text" }), box,
    makeElement("div", { class: "line" }, read, hint, mountFile(box, { onText: (text) => readFile(text), onProblem })));
  element.append(makeElement("div", { class: "which" }, makeElement("label", { for: ids.model, text: "Model" }), select), steps, words);

  let listed = [];
  /** @type {About | null} */
  let about = null;
  let shown = { item: null, text: null, step: null };
  /** Whether the box has what isn't read yet. */
  let typed = false;
  /** A passage that was taken along to another model: it is no text of the reader's. */
  let lent = null;

  const readIt = (more = {}) => {
    typed = true;
    onWanted({ item: select.value, text: box.value, step: null, cut: false, ...more });
  };
  const readFile = (text) => {
    box.value = text;
    readIt({ cut: true });
  };
  read.addEventListener("click", () => readIt());
  box.addEventListener("input", () => (typed = true));
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    readIt();
  });
  select.addEventListener("change", () => {
    const kind = listed.find(({ id }) => id === select.value)?.kind;
    // A text of one's own goes along from model to model, as far as each one reads; a passage stays
    // with its model, unless the next one has none.
    const own = typed || (shown.text !== null && shown.text !== lent);
    if (!own) lent = box.value;
    const text = kind !== "trace" && (own || kind === "model") && box.value ? box.value : null;
    onWanted({ item: select.value, text, step: null, cut: text !== null, changes: {} });
  });
  let timer = 0;
  range.addEventListener("input", () => {
    const at = Number(range.value);
    sayStep(at);
    clearTimeout(timer);
    timer = setTimeout(() => {
      timer = 0;
      onWanted({ step: about.steps[at] ?? null });
    }, PAUSE_MS);
  });

  /** Behind the last of its steps the slider is at the model itself. */
  function sayStep(at) {
    const { [at]: step } = about.steps;
    const loss = about.losses[at] ?? null;
    const words = step === undefined ? "as it is now" : `step ${step.toLocaleString("en")}${loss === null ? "" : ` · loss ${loss.toFixed(2)}`}`;
    said.textContent = words;
    range.setAttribute("aria-valuetext", words);
  }

  function fill() {
    const option = (item) => makeElement("option", { value: item.id, text: item.heads === false ? `${item.title} (no heads)` : item.title, disabled: item.heads === false });
    const groups = Object.entries(KINDS).map(([kind, label]) => {
      const options = listed.filter((item) => item.kind === kind).map(option);
      if (!label || !options.length) return options;
      return [makeElement("optgroup", { label }, ...options)];
    });
    select.replaceChildren(...groups.flat());
    // The list may come after what a link opened.
    if (shown.item !== null) select.value = shown.item;
  }

  /** Learn what there is to open. */
  async function list() {
    const found = await getJson("items");
    // What was opened by a link, or is gone, stays named.
    listed = [...found, ...listed.filter((item) => !found.some(({ id }) => id === item.id))];
    fill();
  }

  /**
   * Learn what an item is; what is shown of it changes with `show`.
   * @param {string} item
   * @param {AbortSignal} signal
   * @returns {Promise<About>}
   */
  async function describe(item, signal) {
    // A run may have gone on.
    if (about?.id === item && about.kind !== "run") return about;
    return getJson(`item?${new URLSearchParams({ item })}`, signal);
  }

  /**
   * Show what is read: the model, its steps, its text. What was typed and can't be read stays.
   * @param {import("./inspect-state.js").Wanted} wanted
   * @param {About | null} found
   */
  function show(wanted, found) {
    const { item, text, step } = wanted;
    [shown, about] = [wanted, found];
    if (!listed.some(({ id }) => id === item)) {
      // Opened by a link, or gone: it is named all the same.
      listed = [...listed, { id: item, kind: found?.kind ?? "model", title: found?.title ?? item }];
      fill();
    }
    select.value = item;
    const known = about ?? { kind: "", passage: "", steps: [], losses: [] };
    steps.hidden = known.steps.length < 2;
    // A hand that is on its way elsewhere is left alone.
    if (!steps.hidden && !timer) {
      const at = step === null ? known.steps.length : nearest(known.steps, step);
      range.max = String(known.steps.length);
      range.value = String(at);
      sayStep(at);
    }
    note.hidden = step === null;
    const back = text === null ? "the model itself" : "the model and this text";
    note.textContent = `Each step was seen on a passage of the model's own${text === null ? "" : ", not on this text"}. At the end: ${back}.`;
    words.hidden = known.kind === "trace";
    const reads = text ?? known.passage;
    if (typed && box.value === reads) typed = false;
    if (typed) return;
    box.value = reads;
    box.scrollTop = 0;
  }

  const nearest = (steps, step) =>
    steps.reduce((best, one, at) => (Math.abs(one - step) < Math.abs(steps[best] - step) ? at : best), 0);

  /** What can be read in place of what can't, while something else is shown. */
  function waysOn({ limit }, { item, text, changes }, shownItem) {
    const ways = [];
    if (limit) ways.push([`Read its first ${limit.toLocaleString("en")} tokens`, () => onWanted({ item, text, step: null, cut: true, changes })]);
    if (text !== null && item !== shownItem) {
      ways.push(["Open it with its own text", () => {
        typed = false;
        onWanted({ item, text: null, step: null, cut: false, changes: {} });
      }]);
    }
    return ways;
  }

  return {
    list, show, describe, waysOn,
    /** Give up what was typed and isn't read: something else is wanted. */
    forget: () => (typed = false),
    /** The text that is read, where another model shall read it too. */
    lend() {
      lent = box.value;
      return box.value || null;
    },
  };
}
