// A section of the guide: text beside its figures, notes in the margin, what is asked in the line.

import { mountAsk } from "./learn-asks.js";
import { mountFigure } from "./learn-figures.js";
import { fromHtml, tightenRoots } from "./lessons.js";
import { makeElement } from "./views.js";

/**
 * @typedef {{id: string, number: number, title: string, html: string, asks: Record<string, any>,
 *   worksheet: string | null, inspect: string | null}} Section
 */

/**
 * @param {HTMLElement} article
 * @param {Section} section
 * @param {{theme: () => Theme, facts: HTMLElement}} shell
 * @param {{contents: import("./learn.js").Contents, onRead: () => void}} around
 * @returns {{end: () => void}}
 */
export function showSection(article, section, shell, { contents, onRead }) {
  const heading = makeElement("h1", { tabindex: "-1" }, makeElement("span", { class: "number", text: String(section.number) }), " ", section.title);
  const parts = inParts(fromHtml(section.html), heading);
  const foot = makeFoot(section, contents);
  article.replaceChildren(...parts.map(({ element }) => element), foot);
  const mounted = [
    ...parts.filter(({ figure }) => figure).map(({ figure }) => drawFigure(figure, shell)),
    ...[...article.querySelectorAll(".ask")].map((ask) => mountAsk(ask, ask.dataset.ask, section.asks[ask.dataset.ask])),
  ];
  mounted.push(tightenRoots(article), placeNotes(article));
  // Who comes to the end has read it.
  const watch = new IntersectionObserver((seen) => {
    if (!seen.some(({ isIntersecting }) => isIntersecting)) return;
    watch.disconnect();
    onRead();
  });
  watch.observe(foot);
  return {
    end: () => {
      watch.disconnect();
      for (const each of mounted) each?.end?.();
    },
  };
}

/** Each figure begins a part: the text after it stands beside it, up to the next. */
function inParts(content, heading) {
  const parts = [];
  const begin = (figure) => {
    const text = makeElement("div", { class: "text" });
    const element = makeElement("div", { class: figure ? "part" : "part alone" }, text);
    if (figure) element.append(makeElement("div", { class: "beside" }, figure));
    parts.push({ element, text, figure });
    return text;
  };
  let text = null;
  let before = [heading];
  for (const node of [...content.childNodes]) {
    if (node.nodeType === Node.TEXT_NODE && !node.textContent.trim()) continue;
    if (node.classList?.contains("live")) {
      // A heading just before a figure is of what the figure begins.
      if (text?.lastElementChild?.matches("h2, h3")) before.push(text.lastElementChild);
      text = begin(node);
      text.append(...before);
      before = [];
    } else {
      text ??= begin(null);
      text.append(...before, node);
      before = [];
    }
  }
  return parts;
}

function drawFigure(figure, shell) {
  const place = makeElement("div", { class: "drawn" });
  figure.append(place);
  return mountFigure(place, figure.dataset.figure, JSON.parse(figure.dataset.options), shell);
}

/** Where to do it oneself, and where to read on. */
function makeFoot(section, { sections }) {
  const doors = [
    section.worksheet && [`worksheet?${section.worksheet}`, "Its numbers on the Worksheet"],
    [section.exercise ? `practice?mode=hand&exercise=${section.exercise}` : `practice?mode=hand&seed=${Math.floor(Math.random() * 1e6)}`, "A step like it, by hand"],
    section.inspect && [`inspect?${section.inspect}`, headWords(section.inspect)],
  ].filter(Boolean);
  const at = section.number - 1;
  const way = (rel, to, words) => makeElement("a", { rel, href: `learn?section=${to.id}` }, makeElement("small", { text: words }), ` ${to.title}`);
  const back = sections[at - 1];
  const next = sections[at + 1];
  const ways = [back && way("prev", back, "Before:"), next && way("next", next, "Next:")].filter(Boolean);
  if (!next) ways.push(makeElement("a", { href: "practice" }, makeElement("small", { text: "Next:" }), " Practice"));
  return makeElement("footer", { class: "foot" },
    makeElement("h2", { text: "Now do it" }),
    makeElement("ul", { class: "doors" }, ...doors.map(([href, text]) => makeElement("li", {}, makeElement("a", { href, text })))),
    makeElement("nav", { class: "ways", "aria-label": "Sections before and after" }, ...ways));
}

const CHANGED = [
  ["qk", "A trained head without its scale, in Inspect"],
  ["mask", "A trained head without its mask, in Inspect"],
  ["uniform", "A trained head that must look at all alike, in Inspect"],
  ["without", "A trained model without one of its heads, in Inspect"],
];

function headWords(address) {
  const query = new URLSearchParams(address);
  const changed = CHANGED.find(([name]) => query.has(name));
  if (changed) return changed[1];
  const head = query.get("head");
  return head ? `A trained head of this kind, ${head}, in Inspect` : "What trained heads do on this line, in Inspect";
}

const GAP = 24;

/** Notes stand in the margin below the contents; where there is no margin, in the text. */
function placeNotes(article) {
  const notes = [...article.querySelectorAll("small.note")];
  const contents = document.querySelector(".contents");
  const place = () => {
    let free = contents.getBoundingClientRect().bottom + GAP;
    for (const note of notes) {
      note.style.marginTop = "";
      if (getComputedStyle(note).float === "none") continue;
      const { top } = note.getBoundingClientRect();
      if (top < free) note.style.marginTop = `${Math.ceil(free - top)}px`;
      free = note.getBoundingClientRect().bottom + GAP;
    }
  };
  const observer = new ResizeObserver(place);
  observer.observe(article);
  return { end: () => observer.disconnect() };
}

/**
 * A page of the guide that has no figures: a text, or a list of terms or questions.
 * @param {HTMLElement} article
 * @param {{id: string, title: string, html?: string, items?: {id: string, title: string, html: string}[]}} page
 */
export function showPage(article, page) {
  const text = makeElement("div", { class: "text" }, makeElement("h1", { tabindex: "-1", text: page.title }));
  if (page.id === "glossary") {
    text.append(makeElement("dl", {}, ...page.items.map(({ id, title, html }) => {
      const said = makeElement("dd");
      said.append(fromHtml(html));
      return makeElement("div", { id }, makeElement("dt", { text: title }), said);
    })));
  } else if (page.items) {
    for (const { id, title, html } of page.items) {
      text.append(makeElement("h2", { id, text: title }), fromHtml(html));
    }
  } else {
    text.append(fromHtml(page.html));
  }
  if (page.id === "cheat-sheet") {
    text.append(makeElement("p", { class: "tools" }, makeElement("button", { class: "action", type: "button", text: "Print it, on one page", onclick: () => print() })));
  }
  article.replaceChildren(makeElement("div", { class: "part alone" }, text));
  return tightenRoots(article);
}
