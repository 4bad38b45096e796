// What every view needs: elements, colours, numbers, and tokens as they are shown.
// The bundle puts `qkvPalettes` and `qkvViewStyles` before it.

/**
 * @typedef {"light" | "dark"} Theme
 * @typedef {{q: string, k: string, v: string, paper: string, ink: string, soft: string,
 *   hatch: string, ramp: string[], fall: string[]}} Colors
 * @typedef {object} Reading what is known of one cell
 * @property {boolean} allowed whether the mask allows it
 * @property {number | null} exact its weight, where that is known
 * @property {number} low the least it can be
 * @property {number} high the most
 * @property {number} [level] the step of the ramp it is stored as
 * @property {boolean} [signed] whether it is a change, of which `exact` is known
 */

/** The fonts of what is drawn on a canvas. */
export const MONO = '"Source Code Pro", ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';
export const SANS = '"Source Sans 3", "Source Sans Pro", "Source Sans", system-ui, sans-serif';

/** On a logarithmic scale this weight and all below it have the ramp's first colour. */
export const LOWEST_WEIGHT = 0.001;

/**
 * An element with attributes and children; text is always text, never markup.
 * @param {string} tag
 * @param {Record<string, any>} [attributes] `text` sets the text, `on…` listens, false leaves out
 * @param {...(Node | string | null)} children
 * @returns {HTMLElement}
 */
export function makeElement(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

let idsGiven = 0;

/**
 * An id that no other element has.
 * @param {string} name
 */
export function uniqueId(name) {
  idsGiven += 1;
  return `qkv-${name}-${idsGiven}`;
}

const adoptedSheets = new WeakMap();

/**
 * Give the document, or the shadow root, that holds an element a style sheet, once.
 * @param {Element} element
 * @param {string} [text] of the sheet; that of the views unless given
 */
export function adoptStyles(element, text = qkvViewStyles) {
  const root = element.getRootNode();
  const host = root instanceof ShadowRoot ? root : element.ownerDocument;
  const adopted = adoptedSheets.get(host) ?? new Set();
  if (adopted.has(text)) return;
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(text);
  host.adoptedStyleSheets = [...host.adoptedStyleSheets, sheet];
  adoptedSheets.set(host, adopted.add(text));
}

/**
 * The colours of a theme.
 * @param {Theme} theme
 * @returns {Colors}
 */
export function themeColors(theme) {
  return qkvPalettes[theme];
}

/**
 * Set an element's colours, as custom properties that its descendants read.
 * @param {HTMLElement} element
 * @param {Theme} theme
 */
export function applyTheme(element, theme) {
  const colors = themeColors(theme);
  element.classList.add("qkv-view");
  for (const name of ["q", "k", "v", "paper", "ink", "soft", "hatch"]) {
    element.style.setProperty(`--qkv-${name}`, colors[name]);
  }
  element.style.setProperty("--qkv-plum", rampColor(theme, theme === "light" ? 0.8 : 0.7));
  element.style.colorScheme = theme;
}

/**
 * How far up the ramp a weight stands, 0 to 1.
 * @param {number} weight
 * @param {boolean} log
 */
export function rampPlace(weight, log) {
  if (!log) return Math.min(1, Math.max(0, weight));
  if (!(weight > LOWEST_WEIGHT)) return 0;
  return Math.min(1, 1 - Math.log10(weight) / Math.log10(LOWEST_WEIGHT));
}

const rampTables = {};

/**
 * A ramp in 256 steps, as [red, green, blue] after one another.
 * @param {Theme} theme
 * @param {"ramp" | "fall"} [name] the ramp of weights, or that of what became less
 * @returns {Uint8ClampedArray}
 */
export function rampTable(theme, name = "ramp") {
  const key = `${theme} ${name}`;
  if (!rampTables[key]) {
    const stops = themeColors(theme)[name].map((color) =>
      [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)),
    );
    const table = new Uint8ClampedArray(256 * 3);
    for (let step = 0; step < 256; step++) {
      const place = (step / 255) * (stops.length - 1);
      const lower = Math.min(Math.floor(place), stops.length - 2);
      for (let c = 0; c < 3; c++) {
        table[step * 3 + c] = stops[lower][c] + (stops[lower + 1][c] - stops[lower][c]) * (place - lower);
      }
    }
    rampTables[key] = table;
  }
  return rampTables[key];
}

/**
 * The ramp's colour at a place from 0 to 1.
 * @param {Theme} theme
 * @param {number} place
 * @param {"ramp" | "fall"} [name]
 */
export function rampColor(theme, place, name = "ramp") {
  const table = rampTable(theme, name);
  const at = Math.round(Math.min(1, Math.max(0, place)) * 255) * 3;
  return `rgb(${table[at]}, ${table[at + 1]}, ${table[at + 2]})`;
}

/**
 * A weight in two digits, as it is read aloud.
 * @param {number} weight
 */
export function briefWeight(weight) {
  if (weight !== 0 && Math.abs(weight) < 0.005) return weight.toExponential(1).replace("-", "−");
  const text = weight.toFixed(2);
  if (text === "1.00") return weight > 1 - 1e-6 ? "1" : "over .99";
  return text.replace(/^0/, "");
}

/**
 * Any number of a table: two places, fewer where it is large.
 * @param {number | null} value
 */
