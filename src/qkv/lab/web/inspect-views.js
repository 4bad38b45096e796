// Atlas, map, reasons, arcs and scores of what is read, around one state.

import { changeSource } from "./heads.js";
import { cellSentence } from "./sentence.js";
import { briefNumber, mountArcs, mountAtlas, mountMap, mountScores, mountWhy, scoreOf, sortHeads } from "./views.js";

/** Above this many tokens the text is not listed token by token. */
const LISTED_TOKENS = 4096;
const SHORT_COLUMNS = 2;
const UNSORTED = { column: null, down: false };
const NONE = new Map();

/**
 * @typedef {object} Shown one head of an open text
 * @property {OpenText} text
 * @property {string} name
 * @property {MapSource} source
 * @property {any} arcs
 * @property {any} tracks
 */

/**
 * What is said of a head: its kind, that score, and the score that heads are sorted by.
 * @param {OpenText} text
 * @param {string} name
 * @param {string | null} sorted
 */
export function headWords(text, name, sorted) {
  const entry = text.entry(name);
  const columns = text.header.table ?? [];
  const at = text.heads.indexOf(entry);
  const lift = columns.find((column) => column.name === "lift")?.values[at] ?? null;
  const own = ownColumn(text, entry);
  const parts = [entry.kind ? `${name}, ${entry.kind}` : name];
  for (const column of new Set([own, columns.find((each) => each.name === sorted)])) {
    if (!column || column.values[at] === null) continue;
    const [count, chance] = [scoreOf(column.count, at), scoreOf(column.chance, at)];
    const against = [
      chance === null || chance === column.ceiling ? "" : `chance ${briefNumber(chance)}`,
      column === own && lift !== null ? `lift ${briefNumber(lift)}` : "",
    ].filter(Boolean).join(", ");
    const over = count === null ? "" : ` over ${count.toLocaleString("en")} rows`;
    parts.push(`${column.name} ${briefNumber(column.values[at])}${over}${against && ` (${against})`}`);
  }
  const { window } = text.layer(name);
  if (window) parts.push(`window of ${window}`);
  if (entry.note) parts.push(entry.note);
  return parts.join(" · ");
}

/** The column that a head's kind is named after, or none. */
export function ownColumn(text, entry) {
  return (text.header.table ?? []).find((column) => entry.kind && entry.kind.startsWith(column.name));
}

/**
 * Mount the views; they show what `show` is given.
 * @param {Record<string, HTMLElement>} parts atlas, short, scores, map, why, arcs, order, read
 * @param {object} on onHead, onCell, onLog, onHow, onSort, onPins, onDirection, onToken, onPart,
 *   onAnswer (something came from the server), onProblem
 */
