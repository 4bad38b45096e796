// What runs wrote after the same prompt, side by side, or one run at several of its steps.

import { count } from "./train-words.js";
import { makeElement } from "./views.js";

const MOST = 12;
const STAGES = 4;

/**
 * @param {HTMLElement} element
 * @returns {{update: (told: {runs: {id: string, name: string, run: any}[], chosen: any}) => void}}
 */
export function mountSamples(element) {
  const title = makeElement("h2");
  const columns = makeElement("div", { class: "columns" });
  element.append(title, columns);
  let shown = "";

  return {
    update: ({ runs, chosen }) => {
      const cards = runs.length > 1 ? runs.slice(0, MOST).map(({ name, run }) => newest(name, run)) : stages(chosen);
      const found = cards.filter(Boolean);
      element.hidden = found.length === 0;
      const key = JSON.stringify(found);
      if (key === shown) return;
      shown = key;
      const prompts = new Set(found.map(({ prompt }) => prompt));
      const [prompt] = prompts;
      title.textContent = prompts.size === 1 && prompt ? `What they write after “${prompt.trim()}”` : "What they write";
      columns.replaceChildren(...found.map((card) => makeElement("figure", {},
        makeElement("figcaption", { class: "small" }, makeElement("b", { text: card.name }), makeElement("span", { class: "soft", text: card.step })),
        makeElement("pre", { class: "sample", tabindex: "0", "aria-label": `${card.name}, ${card.step}` }, makeElement("b", { text: card.prompt }), card.text))));
    },
  };
}

const at = (step) => `step ${count(step)}`;

/** The last that a run wrote: whole samples before those of probes, which are short. */
function newest(name, run) {
  const written = run.samples.at(-1);
  if (written) return { name, step: at(written.step), prompt: written.prompt, text: written.text };
  const probed = run.probes.findLast(({ sample }) => sample !== null);
  return probed ? { name, step: at(probed.step), prompt: run.head.about?.prompt ?? "", text: probed.sample } : null;
}

/** One run at some of its steps, from its first to its last. */
function stages(one) {
  if (!one) return [];
  const { run } = one;
  const prompt = run.head.about?.prompt ?? "";
  const probed = run.probes.filter(({ sample }) => sample !== null).map(({ step, sample }) => ({ name: at(step), step: "", prompt, text: sample }));
  const written = run.samples.map((sample) => ({ name: at(sample.step), step: "", prompt: sample.prompt, text: sample.text }));
  const all = [...probed.filter(({ name }) => !written.some((other) => other.name === name)), ...written];
  if (all.length <= STAGES) return all;
  return Array.from({ length: STAGES }, (_, place) => all[Math.round((place * (all.length - 1)) / (STAGES - 1))]);
}
