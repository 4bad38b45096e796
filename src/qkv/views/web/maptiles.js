// A map's tiles: asked for once, kept while they are looked at, painted when they have come.
// needs: core

const TILE = 256;
/** A view has up to some dozens; those of views before are kept while there is room. */
const KEPT_TILES = 64;
/** How many times coarser a tile may be that stands in for one that has not come. */
const COARSER = 8;

/**
 * Weights as a picture of one pixel a cell; what is forbidden (NaN) is left clear.
 * @param {Float32Array} values
 * @param {number} wide
 * @param {Theme} theme
 * @param {boolean} log
 * @param {boolean} [signed] whether they are changes: what became less has a ramp of its own
 * @returns {HTMLCanvasElement}
 */
export function tilePicture(values, wide, theme, log, signed = false) {
  const high = values.length / wide;
  const canvas = document.createElement("canvas");
  canvas.width = wide;
  canvas.height = high;
  const context = canvas.getContext("2d");
  const image = context.createImageData(wide, high);
  const more = rampTable(theme);
  const less = signed ? rampTable(theme, "fall") : more;
  for (let at = 0; at < values.length; at++) {
    if (Number.isNaN(values[at])) continue;
    const step = Math.round(rampPlace(signed ? Math.abs(values[at]) : values[at], log) * 255) * 3;
    const table = values[at] < 0 ? less : more;
    image.data[at * 4] = table[step];
    image.data[at * 4 + 1] = table[step + 1];
    image.data[at * 4 + 2] = table[step + 2];
    image.data[at * 4 + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

const hatches = new Map();

/** The hatching of what is forbidden, in device pixels. */
export function hatchPattern(context, theme, ratio) {
  const key = `${theme} ${ratio}`;
  if (!hatches.has(key)) {
    const side = Math.round(6 * ratio);
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = side;
    const pen = canvas.getContext("2d");
    pen.strokeStyle = themeColors(theme).hatch;
    pen.lineWidth = ratio * 0.8;
    // Three strokes, so that the pattern meets itself at its corners.
    for (const shift of [-side, 0, side]) {
      pen.moveTo(shift - 1, side + 1);
      pen.lineTo(shift + side + 1, -1);
    }
    pen.stroke();
    hatches.set(key, canvas);
  }
  const pattern = context.createPattern(hatches.get(key), "repeat");
  pattern.setTransform(new DOMMatrix().scale(1 / ratio));
  return pattern;
}

/** The rows or columns that a plot shows, [first, last + 1). */
export function shownRange(start, size, length, count) {
  return [Math.max(0, Math.floor(start)), Math.min(count, Math.ceil(start + length / size - 1e-6))];
}

/**
 * Tiles of one source.
 * @param {MapSource} source
 * @param {() => void} onTile a tile has come
 * @param {(error: Error) => void} onProblem one did not
 */
export function keepTiles(source, onTile, onProblem) {
  const tiles = new Map();

  function ask(level, row, col, how) {
    const key = `${how} ${level} ${row} ${col}`;
    const kept = tiles.get(key);
    if (kept) {
      // The least lately used stands first, and goes first.
      tiles.delete(key);
      tiles.set(key, kept);
      return kept;
    }
    const end = (place, count) => Math.min((place + 1) * TILE, Math.ceil(count / 2 ** level));
    const rows = [row * TILE, end(row, source.rows)];
    const cols = [col * TILE, end(col, source.cols)];
    const stop = new AbortController();
    const tile = { values: null, wide: cols[1] - cols[0], high: rows[1] - rows[0], picture: null, look: "", stop };
    tiles.set(key, tile);
    source.tile(level, rows, cols, how, stop.signal).then(
      (values) => {
        tile.values = values;
        onTile();
      },
      // Forgotten, so that it is asked for again when it is next looked at.
      (error) => {
        if (tiles.get(key) === tile) tiles.delete(key);
        if (!stop.signal.aborted) onProblem(error);
      },
    );
    return tile;
  }

  /** Let go of what was asked for and is not looked at any more, and of what wasn't for long. */
  function letGo(wanted) {
    for (const [key, tile] of tiles) {
      if (wanted.has(tile) || (tile.values && tiles.size <= KEPT_TILES)) continue;
      tiles.delete(key);
      tile.stop.abort();
    }
  }

  /**
   * The part of a coarser tile, if one is kept, that stands where a tile has not come yet.
   * @returns {{picture: HTMLCanvasElement, x: number, y: number, scale: number} | null}
   */
  function coarser(level, row, col, { theme, log, how }) {
    for (let up = 1; up <= COARSER; up++) {
      const kept = tiles.get(`${how} ${level + up} ${row >> up} ${col >> up}`);
      if (kept?.look !== `${theme} ${log}`) continue;
      const scale = 2 ** -up;
      const within = (place) => (place - ((place >> up) << up)) * TILE * scale;
      return { picture: kept.picture, x: within(col), y: within(row), scale };
    }
    return null;
  }

  /**
   * Paint what is shown, as far as it has come.
   * @param {CanvasRenderingContext2D} context
   * @param {Frame} frame
   * @param {View} view
   * @param {{x: number, y: number}} cell
   * @param {{theme: Theme, log: boolean, how: string, ratio: number}} look
   */
  function paint(context, frame, view, cell, { theme, log, how, ratio }) {
    const level = Math.max(0, Math.ceil(-Math.log2(Math.min(cell.x, cell.y) * ratio) - 1e-6));
    const block = 2 ** level * TILE;
    const [top, bottom] = shownRange(view.y, cell.y, frame.plotHeight, source.rows);
    const [left, right] = shownRange(view.x, cell.x, frame.plotWidth, source.cols);
    const snap = (value) => Math.round(value * ratio) / ratio;
    context.imageSmoothingEnabled = false;
    context.fillStyle = hatchPattern(context, theme, ratio);
    const wanted = new Set();
    for (let row = Math.floor(top / block); row * block < bottom; row++) {
      for (let col = Math.floor(left / block); col * block < right; col++) {
        const tile = ask(level, row, col, how);
        wanted.add(tile);
        if (tile.values && tile.look !== `${theme} ${log}`) {
          tile.picture = tilePicture(tile.values, tile.wide, theme, log, source.signed);
          tile.look = `${theme} ${log}`;
        }
        const part = tile.values ? { picture: tile.picture, x: 0, y: 0, scale: 1 } : coarser(level, row, col, { theme, log, how });
        if (!part) continue;
        const x = frame.left + (col * block - view.x) * cell.x;
        const y = frame.top + (row * block - view.y) * cell.y;
        const across = snap(x + tile.wide * 2 ** level * cell.x) - snap(x);
        const down = snap(y + tile.high * 2 ** level * cell.y) - snap(y);
        context.fillRect(snap(x), snap(y), across, down);
        context.drawImage(
          part.picture, part.x, part.y, tile.wide * part.scale, tile.high * part.scale,
          snap(x), snap(y), across, down,
        );
      }
    }
    letGo(wanted);
  }

  return { source, paint, end: () => letGo(new Set()) };
}
