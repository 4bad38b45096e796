// Every head at a glance: a grid of layers by heads, or in the order of a score.
// needs: core

/**
 * @typedef {object} AtlasHead
 * @property {string} name such as "L3H7"
 * @property {number} layer
 * @property {number} head
 * @property {string} [kind] what it is called by its strongest score
 *
 * @typedef {{rows: number, cols: number, levels: Uint8Array}} Thumbnail levels are 0 where
 *   forbidden, else the weight's level of 16, plus 1
 *
 * @typedef {object} AtlasProps
 * @property {readonly AtlasHead[]} heads
 * @property {Map<string, Thumbnail>} thumbnails
 * @property {string | null} chosen
 * @property {{names: string[], words: (name: string) => string} | null} order names in the order of a
 *   score, with its words; null for the grid of layers by heads
 * @property {(name: string) => string} [describe] what is read aloud of a head
 * @property {Theme} theme
 * @property {(name: string) => void} [onChoose]
 */

const LABELS = 26;
const GAP = 4;
const LARGEST_THUMB = 60;
const LEAST_THUMB = 14;
const SORTED_THUMB = 44;
/** Thumbnails shrink, down to a size, so that an atlas is no taller than this. */
const TALLEST = 640;
const LEAST_SHRUNK = 18;
/** What is taller than this all the same is scrolled; views.css knows the number too. */
const SCROLLED = 690;

/**
 * Where every head stands.
 * @param {number} width
 * @param {readonly AtlasHead[]} heads
 * @param {string[] | null} order
 */
function placeHeads(width, heads, order) {
  const spots = new Map();
  if (order) {
    const side = SORTED_THUMB;
    const columns = Math.max(1, Math.floor((width + 12) / (side + 12)));
    order.forEach((name, at) => {
      const [row, col] = [Math.floor(at / columns), at % columns];
      spots.set(name, { x: col * (side + 12) + 2, y: row * (side + 44) + 3, row, col });
    });
    const height = Math.ceil(order.length / columns) * (side + 44);
    return { spots, side, height, labels: [], heads: [] };
  }
  const most = Math.max(...heads.map((each) => each.head)) + 1;
  const fits = Math.floor((width - LABELS - 3 + GAP) / (LEAST_THUMB + GAP));
  const columns = Math.min(most, Math.max(1, fits));
  const lines = new Set(heads.map(({ layer, head }) => `${layer} ${Math.floor(head / columns)}`)).size;
  const down = Math.max(LEAST_SHRUNK, Math.floor((TALLEST - 20) / lines) - GAP);
  const side = Math.min(LARGEST_THUMB, Math.floor((width - LABELS - 3 + GAP) / columns) - GAP, down);
  const top = 20;
  const labels = [];
  let row = -1;
  let y = top;
  let last = null;
  for (const { name, layer, head } of heads) {
    const line = `${layer} ${Math.floor(head / columns)}`;
    if (line !== last) {
      row += 1;
      y = top + row * (side + GAP) + 3;
      if (!last || !last.startsWith(`${layer} `)) labels.push({ text: `L${layer}`, y: y + side / 2 });
      last = line;
    }
    const col = head % columns;
    spots.set(name, { x: LABELS + col * (side + GAP), y, row, col });
  }
  const every = Math.ceil(22 / (side + GAP));
  const numbers = Array.from({ length: columns }, (_, col) => col).filter((col) => col % every === 0);
  const heading = numbers.map((col) => ({ text: side < 24 ? String(col) : `H${col}`, x: LABELS + col * (side + GAP) + side / 2 }));
  return { spots, side, height: y + side + 4, labels, heads: heading };
}

/**
 * A thumbnail as a picture; where a screen has fewer pixels, each shows the largest it stands for.
 * @param {Thumbnail} thumbnail
 * @param {number} side in device pixels
 * @param {Theme} theme
 */
