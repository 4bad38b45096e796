// The sentence that reads a cell aloud, for the eye: its tokens coloured, set apart in their own
// direction.

import { makeElement, readingWords, visibleToken } from "./views.js";

/**
 * @param {Labels} labels
 * @param {number} row
 * @param {number} col
 * @param {Reading} reading
 * @returns {(Node | string)[]}
 */
export function cellSentence(labels, row, col, reading) {
  const own = Boolean(labels.places);
  const place = labels.places?.[row] ?? row;
  const asker = token(labels.queries, row, place, "q");
  const asked = own && place === col ? ["itself"] : token(labels.keys, col, col, "k");
  if (!reading.allowed) return [...asker, " may not look at ", ...asked, ": masked."];
  const words = readingWords(reading);
  if (reading.signed) return [...asker, " gives ", ...asked, ` ${words} ${words === "the same" ? "as" : "than"} before.`];
  if (own && place === col) return [...asker, ` gives ${words} of its attention to itself.`];
  const verb = !own ? " looks at " : place > col ? " looks back at " : " looks ahead at ";
  return [...asker, verb, ...asked, `, and gives it ${words} of its attention.`];
}

function token(labels, at, place, kind) {
  if (!labels) return [makeElement("span", { class: kind, text: `token ${place}` })];
  return [makeElement("bdi", { class: kind, text: visibleToken(labels[at]) }), ` at ${place}`];
}

/** A sentence begins with a capital. @param {string} text */
export const capital = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);
