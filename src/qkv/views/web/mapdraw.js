// How a map is drawn: where things stand, labels, tracks, numbers and the cursor.
// needs: core, maptiles

/**
 * @typedef {object} Frame where a map's parts stand, in CSS pixels
 * @property {number} width
 * @property {number} height
 * @property {number} left of the plot
 * @property {number} top of the plot
 * @property {number} plotWidth
 * @property {number} plotHeight
 * @property {number} track how thick the edge tracks are; 0 for none
 * @property {{x: number, y: number}} label the room for labels along each edge
 * @property {{x: number, y: number}} fit size of a cell when all of the map is shown
 *
 * @typedef {object} View what part of the map is shown
 * @property {number} x the column at the plot's left edge
 * @property {number} y the row at the plot's top edge
 * @property {number} zoom 1 when all of it is shown
 */

const LEAST_LABELLED = 9;
const LEAST_SIDE = 36;
/** Cells of at least this size hold their number. */
const LEAST_NUMBERED = 34;

let ruler = null;
/** How wide the widest of some labels is: texts are long, and laid out at every step of a zoom. */
const widths = new WeakMap();

/**
 * The room that labels need along an edge: as much as the longest, within reason.
 * @param {readonly string[]} labels
 * @param {number} most
 */
function labelRoom(labels, most) {
  if (!widths.has(labels)) widths.set(labels, widestOf(new Set(labels)));
  return Math.min(most, Math.ceil(widths.get(labels)) + 10);
}

function widestOf(labels) {
  ruler ??= document.createElement("canvas").getContext("2d");
  ruler.font = `12px ${MONO}`;
  let widest = 8;
  for (const label of labels) {
    // Text that is surely too wide need not be measured.
    if (label.length > 12) return Infinity;
    widest = Math.max(widest, ruler.measureText(visibleToken(label)).width);
  }
  return widest;
}

/**
 * A size, made whole in device pixels where that takes little off: then all cells look alike.
 * @param {number} size
 * @param {number} ratio device pixels to a CSS pixel
 */
function snapSize(size, ratio) {
  // Pooled cells are a power of two of cells, of one or two pixels.
  const block = 2 ** Math.max(0, Math.ceil(-Math.log2(size * ratio) - 1e-6));
  const whole = Math.floor(size * ratio * block + 1e-6);
  return whole / (size * ratio * block) > 0.85 ? whole / ratio / block : size;
}

/**
 * Where the parts of a map stand in some width.
 * @param {number} width
 * @param {{rows: number, cols: number}} count
 * @param {{tracks: boolean, queries: readonly string[] | null, keys: readonly string[] | null,
 *   zoom: number, ratio: number}} shown
 * @returns {Frame}
 */
export function frameMap(width, count, shown) {
  const narrow = width < 440;
  const track = shown.tracks ? (narrow ? 16 : 26) : 0;
  const most = narrow ? 44 : 68;
  const beside = track ? track + (narrow ? 2 : 18) : 0;
  /** The parts where labels along the edges take some room. */
  const partsWith = (label) => {
    const left = beside + label.y;
    return { label, left, top: (track ? track + 2 : 0) + label.x, across: Math.max(40, width - left - 2) };
  };
  const full = {
    x: shown.keys ? labelRoom(shown.keys, most) : 20,
    y: shown.queries ? labelRoom(shown.queries, most) : 34,
  };
  const sparse = { x: 20, y: Math.max(34, 8 + 7 * String(count.rows).length) };
  const sizes = (across) => {
    const square = Math.min(across / count.cols, across / count.rows);
    // A single row, or a single column, is drawn thicker than it is long: it could not be seen else.
    const x = Math.min(across / count.cols, Math.max(square, LEAST_SIDE / count.cols));
    const y = Math.max(square, LEAST_SIDE / count.rows);
    return { x: snapSize(x, shown.ratio), y: snapSize(y, shown.ratio) };
  };
  let parts = partsWith(full);
  let fit = sizes(parts.across);
  if (Math.min(fit.x, fit.y) < LEAST_LABELLED) {
    // Without room for labels all of the map is larger; they get their room when it is zoomed.
    parts = partsWith(sparse);
    fit = sizes(parts.across);
  }
  const height = parts.top + Math.round(Math.min(parts.across, fit.y * count.rows)) + 2;
  const right = parts.left + Math.round(Math.min(parts.across, fit.x * count.cols));
  if (Math.min(fit.x, fit.y) * shown.zoom >= LEAST_LABELLED) parts = partsWith(full);
  const { label, left, top } = parts;
  return { width, height, left, top, plotWidth: right - left, plotHeight: height - top - 2, track, label, fit };
}

/**
 * The size of a cell in CSS pixels at some zoom; whole device pixels where it has several.
 * @param {Frame} frame
 * @param {View} view
 * @param {number} ratio device pixels to a CSS pixel
 */
