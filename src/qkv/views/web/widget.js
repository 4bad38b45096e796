// The view in a notebook, as an anywidget: heads, one head's map, the reasons, the text.
// What is stored is looked up, so that a saved notebook still shows it; for the rest, which is every
// tile of a long text and every cell's arithmetic, Python is asked.
// needs: payload, map, arcs, atlas, why

const qkvWidgetStyles = `
.qkv-widget { padding: 4px 2px 8px; background: var(--qkv-paper); }
.qkv-widget .qkv-read { margin: 6px 0 0; font: italic 400 18px/28px "Source Serif 4", "Source Serif Pro", Georgia, serif; overflow-wrap: anywhere; }
.qkv-widget .qkv-sub { margin: 0 0 12px; color: var(--qkv-soft); }
.qkv-widget .qkv-columns { display: grid; grid-template-columns: minmax(0, 1fr); gap: 24px; }
.qkv-widget.qkv-medium .qkv-columns { grid-template-columns: 300px minmax(0, 640px); }
.qkv-widget.qkv-medium .qkv-columns > :nth-child(2) { grid-area: 1 / 2 / span 2; }
.qkv-widget.qkv-wide .qkv-columns { grid-template-columns: minmax(200px, 280px) minmax(0, 600px) minmax(300px, 1fr); }
.qkv-widget .qkv-arcs { margin-top: 16px; }
.qkv-widget [hidden] { display: none; }
.qkv-widget bdi { font: normal 400 15px/28px var(--qkv-mono); }
.qkv-widget table { border: 0; color: inherit; font: inherit; }
.qkv-widget tr, .qkv-widget th, .qkv-widget td { border: 0; background: none; }
`;
const WIDE_WIDGET = 1180;
const MEDIUM_WIDGET = 720;
/** Above this many tokens the text is not listed token by token. */
const LISTED_TOKENS = 4096;
/** Above this many cells a head's thumbnail and edge tracks take seconds: they are left out. */
const QUICK_CELLS = 2 ** 28;

/**
 * Questions to Python and their answers, by number.
 * @param {any} model of anywidget
 */
function askPython(model) {
  const waiting = new Map();
  let count = 0;
  let onProgress = () => {};
  const hear = (message, buffers = []) => {
    if (message.kind === "progress") onProgress(message);
    const asked = waiting.get(message.id);
    if (!asked) return;
    waiting.delete(message.id);
    const numbers = buffers.map((view) => {
      const bytes = view.buffer ? new Uint8Array(view.buffer, view.byteOffset, view.byteLength) : new Uint8Array(view);
      return new Float32Array(bytes.slice().buffer);
    });
    if (message.kind === "error") asked.reject(new Error(message.message));
    else asked.resolve({ ...message, numbers });
  };
  model.on("msg:custom", hear);
  return {
    ask: (kind, question) =>
      new Promise((resolve, reject) => {
        count += 1;
        waiting.set(count, { resolve, reject });
        model.send({ kind, id: count, ...question });
      }),
    watch: (callback) => (onProgress = callback),
    end: () => model.off("msg:custom", hear),
  };
}

/**
 * A head whose every number comes from Python, as map, arcs and reasons ask for it.
 * @param {ReturnType<typeof askPython>["ask"]} ask
 * @param {string} name
 * @param {{queries: number, keys: number}} size
 */
function liveHead(ask, name, { queries, keys }) {
  const one = async (kind, place) => (await ask(kind, { head: name, place })).numbers[0];
  return {
    rows: queries,
    cols: keys,
    hows: ["max", "sum"],
    tile: async (level, rows, cols, how) => (await ask("tile", { head: name, level, rows, cols, how })).numbers[0],
    read: async (row, col) => {
      const { allowed, weight } = await ask("cell", { head: name, row, col });
      return { allowed, exact: weight, low: weight, high: weight };
    },
    row: (query) => one("row", query),
    column: (key) => one("column", key),
  };
}

