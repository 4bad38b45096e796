// The probe passage at one step of a run: every head, the chosen one as a map, and its sentence.

import { openText } from "./heads.js";
import { cellSentence } from "./sentence.js";
import { count } from "./train-words.js";
import { makeElement, mountAtlas, mountMap } from "./views.js";

const KEPT = 48;

/**
 * @param {HTMLElement} element
 * @param {{theme: () => Theme, onHead: (name: string) => void}} on
 */
export function mountHeads(element, on) {
  const read = makeElement("p", { class: "read", "aria-live": "polite" });
  const grid = makeElement("div", { class: "atlas" }, makeElement("h2", { text: "Every head" }));
  const picture = makeElement("div", { class: "picture" });
  const problem = makeElement("p", { class: "problem", role: "alert", hidden: true });
  const births = makeElement("div", { class: "born" });
  element.append(read, problem, makeElement("div", { class: "heads" }, grid, picture, births));
  const texts = new Map();
  let atlas = null;
  let map = null;
  let shown = null;
  let cursor = null;
  let log = true;
  let wanted = 0;

  /** A step's text, asked for once; a promise that failed is asked for again. */
  function text(item, step) {
    const key = `${item} ${step}`;
    if (!texts.has(key)) {
      const asked = openText({ item, step });
      asked.catch(() => texts.delete(key));
      texts.set(key, asked);
      if (texts.size > KEPT) texts.delete(texts.keys().next().value);
    }
    return texts.get(key);
  }

  function tell(error) {
    problem.textContent = error?.message ?? "";
    problem.hidden = !error;
  }

  async function choose(row, col) {
    cursor = [row, col];
    map.update({ cursor });
    const { opened, name, source, step } = shown;
    let reading;
    try {
      reading = await source.read(row, col);
    } catch (error) {
      return tell(error);
    }
    if (shown.source !== source || cursor[0] !== row || cursor[1] !== col) return;
    read.replaceChildren(`At step ${count(step)}, `, ...cellSentence(opened.labels(name), row, col, reading));
  }

  async function had(item, step, head) {
    const opened = await text(item, step);
    const name = opened.entry(head) ? head : opened.header.begin;
    const { source } = await opened.head(name);
    return { opened, name, source, thumbnails: await opened.thumbnails() };
  }

  /**
   * Show a step; the head's name, or null where something else was asked for meanwhile. Throws what
   * went wrong, when it has been said.
   */
  async function show(item, step, head, next) {
    const mine = (wanted += 1);
    let found;
    try {
      found = await had(item, step, head);
    } catch (error) {
      if (mine !== wanted) return null;
      tell(error);
      throw error;
    }
    if (mine !== wanted) return null;
    tell(null);
    const { opened, name, source, thumbnails } = found;
    const other = shown?.name !== name || shown?.source.rows !== source.rows;
    shown = { opened, name, source, step };
    const theme = on.theme();
    const labels = opened.labels(name);
    if (other || !cursor) cursor = opened.entry(name).strongest?.slice(0, 2) ?? [source.rows - 1, Math.max(0, source.cols - 2)];
    const props = { source, name, labels, theme, log, cursor, tracks: null };
    map ??= mountMap(picture, { ...props, onCursor: choose, onLog: (now) => map.update({ log: (log = now) }) });
    map.update(props);
    const heads = opened.heads;
    atlas ??= mountAtlas(grid, { heads, thumbnails, chosen: name, order: null, theme, onChoose: on.onHead });
    atlas.update({ heads, thumbnails, chosen: name, theme, describe: (one) => [one, opened.entry(one).kind].filter(Boolean).join(", ") });
    choose(...cursor);
    if (next !== null) text(item, next).catch(() => null);
    return name;
  }

  return {
    births,
    show,
    retheme: (theme) => [map, atlas].forEach((view) => view?.update({ theme })),
  };
}