export function mountViews(parts, on, theme) {
  let mounted = null;
  let look = theme;
  let last = {};
  let asking = new AbortController();
  let change = { now: null, before: null, source: null };

  function mount(shown, state) {
    const { text, name } = shown;
    const scores = { heads: text.heads, columns: [], sort: state.sort ?? UNSORTED, chosen: name, theme: look, onChoose: on.onHead, onSort: on.onSort };
    const labels = text.labels(name);
    mounted = {
      atlas: mountAtlas(parts.atlas, { heads: text.heads, thumbnails: NONE, chosen: name, order: null, theme: look, describe: (head) => headWords(last.front, head, last.sort), onChoose: on.onHead }),
      short: mountScores(parts.short, { ...scores, caption: "heads in the order of a score" }),
      all: mountScores(parts.scores, { ...scores, kinds: true, caption: "every score of every head" }),
      map: mountMap(parts.map, { source: shown.source, name, labels, cursor: state.cursor, tracks: shown.tracks, theme: look, log: state.log, how: state.how, view: state.part ?? undefined, onCursor: on.onCell, onLog: on.onLog, onHow: on.onHow, onView: (view, span) => on.onPart(view.zoom > 1 ? view : null, span), onProblem: on.onProblem }),
      why: mountWhy(parts.why, { theme: look, onCursor: on.onCell }),
    };
  }

  /** The map's source where two texts are compared; made anew only when one of them is. */
  function changed(now, before) {
    if (change.now !== now || change.before !== before) {
      const live = (shown) => shown.text.live(shown.name);
      change = { now, before, source: changeSource(live(now), live(before)) };
    }
    return change.source;
  }

  /**
   * @param {import("./inspect-state.js").InspectState} state
   * @param {Shown} now
   * @param {Shown | null} before what is compared with
   * @param {Map<string, Thumbnail>} [thumbnails] of the text that is looked at
   */
  function show(state, now, before, thumbnails = NONE) {
    const front = state.view === "before" && before ? before : now;
    const signed = state.view === "change" && before !== null;
    if (!mounted) mount(front, state);
    const { text, name } = front;
    const { cursor, log, how } = state;
    const sort = state.sort ?? UNSORTED;
    const labels = text.labels(name);
    const source = signed ? changed(now, before) : front.source;
    last = { front: text, sort: sort.column, source, cursor, name };
    showHeads(text, name, sort, state.ordered, thumbnails);
    mounted.map.update({ source, name, labels, cursor, tracks: signed ? null : front.tracks, log, how });
    showArcs(front, state);
    tellCell(front, labels, cursor, signed ? source : null).catch(on.onProblem);
  }

  function showHeads(text, name, sort, ordered, thumbnails) {
    const columns = text.header.table ?? [];
    const sorted = columns.find((column) => column.name === sort.column);
    const names = sortHeads(columns, text.heads.length, sort).map((at) => text.heads[at].name);
    const words = (head) => (sorted ? briefNumber(sorted.values[text.heads.indexOf(text.entry(head))]) : "");
    const all = { heads: text.heads, sort, chosen: name };
    mounted.atlas.update({ heads: text.heads, thumbnails, chosen: name, order: ordered && columns.length ? { names, words } : null });
    const others = columns.filter((column) => column !== sorted).slice(0, SHORT_COLUMNS);
    mounted.short.update({ ...all, columns: sorted ? [sorted, ...others] : others });
    mounted.all.update({ ...all, columns });
    parts.order.hidden = parts.short.hidden = columns.length === 0;
    parts.scores.closest("section").hidden = columns.length === 0;
    parts.atlas.closest("section").classList.toggle("single", text.heads.length === 1);
  }

  function showArcs({ text, name, arcs }, { cursor, pins, direction, log }) {
    const layer = text.layer(name);
    const keys = text.header.texts[layer.key_text];
    const section = parts.arcs.closest("section");
    section.hidden = keys.size > LISTED_TOKENS;
    if (section.hidden) return;
    const queries = layer.places === null ? text.header.texts[layer.query_text] : null;
    const chosen = direction === "out" ? cursor[0] : cursor[1];
    const props = { source: arcs, keys, queries, places: layer.places, chosen, pins, direction, log, theme: look };
    if (mounted.arcs) mounted.arcs.update(props);
    else mounted.arcs = mountArcs(parts.arcs, { ...props, onChoose: on.onToken, onPins: on.onPins, onDirection: on.onDirection, onProblem: on.onProblem });
  }

  /** What is known of the chosen cell: at once what came along, then what the server works out. */
  async function tellCell(front, labels, cursor, changes) {
    const { text, name, tracks, arcs } = front;
    const [row, col] = cursor;
    const still = () => last.front === text && last.name === name && last.cursor === cursor;
    const say = (reading) => parts.read.replaceChildren(...cellSentence(labels, row, col, reading));
    const tell = (reading, more) => {
      if (!changes) say(reading);
      mounted.why.update({
        labels, cursor, reading, top: text.stored ? arcs.top(row) : [],
        entropy: tracks?.entropy[row] ?? null, count: tracks?.count?.[row] ?? null,
        received: tracks?.received[col] ?? null, even: tracks?.even?.[col] ?? null,
        error: text.entry(name).error ?? null, arithmetic: null, ...more,
      });
    };
    if (text.stored) tell(arcs.read(row, col), {});
    asking.abort();
    asking = new AbortController();
    const cell = await text.ask("cell", { head: name, row, col }, asking.signal);
    on.onAnswer();
    if (still()) {
      const exact = { allowed: cell.allowed, exact: cell.weight, low: cell.weight, high: cell.weight };
      tell(exact, { arithmetic: cell.arithmetic, top: cell.top, count: cell.count });
    }
    if (!changes) return;
    const reading = await changes.read(row, col);
    if (still() && last.source === changes) say(reading);
  }

  return {
    show,
    setThumbnails: (thumbnails) => mounted?.atlas.update({ thumbnails }),
    retheme(theme) {
      look = theme;
      for (const view of Object.values(mounted ?? {})) view.update({ theme });
    },
    canvas: () => parts.map.querySelector("canvas"),
  };
}
