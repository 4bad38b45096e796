// A text in a figure: the field it is typed into, and its tokens as chips, coloured by weights.

import { makeElement, rampColor, rampPlace, uniqueId, visibleToken } from "./views.js";

/**
 * A field for the reader's own text.
 * @param {string} label
 * @param {string} text
 * @param {number} longest
 * @param {(text: string) => void} onEdit
 */
export function makeTextField(label, text, longest, onEdit) {
  const input = makeElement("input", { id: uniqueId("text"), type: "text", maxlength: String(longest), autocomplete: "off", spellcheck: "false" });
  input.value = text;
  input.addEventListener("input", () => onEdit(input.value));
  return makeElement("label", { class: "own", for: input.id }, label, input);
}

/** A head to choose, by name. @param {string[]} names */
export function makeHeadField(names, now, onChoose) {
  const select = makeElement("select", { id: uniqueId("head"), onchange: () => onChoose(select.value) },
    ...names.map((name) => makeElement("option", { value: name, text: name, selected: name === now })));
  return makeElement("label", { class: "field", for: select.id }, "head", select);
}

/**
 * Tokens as chips; where one may be chosen they are buttons, and arrow keys go along them.
 * @param {string} label
 * @param {((at: number) => void) | null} onChoose
 */
export function makeTokens(label, onChoose) {
  const element = makeElement("div", { class: "tokens", role: "group", "aria-label": label });
  const press = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const chips = [...element.children];
    const next = chips[chips.indexOf(event.target) + step];
    if (!step || !next) return;
    event.preventDefault();
    next.focus();
    next.click();
  };
  if (onChoose) element.addEventListener("keydown", press);
  return {
    element,
    /**
     * @param {string[]} tokens
     * @param {number} chosen the one that asks
     * @param {(number | null)[]} weights null for what is masked
     * @param {Theme} theme
     */
    draw(tokens, chosen, weights, theme) {
      const tag = onChoose ? "button" : "span";
      while (element.children.length > tokens.length) element.lastChild.remove();
      while (element.children.length < tokens.length) {
        const at = element.children.length;
        element.append(makeElement(tag, { class: "token", type: onChoose ? "button" : null, onclick: onChoose && (() => onChoose(at)) }));
      }
      [...element.children].forEach((chip, at) => {
        const weight = weights[at] ?? null;
        const place = rampPlace(weight ?? 0, true);
        chip.textContent = visibleToken(tokens[at]);
        chip.classList.toggle("later", weight === null);
        chip.classList.toggle("here", at === chosen);
        if (onChoose) {
          chip.setAttribute("aria-pressed", String(at === chosen));
          chip.tabIndex = at === chosen ? 0 : -1;
        }
        chip.style.background = weight === null ? "" : rampColor(theme, place);
        chip.style.color = weight === null ? "" : place > 0.52 === (theme === "light") ? "white" : "black";
      });
    },
  };
}

/** A token in a sentence: its letter set apart, in the hue of who it is. */
export const tokenName = (tokens, at, tone) => makeElement("bdi", { class: tone, text: visibleToken(tokens[at]) });
