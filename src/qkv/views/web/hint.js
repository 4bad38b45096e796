// What a term means, in a sentence, where it stands: under the pointer, and with the keyboard there.
// needs: core

const HINT_GAP = 6;

/**
 * Explain an element; what a keyboard can't reach otherwise can then be reached.
 * @param {HTMLElement} element
 * @param {string} words
 * @returns {HTMLElement} the element
 */
export function explain(element, words) {
  let tip = null;
  let place = 0;
  const hide = () => {
    tip?.remove();
    tip = null;
    document.removeEventListener("keydown", leave, true);
    removeEventListener("scroll", follow, true);
  };
  const follow = () => element.getBoundingClientRect().top !== place && hide();
  const leave = ({ key }) => key === "Escape" && hide();
  const show = () => {
    if (tip) return;
    tip = makeElement("span", { class: "qkv-hint", role: "tooltip", text: words });
    element.after(tip);
    const { left, bottom, top } = element.getBoundingClientRect();
    const room = document.documentElement.clientWidth - tip.offsetWidth - HINT_GAP;
    const below = bottom + HINT_GAP + tip.offsetHeight < document.documentElement.clientHeight;
    tip.style.left = `${Math.max(HINT_GAP, Math.min(left, room))}px`;
    tip.style.top = `${below ? bottom + HINT_GAP : top - HINT_GAP - tip.offsetHeight}px`;
    document.addEventListener("keydown", leave, true);
    place = top;
    addEventListener("scroll", follow, true);
  };
  if (!element.matches("button, a, input")) {
    element.tabIndex = 0;
    element.classList.add("qkv-term");
  }
  element.setAttribute("aria-description", words);
  element.addEventListener("pointerenter", show);
  element.addEventListener("focus", () => element.matches(":focus-visible") && show());
  element.addEventListener("pointerleave", hide);
  element.addEventListener("blur", hide);
  element.addEventListener("click", hide);
  return element;
}
