// The exported page: atlas, map, reasons and text around one state. State goes down, events come up.
// needs: core, payload, map, arcs, atlas, table, why

/** Columns that stand beside the sorted one in the short table. */
const SHORT_COLUMNS = 3;

/**
 * Compose a page from an open payload.
 * @param {HTMLElement} element
 * @param {OpenPayload} payload
 * @param {(theme: Theme) => void} onTheme
 * @returns {Promise<(() => void) & {read: (name: string, row: number, col: number) => Promise<Reading>,
 *   select: (name: string, row?: number, col?: number) => Promise<void>}>} what cleans up, and ways
 *   to ask the page from outside
 */
export async function mountPage(element, payload, onTheme) {
  const { header } = payload;
  const heads = payload.heads.map(({ entry }) => entry);
  const layerOf = new Map(payload.heads.map(({ entry, layer }) => [entry.name, layer]));
  const entryOf = new Map(heads.map((entry) => [entry.name, entry]));
  const columns = header.table;
  const lifts = columns.find((column) => column.name === "lift");
  const prefers = matchMedia("(prefers-color-scheme: dark)");
  const first = entryOf.get(header.begin) ?? heads[0];
  /** The column that a head's kind is named after, or none. */
  const columnOf = (entry) => columns.find((column) => entry.kind && entry.kind.startsWith(column.name));
  let state = {
    head: first.name,
    // A page that was saved while something was looked at begins there.
    cursor: header.cell ?? startCursor(first),
    direction: "out",
    pins: [],
    log: header.log ?? true,
    sort: { column: (columnOf(first) ?? columns.find((column) => column !== lifts) ?? columns[0])?.name ?? null, down: columns.length > 0 },
    ordered: false,
    theme: /** @type {Theme} */ (prefers.matches ? "dark" : "light"),
  };
  let stored = await payload.head(state.head);
  let source = storedSource(stored);
  let loading = 0;

  function startCursor(entry) {
    return entry.strongest ? entry.strongest.slice(0, 2) : [0, 0];
  }

  const labelsOf = (name) => {
    const layer = layerOf.get(name);
    return {
      queries: header.texts[layer.query_text].labels,
      keys: header.texts[layer.key_text].labels,
      places: layer.places,
    };
  };

  /** What is said of a head: its kind and that score, and the score that heads are sorted by. */
  function headWords(name) {
    const entry = entryOf.get(name);
    const at = heads.indexOf(entry);
    const parts = [entry.kind ? `${name}, ${entry.kind}` : name];
    const sorted = columns.find((column) => column.name === state.sort.column);
    for (const column of new Set([columnOf(entry), sorted])) {
      if (!column || column.values[at] === null) continue;
      const [count, chance] = [scoreOf(column.count, at), scoreOf(column.chance, at)];
      const over = count === null ? "" : ` over ${count.toLocaleString("en")} rows`;
      const lift = column === columnOf(entry) ? (lifts?.values[at] ?? null) : null;
      const told = [
        // Where chance is perfect already, as of uniform, it says nothing.
        chance === null || chance === column.ceiling ? "" : `chance ${briefNumber(chance)}`,
        lift === null ? "" : `lift ${briefNumber(lift)}`,
      ].filter(Boolean);
      const against = told.length ? ` (${told.join(", ")})` : "";
      parts.push(`${column.name} ${briefNumber(column.values[at])}${over}${against}`);
    }
    if (layerOf.get(name).window) parts.push(`window of ${layerOf.get(name).window}`);
    if (entry.note) parts.push(entry.note);
    return parts.join(" · ");
  }

  const parts = layPage(element, header, {
    onTheme: () => set({ theme: state.theme === "dark" ? "light" : "dark" }),
    onOrder: (ordered) => set({ ordered }),
  });

  const chooseCell = (row, col) => set({ cursor: [row, col] });
  const theme = state.theme;
  const atlas = mountAtlas(parts.atlas, {
    heads, thumbnails: await payload.thumbnails(), chosen: state.head, order: null, theme,
    describe: headWords, onChoose: select,
  });
  const short = columns.length
    ? mountScores(parts.short, {
        heads, columns: [], caption: "heads in the order of a score", sort: state.sort, chosen: state.head, theme,
        onChoose: select, onSort: (sort) => set({ sort }),
      })
    : null;
  const all = columns.length
    ? mountScores(parts.scores, {
        heads, columns, caption: "every score of every head", kinds: heads.some((entry) => entry.kind), sort: state.sort, chosen: state.head, theme,
        onChoose: select, onSort: (sort) => set({ sort }),
      })
    : null;
  const map = mountMap(parts.map, {
    source, name: state.head, labels: labelsOf(state.head), cursor: state.cursor, tracks: stored,
    theme, log: state.log, onCursor: chooseCell, onLog: (log) => set({ log }),
  });
  const why = mountWhy(parts.why, { theme, onCursor: chooseCell });
  const arcs = mountArcs(parts.arcs, {
    ...arcTexts(), source: stored, chosen: state.cursor[0], pins: state.pins, direction: state.direction,
    theme, log: state.log,
    onChoose: (place) => {
      const [row, col] = state.cursor;
      set({ cursor: state.direction === "out" ? [place, bestKey(place)] : [bestQuery(place, row), place ?? col] });
    },
    onPins: (pins) => set({ pins }),
    onDirection: (direction) => set({ direction, pins: [] }),
  });

  function arcTexts() {
    const layer = layerOf.get(state.head);
    const queries = layer.places === null ? header.texts[layer.query_text] : null;
    return { keys: header.texts[layer.key_text], queries, places: layer.places };
  }

  /** The key that a token looks at most: where the cursor goes when a token is chosen. */
  function bestKey(row) {
    return stored.top(row)[0]?.key ?? 0;
  }

  function bestQuery(col, otherwise) {
    const weights = stored.column(col);
    let best = -1;
    weights.forEach((weight, at) => {
      if (weight > (weights[best] ?? 0)) best = at;
    });
    return best < 0 ? otherwise : best;
  }

  async function select(name, row, col) {
    const entry = entryOf.get(name);
    const count = (loading += 1);
    const opened = await payload.head(name);
    if (count !== loading) return;
    stored = opened;
    source = storedSource(stored);
    const before = layerOf.get(state.head);
    const layer = layerOf.get(name);
    const same = before.query_text === layer.query_text && before.key_text === layer.key_text;
    // The cell stays where it is from head to head, so that heads can be compared there.
    const cursor = row === undefined ? (same ? state.cursor : startCursor(entry)) : [row, col];
    set({ head: name, cursor, pins: same ? state.pins : [] });
  }

  function set(changes) {
    const before = state;
    state = { ...state, ...changes };
    show(Object.fromEntries(Object.entries(state).filter(([name, value]) => value !== before[name])));
  }

  /** Hand the state down. */
  function show(changed) {
    const { head, cursor, sort, log, direction, pins, ordered } = state;
    const labels = labelsOf(head);
    const reading = stored.read(cursor[0], cursor[1]);
    const look = "theme" in changed ? { theme: state.theme } : {};
    if ("theme" in changed) {
      parts.setTheme(state.theme);
      onTheme(state.theme);
    }
    parts.say(labels, cursor, reading);
    parts.sub.textContent = headWords(head);
    if ("head" in changed || "sort" in changed || "ordered" in changed || "theme" in changed) showHeads(look);
    parts.order.update(ordered);
    map.update({ ...look, name: head, labels, source, tracks: stored, cursor, log });
    why.update({
      ...look, labels, cursor, reading, top: stored.top(cursor[0]), entropy: stored.entropy[cursor[0]],
      count: stored.count[cursor[0]], received: stored.received[cursor[1]], even: stored.even[cursor[1]],
      error: entryOf.get(head).error,
    });
    const chosen = direction === "out" ? cursor[0] : cursor[1];
    arcs.update({ ...look, ...arcTexts(), source: stored, chosen, pins, direction, log });
  }

  function showHeads(look) {
    const { head, sort, ordered } = state;
    const names = sortHeads(columns, heads.length, sort).map((at) => heads[at].name);
    const sorted = columns.find((column) => column.name === sort.column);
    const words = (name) => (sorted ? briefNumber(sorted.values[heads.indexOf(entryOf.get(name))]) : "");
    atlas.update({ ...look, chosen: head, order: ordered ? { names, words } : null });
    const others = columns.filter((column) => column !== sorted).slice(0, SHORT_COLUMNS - 1);
    short?.update({ ...look, columns: sorted ? [sorted, ...others] : others, sort, chosen: head });
    all?.update({ ...look, sort, chosen: head });
  }

  const ending = new AbortController();
  const listen = (target, name, listener) => target.addEventListener(name, listener, { signal: ending.signal });
  listen(prefers, "change", () => set({ theme: prefers.matches ? "dark" : "light" }));
  // Paper is light.
  let onScreen = null;
  listen(window, "beforeprint", () => {
    onScreen = state.theme;
    set({ theme: "light" });
  });
  listen(window, "afterprint", () => set({ theme: onScreen ?? state.theme }));

  show(state);
  const cleanUp = () => {
    ending.abort();
    [atlas, short, all, map, why, arcs].forEach((end) => end?.());
    element.replaceChildren();
  };
  const read = async (name, row, col) => (await payload.head(name)).read(row, col);
  return Object.assign(cleanUp, { read, select });
}

