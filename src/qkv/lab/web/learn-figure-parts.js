// Where attention fits: a block with all its parts, and without one of them each, trained when
// asked for.

import { hundredths } from "./learn-figure-frame.js";
import { mountLosses } from "./learn-figure-losses.js";
import { lossOf } from "./learn-figure-training.js";

const SHORT = { context: "32", probes: "0", sample_every: "60", evaluate_every: "60" };
const BUDGET = "200000";
const PARTS = ["residual", "normalisation", "feed-forward"];

/**
 * @param {HTMLElement} element
 * @param {{budget?: number, corpus?: string}} options
 */
export async function mount(element, options) {
  const budget = String(options.budget ?? BUDGET);
  const wanted = [
    { name: "all parts", preset: "norm", settings: SHORT, budget },
    ...PARTS.map((part) => ({ name: `without ${part}`, preset: "norm", settings: { ...SHORT, without: part }, budget })),
  ];
  return mountLosses(element, { figure: "parts", offer: "Train all four, some seconds each", wanted, corpus: options.corpus, says });
}

function says([whole, ...others], working) {
  const best = lossOf(whole);
  if (best === null) return working ? "The whole block comes first." : "One block: attention, residual, normalisation, feed-forward. Train it whole, then without each, and see what is missed.";
  const told = others.flatMap((run, at) => {
    const loss = lossOf(run);
    if (loss === null) return [];
    const change = loss - best;
    const words = Math.abs(change) < 0.005 ? "the same" : `${hundredths(Math.abs(change))} ${change > 0 ? "worse" : "better"}`;
    return [`without ${PARTS[at]} it is ${words}`];
  });
  const stands = `The whole block is at ${hundredths(best)} nats`;
  if (told.length === 0) return `${stands}; the others are still to come.`;
  return `${stands}; ${told.length > 1 ? `${told.slice(0, -1).join(", ")} and ${told.at(-1)}` : told[0]}, after as many steps.`;
}
