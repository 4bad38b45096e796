// Inspect: a model on a text, its heads, one cell's reasons, and what changes when it is changed.
//
// `state` is what is on screen, and in the address. `asked` is what it shall be: the same, but while
// something is read. A choice that needs no reading goes into both, so that it outlives what is
// under way; what is read is taken over all at once, or not at all. `shown` is what has been read.

import { openText } from "./heads.js";
import { askEffect, mountChanges } from "./inspect-changes.js";
import { hintOf, mountCompare, titleOf, whyNoChange } from "./inspect-compare.js";
import { mountExport } from "./inspect-export.js";
import { factsOf, layFrame, sayProblem } from "./inspect-frame.js";
import { mountSource } from "./inspect-source.js";
import { comparedWith, isLinked, readAddress, sameReading, settle, startOf, wantedOf, writeAddress } from "./inspect-state.js";
import { headWords, mountViews } from "./inspect-views.js";
import { makeElement } from "./views.js";

const KEPT_TEXTS = 6;
const PROGRESS_MS = 400;
const ADDRESS_MS = 200;
const THUMBNAILS_AT_ONCE = 12;

/**
 * @typedef {object} Read what has been read
 * @property {import("./inspect-views.js").Shown} now one of its heads
 * @property {{text: OpenText, title: string} | null} past what it is compared with
 * @property {import("./inspect-views.js").Shown | null} before its head of the same name, if any
 * @property {import("./inspect-source.js").About} about the item that is read
 * @property {import("./inspect-changes.js").Effect | null} effect on the loss
 */

/**
 * @param {HTMLElement} main
 * @param {{theme: () => Theme, facts: HTMLElement}} shell
 */
