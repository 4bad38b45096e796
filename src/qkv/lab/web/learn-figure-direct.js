// Why look back: a state of fixed size that is handed on, against looking a token up. First the two
// wirings; then how far back a token moves the prediction, measured on two models trained for it.

import { getJson } from "./api.js";
import { makeKey, mountLines } from "./learn-figure-chart.js";
import { hundredths, makeProblem, makeSentence, makeShape } from "./learn-figure-frame.js";
import { makeTextField, tokenName } from "./learn-figure-tokens.js";
import { isDone, lossOf, mountTraining } from "./learn-figure-training.js";
import { makeElement, uniqueId, visibleToken, watchWidth } from "./views.js";
import { digits } from "./worksheet-words.js";

const TEXT = "once upon a";
const LONGEST = 14;
const SHORT = { context: "32", probes: "0", evaluate_every: "60" };
const BUDGET = "200000";
const LEAST = 1e-6;
const [HIGH, BOX, EDGE] = [128, 30, 24];

/**
 * @param {HTMLElement} element
 * @param {{text?: string, budget?: number, corpus?: string}} options
 */
export async function mount(element, options) {
  const budget = String(options.budget ?? BUDGET);
  const wanted = [
    { name: "RNN", preset: "rnn", settings: { ...SHORT, width: "64" }, budget },
    // One block of several heads, feed-forward and residuals: one head alone has learnt little so soon.
    { name: "attention", preset: "residual", settings: SHORT, budget },
  ];
  let tokens = [...(options.text ?? TEXT)];
  let back = 6;
  let measured = null;
  let trained = [];
  let wide = 0;
  const sentence = makeSentence();
  const problem = makeProblem();
  const wirings = [["RNN", "one state, handed on"], ["attention", "every token looked up directly"]].map(([name, says]) => {
    const svg = makeShape("svg", { height: HIGH, role: "img" });
    return { name, svg, box: makeElement("div", {}, makeElement("p", { class: "title" }, makeElement("b", { text: name }), ` ${says}`), svg) };
  });
  const slider = makeElement("input", { id: uniqueId("back"), type: "range", min: "1", step: "1", oninput: () => {
    back = Number(slider.value);
    draw();
  } });
  const shown = makeElement("output", { for: slider.id });
  const chart = makeElement("div", { class: "rule", hidden: true }, makeElement("p", { class: "title" }, makeElement("b", { text: "influence by distance" }), " how much changing one token moves the next one's probabilities, 0 to 1"));
  const lines = mountLines(chart, 220);
  chart.append(makeKey(wanted.map(({ name }) => name)));
  element.append(
    makeTextField("A text of yours, up to 14 characters", tokens.join(""), LONGEST, (typed) => {
      if ([...typed].length < 2) return;
      tokens = [...typed];
      draw();
    }),
    ...wirings.map(({ box }) => box),
    makeElement("div", { class: "slider" }, makeElement("label", { for: slider.id, text: "how far back" }), slider, shown),
    chart,
  );
  const training = mountTraining(element, { figure: "direct", offer: "Train both and measure, some seconds each", wanted, corpus: options.corpus, onNews: (runs) => {
    trained = runs;
    if (runs.every(isDone)) measure(runs).catch((error) => problem.tell(error.message));
    else measured = null;
    draw();
  } });
  element.append(sentence.element, problem.element);

  async function measure(runs) {
    const ids = runs.map(({ id }) => id);
    if (measured?.ids.join() === ids.join()) return;
    measured = { ids, found: null };
    const found = [];
    for (const id of ids) found.push(await getJson(`figure/influence?${new URLSearchParams({ item: id })}`));
    if (measured?.ids !== ids) return;
    measured.found = found;
    draw();
  }

  function draw() {
    const last = tokens.length - 1;
    slider.max = String(last);
    slider.value = String(Math.min(back, last));
    const far = Number(slider.value);
    shown.textContent = `${far} ${far === 1 ? "token" : "tokens"}`;
    slider.ariaValueText = shown.textContent;
    const at = last - far;
    drawState(wirings[0].svg, tokens, at, wide);
    drawLookUp(wirings[1].svg, tokens, at, wide);
    wirings[0].svg.setAttribute("aria-label", `from token ${at} to the last through ${far + 1} states`);
    wirings[1].svg.setAttribute("aria-label", `the last token looks at token ${at} directly`);
    const found = measured?.found;
    chart.hidden = !found;
    if (found) drawInfluence(found, far);
    say(at, far, found);
  }

  function say(at, far, found) {
    const name = tokenName(tokens, at, "k");
    const first = ["To reach the last token, ", name, ` ${far} back passes through ${far + 1} states, each of the same size, each partly overwritten by the next. By attention it is one look-up away.`];
    const losses = trained.map(lossOf);
    if (!found) {
      if (trained.every(isDone)) sentence.say(...first, " Both are trained; measuring …");
      else if (losses[0] !== null) sentence.say(...first, ` Training: ${wanted.flatMap((one, n) => (losses[n] === null ? [] : [`${one.name} ${hundredths(losses[n])} nats`])).join(", ")}.`);
      else sentence.say(...first);
      return;
    }
    const near = nearest(found[0].distances, far);
    const effects = found.map((one) => share(one.effects[near]));
    sentence.say(`Measured on text they had not seen: a change ${found[0].distances[near]} back moves the RNN by ${effects[0]}, attention by ${effects[1]}. ` +
      `The RNN is moved by the last ${found[0].reach} tokens at most, attention by the last ${found[1].reach}.`);
  }

  function drawInfluence(found, far) {
    const ticks = [0, 1, 3, 7, 15, 31];
    lines.draw({
      label: found.map((one, at) => `${wanted[at].name}: ${one.distances.map((distance, n) => `${distance} back ${share(one.effects[n])}`).join(", ")}`).join("; "),
      lines: found.map((one) => one.distances.map((distance, n) => [distance + 1, one.effects[n]])),
      x: [1, found[0].distances.at(-1) + 1], logX: true, y: [LEAST, 1], logY: true,
      xTicks: ticks.filter((tick) => tick <= found[0].distances.at(-1)).map((tick) => [tick + 1, String(tick)]), xName: "tokens back",
      yTicks: [[1, "1"], [1e-2, ".01"], [1e-4, "1e−4"], [1e-6, "1e−6"]],
      at: found[0].distances[nearest(found[0].distances, far)] + 1,
    });
  }

  const unwatch = watchWidth(wirings[0].box, (width) => {
    wide = width;
    draw();
  });
  return { end: () => {
    unwatch();
    lines.end();
    training.end();
  } };
}

