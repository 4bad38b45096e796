// What to train, as a sentence with gaps: a recipe, a text, a budget.

import { getJson, postJson } from "./api.js";
import { brief, count, duration } from "./train-words.js";
import { makeElement } from "./views.js";

const OWN_TEXT = "(text)";
const A_FILE = "(file)";
const FIRST = "tiny";
const KEPT = "qkv-train";
const MANY_PASSES = 10;

/**
 * @param {HTMLElement} element
 * @param {{presets: any[], corpora: any[]}} offers
 * @param {(id: string) => void} onStart a run was started
 */
export function mountForm(element, offers, onStart) {
  const byName = new Map(offers.presets.map((preset) => [preset.name, preset]));
  const options = (names) => names.map((name) => makeElement("option", { value: name, text: byName.get(name).title, selected: name === FIRST }));
  const names = offers.presets.map(({ name }) => name);
  const cut = names.indexOf(FIRST);
  const recipe = makeElement("select", { id: "recipe" },
    makeElement("optgroup", { label: "Models" }, ...options(names.slice(cut))),
    makeElement("optgroup", { label: "The ladder" }, ...options(names.slice(0, cut))));
  const source = makeElement("select", { id: "source" },
    ...offers.corpora.map(({ name }) => makeElement("option", { value: name, text: name })),
    makeElement("option", { value: OWN_TEXT, text: "a text of my own" }),
    makeElement("option", { value: A_FILE, text: "a file" }));
  const budget = makeElement("input", { id: "budget", type: "text", inputmode: "numeric", size: "9", maxlength: "20", autocomplete: "off" });
  const start = makeElement("button", { class: "action first", type: "submit", text: "Start" });
  const note = makeElement("p", { class: "soft note", id: "recipe-note", "aria-live": "polite" });
  const own = makeElement("textarea", { id: "own-text", rows: "6", spellcheck: "false" });
  const file = makeElement("input", { id: "file", type: "text", autocomplete: "off", spellcheck: "false", placeholder: "notes.txt" });
  const ownField = makeElement("div", { class: "more", hidden: true }, makeElement("label", { for: "own-text", text: "Its text; the last tenth is kept for validation" }), own);
  const fileField = makeElement("div", { class: "more", hidden: true }, makeElement("label", { for: "file", text: "Its path, under the folders that the lab was opened on" }), file);
  const seed = makeElement("input", { id: "seed", type: "number", min: "0", step: "1", value: "0" });
  const probe = makeElement("textarea", { id: "probe", rows: "2", spellcheck: "false", placeholder: "how a paragraph of the validation text begins" });
  const probeField = makeElement("div", {}, makeElement("label", { for: "probe", text: "The passage that heads are watched on" }), probe);
  const problem = makeElement("div", { class: "trouble" });
  const form = makeElement("form", { class: "wanted", "aria-label": "Train a model" },
    makeElement("p", { class: "gaps" },
      makeElement("label", { for: "recipe", text: "Train" }), recipe,
      makeElement("label", { for: "source", text: "on" }), source,
      makeElement("label", { for: "budget", text: "for" }), budget, makeElement("span", { class: "unit", text: "tokens" }), start),
    note, ownField, fileField,
    makeElement("details", {}, makeElement("summary", { text: "Seed and probe" }),
      makeElement("div", { class: "settings" }, makeElement("div", {}, makeElement("label", { for: "seed", text: "Seed" }), seed), probeField)),
    problem);
  element.append(form);

  let asked = 0;
  const costs = new Map();

  function tell() {
    const { note: about, tokens } = byName.get(recipe.value);
    const cost = costs.get(recipe.value);
    const given = tokensOf(budget.value);
    const wanted = given ?? tokens;
    // What it takes here is said instead of what it takes in general.
    const what = cost ? about.replace(/: (seconds|minutes)$/, "") : about;
    const words = [`${what.slice(0, 1).toUpperCase()}${what.slice(1)}.`];
    const ladder = recipe.value === "ladder";
    if (ladder) words.push(ladderWords(budget.value.trim(), tokens));
    if (cost === null) words.push("How long it takes can be told when nothing else trains.");
    else if (cost && (!ladder || given)) words.push(`About ${duration(cost * wanted)} here.`);
    const passes = source.value === OWN_TEXT && own.value ? wanted / (0.9 * own.value.length) : 0;
    if (passes > MANY_PASSES) words.push(`It reads your text about ${count(passes)} times over.`);
    words.push(whence(offers.corpora, source.value));
    note.textContent = words.filter(Boolean).join(" ");
  }

  async function estimate() {
    const name = recipe.value;
    const number = (asked += 1);
    // Without a budget, the ladder takes two minutes whatever its rungs cost.
    if (!costs.get(name) && (name !== "ladder" || tokensOf(budget.value))) {
      const told = await getJson(`estimate?preset=${encodeURIComponent(name)}`).catch(() => undefined);
      if (told) costs.set(name, told.seconds_a_token);
    }
    if (number === asked) tell();
  }

  function chooseRecipe() {
    const { tokens, attention } = byName.get(recipe.value);
    budget.placeholder = count(tokens);
    probeField.hidden = !attention;
    tell();
  }

  function chooseSource() {
    ownField.hidden = source.value !== OWN_TEXT;
    fileField.hidden = source.value !== A_FILE;
    tell();
  }

  /** What was typed, for a page that is loaded again; a browser that keeps nothing does without. */
  const fields = { recipe, source, budget, own, file, seed, probe };
  function keep() {
    try {
      sessionStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(Object.entries(fields).map(([name, { value }]) => [name, value]))));
    } catch {
      // Too long a text, or nothing may be kept.
    }
  }

  function fetchKept() {
    let kept = {};
    try {
      kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "{}");
    } catch {
      return;
    }
    for (const [name, field] of Object.entries(fields)) {
      const offered = !field.options || [...field.options].some(({ value }) => value === kept[name]);
      if (typeof kept[name] === "string" && offered) field.value = kept[name];
    }
  }

  function refuse(error, wanted) {
    busy = error.kind === "BusyError";
    const children = [makeElement("p", { class: "problem", role: "alert", text: error.message })];
    if (error.kind === "BusyError") children.push(again("Start it all the same", { ...wanted, beside: true }));
    else if (error.limit && wanted.text?.length > error.limit) {
      children.push(again(`Cut it to ${count(error.limit)} characters`, { ...wanted, text: cut(wanted.text, error.limit) }));
    }
    problem.replaceChildren(...children);
  }

  const again = (text, wanted) => makeElement("button", { class: "action", type: "button", text, onclick: () => send(wanted) });

  /** What is refused before it is sent: the lab takes no body as long. */
  function tooLong({ text }) {
    if ((text?.length ?? 0) <= offers.longest || [...text].length <= offers.longest) return null;
    return { message: `The text has ${count([...text].length)} characters; up to ${count(offers.longest)} can be pasted. Cut it, or save it as a file and name that.`, limit: offers.longest };
  }

  let sending = false;
  let busy = false;
  async function send(wanted) {
    if (sending) return;
    if (tooLong(wanted)) return refuse(tooLong(wanted), wanted);
    sending = true;
    // Not `disabled`, which would take the focus away.
    start.setAttribute("aria-disabled", "true");
    if (problem.contains(document.activeElement)) start.focus();
    problem.replaceChildren();
    try {
      const { id } = await postJson("start", wanted);
      onStart(id);
    } catch (error) {
      refuse(error, wanted);
    } finally {
      sending = false;
      start.removeAttribute("aria-disabled");
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = { preset: recipe.value, seed: Number(seed.value) || 0, budget: budget.value.trim() || null };
    if (source.value === OWN_TEXT) wanted.text = own.value;
    else if (source.value === A_FILE) wanted.file = file.value.trim();
    else wanted.corpus = source.value;
    if (probe.value && !probeField.hidden) wanted.probe = probe.value;
    send(wanted);
  });
  recipe.addEventListener("change", () => {
    chooseRecipe();
    estimate();
  });
  source.addEventListener("change", chooseSource);
  budget.addEventListener("change", estimate);
  form.addEventListener("input", () => {
    // What was refused isn't what stands there now.
    problem.replaceChildren();
    keep();
    tell();
  });
  fetchKept();
  chooseRecipe();
  chooseSource();
  return {
    estimate,
    /** A refusal since another run trained goes when none does any more. */
    update: ({ living }) => {
      if (living || !busy) return;
      busy = false;
      if (problem.contains(document.activeElement)) start.focus();
      problem.replaceChildren();
    },
  };
}

