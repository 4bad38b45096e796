// A ladder's table, as the terminal prints it: the rungs in their order, what each has and reached.

import { count, duration, nats } from "./train-words.js";
import { makeElement } from "./views.js";

/**
 * @param {HTMLElement} element
 * @returns {{update: (rungs: {title: string, parameters: ?number, loss: ?number, seconds: ?number}[]) => void}}
 */
export function mountLadder(element) {
  const body = makeElement("tbody");
  const heads = ["rung", "parameters", "validation loss", "time"].map((text) => makeElement("th", { scope: "col", text }));
  element.append(
    makeElement("h2", { text: "The ladder, rung by rung" }),
    makeElement("div", { class: "scrolls", tabindex: "0", role: "group", "aria-label": "rungs" },
      makeElement("table", { class: "numbers" }, makeElement("thead", {}, makeElement("tr", {}, ...heads)), body)));
  let shown = "";

  return {
    update: (rungs) => {
      element.hidden = rungs.length === 0;
      const key = JSON.stringify(rungs);
      if (key === shown) return;
      shown = key;
      body.replaceChildren(...rungs.map(({ title, parameters, loss, seconds }) => makeElement("tr", {},
        makeElement("th", { scope: "row", text: title }),
        ...[told(parameters, count), told(loss, nats), told(seconds, duration)].map((text) => makeElement("td", { text })))));
    },
  };
}

const told = (value, words) => (typeof value === "number" ? words(value) : "–");
