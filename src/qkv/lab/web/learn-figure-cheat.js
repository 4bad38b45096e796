// The model that cheats: one head without its mask beside the honest one, trained when asked for.

import { hundredths } from "./learn-figure-frame.js";
import { mountLosses } from "./learn-figure-losses.js";
import { isDone, lossOf } from "./learn-figure-training.js";

const SHORT = { context: "16", probes: "0", sample_every: "40", evaluate_every: "40" };
const BUDGET = "100000";

/**
 * @param {HTMLElement} element
 * @param {{budget?: number, corpus?: string}} options
 */
export async function mount(element, options) {
  const budget = String(options.budget ?? BUDGET);
  const wanted = [
    { name: "with its mask", preset: "one-head", settings: SHORT, budget },
    { name: "without: it cheats", preset: "one-head", settings: { ...SHORT, masked: "false" }, budget },
  ];
  return mountLosses(element, { figure: "cheat", offer: "Train both, some seconds each", wanted, corpus: options.corpus, says });
}

function says([honest, cheat], working) {
  const [fair, low] = [lossOf(honest), lossOf(cheat)];
  if (fair === null && low === null) return working ? "The honest one comes first." : "One head with its mask, one without: same text, same steps. Train them, and watch which loss falls lower, and which text is worth reading.";
  if (low === null) return `The honest head is at ${hundredths(fair)} nats; the other is still to come.`;
  const written = cheat.samples.at(-1)?.text.slice(0, 24).replace(/\s+/g, " ");
  const done = isDone(cheat) ? "" : " so far";
  if (low >= fair) return `Without its mask the loss is ${hundredths(low)}${done}, the honest one's ${hundredths(fair)}: it hasn't found the next token yet.`;
  return `Without its mask the loss is ${hundredths(low)}${done}, the honest one's ${hundredths(fair)}: it copies the answer. Asked to write, it has no answer to copy${written ? `: “${written}”` : ""}.`;
}