/** Whether the notebook is dark, as it says itself or else as the system does. */
function notebookTheme() {
  const { body } = document;
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "true" ? "light" : "dark";
  if (document.documentElement.matches("[theme=dark]") || /vscode-(dark|high-contrast)(\s|$)/.test(body.className)) return "dark";
  if (body.classList.contains("vscode-light")) return "light";
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/**
 * Mount the notebook's view.
 * @param {any} model with header, body, head, cursor and log, and Python behind it
 * @param {HTMLElement} element
 * @returns {Promise<() => void>} what cleans up
 */
export async function mountWidget(model, element) {
  const python = askPython(model);
  const header = model.get("header");
  const body = model.get("body");
  const bytes = body.buffer ? new Uint8Array(body.buffer, body.byteOffset, body.byteLength) : new Uint8Array(body);
  const payload = bytes.length ? openPayload(header, (offset, length) => bytes.slice(offset, offset + length)) : null;
  const layers = new Map(header.layers.flatMap((layer) => layer.heads.map((head) => [head.name, layer])));
  const heads = header.layers.flatMap((layer) => layer.heads);
  const entries = new Map(heads.map((head) => [head.name, head]));
  let theme = notebookTheme();
  let shown = null;
  let opening = 0;

  const read = makeElement("p", { class: "qkv-read" });
  const sub = makeElement("p", { class: "qkv-sub" });
  const parts = Object.fromEntries(["atlas", "map", "why", "arcs"].map((name) => [name, makeElement("div")]));
  parts.why.className = "qkv-why";
  parts.atlas.hidden = heads.length === 1;
  const columns = makeElement("div", { class: "qkv-columns" }, parts.atlas, parts.map, parts.why);
  const root = makeElement("div", { class: "qkv-widget" }, read, sub, columns, parts.arcs);
  element.append(root);
  applyTheme(root, theme);
  const styles = new CSSStyleSheet();
  styles.replaceSync(qkvWidgetStyles);

  const labelsOf = (layer) => ({ queries: header.texts[layer.query_text].labels, keys: header.texts[layer.key_text].labels });
  const words = (name) => {
    const { kind, note } = entries.get(name);
    return [kind ? `${name}, ${kind}` : name, note].filter(Boolean).join(" · ");
  };
  const startOf = (name) => entries.get(name).strongest?.slice(0, 2) ?? [0, 0];

  /** Open a head: what is stored of it, or a way to ask for it. */
  async function open(name) {
    const layer = layers.get(name);
    if (payload) {
      const stored = await payload.head(name);
      return { name, layer, source: storedSource(stored), arcs: stored, tracks: stored };
    }
    const live = liveHead(python.ask, name, layer);
    return { name, layer, source: live, arcs: live, tracks: null };
  }

  /** Edge tracks and the strongest cell come when Python has read the whole head. */
  async function complete(head) {
    if (payload || head.layer.queries * head.layer.keys > QUICK_CELLS) return;
    const { numbers, strongest } = await python.ask("tracks", { head: head.name });
    head.tracks = { received: numbers[0], entropy: numbers[1] };
    const entry = entries.get(head.name);
    entry.strongest ??= strongest;
    if (shown === head) show();
  }

  const cursorNow = () => {
    const [row, col] = model.get("cursor").length === 2 ? model.get("cursor") : startOf(shown.name);
    return [Math.min(row, shown.source.rows - 1), Math.min(col, shown.source.cols - 1)];
  };
  const setCursor = (row, col) => save({ cursor: [row, col] });
  function save(changes) {
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
  }

  const thumbnails = payload ? await payload.thumbnails() : new Map();
  const atlas = mountAtlas(parts.atlas, {
    heads, thumbnails, chosen: model.get("head"), order: null, theme, describe: words, onChoose: (head) => save({ head }),
  });
  shown = await open(entries.has(model.get("head")) ? model.get("head") : heads[0].name);
  const map = mountMap(parts.map, {
    source: shown.source, name: shown.name, labels: labelsOf(shown.layer), cursor: cursorNow(), tracks: shown.tracks,
    theme, log: model.get("log"), onCursor: setCursor, onLog: (log) => save({ log }),
    onHow: (how) => map.update({ how }), onProblem: (error) => failed(error),
  });
  const why = mountWhy(parts.why, { theme, onCursor: setCursor });
  let arcs = null;
  let pins = [];
  let direction = "out";

  function showArcs() {
    const { layer } = shown;
    const keys = header.texts[layer.key_text];
    const props = {
      source: shown.arcs, keys, queries: layer.cross ? header.texts[layer.query_text] : null, places: layer.places,
      chosen: direction === "out" ? cursorNow()[0] : cursorNow()[1], pins, direction, theme, log: model.get("log"),
      onChoose: chooseToken,
      onPins: (now) => ((pins = now), showArcs()),
      onDirection: (now) => ((direction = now), (pins = []), showArcs()),
      onProblem: (error) => failed(error),
    };
    parts.arcs.hidden = keys.size > LISTED_TOKENS;
    if (parts.arcs.hidden) return;
    if (arcs) arcs.update(props);
    else arcs = mountArcs(parts.arcs, props);
  }

  async function chooseToken(place) {
    if (place === null) return;
    const [row, col] = cursorNow();
    if (direction === "in") setCursor(row, place);
    else {
      const weights = await shown.arcs.row(place);
      let best = col;
      weights.forEach((weight, at) => {
        if (weight > (weights[best] || 0)) best = at;
      });
      setCursor(place, best);
    }
  }

  /** The sentence that reads the cell aloud; a token of right-to-left text turns nothing but itself. */
  function say(labels, row, col, reading) {
    const token = (texts, place, kind) =>
      texts
        ? ["“", makeElement("bdi", { class: kind, text: visibleToken(texts[place]) }), `” at ${place}`]
        : [makeElement("span", { class: kind, text: `token ${place}` })];
    const verb = reading.allowed ? ` gives ${readingWords(reading)} to ` : " may not look at ";
    read.replaceChildren(...token(labels.queries, row, "qkv-q"), verb, ...token(labels.keys, col, "qkv-k"), reading.allowed ? "." : ": masked.");
  }

  /** What is known of the chosen cell: at once what is stored, then what Python works out. */
  async function showCell() {
    const head = shown;
    const [row, col] = cursorNow();
    const labels = labelsOf(head.layer);
    const still = () => shown === head && cursorNow()[0] === row && cursorNow()[1] === col;
    const tell = (reading, more) => {
      say(labels, row, col, reading);
      const { tracks } = head;
      why.update({
        labels, cursor: [row, col], reading, top: payload ? head.arcs.top(row) : [],
        entropy: tracks ? tracks.entropy[row] : null, count: tracks?.count?.[row] ?? null,
        received: tracks ? tracks.received[col] : null, even: tracks?.even?.[col] ?? null,
        error: entries.get(head.name).error ?? null, arithmetic: null, ...more,
      });
    };
    if (payload) tell(head.arcs.read(row, col), {});
    const cell = await python.ask("cell", { head: head.name, row, col });
    if (!still()) return;
    const exact = { allowed: cell.allowed, exact: cell.weight, low: cell.weight, high: cell.weight };
    tell(exact, { arithmetic: cell.arithmetic, top: cell.top, count: cell.count });
  }

  const failed = (error) => {
    sub.textContent = error.message;
  };
  async function show(changes = {}) {
    const name = model.get("head");
    if (name !== shown.name && entries.has(name)) {
      const count = (opening += 1);
      const opened = await open(name);
      if (count !== opening) return;
      const same = opened.layer.key_text === shown.layer.key_text && opened.layer.query_text === shown.layer.query_text;
      if (!same) pins = [];
      shown = opened;
      complete(opened).catch(failed);
    }
    const labels = labelsOf(shown.layer);
    sub.textContent = words(shown.name);
    const look = changes.theme ? { theme } : {};
    atlas.update({ ...look, chosen: shown.name });
    map.update({ ...look, source: shown.source, name: shown.name, labels, tracks: shown.tracks, cursor: cursorNow(), log: model.get("log") });
    if (changes.theme) why.update({ theme, labels });
    showArcs();
    showCell().catch(failed);
  }

  /** The thumbnails of a long text, one after another, while nobody waits for anything else. */
  async function fillAtlas() {
    for (const { name } of heads) {
      const { queries, keys } = layers.get(name);
      if (ended || payload || queries * keys > QUICK_CELLS / 8) return;
      const { numbers, rows, cols } = await python.ask("thumbnail", { head: name });
      thumbnails.set(name, { rows, cols, levels: Uint8Array.from(numbers[0]) });
      atlas.update({});
    }
  }

  python.watch(({ head, done }) => {
    if (head === shown.name) sub.textContent = done < 1 ? `${words(head)} · reading it: ${Math.round(done * 100)} %` : words(head);
  });
  const onHead = () => show();
  for (const name of ["head", "cursor", "log"]) model.on(`change:${name}`, onHead);
  const retheme = () => {
    const now = notebookTheme();
    if (now === theme) return;
    theme = now;
    applyTheme(root, theme);
    show({ theme });
  };
  const watcher = new MutationObserver(retheme);
  watcher.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
  const prefers = matchMedia("(prefers-color-scheme: dark)");
  prefers.addEventListener("change", retheme);
  const unwatch = watchWidth(root, (width) => {
    const host = root.getRootNode() instanceof ShadowRoot ? root.getRootNode() : document;
    if (!host.adoptedStyleSheets.includes(styles)) host.adoptedStyleSheets = [...host.adoptedStyleSheets, styles];
    root.classList.toggle("qkv-wide", width >= WIDE_WIDGET);
    root.classList.toggle("qkv-medium", width >= MEDIUM_WIDGET && width < WIDE_WIDGET);
  });
  let ended = false;
  await show();
  complete(shown).then(fillAtlas).catch(failed);
  return () => {
    ended = true;
    for (const name of ["head", "cursor", "log"]) model.off(`change:${name}`, onHead);
    prefers.removeEventListener("change", retheme);
    watcher.disconnect();
    unwatch();
    [python.end, atlas, map, why, ...(arcs ? [arcs] : [])].forEach((end) => end());
    root.remove();
  };
}

export default { render: ({ model, el }) => mountWidget(model, el) };
