// One head's weights as a picture: tiles, zoom and pan, a cursor for pointer and keyboard, tracks.
// needs: core, mapdraw, maptiles, mapinput, legend

/**
 * @typedef {object} MapSource where a map's weights come from; anything that answers these will do
 * @property {number} rows queries
 * @property {number} cols keys
 * @property {readonly string[]} hows how cells are pooled when there are more than pixels: max, sum
 * @property {(level: number, rows: [number, number], cols: [number, number], how: string,
 *   signal: AbortSignal) => Promise<Float32Array>} tile weights, row after row, NaN where forbidden; each stands for
 *   2^level by 2^level cells, and rows and cols, [start, stop), count such blocks
 * @property {(row: number, col: number) => Reading | Promise<Reading>} read
 * @property {(row: number, col: number) => number | null} [known] a weight, where known at once
 * @property {(row: number) => number | null} [uniform] how many keys the row may look at
 * @property {boolean} [signed] whether these are changes of weights
 *
 * @typedef {object} MapTracks
 * @property {ArrayLike<number>} received by each key
 * @property {ArrayLike<number>} entropy of each row, in nats
 * @property {ArrayLike<number> | null} [even] received by each key if every row spread itself evenly
 * @property {ArrayLike<number> | null} [count] how many keys each row may look at
 *
 * @typedef {object} MapProps
 * @property {MapSource} source
 * @property {string} name such as "L3H7"
 * @property {Labels} labels
 * @property {[number, number] | null} cursor row and column
 * @property {MapTracks | null} [tracks]
 * @property {Theme} theme
 * @property {boolean} log
 * @property {string} [how] "max" or "sum"
 * @property {(row: number, col: number) => void} [onCursor] a cell was chosen
 * @property {(log: boolean) => void} [onLog] the scale was chosen
 * @property {(how: string) => void} [onHow] the pooling was chosen
 * @property {View} [view] the part to begin with
 * @property {(view: View, shown: {rows: [number, number], cols: [number, number]}) => void} [onView]
 *   another part is shown: its queries and keys, [first, last + 1)
 * @property {(error: Error) => void} [onProblem] weights did not come
 */

const LARGEST_CELL = 64;
const PAGE_ROWS = 16;

/**
 * Mount a map.
 * @param {HTMLElement} element
 * @param {MapProps} props
 * @returns {(() => void) & {update: (props: Partial<MapProps>) => void}} what cleans up
 */
