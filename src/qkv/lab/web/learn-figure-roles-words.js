// Query, key and value of a reader's words as small tables; their numbers are drawn, not learnt.

import { makeChoices, makeSentence } from "./learn-figure-frame.js";
import { band, FigureSheet } from "./learn-figure-sheet.js";
import { makeTextField } from "./learn-figure-tokens.js";
import { capital } from "./sentence.js";
import { makeElement } from "./views.js";
import { digits } from "./worksheet-words.js";

const TEXT = "the cat sat down";
const MOST_WORDS = 5;
const LONGEST_TEXT = 40;
const LONGEST_WORD = 6;
const WAYS = [["asIs", "key matched, value given"], ["swapped", "swapped"]];
const Q = [[1, 0], [0, 2], [2, 1], [1, 1], [0, 1]];
const K = [[1, 1], [2, 0], [0, 1], [1, 0], [1, 2]];
const V = [[0, 1], [3, 0], [1, 2], [0, 0], [2, 1]];

/**
 * @param {HTMLElement} element
 * @param {{text?: string}} options
 * @param {{theme: () => Theme}} shell
 */
export async function mountWords(element, options, shell) {
  let words = wordsOf(options.text ?? TEXT);
  let way = "asIs";
  let before = null;
  let sheet = null;
  let turn = 0;
  const sentence = makeSentence();
  const board = makeElement("div");
  const ways = makeChoices("What is matched, what is given", WAYS, way, (value) => {
    const { k, v } = sheet.model.sheet;
    Object.assign(sheet.model.sheet, { k: v, v: k });
    way = value;
    before = { pattern: sheet.model.reply.tables.pattern[0], given: JSON.stringify(sheet.model.asked()) };
    captions();
    sheet.refresh();
  });
  element.append(makeTextField(`Words of yours, up to ${MOST_WORDS}`, words.join(" "), LONGEST_TEXT, (typed) => {
    if (wordsOf(typed).length === 0) return;
    words = wordsOf(typed);
    lay();
  }), board, ways, sentence.element);

  /** Tables anew for other words; the numbers of those that stay in their place stay too. */
  async function lay() {
    const mine = (turn += 1);
    const given = sheet?.model.sheet;
    const rows = (name, first) => words.map((_, at) => given?.[name][at] ?? [...first[at]]);
    const drawn = way === "asIs" ? { k: K, v: V } : { k: V, v: K };
    const next = new FigureSheet({ q: rows("q", Q), k: rows("k", drawn.k), v: rows("v", drawn.v) }, shell, say);
    await next.begin();
    if (mine !== turn) return next.end();
    sheet?.end();
    sheet = next;
    before = null;
    const word = (at) => words[at].slice(0, LONGEST_WORD);
    const channel = (at) => `c${at + 1}`;
    const size = `${words.length} × 2`;
    const add = (name, title, more) => sheet.add({ name, title, rowName: word, colName: channel, formula: "", ...more });
    const three = band(add("q", "q", { tone: "q", formula: `${size}, what it asks` }), add("k", "k", { tone: "k" }), add("v", "v", { tone: "v" }));
    three.classList.add("three-tables");
    const two = band(add("pattern", "pattern", { formula: "who looks at whom", colName: word }), add("mixed", "mixed", { formula: "what each takes in", tone: "v" }));
    board.replaceChildren(three, two, sheet.problem.element);
    captions();
    sheet.at = sheet.chosen = ["pattern", words.length - 1, 0];
    sheet.draw();
  }

  function captions() {
    const said = { asIs: ["what it is matched by", "what it gives"], swapped: ["now holds the values", "now holds the keys"] }[way];
    sheet.caption("k", said[0]);
    sheet.caption("v", said[1]);
  }

  function say() {
    if (!sheet) return;
    const [name, at] = sheet.at ?? sheet.chosen;
    const row = ["k", "v"].includes(name) ? words.length - 1 : at;
    const weights = sheet.row("pattern", row);
    const largest = Math.max(...weights);
    const to = weights.flatMap((weight, place) => (largest - weight < 1e-9 ? [place] : []));
    const whom = to.map((place) => (place === row ? "itself" : `“${words[place]}”`)).join(" and ");
    const taken = sheet.row("mixed", row).map(digits).join(", ");
    // What a swap moved is told until a number is changed.
    const was = before?.given === JSON.stringify(sheet.model.asked()) ? before.pattern[row] : null;
    const moved = was ? weights.reduce((sum, weight, place) => sum + Math.abs(weight - was[place]), 0) / 2 : 0;
    const change = was ? ` Keys and values have changed places${way === "asIs" ? " again" : ""}: every shape fits, nothing complains, and ${digits(moved)} of its weight has moved.` : "";
    sentence.say(`${capital(`“${words[row]}”`)} gives most, ${digits(largest)}${to.length > 1 ? " each" : ""}, to ${whom}, and takes in (${taken}).${change}`);
  }

  await lay();
  return { end: () => {
    turn += 1;
    sheet?.end();
  } };
}

const wordsOf = (text) => text.trim().split(/\s+/).filter(Boolean).slice(0, MOST_WORDS);
