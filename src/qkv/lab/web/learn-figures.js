// The guide's figures by name. A figure's module is loaded when the figure first comes near the
// screen; each exports `mount(element, options, shell)` and returns {end}.

import { onTheme } from "./learn-figure-frame.js";
import { makeElement, rampColor } from "./views.js";

const MODULES = {
  direct: "./learn-figure-direct.js",
  roles: "./learn-figure-roles.js",
  stages: "./learn-figure-stages.js",
  root: "./learn-figure-root.js",
  mask: "./learn-figure-mask.js",
  cheat: "./learn-figure-cheat.js",
  shares: "./learn-figure-shares.js",
  heads: "./learn-figure-heads.js",
  grow: "./learn-figure-grow.js",
  parts: "./learn-figure-parts.js",
  ladder: "./learn-figure-ladder.js",
};
const STYLES = "assets/learn-figures.css";
const NEAR = "600px";

export const FIGURES = Object.keys(MODULES);

/**
 * Put a figure into an element.
 * @param {HTMLElement} element
 * @param {string} name one of FIGURES
 * @param {Record<string, any>} options as the lesson gives them
 * @param {{theme: () => Theme, facts: HTMLElement}} shell
 * @returns {{end: () => void}}
 */
export function mountFigure(element, name, options, shell) {
  let mounted = null;
  let ended = false;
  element.classList.add("learn-figure");
  element.dataset.figure = name;
  element.setAttribute("aria-busy", "true");

  async function begin() {
    try {
      if (!MODULES[name]) throw new Error(`got the figure “${name}”; expected one of ${FIGURES.join(", ")}`);
      const [{ mount }] = await Promise.all([import(MODULES[name]), loadStyles()]);
      if (ended) return;
      mounted = await mount(element, options ?? {}, shell);
      if (ended) mounted.end();
    } catch (error) {
      if (!ended) element.append(makeElement("p", { class: "problem", role: "alert", text: error.message }));
    }
    element.removeAttribute("aria-busy");
    element.dataset.ready = "true";
  }

  /** The plum of bars and second lines, from the one ramp. */
  const paint = (theme) => element.style.setProperty("--plum", rampColor(theme, theme === "light" ? 0.8 : 0.7));
  paint(shell.theme());
  const untheme = onTheme(paint);
  const watch = new IntersectionObserver((seen) => {
    if (!seen.some(({ isIntersecting }) => isIntersecting)) return;
    watch.disconnect();
    begin();
  }, { rootMargin: NEAR });
  watch.observe(element);
  return {
    end: () => {
      ended = true;
      watch.disconnect();
      untheme();
      mounted?.end();
      element.replaceChildren();
    },
  };
}

let styles = null;

/** The figures' style sheet, once; a figure isn't drawn before it has come. */
function loadStyles() {
  styles ??= new Promise((resolve) => {
    const there = [...document.styleSheets].some(({ href }) => href?.endsWith(STYLES));
    if (there) resolve();
    else document.head.append(makeElement("link", { rel: "stylesheet", href: STYLES, onload: resolve, onerror: resolve }));
  });
  return styles;
}