export function cellSize(frame, view, ratio) {
  const snap = (size) => (view.zoom > 1 && size * ratio >= 4 ? Math.round(size * ratio) / ratio : size);
  return { x: snap(frame.fit.x * view.zoom), y: snap(frame.fit.y * view.zoom) };
}

/** Lines at round numbers, for axes without room for labels. */
function tickStep(size) {
  const least = 44 / size;
  const power = 10 ** Math.floor(Math.log10(least));
  return Math.max(1, [1, 2, 5, 10].map((n) => n * power).find((n) => n >= least));
}

/** A label cut to some width. */
function cutLabel(context, label, width) {
  if (context.measureText(label).width <= width) return label;
  const characters = [...label];
  while (characters.length > 1 && context.measureText(`${characters.join("")}…`).width > width) {
    characters.pop();
  }
  return `${characters.join("")}…`;
}

/**
 * The tokens, or the numbers of some, along one edge.
 * @param {CanvasRenderingContext2D} context
 * @param {{axis: "x" | "y", frame: Frame, start: number, size: number, count: number,
 *   labels: readonly string[] | null, places?: readonly number[] | null, marked: number | null,
 *   theme: Theme}} edge
 */
export function drawEdge(context, edge) {
  const { axis, frame, start, size, count, labels, marked, theme } = edge;
  const number = (place) => String(edge.places ? edge.places[place] : place);
  const colors = themeColors(theme);
  const length = axis === "x" ? frame.plotWidth : frame.plotHeight;
  const [first, last] = shownRange(start, size, length, count);
  const full = labels !== null && size >= LEAST_LABELLED;
  const font = full ? Math.min(13, Math.max(9, Math.floor(size * 0.95))) : 11;
  context.save();
  context.textBaseline = "middle";
  const write = (place, text, color, family) => {
    const middle = (place + 0.5 - start) * size;
    if (middle < -1 || middle > length + 1) return;
    context.font = `${font}px ${family}`;
    context.fillStyle = color;
    context.direction = runsLeft(text) ? "rtl" : "ltr";
    const shown = cutLabel(context, text, full || axis === "y" ? frame.label[axis] - 7 : 60);
    if (axis === "y") {
      context.textAlign = "right";
      context.fillText(shown, frame.left - 5, frame.top + middle);
    } else if (!full || context.measureText(shown).width <= size + 1 || [...shown].length === 1) {
      context.textAlign = "center";
      context.fillText(shown, frame.left + middle, frame.top - 4 - font / 2);
    } else {
      context.save();
      context.translate(frame.left + middle, frame.top - 5);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(shown, 0, 0);
      context.restore();
    }
  };
  if (full) {
    for (let place = first; place < last; place++) {
      if (place !== marked) write(place, visibleToken(labels[place]), colors.soft, MONO);
    }
  } else {
    const step = tickStep(size);
    for (let place = Math.ceil(first / step) * step; place < last; place += step) {
      const near = marked !== null && Math.abs(place - marked) * size < (axis === "x" ? 40 : 14);
      if (!near) write(place, number(place), colors.soft, SANS);
    }
  }
  if (marked !== null) {
    const text = labels ? visibleToken(labels[marked]) : number(marked);
    write(marked, text, axis === "y" ? colors.q : colors.k, labels ? MONO : SANS);
  }
  context.restore();
}

/**
 * One edge track: a bar for each place, and a line for what evenly spread rows would give.
 * @param {CanvasRenderingContext2D} context
 * @param {{axis: "x" | "y", frame: Frame, start: number, size: number, values: ArrayLike<number>,
 *   even: ArrayLike<number> | null, scale: (value: number) => number, color: string,
 *   marked: number | null, ink: string}} track
 */
export function drawTrack(context, track) {
  const { axis, frame, start, size, values, even, scale, color, marked, ink } = track;
  const length = axis === "x" ? frame.plotWidth : frame.plotHeight;
  const base = (axis === "x" ? frame.top : frame.left) - frame.label[axis];
  const rect = (at, thick, high) => {
    if (axis === "x") context.fillRect(frame.left + at, base - high, thick, high);
    else context.fillRect(base - high, frame.top + at, high, thick);
  };
  const gap = size >= 4 ? 1 : 0;
  const [first, last] = shownRange(start, size, length, values.length);
  context.save();
  context.beginPath();
  if (axis === "x") context.rect(frame.left, 0, length, frame.top);
  else context.rect(0, frame.top, frame.left, length);
  context.clip();
  for (let place = first; place < last; place++) {
    context.globalAlpha = place === marked ? 1 : 0.5;
    context.fillStyle = color;
    rect((place - start) * size, Math.max(size - gap, 0.5), frame.track * scale(values[place]));
  }
  if (even) {
    context.globalAlpha = 0.8;
    context.fillStyle = ink;
    for (let place = first; place < last; place++) {
      const high = frame.track * scale(even[place]);
      const at = (place - start) * size;
      if (axis === "x") context.fillRect(frame.left + at, base - high, size, 1);
      else context.fillRect(base - high, frame.top + at, 1, size);
    }
  }
  context.restore();
}

