// One row from scores to output: weights as bars that sum to 1, and the values they weigh.

import { postJson } from "./api.js";
import { asker, makeProblem, makeSentence, ordinal } from "./learn-figure-frame.js";
import { makeElement } from "./views.js";
import { parseNumber } from "./worksheet-model.js";
import { digits } from "./worksheet-words.js";

const SCORES = [1, 3, 2, 0];
const VALUES = [3, 6, 0, 9];
const MOST_TOKENS = 8;

/**
 * @param {HTMLElement} element
 * @param {{scores?: number[], values?: number[]}} options
 */
export async function mount(element, options) {
  const first = { scores: options.scores ?? SCORES, values: options.values ?? VALUES };
  let { scores, values } = structuredClone(first);
  let change = "";
  const sentence = makeSentence();
  const problem = makeProblem();
  const body = makeElement("tbody");
  const foot = makeElement("tfoot");
  const ask = asker(
    () => postJson("worksheet", { scores: [scores], v: values.map((value) => [value]), places: [scores.length - 1] }),
    show, problem.tell,
  );

  function field(list, at, name, tone) {
    const input = makeElement("input", { type: "text", class: tone, autocomplete: "off", inputmode: "text", "aria-label": `${name} of t${at + 1}` });
    input.value = digits(list[at]);
    input.addEventListener("input", () => {
      const number = parseNumber(input.value);
      input.setAttribute("aria-invalid", String(number === null));
      if (number === null) return;
      list[at] = number;
      change = "";
      ask();
    });
    input.addEventListener("blur", () => {
      if (parseNumber(input.value) === null) problem.tell(`“${input.value.slice(0, 20)}” is no number`);
      input.value = digits(list[at]);
      input.removeAttribute("aria-invalid");
    });
    return input;
  }

  let cells = [];
  /** Rows anew, where their number or their numbers changed other than by typing. */
  function lay() {
    cells = scores.map((_, at) => ({
      power: makeElement("td", { class: "number" }),
      bar: makeElement("span", { class: "bar" }),
      weight: makeElement("span"),
      part: makeElement("td", { class: "number v" }),
    }));
    body.replaceChildren(...cells.map(({ power, bar, weight, part }, at) => makeElement("tr", {},
      makeElement("th", { scope: "row", text: `t${at + 1}` }),
      makeElement("td", {}, field(scores, at, "score")),
      power,
      makeElement("td", { class: "wide" }, bar, weight),
      makeElement("td", {}, field(values, at, "value", "v")),
      part)));
    ask();
  }

  function show(reply) {
    const [powers] = reply.tables.exponentials[0];
    const [weights] = reply.tables.pattern[0];
    cells.forEach(({ power, bar, weight, part }, at) => {
      power.textContent = digits(powers[at]);
      bar.style.width = `calc((100% - var(--beside)) * ${weights[at]})`;
      weight.textContent = digits(weights[at]);
      part.textContent = digits(weights[at] * values[at]);
    });
    const out = digits(reply.tables.mixed[0][0][0]);
    foot.replaceChildren(makeElement("tr", {},
      makeElement("th", { scope: "row", text: "sum" }), makeElement("td"),
      makeElement("td", { class: "number", text: digits(reply.rows.total[0][0]) }),
      makeElement("td", { text: digits(reply.rows.weights[0][0]) }), makeElement("td"),
      makeElement("td", { class: "number v", text: out })));
    sentence.say(rowWords(scores, weights, out, change));
  }

  const act = (text, edit) => makeElement("button", { type: "button", class: "action", text, onclick: () => {
    change = "";
    edit();
    lay();
  } });
  const head = (name, more, tone) => makeElement("th", { scope: "col", class: more === "wide" ? null : "number" }, makeElement("b", { class: tone, text: name }));
  element.append(
    makeElement("table", { class: "bars shares" },
      makeElement("thead", {}, makeElement("tr", {}, makeElement("td"), head("score"), head("e to it"), head("weight", "wide"), head("value", "", "v"), head("weight · value"))),
      body, foot),
    makeElement("div", { class: "acts" },
      act("Equal scores", () => scores.fill(1)),
      act("Add 5 to every score", () => {
        scores.forEach((score, at) => (scores[at] = Math.min(1e6, score + 5)));
        change = " Adding the same to every score changed no weight.";
      }),
      act("One token more", () => {
        if (scores.length < MOST_TOKENS) {
          scores.push(1);
          values.push(scores.length);
        }
      }),
      act("As it was", () => ({ scores, values } = structuredClone(first)))),
    sentence.element, problem.element,
  );
  lay();
  return { end: () => {} };
}

function rowWords(scores, weights, out, change) {
  const count = weights.length;
  if (scores.every((score) => score === scores[0])) {
    return `All scores are equal, so each of the ${count} tokens gets ${digits(1 / count)}: what comes out, ${out}, is the plain average of the values.${change}`;
  }
  const best = weights.indexOf(Math.max(...weights));
  return `The weights sum to 1. ${best === count - 1 ? "The token itself" : `Of the ${count}, ${ordinal(best)} token`} has the largest, ${digits(weights[best])}, and ${out} comes out.${change}`;
}