/** Which text a named corpus is, where it isn't here yet. */
function whence(corpora, name) {
  const chosen = corpora.find((one) => one.name === name);
  if (!chosen || chosen.here) return "";
  const [instead] = corpora.slice(corpora.indexOf(chosen) + 1).filter(({ here }) => here);
  return `${chosen.name} isn't on this machine yet: it is fetched first. Where that can't be, ${instead?.name ?? "another text"} takes its place.`;
}

/** The first characters of a text, none of them cut in two. */
const cut = (text, most) => text.slice(0, most).replace(/[\ud800-\udbff]$/, "");

/** What each rung of a ladder gets: tokens, or a share of a time such as 5min. */
function ladderWords(budget, tokens) {
  if (!budget) return `About 2 min here: each rung has as many tokens as that allows, ${brief(tokens)} at most.`;
  const wanted = tokensOf(budget);
  return wanted ? `${brief(wanted)} tokens for each rung.` : "A time, such as 5min, is for the whole ladder; a number is tokens for each rung.";
}

/** Tokens that a budget says, as the command line reads it; null where it is none, or a time. */
function tokensOf(text) {
  const match = /^([\d.,_]+)\s*([kmgb]?)$/i.exec(text.trim());
  if (!match) return null;
  const value = Number(match[1].replace(/[,_]/g, "")) * { "": 1, k: 1e3, m: 1e6, g: 1e9, b: 1e9 }[match[2].toLowerCase()];
  return Number.isFinite(value) && value > 0 ? value : null;
}
