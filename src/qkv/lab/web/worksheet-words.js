// The arithmetic of a cell, in words and numbers: "1.414 = 2 / √2", and what it comes from. All
// numbers are the server's; here they are only written side by side.

import { makeElement } from "./views.js";

const MOST_TERMS = 6;
const TONES = { q: "q", k: "k", v: "v", w_q: "q", w_k: "k", w_v: "v" };

/**
 * A number to three places without a zero before the point, as `qkv steps` writes it.
 * @param {number | null} number null where it is out of range
 */
export function digits(number) {
  if (number === null || number === undefined) return "∞";
  const size = Math.abs(number);
  let text;
  if (size !== 0 && !(size >= 0.0005 && size < 1e6)) {
    const [mantissa, exponent] = size.toExponential(1).split("e");
    text = `${mantissa}e${Number(exponent)}`.replace("-", "−");
  } else {
    const places = [0, 1, 2].find((n) => Math.abs(size - Number(size.toFixed(n))) < 1e-9) ?? 3;
    text = size.toFixed(places).replace(/^0\./, ".");
  }
  return (number < 0 ? "−" : "") + text;
}

/** The same where there is room for six digits and a sign. */
export function shortDigits(number) {
  const room = number < 0 ? 7 : 6;
  const text = digits(number);
  if (text.length <= room) return text;
  const tenths = digits(Number(number.toFixed(1)));
  if (Math.abs(number) >= 100 && tenths.length <= room) return tenths;
  if (Math.abs(number) < 100) return text;
  const [mantissa, exponent] = Math.abs(number).toExponential(1).split("e");
  return `${number < 0 ? "−" : ""}${mantissa}e${Number(exponent)}`;
}

/** A sum that should be 1: in two digits where it is next to nothing. */
export const sumDigits = (sum) => (sum > 0 && sum < 0.01 ? sum.toPrecision(2).replace(/^0/, "") : digits(sum));

/** A number where it is a factor or a term: negative ones in brackets. */
const factor = (number) => (number < 0 ? `(${digits(number)})` : digits(number));

/** @param {string} name a matrix's, for the hue of its numbers */
const colored = (name, text) => makeElement("span", { class: TONES[name] ?? null, text });

/** Σ aᵢ·bᵢ, its terms written out. */
function sum(left, leftName, right, rightName) {
  const parts = [];
  const shown = left.length > MOST_TERMS + 1 ? MOST_TERMS : left.length;
  for (let at = 0; at < shown; at++) {
    if (at) parts.push(" + ");
    parts.push(colored(leftName, factor(left[at])), "·", colored(rightName, factor(right[at])));
  }
  if (shown < left.length) parts.push(` + ${left.length - shown} more`);
  return parts;
}

const column = (matrix, col) => matrix.map((row) => row[col]);

/** A share where e to a number is too large or too small to be written: with the largest taken off. */
function outOfRange(masked, col) {
  const most = digits(Math.max(...masked.map((number) => number ?? -Infinity)));
  const less = (number) => makeElement("sup", { text: `${number} − ${most.startsWith("−") ? `(${most})` : most}` });
  return ["e", less(masked[col] === null ? "−∞" : digits(masked[col])), " / Σ e", less("x")];
}

/** What the scores are divided by, where that can be said with a root. */
export function scaleWords(model) {
  const width = model.matrix("q")?.[0].length;
  if (model.scale === 1) return null;
  if (width && Math.abs(model.scale - width ** -0.5) < 1e-12) return `/ √${width}`;
  return `· ${digits(model.scale)}`;
}

const product = (leftName, rightName) => (model, row, col) => ({
  words: sum(model.matrix(leftName)[row], leftName, column(model.matrix(rightName), col), rightName),
  lights: [[leftName, row, null], [rightName, null, col]],
});

const EXPLAINED = {
  q: product("x", "w_q"),
  k: product("x", "w_k"),
  v: product("x", "w_v"),
  scores: (model, row, col) => ({
    words: sum(model.matrix("q")[row], "q", model.matrix("k")[col], "k"),
    lights: [["q", row, null], ["k", col, null]],
  }),
  scaled: (model, row, col) => {
    const from = digits(model.matrix("scores")[row][col]);
    const by = scaleWords(model);
    return { words: [by ? `${from} ${by}` : `${from}, not scaled`], lights: [["scores", row, col]] };
  },
  masked: (model, row, col) => {
    const [asker, asked] = [model.place(row) + 1, col + 1];
    const later = !model.allowed[row][col];
    const words = {
      causal: later ? `token ${asked} comes after token ${asker}` : `token ${asker} may look at token ${asked}`,
      none: later ? `token ${asked} comes later, but nothing is masked` : "nothing is masked",
      zero: later ? "0 written for −∞: a score like any other" : `token ${asker} may look at token ${asked}`,
      after: later ? `token ${asked} comes later; it is struck out after the softmax` : "not masked yet",
    }[model.mask];
    return { words: [words], plain: true, lights: [["scaled", row, col]] };
  },
  exponentials: (model, row, col) => {
    const power = model.matrix("masked")[row][col];
    return {
      words: ["e", makeElement("sup", { text: power === null ? "−∞" : digits(power) })],
      lights: [["masked", row, col]],
    };
  },
  pattern: (model, row, col) => {
    const [power, total] = [model.matrix("exponentials")[row][col], model.rows.total[row]];
    const over = total ? [digits(power), " / ", digits(total)] : outOfRange(model.matrix("masked")[row], col);
    const struck = model.mask === "after" && !model.allowed[row][col];
    return { words: struck ? [...over, ", struck out afterwards"] : over, lights: [["exponentials", row, null]] };
  },
  mixed: product("pattern", "v"),
  output: (model, row, col) => product(model.heads > 1 ? "joined" : "mixed", "w_o")(model, row, col),
};

/**
 * What a cell is made of.
 * @param {any} model what is shown, as worksheet-model.js has it
 * @param {string} name
 * @param {number} row
 * @param {number} col
 * @returns {{words: (Node | string)[], lights: [string, number | null, number | null][]}}
 */
export function explain(model, name, row, col) {
  const value = model.matrix(name)[row][col];
  const said = name === "masked" && value === null ? "−∞" : digits(value);
  const number = colored(name, said);
  if (model.isPinned(name, row, col)) {
    const instead = digits(model.computed(name, row, col));
    return { words: [number, `, changed by hand; computed: ${instead}`], lights: origin(model, name, row, col).lights };
  }
  if (model.isGiven(name)) return { words: [number, ", given"], lights: [] };
  const { words, plain, lights } = origin(model, name, row, col);
  return { words: [number, plain ? ": " : " = ", ...words], lights };
}

function origin(model, name, row, col) {
  if (name === "joined") return { words: ["from its head"], plain: true, lights: [] };
  return EXPLAINED[name](model, row, col);
}
