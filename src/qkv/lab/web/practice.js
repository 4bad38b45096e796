// Practice: questions from memory, steps by hand, cards. The mode is in the address.

import { mountCards } from "./practice-cards.js";
import { mountQuestions } from "./practice-questions.js";
import { makeElement } from "./views.js";

const MODES = [
  { mode: "questions", name: "Questions", mount: mountQuestions },
  { mode: "hand", name: "By hand", mount: mountHandLate },
  { mode: "cards", name: "Cards", mount: mountCards },
];

/** Loaded when it is asked for; the other modes do without it. */
async function mountHandLate(element, shell) {
  const body = makeElement("div");
  element.append(makeElement("h1", { text: "By hand" }), body);
  try {
    const { mountHand } = await import("./practice-hand.js");
    return await mountHand(body, shell);
  } catch (error) {
    body.replaceChildren(
      makeElement("p", { class: "problem", role: "alert", text: "The steps by hand can't be shown here; questions and cards can." }),
    );
    console.info(error);
    return { end: () => {} };
  }
}

/**
 * @param {HTMLElement} main
 * @param {{theme: () => Theme, facts: HTMLElement}} shell
 */
export async function mount(main, shell) {
  const links = new Map(MODES.map(({ mode, name }) => [mode, makeElement("a", { href: `practice?mode=${mode}`, text: name })]));
  const modes = makeElement("nav", { class: "modes", "aria-label": "Ways to practise" }, ...links.values());
  const panel = makeElement("section", { class: "panel" });
  main.append(makeElement("div", { class: "practice" }, modes, panel));
  let mounted = null;
  let showing = 0;

  async function show() {
    const turn = (showing += 1);
    const asked = new URLSearchParams(location.search).get("mode");
    const chosen = MODES.find(({ mode }) => mode === asked) ?? MODES[0];
    for (const [mode, link] of links) {
      if (mode === chosen.mode) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    mounted?.end();
    mounted = null;
    const element = makeElement("div", { class: `mode ${chosen.mode}` });
    panel.replaceChildren(element);
    const found = await chosen.mount(element, shell);
    if (turn === showing) mounted = found;
    else found.end();
  }
  for (const link of links.values()) {
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
      event.preventDefault();
      history.pushState(null, "", link.href);
      show();
    });
  }
  addEventListener("popstate", show);
  await show();
}