/**
 * Both edge tracks: what each key receives, and how spread out each row is.
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {object} rows as `drawEdge` takes an edge
 * @param {object} cols
 * @param {MapProps} props
 */
export function drawTracks(context, frame, rows, cols, { tracks, cursor, log, theme }) {
  const colors = themeColors(theme);
  const mostEntropy = Math.log(Math.max(2, cols.count));
  let [least, most] = [Infinity, 0];
  for (const value of tracks.received) {
    if (value > 0) least = Math.min(least, value);
    most = Math.max(most, value);
  }
  // A sink that takes hundreds of times the others' share would else leave them no height.
  const floor = Math.max(least, most / 1e4) / 1.5;
  const grow = (value) => {
    const part = log ? Math.log(value / floor) / Math.log(most / floor) : value / most;
    return Number.isFinite(part) ? Math.max(0, Math.min(1, part)) : 0;
  };
  const ceiling = tracks.count ? Float32Array.from(tracks.count, (n) => Math.log(Math.max(1, n))) : null;
  drawTrack(context, {
    ...cols, frame, values: tracks.received, even: tracks.even ?? null, scale: grow,
    color: colors.k, ink: colors.soft, marked: cursor && cursor[1],
  });
  drawTrack(context, {
    ...rows, frame, values: tracks.entropy, even: ceiling, scale: (nats) => nats / mostEntropy,
    color: colors.q, ink: colors.soft, marked: cursor && cursor[0],
  });
  if (frame.width < 440) return;
  context.save();
  context.translate(8, frame.top + Math.min(frame.plotHeight, frame.height));
  context.rotate(-Math.PI / 2);
  context.font = `13px ${SANS}`;
  context.fillStyle = colors.q;
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.fillText("entropy", 0, 0);
  context.restore();
}

/**
 * The cursor: its cell outlined, its row in the colour of q, its column in that of k.
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {View} view
 * @param {{x: number, y: number}} size
 * @param {[number, number]} cursor
 * @param {Colors} colors
 */
export function drawCursor(context, frame, view, size, cursor, colors) {
  const x = frame.left + (cursor[1] - view.x) * size.x;
  const y = frame.top + (cursor[0] - view.y) * size.y;
  context.save();
  context.beginPath();
  context.rect(frame.left - 2, frame.top - 2, frame.plotWidth + 4, frame.plotHeight + 4);
  context.clip();
  context.lineWidth = 1;
  context.globalAlpha = 0.55;
  const band = (color, left, top, width, height) => {
    context.strokeStyle = color;
    context.strokeRect(left, top, width, height);
  };
  band(colors.q, frame.left - 0.5, y - 0.5, Math.max(0, x - frame.left), size.y + 1);
  band(colors.k, x - 0.5, frame.top - 0.5, size.x + 1, Math.max(0, y - frame.top));
  context.globalAlpha = 1;
  const side = { x: Math.max(size.x, 5), y: Math.max(size.y, 5) };
  const [left, top] = [x + (size.x - side.x) / 2, y + (size.y - side.y) / 2];
  context.lineWidth = 3;
  context.strokeStyle = colors.paper;
  context.strokeRect(left - 0.5, top - 0.5, side.x + 1, side.y + 1);
  context.lineWidth = 1.5;
  context.strokeStyle = colors.ink;
  context.strokeRect(left - 0.5, top - 0.5, side.x + 1, side.y + 1);
  context.restore();
}

/**
 * The numbers of cells that are large enough to hold them, and that are known at once.
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {View} view
 * @param {{x: number, y: number}} size
 * @param {MapSource} source
 * @param {{theme: Theme, log: boolean}} look
 */
export function drawNumbers(context, frame, view, size, source, { theme, log }) {
  if (!source.known || Math.min(size.x, size.y) < LEAST_NUMBERED) return;
  const colors = themeColors(theme);
  const [top, bottom] = shownRange(view.y, size.y, frame.plotHeight, source.rows);
  const [left, right] = shownRange(view.x, size.x, frame.plotWidth, source.cols);
  context.save();
  context.beginPath();
  context.rect(frame.left, frame.top, frame.plotWidth, frame.plotHeight);
  context.clip();
  context.font = `13px ${SANS}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let row = top; row < bottom; row++) {
    for (let col = left; col < right; col++) {
      const weight = source.known(row, col);
      if (weight === null || weight < 0.005) continue;
      context.fillStyle = rampPlace(weight, log) > 0.5 ? colors.paper : colors.ink;
      const text = weight.toFixed(2).replace(/^0/, "").replace("1.00", "1");
      const x = frame.left + (col + 0.5 - view.x) * size.x;
      context.fillText(text, x, frame.top + (row + 0.5 - view.y) * size.y, size.x - 4);
    }
  }
  context.restore();
}
