// What all figures share: the sentence that reads them aloud, choices, problems, asking the server
// while a reader edits, and names for tokens by their place.

import { makeElement, uniqueId } from "./views.js";

const ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"];

/** The third token: “the third”. @param {number} at from 0 */
export const ordinal = (at) => (ORDINALS[at] ? `the ${ORDINALS[at]}` : `token ${at + 1}`);


/** A loss, or a difference of two, in hundredths: .25. @param {number} number */
export const hundredths = (number) => number.toFixed(2).replace(/^0\./, ".");

/** The sentence below a figure; it is told again whenever it changes. */
export function makeSentence() {
  const element = makeElement("p", { class: "says", "aria-live": "polite", "aria-atomic": "true" });
  return {
    element,
    /** @param {...(Node | string)} parts */
    say: (...parts) => {
      const text = parts.map((part) => (typeof part === "string" ? part : part.textContent)).join("");
      if (text !== element.textContent) element.replaceChildren(...parts);
    },
  };
}

/** One line of what went wrong; nothing where it goes well. */
export function makeProblem() {
  const element = makeElement("p", { class: "problem", role: "alert", hidden: true });
  return {
    element,
    tell: (message) => {
      element.textContent = message ?? "";
      element.hidden = !message;
    },
  };
}

/**
 * One choice of several, as radio buttons that look like tabs.
 * @param {string} legend
 * @param {[string, string][]} listed values and their names
 * @param {string} now
 * @param {(value: string) => void} onChoose
 */
export function makeChoices(legend, listed, now, onChoose) {
  const name = uniqueId("choice");
  return makeElement("fieldset", { class: "choices" }, makeElement("legend", { class: "qkv-unseen", text: legend }),
    ...listed.map(([value, text]) => makeElement("label", {},
      makeElement("input", { type: "radio", name, value, checked: value === now, onchange: () => onChoose(value) }),
      makeElement("span", { text }))));
}

/**
 * Ask whenever something was edited: one question at a time, the last edit always asked.
 * @template T
 * @param {() => Promise<T>} ask
 * @param {(reply: T) => void} show
 * @param {(message: string | null) => void} tell what went wrong
 */
export function asker(ask, show, tell) {
  let busy = false;
  let again = false;
  return async function run() {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    do {
      again = false;
      try {
        const reply = await ask();
        if (again) continue;
        tell(null);
        show(reply);
      } catch (error) {
        if (!again) tell(error.message);
      }
    } while (again);
    busy = false;
  };
}

/** Call back when the page turns dark or light. @param {(theme: Theme) => void} turn @returns {() => void} */
export function onTheme(turn) {
  const heard = ({ detail }) => turn(detail);
  document.addEventListener("qkv-theme", heard);
  return () => document.removeEventListener("qkv-theme", heard);
}

/** An element of a drawing. */
export function makeShape(tag, attributes = {}, ...children) {
  const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") shape.textContent = value;
    else if (name.startsWith("on")) shape.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) shape.setAttribute(name, String(value));
  }
  shape.append(...children);
  return shape;
}
