// Heads of a trained model on the reader's own text: what each does, measured, with its map and arcs.

import { asker, makeChoices, makeProblem, makeSentence, onTheme } from "./learn-figure-frame.js";
import { makeTextField } from "./learn-figure-tokens.js";
import { openText } from "./heads.js";
import { cellSentence } from "./sentence.js";
import { makeElement, mountArcs, mountMap, mountScores, sortHeads } from "./views.js";

const TEXT = "Romeo, wherefore art thou Romeo?";
const LONGEST = 120;
/** What heads are measured by here; the other scores are in Inspect. */
const SCORES = ["previous", "first", "self", "induction", "duplicate", "uniform"];

/**
 * @param {HTMLElement} element
 * @param {{text?: string, head?: string}} options
 * @param {{theme: () => Theme}} shell
 */
export async function mount(element, options, shell) {
  let text = options.text ?? TEXT;
  let head = options.head ?? null;
  let opened = null;
  let cursor = null;
  let log = true;
  let direction = "out";
  const views = {};
  const sentence = makeSentence();
  const problem = makeProblem();
  let sort = { column: "previous", down: true };
  const kinds = makeChoices("Heads by which score", SCORES.map((name) => [name, name]), sort.column, (column) => {
    sort = { column, down: true };
    head = opened.heads[sortHeads(columns(), opened.heads.length, sort)[0]].name;
    cursor = null;
    drawScores();
    show();
  });
  const table = makeElement("div", { class: "scores" });
  const map = makeElement("div", { class: "map" });
  const arcs = makeElement("div", { class: "arcs" });
  const ask = asker(() => openText({ item: "own", text, cut: true }), async (found) => {
    opened = found;
    drawScores();
    head ??= found.heads[sortHeads(columns(), found.heads.length, sort)[0]].name;
    await show();
  }, problem.tell);
  element.append(makeTextField("A text of yours, up to 120 characters", text, LONGEST, (typed) => {
    text = typed;
    cursor = null;
    ask();
  }), kinds, sentence.element,
  makeElement("div", { class: "beside" }, makeElement("div", {}, map), table), arcs, problem.element);

  const columns = () => (opened.header.table ?? []).filter(({ name }) => SCORES.includes(name));

  /** Every head by one score, with its chance: what even attention would score. */
  function drawScores() {
    const shown = columns().filter(({ name }) => name === sort.column);
    const props = { heads: opened.heads, columns: shown, sort, chosen: head, theme: shell.theme() };
    if (views.scores) views.scores.update(props);
    else {
      views.scores = mountScores(table, { ...props, caption: "every head by one score", onChoose: (name) => {
        head = name;
        cursor = null;
        show();
      }, onSort: (now) => {
        sort = now.column === null ? { ...sort, down: !sort.down } : now;
        drawScores();
      } });
    }
  }

  async function show() {
    const found = opened;
    views.scores.update({ chosen: head });
    const { source, arcs: arcSource } = await found.head(head);
    if (found !== opened) return;
    const labels = found.labels(head);
    const last = source.rows - 1;
    cursor = cursor && cursor[0] <= last ? cursor : (found.entry(head).strongest?.slice(0, 2) ?? [last, last]);
    const theme = shell.theme();
    const common = { source, name: head, labels, cursor, tracks: null, theme, log };
    if (views.map) views.map.update(common);
    else views.map = mountMap(map, { ...common, onCursor: choose, onLog: (now) => views.map.update({ log: (log = now) }) });
    const layer = found.layer(head);
    const keys = found.header.texts[layer.key_text];
    const shown = { source: arcSource, keys, queries: null, places: layer.places, ...looked(), pins: [], log, theme };
    if (views.arcs) views.arcs.update(shown);
    else views.arcs = mountArcs(arcs, { ...shown, onChoose: chooseToken, onPins: (pins) => views.arcs.update({ pins }), onDirection: (now) => {
      direction = now;
      views.arcs.update({ ...looked(), pins: [] });
    } });
    await say(source, labels);
  }

  const looked = () => ({ direction, chosen: cursor[direction === "out" ? 0 : 1] });

  async function choose(row, col) {
    const { source } = await opened.head(head);
    cursor = [row, col];
    views.map.update({ cursor });
    views.arcs.update(looked());
    await say(source, opened.labels(head));
  }

  /** A token of the text: with what it looks at most, or with who looks at it most. */
  async function chooseToken(token) {
    const { arcs: source } = await opened.head(head);
    const weights = [...(await (direction === "out" ? source.row(token) : source.column(token)))].map((weight) => (weight >= 0 ? weight : 0));
    const best = weights.indexOf(Math.max(...weights));
    await (direction === "out" ? choose(token, best) : choose(best, token));
  }

  async function say(source, labels) {
    const at = cursor;
    const reading = await source.read(...at);
    if (at === cursor) sentence.say(...cellSentence(labels, ...at, reading));
  }

  const untheme = onTheme((theme) => {
    for (const view of Object.values(views)) view.update({ theme });
  });
  await ask();
  return { end: () => {
    untheme();
    for (const end of Object.values(views)) end();
  } };
}