const share = (effect) => (effect < LEAST ? "less than 1e−6" : digits(effect));

const nearest = (distances, far) => distances.reduce((best, one, at) => (Math.abs(one - far) < Math.abs(distances[best] - far) ? at : best), 0);

const place = (tokens, at, wide) => EDGE + at * ((wide - 2 * EDGE) / Math.max(1, tokens.length - 1));

function letters(tokens, at, wide) {
  return tokens.map((token, n) => makeShape("text", { class: "token-text", x: place(tokens, n, wide), y: 116, text: visibleToken(token), "font-weight": n === at || n === tokens.length - 1 ? 600 : 400 }));
}

/** States in a chain; from the chosen token on the way to the last is drawn strong. */
function drawState(svg, tokens, at, wide) {
  if (!wide) return;
  svg.setAttribute("width", String(wide));
  const y = 40;
  const half = Math.min(BOX, (wide - 2 * EDGE) / tokens.length) / 2 - 2;
  svg.replaceChildren(...tokens.flatMap((_, n) => {
    const x = place(tokens, n, wide);
    return [
      makeShape("path", { class: n === at ? "line" : "line faint", d: `M${x} 96V${y + half}` }),
      ...(n ? [makeShape("path", { class: n > at ? "line" : "line faint", d: `M${place(tokens, n - 1, wide) + half} ${y}H${x - half}` })] : []),
      makeShape("rect", { class: n >= at ? "box here" : "box", x: x - half, y: y - half, width: 2 * half, height: 2 * half, rx: 3 }),
    ];
  }), ...letters(tokens, at, wide));
}

/** From the last token an arc to each; that to the chosen one is drawn strong. */
function drawLookUp(svg, tokens, at, wide) {
  if (!wide) return;
  svg.setAttribute("width", String(wide));
  const x = place(tokens, tokens.length - 1, wide);
  svg.replaceChildren(...tokens.slice(0, -1).map((_, n) => {
    const to = place(tokens, n, wide);
    const top = 96 - 1.25 * (10 + 78 * ((x - to) / (wide - 2 * EDGE)));
    return makeShape("path", { class: n === at ? "line" : "line faint", d: `M${x} 96C${x} ${top} ${to} ${top} ${to} 96` });
  }), ...letters(tokens, at, wide));
}
