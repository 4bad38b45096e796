// The causal mask: four matrices of one step, and the four ways to mask, three of them wrong.

import { makeChoices, makeSentence, ordinal } from "./learn-figure-frame.js";
import { band, FigureSheet } from "./learn-figure-sheet.js";
import { capital } from "./sentence.js";
import { digits, sumDigits } from "./worksheet-words.js";

const WAYS = [["causal", "−∞ before softmax"], ["none", "no mask"], ["zero", "0 for −∞"], ["after", "after the softmax"]];
const MASKED = { causal: "later tokens −∞", none: "no mask", zero: "later tokens 0", after: "not yet" };
const PATTERN = { causal: "each row sums to 1", none: "each row sums to 1", zero: "each row sums to 1", after: "then later tokens struck out" };
const SCORES = [[2, 1, 1, 3], [1, 3, 0, 2], [1, 1, 1, 8], [0, 2, 1, 3]];
const VALUES = [[3], [6], [0], [9]];
const ROW = 2;

/**
 * @param {HTMLElement} element
 * @param {{scores?: number[][], values?: number[][], mask?: string, row?: number}} options
 * @param {{theme: () => Theme}} shell
 */
export async function mount(element, options, shell) {
  const { scores = SCORES, values = VALUES, mask = "causal", row = ROW } = options;
  const sentence = makeSentence();
  const sheet = new FigureSheet({ scores, v: values, mask }, shell, () => {
    const chosen = sheet.at?.[1] ?? Math.min(row, scores.length - 1);
    sentence.say(rowWords(sheet, chosen));
  });
  await sheet.begin();
  const size = `${scores.length} × ${scores[0].length}`;
  element.append(
    band(
      sheet.add({ name: "scores", title: "scores", formula: `q·k, ${size}` }),
      sheet.add({ name: "masked", title: "masked", formula: MASKED[mask] }),
      sheet.add({ name: "exponentials", title: "exponentials", formula: "e to the score" }),
      sheet.add({ name: "pattern", title: "pattern", formula: PATTERN[mask] }),
    ),
    makeChoices("How it is masked", WAYS, mask, (way) => {
      sheet.caption("masked", MASKED[way]);
      sheet.caption("pattern", PATTERN[way]);
      sheet.setOption("mask", way);
    }),
    sentence.element, sheet.problem.element,
  );
  sheet.draw();
  return sheet;
}

const SHARES = { 2: "half", 3: "a third", 4: "a quarter", 5: "a fifth" };
const near = (one, other) => Math.abs(one - other) < 1e-9;

/** What one row says, whatever its numbers and however it is masked. */
function rowWords(sheet, row) {
  const { model } = sheet;
  const weights = sheet.row("pattern", row);
  const scores = sheet.row("scores", row);
  const allowed = model.allowed[row];
  const later = weights.filter((_, at) => !allowed[at]);
  const token = `${ordinal(row)} token`;
  const taken = later.reduce((sum, weight) => sum + weight, 0);
  if (later.length === 0) return `${capital(token)} comes last: it may see them all, so every way gives it the same row. ${most(weights, allowed, row)}`;
  const best = scores.indexOf(Math.max(...scores));
  const ahead = later.length === 1 ? ordinal(allowed.indexOf(false)) : "later tokens";
  if (model.mask === "none") return `Nothing is masked: ${token} gives ${digits(taken)} of its attention to ${ahead}, which ${later.length === 1 ? "is" : "are"} still to come.`;
  if (model.mask === "zero") return `A score of 0 is no ban, since e⁰ is 1: ${ahead} ${later.length === 1 ? "keeps" : "keep"} ${digits(taken)} of ${token}'s attention.`;
  if (model.mask === "after") {
    const left = weights.reduce((sum, weight) => sum + weight, 0);
    return `${capital(ahead)} took ${later.length === 1 ? "its" : "their"} share before being struck out: what is left of ${token}'s row sums to ${sumDigits(left)}, not 1.`;
  }
  if (taken > 0) return `A number was let in by hand: ${token} gives ${digits(taken)} to ${ahead}.`;
  const refused = !allowed[best] ? `and none to ${ordinal(best)}, which it would have liked best` : `and none to ${ahead}`;
  return `${most(weights, allowed, row).replace(/\.$/, "")}, ${refused}.`;
}

/** To whom a row gives most. */
function most(weights, allowed, row) {
  const seen = weights.filter((_, at) => allowed[at]);
  const token = capital(`${ordinal(row)} token`);
  if (seen.length === 1) return `${token} gives all of its attention to itself.`;
  if (seen.every((weight) => near(weight, seen[0]))) return `${token} gives ${SHARES[seen.length] ?? digits(seen[0])} of its attention to each token it may see.`;
  const largest = Math.max(...seen);
  const to = seen.flatMap((weight, at) => (near(weight, largest) ? [at] : []));
  const names = to.map((at) => (at === row ? "itself" : ordinal(at)));
  return `${token} gives most of its attention, ${digits(largest)}${to.length > 1 ? " each" : ""}, to ${names.join(" and ")}.`;
}
