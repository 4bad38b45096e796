// What a word means, beside it: on hover and on focus, gone with Escape. The word is a link to the
// glossary, for who has no hover.

import { getJson } from "./api.js";
import { fromHtml } from "./lessons.js";
import { makeElement } from "./views.js";

const PAUSE_MS = 120;
const LEAVE_MS = 250;
const EDGE = 12;

let asked = null;

/** The definitions, asked for when the first is wanted. */
function definitions() {
  asked ??= getJson("learn/glossary").catch((error) => {
    asked = null;
    throw error;
  });
  return asked;
}

/** @param {HTMLElement} root below which words are watched */
export function watchTerms(root) {
  const tip = makeElement("div", { class: "tip", id: "learn-tip", role: "tooltip", hidden: true });
  document.body.append(tip);
  let shown = null;
  let timer = 0;

  async function open(link) {
    clearTimeout(timer);
    if (shown === link) return;
    let found;
    try {
      found = (await definitions())[link.dataset.term];
    } catch {
      return; // the link leads to the glossary all the same
    }
    if (!found || !link.isConnected || !(link.matches(":hover") || link === document.activeElement)) return;
    close();
    shown = link;
    const said = makeElement("div");
    said.append(fromHtml(found.html));
    // Within a definition, words are words.
    for (const word of said.querySelectorAll("a")) word.replaceWith(...word.childNodes);
    tip.replaceChildren(makeElement("b", { text: found.name }), said);
    tip.hidden = false;
    link.setAttribute("aria-describedby", tip.id);
    put(link);
  }

  function close() {
    clearTimeout(timer);
    shown?.removeAttribute("aria-describedby");
    shown = null;
    tip.hidden = true;
  }

  /** Below the word, above it where there is no room, and within the page. */
  function put(link) {
    const word = link.getClientRects()[0];
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.max(EDGE, Math.min(word.left, document.documentElement.clientWidth - width - EDGE));
    const below = word.bottom + 6;
    const top = below + height > innerHeight && word.top - height - 6 > 0 ? word.top - height - 6 : below;
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${top + scrollY}px`;
  }

  const later = (work, wait) => {
    clearTimeout(timer);
    timer = setTimeout(work, wait);
  };
  const wordOf = (event) => event.target.closest?.("a.term");
  root.addEventListener("pointerover", (event) => {
    const link = wordOf(event);
    if (link && event.pointerType !== "touch") later(() => open(link), PAUSE_MS);
  });
  root.addEventListener("pointerout", (event) => {
    if (wordOf(event) && shown !== document.activeElement) later(close, LEAVE_MS);
  });
  // The definition may be pointed at, and read at leisure.
  tip.addEventListener("pointerenter", () => clearTimeout(timer));
  tip.addEventListener("pointerleave", () => shown !== document.activeElement && later(close, LEAVE_MS));
  root.addEventListener("focusin", (event) => wordOf(event) && open(wordOf(event)));
  root.addEventListener("focusout", (event) => wordOf(event) && close());
  document.addEventListener("keydown", (event) => event.key === "Escape" && close());
  // A finger has no hover: its first touch shows what the word means, its second leads there.
  let touched = null;
  root.addEventListener("pointerdown", (event) => {
    touched = event.pointerType === "touch" && shown !== wordOf(event) ? wordOf(event) : null;
  });
  root.addEventListener("click", (event) => {
    const link = wordOf(event);
    if (!link) return;
    if (touched === link) {
      event.preventDefault();
      link.focus();
    } else {
      close();
    }
  });
}
