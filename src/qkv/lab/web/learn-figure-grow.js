// Autoregression: the model that comes with qkv writes a token, reads it, and writes the next; each
// token adds a row, one cell longer than the last.

import { postJson } from "./api.js";
import { asker, makeProblem, makeSentence, onTheme } from "./learn-figure-frame.js";
import { makeHeadField, makeTextField, makeTokens, tokenName } from "./learn-figure-tokens.js";
import { briefWeight, makeElement, rampColor, rampPlace, sizeCanvas, themeColors, visibleToken, watchWidth } from "./views.js";

const TEXT = "ROMEO: I";
const HEAD = "L3H1";
const HEADS = Array.from({ length: 18 }, (_, at) => `L${Math.floor(at / 3)}H${at % 3}`);
const LONGEST_PROMPT = 32;
const MOST = 64;
const PACE_MS = 450;
const SHOWN = 6;

/**
 * @param {HTMLElement} element
 * @param {{text?: string, head?: string, seed?: number}} options
 * @param {{theme: () => Theme}} shell
 */
export async function mount(element, options, shell) {
  let prompt = options.text ?? TEXT;
  let text = prompt;
  let head = options.head ?? HEAD;
  let seed = options.seed ?? 1;
  let reply = null;
  let timer = 0;
  const sentence = makeSentence();
  const problem = makeProblem();
  const tokens = makeTokens("the text so far, by the newest row's weights", null);
  const canvas = makeElement("canvas", { role: "img" });
  const triangle = makeElement("div", {}, canvas);
  const likely = makeElement("dl", { class: "likely" });
  const next = makeElement("button", { type: "button", class: "action first", text: "Next token", onclick: () => step() });
  const play = makeElement("button", { type: "button", class: "action", text: "Write on", onclick: () => (timer ? pause() : run()) });
  const ask = asker(() => postJson("figure/next", { text, head, seed }), (found) => {
    reply = found;
    draw();
  }, (message) => {
    problem.tell(message);
    if (message) pause();
  });

  async function step() {
    if (!reply || text.length >= MOST) return pause();
    text += reply.token;
    await ask();
  }

  /** One token after another; each waits for the last, and for the eye. */
  async function run() {
    play.textContent = "Pause";
    const mine = (timer += 1);
    while (timer === mine && text.length < MOST) {
      await step();
      await new Promise((resolve) => setTimeout(resolve, PACE_MS));
    }
    if (timer === mine) pause();
  }

  function pause() {
    timer = 0;
    play.textContent = "Write on";
  }

  function restart(more = {}) {
    pause();
    ({ seed = seed, prompt = prompt } = more);
    text = prompt;
    ask();
  }

  element.append(
    makeTextField("It goes on from", prompt, LONGEST_PROMPT, (typed) => restart({ prompt: typed })),
    makeElement("div", { class: "acts" }, next, play,
      makeElement("button", { type: "button", class: "action", text: "Another draw", onclick: () => restart({ seed: seed + 1 }) }),
      makeHeadField(HEADS, head, (name) => {
        head = name;
        ask();
      })),
    makeElement("p", { class: "title rule" }, makeElement("b", { text: "the newest row" }), " how much of its attention each token gets"),
    tokens.element,
    makeElement("div", { class: "growing" },
      makeElement("div", {}, makeElement("p", { class: "title" }, makeElement("b", { text: "every row so far" }), " this token ↓ looks at →"), triangle),
      makeElement("div", {}, makeElement("p", { class: "title" }, makeElement("b", { text: "what comes next" }), " the likeliest, the drawn one framed"), likely)),
    sentence.element, problem.element,
  );

  function draw() {
    if (!reply) return;
    const { rows } = reply;
    const row = rows.at(-1);
    const last = rows.length - 1;
    const theme = shell.theme();
    tokens.draw(reply.tokens, last, row, theme);
    drawTriangle(theme);
    const most = reply.next[0].probability;
    likely.replaceChildren(...reply.next.slice(0, SHOWN).flatMap(({ token, probability }) => {
      const bar = makeElement("span", { class: "bar" });
      bar.style.width = `${(probability / most) * 120}px`;
      return [makeElement("dt", { class: token === reply.token ? "drawn" : null, text: visibleToken(token) }), makeElement("dd", {}, bar, makeElement("span", { text: briefWeight(probability) }))];
    }));
    next.disabled = text.length >= MOST;
    const best = row.indexOf(Math.max(...row));
    const found = reply.next.find(({ token }) => token === reply.token);
    sentence.say(`Row ${rows.length} has ${rows.length} ${rows.length === 1 ? "cell" : "cells"}: `, tokenName(reply.tokens, last, "q"), " looks most at ", ...(best === last ? ["itself"] : [tokenName(reply.tokens, best, "k"), ` at ${best}`]),
      `, ${briefWeight(row[best])}. Drawn to follow it, out of ${reply.next.length}: `, makeElement("bdi", { text: visibleToken(reply.token) }), `, whose probability was ${briefWeight(found.probability)}.`);
  }

  function drawTriangle(theme) {
    const { rows } = reply;
    const width = Math.floor(triangle.clientWidth);
    if (!width) return;
    const side = Math.max(3, Math.min(14, Math.floor(width / rows.length)));
    const { context } = sizeCanvas(canvas, width, side * rows.length + 2);
    canvas.setAttribute("aria-label", `${rows.length} rows of weights; each is one cell longer than the one above it`);
    const gap = side > 6 ? 1 : 0;
    rows.forEach((row, down) => row.forEach((weight, right) => {
      context.fillStyle = rampColor(theme, rampPlace(weight, true));
      context.fillRect(right * side, down * side, side - gap, side - gap);
    }));
    context.strokeStyle = themeColors(theme).q;
    context.lineWidth = 2;
    context.strokeRect(1, (rows.length - 1) * side, rows.length * side - 1, side);
  }

  const unwatch = watchWidth(triangle, () => draw());
  const untheme = onTheme(() => draw());
  await ask();
  return { end: () => (pause(), unwatch(), untheme()) };
}