export function briefNumber(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  const text = Math.abs(value) < 100 ? value.toFixed(2) : Math.round(value).toLocaleString("en");
  return text.replace(/^(-?)0\./, "$1.").replace("-", "−");
}

/**
 * A border of a level in two significant digits: .016, .63, 1.
 * @param {number} bound
 */
export function briefBound(bound) {
  return bound >= 1 ? "1" : bound.toPrecision(2).replace(/^0/, "").replace(/0+$/, "");
}

/**
 * What is known of a cell's weight, in words.
 * @param {Reading} reading
 */
export function readingWords(reading) {
  if (!reading.allowed) return "masked";
  if (reading.signed) return changeWords(reading.exact);
  // Below this a float16 has few digits left.
  if (reading.exact !== null && reading.exact < 1e-4) return "less than .0001";
  if (reading.exact !== null) return briefWeight(reading.exact);
  if (reading.low === 0) return `less than ${briefBound(reading.high)}`;
  return `${briefBound(reading.low)} to ${briefBound(reading.high)}`;
}

/** @param {number} change of a weight, in words */
export function changeWords(change) {
  if (Math.abs(change) < 5e-5) return "the same";
  return `${briefWeight(Math.abs(change))} ${change > 0 ? "more" : "less"}`;
}

const GLYPHS = { "\n": "⏎", "\r": "␍", "\t": "⇥", " ": "␣", "\u00a0": "␣", "\u3000": "␣" };

/**
 * A token's text with what cannot be seen made visible: a newline is ⏎, a space ␣.
 * @param {string} label
 */
export function visibleToken(label) {
  if (label === "") return "∅";
  // Joiners and marks of direction belong to the letters around them; alone they are named.
  if (/^[\p{Cf}\p{Variation_Selector}]+$/u.test(label)) {
    return [...label].map((c) => `U+${c.codePointAt(0).toString(16).toUpperCase()}`).join(" ");
  }
  let shown = "";
  for (const character of label) {
    const code = character.codePointAt(0);
    if (GLYPHS[character]) shown += GLYPHS[character];
    else if (code < 0x20) shown += String.fromCharCode(0x2400 + code);
    // A byte that Python kept as a lone surrogate (surrogateescape).
    else if (code >= 0xdc80 && code <= 0xdcff) shown += `\\x${(code - 0xdc00).toString(16)}`;
    else if (/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]/u.test(character)) shown += "�";
    else if (/\p{Zs}/u.test(character)) shown += "␣";
    else shown += character;
  }
  return /^\p{M}/u.test(shown) ? `◌${shown}` : shown;
}

const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/;

/**
 * Whether some text has letters that run from right to left.
 * @param {string} text
 */
export function runsLeft(text) {
  return RIGHT_TO_LEFT.test(text);
}

/**
 * @typedef {object} Labels the tokens of a map
 * @property {readonly string[] | null} queries
 * @property {readonly string[] | null} keys
 * @property {readonly number[] | null} [places] where each query stands in the text of the keys
 */

/**
 * A token as a sentence names it: “l” at 12, or token 12 where its text isn't known.
 * @param {readonly string[] | null} labels
 * @param {number} at which label
 * @param {number} [place] where it stands, if that is another number
 */
export function spokenToken(labels, at, place = at) {
  if (!labels) return `token ${place}`;
  const shown = visibleToken(labels[at]);
  // Set apart, so that the number after it keeps its place.
  return runsLeft(shown) ? `“\u2068${shown}\u2069” at ${place}` : `“${shown}” at ${place}`;
}

/** @param {Labels} labels @param {number} row */
export function spokenQuery(labels, row) {
  return spokenToken(labels.queries, row, labels.places?.[row] ?? row);
}

/** @param {Labels} labels @param {number} col */
export function spokenKey(labels, col) {
  return spokenToken(labels.keys, col);
}

/**
 * The sentence that reads a cell aloud.
 * @param {Labels} labels
 * @param {number} row
 * @param {number} col
 * @param {Reading} reading
 */
export function spokenCell(labels, row, col, reading) {
  const [asker, asked] = [spokenQuery(labels, row), spokenKey(labels, col)];
  if (!reading.allowed) return `${asker} may not look at ${asked}: masked`;
  return `${asker} gives ${readingWords(reading)} to ${asked}`;
}

/**
 * Call back whenever an element's width changes, and at once; returns what ends it.
 * @param {Element} element
 * @param {(width: number) => void} callback
 * @returns {() => void}
 */
export function watchWidth(element, callback) {
  let last = -1;
  const observer = new ResizeObserver(() => {
    const width = Math.floor(element.getBoundingClientRect().width);
    if (width === last || width === 0) return;
    last = width;
    adoptStyles(element);
    callback(width);
  });
  // What is written on a canvas doesn't change its font by itself when that has come.
  const again = () => last > 0 && callback(last);
  document.fonts.addEventListener("loadingdone", again);
  observer.observe(element);
  return () => {
    document.fonts.removeEventListener("loadingdone", again);
    observer.disconnect();
  };
}

/**
 * A canvas of some size in CSS pixels, sharp on any screen, ready to be drawn on.
 * @param {HTMLCanvasElement} canvas
 * @param {number} width
 * @param {number} height
 * @returns {{context: CanvasRenderingContext2D, ratio: number}}
 */
export function sizeCanvas(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, ratio };
}