/**
 * The page's frame: what stands where.
 * @param {HTMLElement} element
 * @param {Record<string, any>} header
 * @param {{onTheme: () => void, onOrder: (ordered: boolean) => void}} on
 */
function layPage(element, header, on) {
  const section = (name, title, ...inside) => {
    const id = uniqueId(name);
    const heading = makeElement("h2", { id, text: title });
    return makeElement("section", { class: name, "aria-labelledby": id }, makeElement("div", { class: "heading" }, heading, ...inside));
  };
  const logo = makeElement("span", { class: "logo", "aria-label": "qkv", role: "img" },
    ...["q", "k", "v"].map((letter) => makeElement("i", { class: letter, "aria-hidden": "true", text: letter })));
  const heads = header.layers.reduce((count, layer) => count + layer.heads.length, 0);
  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
  const tokens = Math.max(...header.texts.map((text) => text.size));
  const facts = [plural(header.layers.length, "layer"), plural(heads, "head"), plural(tokens, "token"), header.note];
  const toggle = makeElement("button", { type: "button", class: "theme", onclick: on.onTheme });
  const bar = makeElement("header", {}, logo,
    makeElement("h1", { text: header.title || "attention" }),
    makeElement("p", { class: "facts", text: facts.filter(Boolean).join(" · ") }), toggle);

  const read = makeElement("p", { class: "read" });
  const sub = makeElement("p", { class: "sub" });
  const order = mountChoices("Order of the heads", [[false, "by layer"], [true, "by score"]], on.onOrder);
  order.root.hidden = header.table.length === 0;
  const parts = {
    heads: section("heads", "Every head", order.root),
    map: section("map", "Who looks at whom"),
    why: section("why", "Why this weight"),
    arcs: section("arcs", "In the text"),
    scores: section("scores", "Every score"),
  };
  parts.scores.hidden = header.table.length === 0;
  const atlas = makeElement("div");
  const short = makeElement("div", { class: "short" });
  parts.heads.append(atlas, short);
  const main = makeElement("main", {}, read, sub,
    makeElement("div", { class: "columns" }, parts.heads, parts.map, parts.why), parts.arcs, parts.scores);
  element.replaceChildren(bar, main);

  const token = (labels, at, place, kind) =>
    labels
      ? [makeElement("bdi", { class: `token ${kind}`, text: visibleToken(labels[at]) }), ` at ${place}`]
      : [makeElement("span", { class: kind, text: `token ${place}` })];

  /** The sentence at the top: the chosen cell read aloud. */
  function say(labels, [row, col], reading) {
    const place = labels.places?.[row] ?? row;
    const asker = token(labels.queries, row, place, "q");
    const own = labels.places !== null && place === col;
    const asked = own ? ["itself"] : token(labels.keys, col, col, "k");
    if (!reading.allowed) {
      read.replaceChildren(...asker, " may not look at ", ...asked, ": the mask forbids it.");
      return;
    }
    const words = readingWords(reading);
    const amount = reading.exact === null && reading.low > 0 ? `between ${words.replace(" to ", " and ")}` : words;
    const back = own || labels.places === null ? "" : place > col ? "back " : "ahead ";
    read.replaceChildren(...asker, ` looks ${back}at `, ...asked, `, and gives it ${amount} of its attention.`);
  }

  function setTheme(theme) {
    applyTheme(element, theme);
    toggle.textContent = theme === "dark" ? "light" : "dark";
    toggle.setAttribute("aria-label", `change to ${toggle.textContent} colours`);
  }
  return { ...parts, atlas, short, read, sub, order, say, setTheme };
}
