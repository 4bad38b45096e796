// Inspect: a model on a text, its heads, one cell's reasons, and what changes when it is changed.

import { postJson } from "./api.js";
import { openText, QUICK_CELLS } from "./heads.js";
import { mountChanges } from "./inspect-changes.js";
import { mountCompare, titleOf, whyNoChange } from "./inspect-compare.js";
import { mountExport } from "./inspect-export.js";
import { factsOf, layFrame, sayProblem } from "./inspect-frame.js";
import { mountSource } from "./inspect-source.js";
import { comparedWith, readAddress, wantedOf, writeAddress } from "./inspect-state.js";
import { headWords, mountViews, ownColumn } from "./inspect-views.js";
import { makeElement } from "./views.js";

const KEPT_TEXTS = 6;
/** Heads of more cells are pooled by the server before they are drawn, which takes a while. */
const SLOW_CELLS = 2 ** 26;
const PROGRESS_MS = 400;
/** As `inspecting.py` has it. */
const MOST_SCORED = 2 ** 30;
const THUMBNAILS_AT_ONCE = 12;

/**
 * @param {HTMLElement} main
 * @param {{theme: () => Theme, facts: HTMLElement}} shell
 */
export async function mount(main, shell) {
  let state = readAddress();
  /** @type {import("./inspect-views.js").Shown | null} */
  let now = null;
  let before = null;
  let loading = new AbortController();
  let opening = 0;
  let thumbnails = new Map();
  const texts = new Map();

  const parts = layFrame(main, { onOrder: (ordered) => set({ ordered }) });
  const problem = (error, way) => sayProblem(parts.problem, error, way);
  const source = mountSource(parts.source, { onWanted: want, onProblem: problem });
  const changes = mountChanges(parts.bar, parts.next, { onChanges: (changed) => want({ changes: changed }) });
  const compare = mountCompare(parts.compare, {
    onView: (view) => set({ view }),
    onKeep: (keep) => want({ kept: keep ? wantedOf(state) : null, view: "now" }),
  });
  const save = mountExport(parts.save, { canvas: () => views.canvas() });
  const views = mountViews(parts, {
    onHead: (head) => choose(head),
    onCell: (row, col) => set({ cursor: [row, col] }),
    onToken: chooseToken,
    onLog: (log) => set({ log }),
    onSort: (sort) => set({ sort }),
    onPins: (pins) => set({ pins }),
    onDirection: (direction) => set({ direction, pins: [] }),
    onProblem: told,
  }, shell.theme());
  document.addEventListener("qkv-theme", ({ detail }) => {
    views.retheme(detail);
    if (now) showSave();
  });

  function told(error) {
    if (error.name === "AbortError") return;
    problem(error, { limit: error.limit, onCut: source.cut });
  }

  /** Open what is wanted; what is shown stays until it has come. */
  function want(changed) {
    const wanted = { ...state, ...changed };
    const same = Object.keys(changed).every((name) => name === "changes" || name === "view");
    if ("text" in changed || "item" in changed) Object.assign(wanted, { cursor: null, pins: [], view: "now" });
    // Two models are compared on one text.
    if ("item" in changed && changed.text === null && state.kept) wanted.text = source.text || null;
    if (comparedWith(wanted) === null) wanted.view = "now";
    load(wanted, same).catch(told);
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

  /** @param {boolean} quick whether only the attention is changed: then the loss comes first */
  async function load(wanted, quick = false) {
    loading.abort();
    loading = new AbortController();
    const { signal } = loading;
    main.setAttribute("aria-busy", "true");
    parts.busy.hidden = now !== null;
    parts.shown.classList.add("waiting");
    if (quick) changes.update({ changes: wanted.changes });
    try {
      if (quick) await measure(wanted, signal);
      const [text] = await Promise.all([opened(wantedOf(wanted), signal), source.describe(wanted.item)]);
      const other = comparedWith(wanted);
      const past = other && (await opened(other, signal, true));
      const next = settle(wanted, text);
      const [shown, compared] = await Promise.all([head(text, next.head), past?.entry(next.head) ? head(past, next.head) : null]);
      signal.throwIfAborted();
      [state, now, before] = [next, shown, compared && { ...compared, title: titleOf(other, past) }];
      problem(null);
      parts.shown.hidden = false;
      shell.facts.replaceChildren(makeElement("span", { class: "title", text: text.header.title }), ` · ${factsOf(text)}`);
      show();
      await source.show(state);
      complete(now).catch(told);
      fillAtlas(text, signal).catch(told);
      if (!quick) await measure(state, signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!now) await source.show(wanted);
      changes.update({ changes: state.changes });
      throw error;
    } finally {
      if (!signal.aborted) {
        main.removeAttribute("aria-busy");
        parts.busy.hidden = true;
        parts.shown.classList.remove("waiting");
      }
    }
  }

  /** Where to stand in a text that has just come. */
  function settle(wanted, text) {
    const name = text.entry(wanted.head) ? wanted.head : (text.header.begin || text.heads[0].name);
    const { queries, keys } = text.layer(name);
    const inside = wanted.cursor && wanted.cursor[0] < queries && wanted.cursor[1] < keys;
    const columns = text.header.table ?? [];
    const own = ownColumn(text, text.entry(name)) ?? columns.find((column) => column.name !== "lift") ?? columns[0];
    const sort = columns.some((column) => column.name === wanted.sort?.column) || wanted.sort?.column === null ? wanted.sort : { column: own?.name ?? null, down: columns.length > 0 };
    const pins = wanted.pins.filter((place) => place < (wanted.direction === "out" ? queries : keys));
    return { ...wanted, head: name, cursor: inside ? wanted.cursor : startOf(text, name), sort, pins };
  }

  const startOf = (text, name) => text.entry(name).strongest?.slice(0, 2) ?? [0, 0];
  const head = async (text, name) => ({ text, name, ...(await text.head(name)) });

  async function choose(name) {
    const count = (opening += 1);
    const [shown, compared] = await Promise.all([head(now.text, name), before?.text.entry(name) ? head(before.text, name) : null]);
    if (count !== opening) return;
    const fits = state.cursor[0] < shown.source.rows && state.cursor[1] < shown.source.cols;
    now = shown;
    before = before && { ...before, ...(compared ?? {}) };
    // The cell stays where it is from head to head, so that heads can be compared there.
    set({ head: name, cursor: fits ? state.cursor : startOf(now.text, name) });
    complete(now).catch(told);
  }

  async function chooseToken(place) {
    if (place === null) return;
    const front = state.view === "before" && before ? before : now;
    const out = state.direction === "out";
    const weights = out ? await front.arcs.row(place) : await front.arcs.column(place);
    let best = -1;
    weights.forEach((weight, at) => {
      if (weight > (weights[best] || 0)) best = at;
    });
    const [row, col] = state.cursor;
    set({ cursor: out ? [place, best < 0 ? col : best] : [best < 0 ? row : best, place] });
  }

  function set(changed) {
    state = { ...state, ...changed };
    show();
  }

  /** Hand the state down. */
  function show() {
    const { view, kept } = state;
    const why = before ? whyNoChange(now, before) : "";
    const seen = before === null || (view === "change" && why) ? "now" : view;
    parts.setOrder(state.ordered);
    parts.sub.textContent = headWords((seen === "before" ? before : now).text, now.name, state.sort.column);
    views.show({ ...state, view: seen }, now, before);
    changes.update({ changes: state.changes, head: now.name, able: isModel(state), why: whyUnable(state) });
    const hint = view === "change" && (state.changes.ablate ?? []).includes(now.name) ? "its own weights stay: what is left out is missed by the layers above it" : "";
    compare.update({ view: seen, before, kept, why, hint, title: before?.title });
    showSave();
    writeAddress(state);
  }

  function showSave() {
    const front = state.view === "before" && before ? before : now;
    const against = state.view === "change" && before ? before.text.trace : null;
    save.update({ ...state, text: front.text, against, theme: shell.theme() });
  }

  const isModel = ({ step }) => step === null && source.kind !== "trace";

  const whyUnable = ({ step }) =>
    step === null ? "A saved trace has no model to change." : "This is what was seen at that step: read a text to change the model.";

  /** What the changes do to the loss and to what comes next. */
  async function measure(wanted, signal) {
    if (!isModel(wanted)) return;
    changes.tell(null);
    const { kept } = wanted;
    const other = kept && kept.item === wanted.item && kept.step === null && kept.text !== wanted.text;
    const against = other ? (kept.text ?? source.passage) : null;
    try {
      const asked = against === null ? wantedOf(wanted) : { ...wantedOf(wanted), against };
      changes.tell(await postJson("effect", asked, signal), against !== null);
    } catch (error) {
      // A text of one token has weights, and no loss.
      if (error.kind !== "ShapeError" && error.kind !== "ConfigError") throw error;
      changes.say(error.message);
    }
  }

  /** Tracks, strongest cell and progress of a head that didn't come along. */
  async function complete(shown) {
    const { text, name } = shown;
    if (text.stored) return;
    const { rows, cols } = shown.source;
    if (rows * cols > SLOW_CELLS) watch(shown).catch(told);
    if (rows * cols > QUICK_CELLS) {
      // Which cell is strongest takes long to find: the last token's is as good a place to begin.
      if (String(state.cursor) === "0,0" && state.direction === "out") await chooseToken(rows - 1);
      return;
    }
    const { numbers, strongest } = await text.ask("tracks", { head: name });
    shown.tracks = { received: numbers[0], entropy: numbers[1] };
    const entry = text.entry(name);
    if (!entry.strongest && strongest && now === shown && String(state.cursor) === "0,0") state = { ...state, cursor: strongest.slice(0, 2) };
    entry.strongest ??= strongest;
    if (now === shown) show();
  }

  async function watch(shown) {
    for (let idle = 0; now === shown && idle < 3; ) {
      const done = await shown.text.progress(shown.name);
      idle = done === null ? idle + 1 : 0;
      const words = headWords(shown.text, shown.name, null);
      parts.sub.textContent = done === null ? words : `${words} · reading it: ${Math.round(done * 100)} %`;
      await new Promise((resolve) => setTimeout(resolve, PROGRESS_MS));
    }
    if (now === shown) await addThumbnails(shown.text, [shown.name]);
  }

  async function addThumbnails(text, names, signal) {
    for (const [name, thumbnail] of await text.makeThumbnails(names, signal)) thumbnails.set(name, thumbnail);
    if (now.text === text) views.setThumbnails(new Map(thumbnails));
  }

  /** The thumbnails, and scores: those that came along, or one after another while nobody waits. */
  async function fillAtlas(text, signal) {
    thumbnails = await text.thumbnails();
    views.setThumbnails(thumbnails);
    const small = ({ queries, keys }) => queries * keys <= QUICK_CELLS / 8;
    const waiting = text.stored ? [] : text.heads.map(({ name }) => name).filter((name) => small(text.layer(name)));
    const next = async () => {
      while (waiting.length && !signal.aborted) await addThumbnails(text, waiting.splice(0, THUMBNAILS_AT_ONCE), signal);
    };
    await Promise.all([next(), next()]);
    const cells = text.heads.reduce((sum, { name }) => sum + text.layer(name).queries * text.layer(name).keys, 0);
    if (text.header.table || signal.aborted || cells > MOST_SCORED || text.heads.length < 2) return;
    await text.score(signal);
    if (now.text === text) set({ sort: settle(state, text).sort });
  }

  source.list().catch(told);
  try {
    await load(state);
  } catch (error) {
    told(error);
  }
}
