// Query, key and value: small tables of a row a word, every number of which can be changed, and the
// same three of a trained head. In both, keys and values can change places.

import { makeChoices } from "./learn-figure-frame.js";
import { mountTrained } from "./learn-figure-roles-trained.js";
import { mountWords } from "./learn-figure-roles-words.js";
import { makeElement } from "./views.js";

const KINDS = [["words", "small numbers"], ["trained", "a trained head"]];

/**
 * @param {HTMLElement} element
 * @param {{text?: string, trained?: string, head?: string}} options
 * @param {{theme: () => Theme}} shell
 */
export async function mount(element, options, shell) {
  const place = makeElement("div", { class: "inside" });
  let shown = null;
  let turn = 0;

  async function show(kind) {
    const mine = (turn += 1);
    shown?.end();
    shown = null;
    place.replaceChildren();
    const found = await (kind === "trained" ? mountTrained : mountWords)(place, options, shell);
    if (mine === turn) shown = found;
    else found.end();
  }

  const kinds = makeChoices("Whose query, key and value", KINDS, "words", show);
  kinds.classList.add("top");
  element.append(kinds, place);
  await show("words");
  return { end: () => {
    turn += 1;
    shown?.end();
  } };
}
