// One step at every stage: q and k, the four T × T tables, the values and what comes out.

import { makeChoices, makeSentence } from "./learn-figure-frame.js";
import { band, FigureSheet } from "./learn-figure-sheet.js";
import { capital } from "./sentence.js";

const Q = [[1, 0], [0, 1], [1, 1]];
const K = [[1, 0], [2, 1], [1, 1]];
const V = [[1, 0], [0, 2], [1, 1]];
const FIRST = ["pattern", 2, 1];
/** So many tokens leave room for three tables side by side. */
const MOST_ABREAST = 3;
const TABLES = ["scores", "scaled", "masked", "exponentials", "pattern"];

/**
 * @param {HTMLElement} element
 * @param {{q?: number[][], k?: number[][], v?: number[][], scale?: number, at?: [string, number, number]}} options
 * @param {{theme: () => Theme}} shell
 */
export async function mount(element, options, shell) {
  const { q = Q, k = K, v = V, scale = null, at = FIRST } = options;
  const width = q[0].length;
  const by = { root: `/ √${width}`, off: "not scaled" };
  const sentence = makeSentence();
  const sheet = new FigureSheet({ q, k, v, ...(scale === null ? {} : { scale }) }, shell, () => {
    const [name, row, col] = sheet.at ?? at;
    sentence.say(`${capitalName(name)}, ${placeWords(name, row, col)}: `, ...sheet.words(name, row, col).map(copy), ".");
  });
  await sheet.begin();
  const channel = (place) => `c${place + 1}`;
  const now = scale === null ? "root" : "off";
  const add = (name, title, formula, more = {}) => sheet.add({ name, title, formula, ...more });
  const board = band(
    add("q", "q", `given, ${q.length} × ${width}`, { tone: "q", colName: channel }),
    add("k", "kᵀ", `given, ${width} × ${k.length}`, { tone: "k", turned: true, rowName: channel }),
    add("scores", "scores", "q · kᵀ"),
    add("scaled", "scaled", by[now]),
    add("masked", "masked", "later tokens −∞"),
    add("exponentials", "exponentials", "e to each"),
    add("pattern", "pattern", "e / sum of the row"),
    add("v", "v", "given", { tone: "v", colName: channel }),
    add("mixed", "mixed", "pattern · v", { tone: "v", colName: channel }),
  );
  board.classList.toggle("abreast", k.length <= MOST_ABREAST);
  element.append(
    board,
    makeChoices("The scale", [["root", `1/√${width}`], ["off", "no scale"]], now, (value) => {
      sheet.caption("scaled", by[value]);
      sheet.setOption("scale", value === "root" ? null : 1);
    }),
    sentence.element, sheet.problem.element,
  );
  sheet.at = sheet.chosen = at;
  sheet.draw();
  return sheet;
}

const capitalName = (name) => (["q", "k", "v"].includes(name) ? name : capital(name));

const placeWords = (name, row, col) => (TABLES.includes(name) ? `t${row + 1} on t${col + 1}` : `t${row + 1}, channel ${col + 1}`);

const copy = (part) => (typeof part === "string" ? part : part.cloneNode(true));
