// Query, key and value of a reader's text in a trained head: three matrices, T × d_head each.

import { postJson } from "./api.js";
import { asker, makeChoices, makeProblem, makeSentence, onTheme } from "./learn-figure-frame.js";
import { makeHeadField, makeTextField, makeTokens, tokenName } from "./learn-figure-tokens.js";
import { briefWeight, makeElement, MONO, rampTable, sizeCanvas, themeColors, visibleToken, watchWidth } from "./views.js";

const TEXT = "To be, or not to";
const HEAD = "L3H1";
const LONGEST = 24;
const ROW_PIXELS = 18;
const LETTER_PIXELS = 18;
const ROLES = {
  asIs: { q: "what it asks", k: "what it is matched by", v: "what it gives" },
  swapped: { q: "what it asks", k: "given in the value's place", v: "matched in the key's place" },
};
const WAYS = [["asIs", "key matched, value given"], ["swapped", "swapped"]];

/**
 * @param {HTMLElement} element
 * @param {{trained?: string, head?: string}} options
 * @param {{theme: () => Theme}} shell
 */
export async function mountTrained(element, options, shell) {
  let text = options.trained ?? TEXT;
  let head = options.head ?? HEAD;
  let way = "asIs";
  let reply = null;
  let row = null;
  const sentence = makeSentence();
  const problem = makeProblem();
  const acts = makeElement("div", { class: "acts" });
  const tokens = makeTokens("which token asks", choose);
  const drawn = ["q", "k", "v"].map((name) => {
    const canvas = makeElement("canvas", { role: "img", onclick: ({ offsetY }) => choose(Math.floor(offsetY / ROW_PIXELS)) });
    const title = makeElement("p", { class: "title" });
    return { name, canvas, title, box: makeElement("div", {}, title, canvas) };
  });
  const three = makeElement("div", { class: "three" }, ...drawn.map(({ box }) => box));
  const ask = asker(() => postJson("figure/roles", { text, head }), take, problem.tell);
  element.append(
    makeTextField(`A text of yours, up to ${LONGEST} characters`, text, LONGEST, (typed) => {
      text = typed;
      row = null;
      ask();
    }),
    acts, three,
    makeElement("p", { class: "note", text: "A row for each token, a column for each channel; purple is above 0, olive below." }),
    makeElement("p", { class: "title rule" }, makeElement("b", { text: "its weights" }), " choose the token that asks"),
    tokens.element,
    makeChoices("What is matched, what is given", WAYS, way, (value) => {
      way = value;
      draw();
    }),
    sentence.element, problem.element,
  );

  function take(found) {
    if (!acts.firstChild) {
      acts.append(makeHeadField(found.heads, found.head, (name) => {
        head = name;
        ask();
      }));
    }
    reply = found;
    row = Math.min(row ?? found.tokens.length - 1, found.tokens.length - 1);
    draw();
  }

  function choose(at) {
    if (!reply?.tokens[at]) return;
    row = at;
    draw();
  }

  function draw() {
    if (!reply) return;
    const theme = shell.theme();
    const weights = (way === "asIs" ? reply.pattern : reply.swapped)[row].map((weight, at) => (at > row ? null : weight));
    tokens.draw(reply.tokens, row, weights, theme);
    const best = largest(weights);
    for (const { name, canvas, title } of drawn) {
      const size = `${reply.tokens.length} × ${reply[name][0].length}`;
      const role = ROLES[way][name];
      title.replaceChildren(makeElement("b", { class: name, text: name }), ` ${size}, ${role}`);
      canvas.setAttribute("aria-label", `${name}, ${size}: a row for each token, a column for each channel; ${role}`);
      drawMatrix(canvas, reply[name], reply.tokens, { theme, tone: name, marked: name === "q" ? row : best });
    }
    say(weights, best);
  }

  function say(weights, best) {
    const asks = tokenName(reply.tokens, row, "q");
    const found = tokenName(reply.tokens, best, way === "asIs" ? "k" : "v");
    if (way === "asIs") {
      sentence.say("The query of ", asks, ` at ${row} matches the key of `, found, ` at ${best} best: it takes ${briefWeight(weights[best])} of that token's value.`);
      return;
    }
    const was = largest(reply.pattern[row]);
    sentence.say("Matched against values, ", asks, ` at ${row} gives most, ${briefWeight(weights[best])}, to `, found, ` at ${best}; keys led it to `, tokenName(reply.tokens, was, "k"),
      ` at ${was}. ${briefWeight(reply.moved[row])} of the row's weight has moved: a value isn't made to be found by.`);
  }

  const unwatch = watchWidth(three, draw);
  const untheme = onTheme(draw);
  await ask();
  return { end: () => (unwatch(), untheme()) };
}

const largest = (weights) => weights.reduce((best, weight, at) => ((weight ?? -1) > (weights[best] ?? -1) ? at : best), 0);

/** A row for each token, a column for each channel: signed numbers by the ramps of more and less. */
function drawMatrix(canvas, matrix, tokens, { theme, tone, marked }) {
  const width = Math.floor(canvas.parentElement.clientWidth);
  const { context } = sizeCanvas(canvas, width, matrix.length * ROW_PIXELS);
  const most = Math.max(...matrix.flat().map(Math.abs)) || 1;
  const [more, less] = [rampTable(theme), rampTable(theme, "fall")];
  const colors = themeColors(theme);
  const each = (width - LETTER_PIXELS) / matrix[0].length;
  matrix.forEach((numbers, row) => {
    numbers.forEach((number, col) => {
      const at = Math.round((Math.abs(number) / most) * 255) * 3;
      const table = number < 0 ? less : more;
      context.fillStyle = `rgb(${table[at]},${table[at + 1]},${table[at + 2]})`;
      context.fillRect(LETTER_PIXELS + col * each, row * ROW_PIXELS + 1, Math.ceil(each), ROW_PIXELS - 2);
    });
    context.fillStyle = row === marked ? colors[tone] : colors.soft;
    context.font = `${row === marked ? 600 : 400} 13px ${MONO}`;
    context.textBaseline = "middle";
    context.fillText(visibleToken(tokens[row]), 2, row * ROW_PIXELS + ROW_PIXELS / 2 + 1);
  });
  context.strokeStyle = colors[tone];
  context.lineWidth = 2;
  context.strokeRect(LETTER_PIXELS - 1, marked * ROW_PIXELS + 1, width - LETTER_PIXELS, ROW_PIXELS - 2);
}
