// The losses of a few short trainings on one chart, and what the models write beside it: what the
// figures `cheat` and `parts` share.

import { makeKey, mountLines, roundTicks } from "./learn-figure-chart.js";
import { hundredths, makeSentence } from "./learn-figure-frame.js";
import { isDone, lossOf, mountSamples, mountTraining } from "./learn-figure-training.js";
import { makeElement } from "./views.js";

const GUESS = Math.log(65);

/**
 * @param {HTMLElement} element
 * @param {{figure: string, offer: string, wanted: import("./learn-figure-training.js").Wanted[], corpus?: string,
 *   says: (trained: any[], working: boolean) => string}} props
 */
export function mountLosses(element, { figure, offer, wanted, corpus, says }) {
  const sentence = makeSentence();
  const box = makeElement("div", {}, makeElement("p", { class: "title" }, makeElement("b", { text: "loss" }), " nats a character, while it learns"));
  const lines = mountLines(box, 230);
  const names = wanted.map(({ name }) => name);
  const samples = makeElement("div");
  element.append(box, makeKey(names));
  const drawn = mountSamples(samples, wanted);
  const training = mountTraining(element, { figure, offer, wanted, corpus, onNews: (trained, working) => {
    draw(trained);
    drawn.draw(trained, runWords);
    sentence.say(says(trained, working));
  } });
  element.append(sentence.element, samples);

  function draw(trained) {
    const curves = trained.map(({ losses }) => losses.map(([step, , smooth]) => [step, smooth]));
    const most = Math.max(GUESS, ...curves.flat().map(([, loss]) => loss));
    const steps = Math.max(10, ...trained.map(({ head }) => head?.steps ?? 0), ...curves.flat().map(([step]) => step));
    lines.draw({
      label: trained.some(({ losses }) => losses.length) ? trained.map((run, at) => `${names[at]}: ${lossOf(run) === null ? "not trained" : hundredths(lossOf(run))}`).join("; ") : "nothing is trained yet",
      lines: curves, x: [0, steps], y: [0, most], xName: "steps",
      xTicks: roundTicks(0, steps, 4), yTicks: roundTicks(0, most, 4),
    });
  }
  return { end: () => {
    lines.end();
    training.end();
  } };
}

function runWords(run) {
  const loss = lossOf(run);
  if (loss === null) return run.id ? "starting" : "not trained yet";
  const kind = run.validation.length ? "validation loss" : "loss";
  return `${kind} ${hundredths(loss)}${isDone(run) ? "" : `, step ${(run.head?.step ?? 0).toLocaleString("en")}`}`;
}