export async function mount(main, shell) {
  let state = readAddress();
  let asked = state;
  /** @type {Read | null} */
  let shown = null;
  /** Stops what is read, and all that comes after it, where something else is wanted. */
  let reading = new AbortController();
  let busy = false;
  /** Counts what was chosen in the map and the text: what a slow answer would choose comes too late. */
  let turn = 0;
  /** The queries and keys on screen, where these aren't all. */
  let span = null;
  const texts = new Map();
  /** @type {WeakMap<OpenText, Map<string, Thumbnail>>} */
  const thumbnails = new WeakMap();

  /** Where one stood in the text, while a step is looked at. */
  let resting = null;
  const parts = layFrame(main, { onOrder: (ordered) => set({ ordered }) });
  const problem = (error) => sayProblem(parts.problem, error);
  const source = mountSource(parts.source, { onWanted: want, onProblem: told });
  const changes = mountChanges(parts.bar, parts.next, { onChanges: (changed) => want({ changes: changed }) });
  const compare = mountCompare(parts.compare, {
    onView: (view) => set({ view }),
    onKeep: (keep) => want({ kept: keep ? wantedOf(state) : null, view: "now" }),
  });
  const save = mountExport(parts.save, { canvas: () => views.canvas() });
  const views = mountViews(parts, {
    onHead: (head) => choose(head).catch(told),
    onCell: (row, col) => set({ cursor: [row, col] }),
    onToken: (place) => chooseToken(place).catch(told),
    onLog: (log) => set({ log }),
    onHow: (how) => set({ how }),
    onSort: (sort) => set({ sort }),
    onPins: (pins) => set({ pins }),
    onDirection: (direction) => set({ direction, pins: [] }),
    onPart: keepPart,
    onAnswer: () => parts.problem.dataset.lost === "yes" && problem(null),
    onProblem: told,
  }, shell.theme());
  document.addEventListener("qkv-theme", ({ detail }) => {
    views.retheme(detail);
    if (shown) showSave();
  });

  function told(error) {
    if (error.name !== "AbortError") problem(error);
  }

  /**
   * Show something else of what has been read.
   * @param {Partial<import("./inspect-state.js").InspectState>} changed
   * @param {boolean} [chosen] by a person: then it stays so in what is being read
   */
  function set(changed, chosen = true) {
    if (["cursor", "head", "direction", "view"].some((name) => name in changed)) turn += 1;
    if (chosen && ("cursor" in changed || "pins" in changed)) resting = null;
    state = { ...state, ...changed };
    asked = busy ? { ...asked, ...(chosen ? changed : {}) } : { ...state, head: asked.head };
    show();
  }

  /** Have something else read; what is shown stays until it has come. */
  function want(changed) {
    const before = asked;
    asked = { ...asked, ...changed };
    // Two models are compared on one text, as far as each reads it.
    if ("item" in changed && changed.text === null && asked.kept) Object.assign(asked, { text: source.lend(), cut: true });
    if (asked.item !== before.item || asked.text !== before.text) {
      Object.assign(asked, { cursor: null, pins: [] });
      resting = null;
    } else if (before.step === null && asked.step !== null) resting = { cursor: state.cursor, pins: state.pins };
    else if (before.step !== null && asked.step === null) Object.assign(asked, resting);
    if (comparedWith(asked) === null || asked.view === "before") asked.view = "now";
    load().catch(told);
  }

  /** What is compared with stays as it was; what is read now is asked for: its run may go on. */
  async function opened(wanted, signal, kept = false) {
    const key = JSON.stringify(wanted);
    const found = (kept && texts.get(key)) || (await openText(wanted, signal));
    texts.delete(key);
    texts.set(key, found);
    if (texts.size > KEPT_TEXTS) texts.delete(texts.keys().next().value);
    return found;
  }

  const head = async (text, name) => ({ text, name, ...(await text.head(name)) });

  /** One head of what is read, and the same of what it is compared with. */
  async function facing(text, past, name) {
    const other = past?.text.entry(name) ? head(past.text, name) : null;
    const [now, before] = await Promise.all([head(text, name), other]);
    return { now, before };
  }

  /**
   * Read what is asked for.
   * @param {boolean} [back] whether the browser's history asks for it
   */
  async function load(back = false) {
    reading.abort();
    reading = new AbortController();
    const { signal } = reading;
    busy = true;
    const wanted = asked;
    const was = shown?.now.text;
    // Where only the attention is changed the loss comes first.
    const quick = shown !== null && sameReading(wanted, state);
    main.setAttribute("aria-busy", "true");
    parts.busy.hidden = shown !== null;
    parts.shown.classList.add("waiting");
    if (quick) changes.update({ changes: wanted.changes });
    try {
      const early = quick ? await measure(wanted, shown.about, signal) : null;
      const [text, about] = await Promise.all([opened(wantedOf(wanted), signal), source.describe(wanted.item, signal)]);
      const other = comparedWith(wanted);
      const before = other && (await opened(other, signal, true));
      const past = before && { text: before, title: titleOf(other, before) };
      let found;
      // Another head may be chosen meanwhile.
      do found = await facing(text, past, settle(asked, text).head);
      while (found.now.name !== settle(asked, text).head);
      signal.throwIfAborted();
      turn += 1;
      shown = { ...found, past, about, effect: early };
      const step = !back && was !== undefined && (about.id !== state.item || asked.text !== state.text);
      state = asked = settle({ ...asked, item: about.id }, text);
      writeAddress(state, step);
      problem(null);
      parts.shown.hidden = false;
      shell.facts.replaceChildren(makeElement("span", { class: "title", text: text.header.title }), ` · ${factsOf(text)}`);
      source.show(state, about);
      changes.update(isModel(state, about) ? { waiting: !quick } : { effect: null, waiting: false });
      show();
      complete(shown.now).catch(told);
      fillAtlas(text, signal).then(() => past && fillAtlas(past.text, signal)).catch(told);
      if (quick) return;
      const effect = await measure(wanted, about, signal);
      shown = { ...shown, effect };
    } catch (error) {
      if (signal.aborted) return;
      asked = { ...state, head: asked.head };
      error.ways = source.waysOn(error, wanted, state.item);
      if (shown) {
        source.show(state, shown.about);
        changes.update({ changes: wantedOf(state).changes, effect: shown.effect, waiting: false });
        // What came after it was stopped for this.
        if (shown.now.text === was) fillAtlas(was, signal).catch(told);
      } else source.show(wanted, null);
      throw error;
    } finally {
      if (!signal.aborted) {
        busy = false;
        main.removeAttribute("aria-busy");
        parts.busy.hidden = true;
        parts.shown.classList.remove("waiting");
      }
    }
  }

  async function choose(name) {
    asked = { ...asked, head: name };
    const { past, now: { text } } = shown;
    const found = await facing(text, past, name).catch((error) => {
      if (asked.head === name) asked = { ...asked, head: state.head };
      throw error;
    });
    if (asked.head !== name || shown.now.text !== text || shown.past !== past) return;
    shown = { ...shown, ...found };
    const { rows, cols } = found.now.source;
    // The cell stays where it is from head to head, so that heads can be compared there.
    const fits = state.cursor[0] < rows && state.cursor[1] < cols;
    set({ head: name, ...(fits ? {} : { cursor: startOf(text, name) }) }, false);
    complete(shown.now).catch(told);
  }

  const front = () => (state.view === "before" && shown.before ? shown.before : shown.now);

  /** Choose a token, and the one that it looks at most, or that looks at it most. */
  async function chooseToken(place) {
    if (place === null) return;
    const mine = (turn += 1);
    const out = state.direction === "out";
    const weights = await (out ? front().arcs.row(place) : front().arcs.column(place));
    if (mine !== turn) return;
    let best = -1;
    weights.forEach((weight, at) => {
      if (weight > (weights[best] || 0)) best = at;
    });
    const [row, col] = state.cursor;
    set({ cursor: out ? [place, best < 0 ? col : best] : [best < 0 ? row : best, place] });
  }

  let addressing = 0;
  /** Another part of the map is on screen. */
  function keepPart(part, shownSpan) {
    span = part ? shownSpan : null;
    state = { ...state, part };
    asked = { ...asked, part };
    showSave();
    // The wheel turns faster than browsers let an address change.
    clearTimeout(addressing);
    addressing = setTimeout(() => writeAddress(state), ADDRESS_MS);
  }

  /** Hand the state down. */
  function show() {
    const { now, past, before } = shown;
    const why = past ? whyNoChange(now, before) : "";
    const seen = !before || (state.view === "change" && why) ? "now" : state.view;
    parts.setOrder(state.ordered);
    parts.sub.textContent = headWords(front().text, now.name, state.sort?.column ?? null);
    views.show({ ...state, view: seen }, now, before, thumbnails.get(front().text));
    changes.update({ changes: wantedOf(asked).changes, head: now.name, able: isModel(state, shown.about), why: whyUnable(state) });
    compare.update({ view: seen, past, before, kept: state.kept, why, hint: hintOf({ ...state, view: seen }, now) });
    showSave();
    writeAddress(state);
  }

  function showSave() {
    const { now, before } = shown;
    const against = state.view === "change" && before && !whyNoChange(now, before) ? before.text.trace : null;
    save.update({ ...state, linked: isLinked(state), head: now.name, text: front().text, against, span, theme: shell.theme() });
  }

  const isModel = ({ step }, { kind }) => step === null && kind !== "trace";

  const whyUnable = ({ step }) =>
    step === null ? "A saved trace has no model to change." : "Seen at that step. At the slider's end the model itself can be changed.";

  /** What the changes do to the loss and to what comes next, said as soon as it is known. */
  async function measure(wanted, about, signal) {
    if (!isModel(wanted, about)) return null;
    changes.update({ waiting: true });
    const effect = await askEffect(wanted, signal);
    changes.update({ effect, waiting: false });
    return effect;
  }

  /** Tracks, strongest cell and progress of a head that didn't come along. */
  async function complete(now) {
    const { text, name } = now;
    if (text.stored) return;
    const { rows, cols } = now.source;
    const atStart = () => shown.now === now && String(state.cursor) === "0,0";
    if (rows * cols > text.limits.slow) watch(now).catch(told);
    if (rows * cols > text.limits.quick) {
      // Which cell is strongest takes long to find: the last token's is as good a place to begin.
      if (atStart() && state.direction === "out") await chooseToken(rows - 1);
      return;
    }
    const { numbers, strongest } = await text.ask("tracks", { head: name });
    now.tracks = { received: numbers[0], entropy: numbers[1] };
    const entry = text.entry(name);
    const first = !entry.strongest;
    entry.strongest ??= strongest;
    if (first && strongest && atStart()) set({ cursor: strongest.slice(0, 2) }, false);
    else if (shown.now === now) show();
  }

  async function watch(now) {
    for (let idle = 0; shown.now === now && idle < 3; ) {
      const done = await now.text.progress(now.name);
      if (shown.now !== now) return;
      idle = done === null ? idle + 1 : 0;
      const words = headWords(now.text, now.name, null);
      parts.sub.textContent = done === null ? words : `${words} · reading it: ${Math.round(done * 100)} %`;
      await new Promise((resolve) => setTimeout(resolve, PROGRESS_MS));
    }
    if (shown.now === now) await addThumbnails(now.text, [now.name]);
  }

  function showThumbnails(text) {
    if (front().text === text) views.setThumbnails(thumbnails.get(text));
  }

  async function addThumbnails(text, names, signal) {
    for (const [name, thumbnail] of await text.makeThumbnails(names, signal)) thumbnails.get(text)?.set(name, thumbnail);
    showThumbnails(text);
  }

  /** The thumbnails, and scores: those that came along, or one after another while nobody waits. */
  async function fillAtlas(text, signal) {
    if (!thumbnails.has(text)) thumbnails.set(text, await text.thumbnails());
    showThumbnails(text);
    const cells = ({ name }) => text.layer(name).queries * text.layer(name).keys;
    const small = (one) => cells(one) <= text.limits.quick / 8 && !thumbnails.get(text).has(one.name);
    const waiting = text.stored ? [] : text.heads.filter(small).map(({ name }) => name);
    const next = async () => {
      while (waiting.length && !signal.aborted) await addThumbnails(text, waiting.splice(0, THUMBNAILS_AT_ONCE), signal);
    };
    await Promise.all([next(), next()]);
    const all = text.heads.reduce((sum, one) => sum + cells(one), 0);
    if (text.header.table || signal.aborted || all > text.limits.scored || text.heads.length < 2) return;
    await text.score(signal);
    if (shown.now.text === text) set({ sort: settle(state, text).sort }, false);
  }

  addEventListener("popstate", () => {
    source.forget();
    resting = null;
    asked = readAddress();
    load(true).catch(told);
  });
  source.list().catch(told);
  await load().catch(told);
}
