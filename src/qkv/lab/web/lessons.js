// Lessons as they should be set: markup that the server made of them, and the room after roots.

/** Lessons come from the server as markup that it made; nothing else is read as such. */
export function fromHtml(html) {
  const template = document.createElement("template");
  // No line breaks between a formula and the comma after it.
  template.innerHTML = html.replace(/<\/math>(?=[,.;:?!)’])/g, "</math>\u2060");
  return template.content;
}

/**
 * Chromium gives a root the width of its widest sign, so that a gap stands after it; elsewhere there
 * is nothing to take back.
 * @param {ParentNode} root below which formulas are
 * @returns {{end: () => void}}
 */
export function tightenRoots(root) {
  const tighten = () => {
    for (const sign of root.querySelectorAll("msqrt")) {
      const within = sign.lastElementChild?.getBoundingClientRect();
      if (!within?.width) continue;
      const gap = sign.getBoundingClientRect().right - within.right;
      sign.style.marginRight = gap > 1 ? `${-gap}px` : "";
    }
  };
  tighten();
  document.fonts.addEventListener("loadingdone", tighten);
  return { end: () => document.fonts.removeEventListener("loadingdone", tighten) };
}