export function mountMap(element, props) {
  let state = { how: "max", tracks: null, ...props };
  let width = 0;
  let hover = null;
  let frame = null;
  const view = { x: 0, y: 0, zoom: 1, ...props.view };
  let told = "";
  const failed = (error) => state.onProblem?.(error);
  let tiles = keepTiles(state.source, () => schedule(), failed);
  let asked = 0;
  let drawing = 0;

  const helpId = uniqueId("map-help");
  const canvas = makeElement("canvas", {
    tabindex: "0",
    role: "application",
    "aria-roledescription": "map of attention",
    "aria-describedby": helpId,
  });
  const tip = makeElement("div", { class: "qkv-tip", hidden: true, "aria-hidden": "true" });
  const live = makeElement("p", { class: "qkv-unseen", "aria-live": "polite" });
  const help = makeElement("p", {
    class: "qkv-unseen",
    id: helpId,
    text:
      "Arrow keys move from cell to cell, Home and End along the row, Page Up and Page Down by " +
      "sixteen rows; plus and minus zoom, zero shows all.",
  });
  const received = makeElement("span", { class: "qkv-k", text: "received" });
  const axes = makeElement("p", { class: "qkv-axes" });
  axes.append(makeElement("span", { text: "this token ↓ looks at →" }), received);
  const stage = makeElement("div", { class: "qkv-stage" }, canvas, tip);
  const foot = makeElement("div", { class: "qkv-foot" });
  const root = makeElement("div", { class: "qkv-map" }, axes, stage, foot, help, live);
  element.append(root);
  const legend = mountLegend(foot, { theme: state.theme, log: state.log, uniform: null });
  const tools = mountMapTools(foot, {
    onZoom: (factor) => zoomAt(factor, null),
    onLog: (log) => state.onLog?.(log),
    onHow: (how) => state.onHow?.(how),
  });

  const ratio = () => window.devicePixelRatio || 1;
  const size = () => cellSize(frame, view, ratio());
  /** How cells are pooled: as was chosen, where the source can. */
  const how = () => (state.source.hows.includes(state.how) ? state.how : state.source.hows[0]);

  function layout() {
    const { source, tracks, labels } = state;
    const shown = { ...labels, tracks: tracks !== null, zoom: view.zoom, ratio: ratio() };
    frame = frameMap(width, { rows: source.rows, cols: source.cols }, shown);
    axes.style.paddingLeft = `${frame.left}px`;
    axes.style.width = `${Math.max(260, frame.left + frame.plotWidth)}px`;
    foot.style.paddingLeft = `${frame.left}px`;
    foot.style.maxWidth = `${Math.max(300, frame.left + frame.plotWidth)}px`;
    received.hidden = tracks === null;
    keepInside();
  }

  /** Keep the view within the map. */
  function keepInside() {
    const cell = size();
    const most = { x: state.source.cols - frame.plotWidth / cell.x, y: state.source.rows - frame.plotHeight / cell.y };
    for (const axis of ["x", "y"]) view[axis] = Math.max(0, Math.min(view[axis], most[axis]));
    if (view.zoom <= 1) view.x = view.y = 0;
    canvas.style.touchAction = view.zoom > 1 ? "none" : "pan-y";
    canvas.classList.toggle("qkv-zoomed", view.zoom > 1);
  }

  function draw() {
    drawing = 0;
    if (!frame) return;
    const { source, theme, cursor, labels } = state;
    const colors = themeColors(theme);
    const { context } = sizeCanvas(canvas, frame.width, frame.height);
    const cell = size();
    const edge = { frame, theme };
    context.save();
    context.beginPath();
    const shownWidth = Math.min(frame.plotWidth, (source.cols - view.x) * cell.x);
    const shownHeight = Math.min(frame.plotHeight, (source.rows - view.y) * cell.y);
    context.rect(frame.left, frame.top, shownWidth, shownHeight);
    context.clip();
    tiles.paint(context, frame, view, cell, { theme, log: state.log, how: how(), ratio: ratio() });
    context.restore();
    drawNumbers(context, frame, view, cell, source, state);
    const rows = { axis: "y", start: view.y, size: cell.y, count: source.rows, labels: labels.queries, places: labels.places };
    const cols = { axis: "x", start: view.x, size: cell.x, count: source.cols, labels: labels.keys };
    drawEdge(context, { ...edge, ...rows, marked: cursor && cursor[0] });
    drawEdge(context, { ...edge, ...cols, marked: cursor && cursor[1] });
    if (state.tracks) drawTracks(context, frame, rows, cols, state);
    if (cursor) drawCursor(context, frame, view, cell, cursor, colors);
    if (canvas.matches(":focus-visible")) {
      context.strokeStyle = colors.ink;
      context.lineWidth = 2;
      context.strokeRect(frame.left - 2, frame.top - 2, shownWidth + 4, shownHeight + 4);
    }
    if (hover) {
      context.lineWidth = 1;
      context.strokeStyle = colors.soft;
      context.strokeRect(
        frame.left + (hover[1] - view.x) * cell.x - 0.5,
        frame.top + (hover[0] - view.y) * cell.y - 0.5,
        cell.x + 1,
        cell.y + 1,
      );
    }
    tellView(cell);
  }

  function tellView(cell) {
    const now = `${view.x} ${view.y} ${view.zoom}`;
    if (now === told) return;
    told = now;
    const { rows, cols } = state.source;
    state.onView?.({ ...view }, {
      rows: shownRange(view.y, cell.y, frame.plotHeight, rows),
      cols: shownRange(view.x, cell.x, frame.plotWidth, cols),
    });
  }

  function schedule() {
    if (!drawing) drawing = requestAnimationFrame(draw);
  }

  /** Zoom about a point of the canvas, or about the cursor. */
  function zoomAt(factor, point) {
    const before = size();
    const at = point ?? pointOfCursor(before);
    const place = { x: view.x + (at.x - frame.left) / before.x, y: view.y + (at.y - frame.top) / before.y };
    const most = Math.max(1, LARGEST_CELL / Math.min(frame.fit.x, frame.fit.y));
    view.zoom = factor === 0 ? 1 : Math.max(1, Math.min(most, view.zoom * factor));
    layout();
    const after = size();
    view.x = place.x - (at.x - frame.left) / after.x;
    view.y = place.y - (at.y - frame.top) / after.y;
    keepInside();
    schedule();
  }

  function pointOfCursor(cell) {
    const [row, col] = state.cursor ?? [view.y, view.x];
    return { x: frame.left + (col + 0.5 - view.x) * cell.x, y: frame.top + (row + 0.5 - view.y) * cell.y };
  }

  function pan(across, down) {
    const cell = size();
    view.x -= across / cell.x;
    view.y -= down / cell.y;
    keepInside();
    schedule();
  }

  /** The cell under a point of the canvas, or null. */
  function cellAt(point) {
    const cell = size();
    const col = Math.floor(view.x + (point.x - frame.left) / cell.x);
    const row = Math.floor(view.y + (point.y - frame.top) / cell.y);
    const inside = point.x >= frame.left && point.y >= frame.top;
    return inside && row < state.source.rows && col < state.source.cols ? [row, col] : null;
  }

  function choose(row, col) {
    const at = [
      Math.max(0, Math.min(row, state.source.rows - 1)),
      Math.max(0, Math.min(col, state.source.cols - 1)),
    ];
    update({ cursor: at });
    state.onCursor?.(at[0], at[1]);
  }

  /** Bring the cursor into view. */
  function follow() {
    if (!state.cursor || !frame) return;
    const cell = size();
    const room = { x: frame.plotWidth / cell.x, y: frame.plotHeight / cell.y };
    const [row, col] = state.cursor;
    view.x = Math.min(col, Math.max(view.x, col + 1 - room.x));
    view.y = Math.min(row, Math.max(view.y, row + 1 - room.y));
    keepInside();
  }

  async function speak() {
    const { cursor, source, labels } = state;
    if (!cursor) return;
    legend.update({ uniform: source.uniform?.(cursor[0]) ?? null });
    const reading = await Promise.resolve(source.read(cursor[0], cursor[1])).catch(failed);
    if (!reading || cursor !== state.cursor || source !== state.source) return;
    live.textContent = spokenCell(labels, cursor[0], cursor[1], reading);
  }

  async function showTip(cell, point) {
    const { source, labels } = state;
    if (!cell || !source.read) {
      tip.hidden = true;
      return;
    }
    const count = (asked += 1);
    const reading = await Promise.resolve(source.read(cell[0], cell[1])).catch(failed);
    if (!reading || count !== asked || source !== state.source) return;
    const [row, col] = cell;
    tip.replaceChildren(
      makeElement("span", { class: "qkv-q", text: spokenQuery(labels, row) }),
      " → ",
      makeElement("span", { class: "qkv-k", text: spokenKey(labels, col) }),
      makeElement("b", { text: readingWords(reading) }),
    );
    tip.hidden = false;
    const right = point.x > frame.width / 2;
    tip.style.left = right ? "" : `${point.x + 14}px`;
    tip.style.right = right ? `${width - point.x + 14}px` : "";
    tip.style.top = `${point.y + 14}px`;
  }

  const release = listenMap(canvas, {
    zoomed: () => view.zoom > 1,
    zoom: zoomAt,
    pan,
    pick: (point) => {
      const cell = cellAt(point);
      if (cell) choose(cell[0], cell[1]);
    },
    hover: (point) => {
      hover = point && cellAt(point);
      showTip(hover, point);
      schedule();
    },
    move: (key, far) => {
      const [row, col] = state.cursor ?? [0, 0];
      const { rows, cols } = state.source;
      const moves = {
        ArrowUp: [row - 1, col], ArrowDown: [row + 1, col],
        ArrowLeft: [row, col - 1], ArrowRight: [row, col + 1],
        Home: far ? [0, col] : [row, 0], End: far ? [rows - 1, col] : [row, cols - 1],
        PageUp: [row - PAGE_ROWS, col], PageDown: [row + PAGE_ROWS, col],
      };
      if (!moves[key]) return false;
      choose(moves[key][0], moves[key][1]);
      return true;
    },
  });

  function update(changes) {
    const before = state;
    state = { ...state, ...changes };
    if (state.source !== tiles.source) {
      tiles.end();
      tiles = keepTiles(state.source, schedule, failed);
      const { rows, cols } = before.source;
      if (rows !== state.source.rows || cols !== state.source.cols) Object.assign(view, { x: 0, y: 0, zoom: 1 });
    }
    if (changes.theme) applyTheme(root, state.theme);
    legend.update({ theme: state.theme, log: state.log, signed: Boolean(state.source.signed) });
    tools.update({ log: state.log, how: how(), hows: state.onHow ? state.source.hows : [] });
    canvas.setAttribute("aria-label", `${state.name}: who looks at whom`);
    if (width) layout();
    // Only a cell that is another: what is told again must not bring back what was panned away.
    if (changes.cursor && String(changes.cursor) !== String(before.cursor)) follow();
    speak();
    // Drawn at once where the look changes: a page that is printed has no next frame.
    if (changes.theme) draw();
    else schedule();
  }

  canvas.addEventListener("focus", schedule);
  canvas.addEventListener("blur", schedule);
  const unwatch = watchWidth(stage, (now) => {
    width = now;
    layout();
    draw();
  });
  update({ ...props });
  const cleanUp = () => {
    cancelAnimationFrame(drawing);
    tiles.end();
    [unwatch, release, legend, tools].forEach((end) => end());
    root.remove();
  };
  return Object.assign(cleanUp, { update });
}