function thumbPicture({ rows, cols, levels }, side, theme) {
  const factor = Math.max(1, Math.floor(Math.max(rows, cols) / side));
  const [high, wide] = [Math.ceil(rows / factor), Math.ceil(cols / factor)];
  const pooled = new Uint8Array(high * wide);
  for (let at = 0; at < levels.length; at++) {
    const to = Math.floor(Math.floor(at / cols) / factor) * wide + Math.floor((at % cols) / factor);
    pooled[to] = Math.max(pooled[to], levels[at]);
  }
  const canvas = document.createElement("canvas");
  canvas.width = wide;
  canvas.height = high;
  const context = canvas.getContext("2d");
  const image = context.createImageData(wide, high);
  const table = rampTable(theme);
  pooled.forEach((level, at) => {
    if (level === 0) return;
    const step = Math.round(((level - 1) / 15) * 255) * 3;
    image.data.set([table[step], table[step + 1], table[step + 2], 255], at * 4);
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

/**
 * Mount an atlas.
 * @param {HTMLElement} element
 * @param {AtlasProps} props
 * @returns {(() => void) & {update: (props: Partial<AtlasProps>) => void}} what cleans up
 */
export function mountAtlas(element, props) {
  let state = { ...props };
  let width = 0;
  let plan = null;
  let hover = null;
  /** @type {WeakMap<Thumbnail, {look: string, picture: HTMLCanvasElement}>} */
  const pictures = new WeakMap();
  const canvas = makeElement("canvas", {
    tabindex: "0",
    role: "application",
    "aria-roledescription": "atlas",
    "aria-label": "every head; arrow keys choose one",
  });
  const tip = makeElement("div", { class: "qkv-tip", hidden: true, "aria-hidden": "true" });
  const live = makeElement("p", { class: "qkv-unseen", "aria-live": "polite" });
  const frame = makeElement("div", { class: "qkv-atlas-frame" }, canvas);
  const root = makeElement("div", { class: "qkv-atlas" }, frame, tip, live);
  element.append(root);

  const say = (name) => state.describe?.(name) ?? name;

  function draw() {
    if (!width) return;
    const { theme, heads, order, chosen, thumbnails } = state;
    plan = placeHeads(width, heads, order?.names ?? null);
    const tall = plan.height > SCROLLED;
    frame.classList.toggle("qkv-tall", tall);
    // What scrolls has room for its bar.
    const across = tall ? width - 14 : width;
    if (tall) plan = placeHeads(across, heads, order?.names ?? null);
    const colors = themeColors(theme);
    const { context, ratio } = sizeCanvas(canvas, across, plan.height);
    context.font = `13px ${SANS}`;
    context.fillStyle = colors.soft;
    context.textBaseline = "middle";
    context.textAlign = "left";
    for (const { text, y } of plan.labels) context.fillText(text, 0, y, LABELS - 3);
    context.textAlign = "center";
    for (const { text, x } of plan.heads) context.fillText(text, x, 10);
    for (const [name, { x, y }] of plan.spots) {
      const thumbnail = thumbnails.get(name);
      if (thumbnail) drawThumb(context, thumbnail, x, y, ratio);
      context.lineWidth = 1;
      context.strokeStyle = name === hover ? colors.soft : colors.hatch;
      context.globalAlpha = name === hover ? 1 : 0.6;
      context.strokeRect(x - 0.5, y - 0.5, plan.side + 1, plan.side + 1);
      context.globalAlpha = 1;
      if (order) writeScore(context, name, x + plan.side / 2, y + plan.side, colors);
    }
    const spot = plan.spots.get(chosen);
    if (!spot) return;
    context.lineWidth = 2;
    context.strokeStyle = colors.ink;
    context.strokeRect(spot.x - 2, spot.y - 2, plan.side + 4, plan.side + 4);
  }

  function drawThumb(context, thumbnail, x, y, ratio) {
    const { theme } = state;
    const look = `${theme} ${plan.side} ${ratio}`;
    if (pictures.get(thumbnail)?.look !== look) pictures.set(thumbnail, { look, picture: thumbPicture(thumbnail, plan.side * ratio, theme) });
    const { picture } = pictures.get(thumbnail);
    const scale = plan.side / Math.max(picture.width, picture.height);
    context.imageSmoothingEnabled = picture.width > plan.side * ratio || picture.height > plan.side * ratio;
    context.fillStyle = themeColors(theme).paper;
    context.fillRect(x, y, plan.side, plan.side);
    context.drawImage(picture, x, y, picture.width * scale, picture.height * scale);
  }

  function writeScore(context, name, middle, bottom, colors) {
    context.fillStyle = name === state.chosen ? colors.ink : colors.soft;
    context.fillText(name, middle, bottom + 12);
    context.fillText(state.order.words(name), middle, bottom + 28);
  }

  function headAt(event) {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    for (const [name, spot] of plan?.spots ?? []) {
      if (x >= spot.x - 2 && x < spot.x + plan.side + 2 && y >= spot.y - 2 && y < spot.y + plan.side + 2) return name;
    }
    return null;
  }

  function point(event) {
    hover = headAt(event);
    tip.hidden = hover === null;
    if (hover) {
      const spot = plan.spots.get(hover);
      tip.textContent = say(hover);
      tip.style.left = `${Math.min(spot.x, Math.max(0, width - 180))}px`;
      tip.style.top = `${spot.y + plan.side + 8 - frame.scrollTop}px`;
    }
    draw();
  }

  function leave() {
    hover = null;
    tip.hidden = true;
    draw();
  }

  function choose(name) {
    live.textContent = say(name);
    state.onChoose?.(name);
  }

  /** Scroll an atlas that is taller than its frame to the chosen head. */
  function follow() {
    const spot = plan?.spots.get(state.chosen);
    if (!spot || !frame.classList.contains("qkv-tall")) return;
    const high = frame.clientHeight - plan.side - 40;
    frame.scrollTop = Math.min(spot.y - 8, Math.max(frame.scrollTop, spot.y - high));
  }

  /** The head a step away; steps go through the rows and columns as they are shown. */
  function step(key) {
    const names = [...plan.spots.keys()];
    const from = plan.spots.get(state.chosen);
    if (!from) return names[0];
    const at = names.indexOf(state.chosen);
    const inRow = names.filter((name) => plan.spots.get(name).row === from.row);
    const nearest = (row) => {
      const there = names.filter((name) => plan.spots.get(name).row === row);
      const away = (name) => Math.abs(plan.spots.get(name).col - from.col);
      return there.sort((a, b) => away(a) - away(b))[0];
    };
    const steps = {
      ArrowLeft: () => names[at - 1], ArrowRight: () => names[at + 1],
      ArrowUp: () => nearest(from.row - 1), ArrowDown: () => nearest(from.row + 1),
      Home: () => inRow[0], End: () => inRow[inRow.length - 1],
    };
    return steps[key] ? (steps[key]() ?? state.chosen) : null;
  }

  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("click", (event) => {
    const name = headAt(event);
    if (name) choose(name);
  });
  canvas.addEventListener("keydown", (event) => {
    if (event.altKey || event.metaKey || event.ctrlKey || !plan) return;
    const name = step(event.key);
    if (name === null) return;
    event.preventDefault();
    choose(name);
  });

  function update(changes) {
    state = { ...state, ...changes };
    if (changes.theme) applyTheme(root, state.theme);
    draw();
    if (changes.chosen || "order" in changes) follow();
  }
  const unwatch = watchWidth(root, (now) => {
    width = now;
    draw();
  });
  update({ ...props });
  const cleanUp = () => {
    unwatch();
    root.remove();
  };
  return Object.assign(cleanUp, { update });
}
