// Learn: the guide. Contents at left, a text to scroll, figures that stay beside it. What is shown
// is in the address: `learn?section=mask`, `learn?page=glossary`.

import { getJson, postJson } from "./api.js";
import { watchTerms } from "./learn-glossary.js";
import { showPage, showSection } from "./learn-text.js";
import { makeElement } from "./views.js";

/**
 * @typedef {{sections: {id: string, title: string, short: string, read: boolean}[],
 *   pages: {id: string, short: string}[], notice: string | null}} Contents
 * @typedef {{kind: "section" | "page", id: string}} Place
 */

/**
 * @param {HTMLElement} main
 * @param {{theme: () => Theme, facts: HTMLElement}} shell
 */
export async function mount(main, shell) {
  /** @type {Contents} */
  const contents = await getJson("learn");
  const nav = makeElement("nav", { class: "contents", "aria-label": "Contents of the guide" });
  const article = makeElement("article", { class: "lesson" });
  main.append(makeElement("div", { class: "learn" }, nav, article));
  watchTerms(article);
  const kinds = { section: contents.sections, page: contents.pages };
  let shown = { end: () => {} };
  let asked = 0;

  /** What an address means; without a word, the first section that isn't read yet. @returns {Place} */
  function placeOf(search) {
    const query = new URLSearchParams(search);
    for (const kind of ["section", "page"]) {
      if (query.has(kind)) return { kind, id: query.get(kind) };
    }
    const next = contents.sections.find(({ read }) => !read) ?? contents.sections[0];
    return { kind: "section", id: next.id };
  }

  function drawContents(place) {
    const entry = (kind, { id, short, read }, number) => {
      const link = makeElement("a", { href: `learn?${kind}=${id}`, "aria-current": kind === place.kind && id === place.id && "page" });
      if (number) link.append(makeElement("span", { class: "number", text: String(number) }), " ");
      link.append(short);
      if (read) link.append(makeElement("span", { class: "done", "aria-hidden": "true", text: "✓" }), makeElement("span", { class: "qkv-unseen", text: ", read" }));
      return makeElement("li", {}, link);
    };
    nav.replaceChildren(
      makeElement("ol", {}, ...contents.sections.map((section, at) => entry("section", section, at + 1))),
      makeElement("ul", {}, ...contents.pages.map((page) => entry("page", page))),
    );
  }

  /** Only the first time, and only where it can be kept: reading goes on without it. */
  async function keepRead(id) {
    const section = contents.sections.find((each) => each.id === id);
    if (!section || section.read) return;
    section.read = true;
    try {
      await postJson("learn/read", { section: id });
    } catch (error) {
      section.read = false;
      tell(error.message);
      return;
    }
    drawContents(placeOf(location.search || `?section=${id}`));
  }

  function tell(message) {
    article.querySelector(".problem.kept")?.remove();
    article.append(makeElement("p", { class: "problem kept", role: "status", text: message }));
  }

  /** @param {Place} place @param {boolean} moved whether a reader went there, and is taken along */
  async function show(place, moved) {
    const mine = (asked += 1);
    let found;
    try {
      found = await getJson(`learn/${place.kind}?id=${encodeURIComponent(place.id)}`);
    } catch (error) {
      if (mine !== asked) return;
      shown.end();
      shown = { end: () => {} };
      drawContents(place);
      article.replaceChildren(
        makeElement("h1", { tabindex: "-1", text: "There is no such page" }),
        makeElement("p", { class: "problem", role: "alert", text: error.message }),
      );
      return;
    }
    if (mine !== asked) return;
    shown.end();
    drawContents(place);
    article.className = `lesson ${place.kind} ${place.id}`;
    shown = place.kind === "section"
      ? showSection(article, found, shell, { contents, onRead: () => keepRead(place.id) })
      : showPage(article, found);
    document.title = `${found.title} · Learn · qkv`;
    if (contents.notice) {
      tell(contents.notice);
      contents.notice = null;
    }
    const target = location.hash && document.getElementById(decoded(location.hash.slice(1)));
    if (target) arrive(target);
    else if (moved) {
      scrollTo(0, 0);
      article.querySelector("h1").focus({ preventScroll: true });
    }
  }

  function arrive(target) {
    target.setAttribute("tabindex", "-1");
    target.focus({ preventScroll: true });
    target.scrollIntoView({ block: "center" });
  }

  main.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const url = new URL(link.href);
    if (url.origin !== location.origin || url.pathname !== location.pathname || !url.search) return;
    event.preventDefault();
    history.pushState(null, "", url);
    show(placeOf(url.search), true);
  });
  printLight();
  addEventListener("popstate", () => show(placeOf(location.search), true));
  await show(placeOf(location.search), false);
}

/** @param {string} part of an address; one whose escapes mean nothing stays as it is */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Paper is light, whatever the screen is. */
function printLight() {
  const { dataset } = document.documentElement;
  let theme;
  addEventListener("beforeprint", () => {
    theme = dataset.theme;
    dataset.theme = "light";
  });
  addEventListener("afterprint", () => {
    if (theme) dataset.theme = theme;
    else delete dataset.theme;
  });
}
