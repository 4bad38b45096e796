// The tokens of a text as a list that can be walked, and one arc between two of them.
// needs: core

/** Above this many tokens only those around the chosen one stand in the page. */
const MOST_TOKENS = 4096;
const BAR = 6;
/** With more lines than this a text runs on: its line ends are shown, and not kept. */
const MOST_LINES = 20;

/**
 * A text as lines of tokens. Bidirectional text flows as it would anywhere: tokens are not
 * isolated from each other, so that words of several tokens keep their shapes and their order.
 * @param {HTMLElement} element
 * @param {ArcText} text
 * @param {string} name
 * @param {boolean} alone whether no other text stands beside it
 * @param {{choose: (place: number, text: object) => void, pin: (place: number) => void}} on
 */
export function mountTokens(element, text, name, alone, on) {
  const spans = new Map();
  const places = new Map();
  const id = uniqueId("token");
  const root = makeElement("div", {
    class: "qkv-tokens", role: "listbox", tabindex: "0",
    "aria-label": `${name}, token by token`, "aria-multiselectable": "true",
  });
  let active = null;
  let shown = [0, Math.min(text.size, MOST_TOKENS)];
  let state = { marks: new Map(), dim: new Set(), theme: "light", chosen: null, pins: [], kind: "q" };

  function fill() {
    spans.clear();
    places.clear();
    root.replaceChildren();
    let line = newLine();
    const ends = (label) => /[\n⏎]/.test(label);
    const runsOn = (text.labels ?? []).slice(...shown).filter(ends).length > MOST_LINES;
    for (let place = shown[0]; place < shown[1]; place++) {
      const label = text.labels ? text.labels[place] : String(place);
      const span = makeElement("span", { role: "option", id: `${id}-${place}`, class: "qkv-token", "aria-selected": "false" });
      span.setAttribute("aria-label", spokenToken(text.labels, place));
      span.append(...tokenParts(label, text.labels !== null));
      spans.set(place, span);
      places.set(span, place);
      line.append(span);
      // A line may break after white space only, so that words of several tokens stay whole.
      if (!text.labels) line.append(" ");
      else if (/[\s␣⏎]$/u.test(label)) line.append(makeElement("wbr"));
      else if (/^[\s␣]/u.test(text.labels[place + 1] ?? "")) line.append(makeElement("wbr"));
      if (ends(label) && !runsOn) line = newLine();
    }
    if (!line.hasChildNodes()) line.remove();
    // Room for arcs over the line, the more the fewer lines there are.
    const lines = text.size > 120 ? Infinity : root.childElementCount;
    root.classList.toggle("qkv-one", alone && lines === 1);
    root.classList.toggle("qkv-few", lines <= 6 && !(alone && lines === 1));
  }

  function newLine() {
    const line = makeElement("div", { role: "group", class: "qkv-line", dir: "auto", "aria-label": `line ${root.childElementCount + 1}` });
    root.append(line);
    return line;
  }

  /** Bring a token into the part of a very long text that stands in the page. */
  function reveal(place) {
    if (place === null || (place >= shown[0] && place < shown[1])) return;
    const begin = Math.max(0, Math.min(place - MOST_TOKENS / 2, text.size - MOST_TOKENS));
    shown = [begin, Math.min(text.size, begin + MOST_TOKENS)];
    fill();
    paint();
  }

  function paint() {
    const { marks, dim, theme, chosen, pins, kind } = state;
    for (const [place, span] of spans) {
      const at = marks.get(place);
      const high = at === undefined ? 0 : 1.5 + at * (BAR - 1.5);
      span.style.boxShadow = high ? `inset 0 -${high}px 0 ${rampColor(theme, Math.max(0.12, at))}` : "";
      span.classList.toggle("qkv-dim", dim.has(place));
      span.classList.toggle(`qkv-chosen-${kind}`, place === chosen);
      span.classList.toggle(`qkv-chosen-${kind === "q" ? "k" : "q"}`, false);
      span.classList.toggle("qkv-pinned", pins.includes(place));
      span.setAttribute("aria-selected", String(place === chosen || pins.includes(place)));
    }
  }

  function mark(marks, dim, theme) {
    state = { ...state, marks, dim, theme };
  }

  function choose(chosen, pins, kind) {
    reveal(chosen);
    state = { ...state, chosen, pins, kind };
    active = chosen ?? active;
    if (active !== null) root.setAttribute("aria-activedescendant", `${id}-${active}`);
    paint();
    keepInSight(spans.get(chosen));
  }

  /** Where the text scrolls in a box of its own, scroll to a token; never scroll the page. */
  function keepInSight(span) {
    if (!span || element.scrollHeight <= element.clientHeight) return;
    const [box, around] = [span.getBoundingClientRect(), element.getBoundingClientRect()];
    if (box.top < around.top + 40) element.scrollTop += box.top - around.top - 80;
    else if (box.bottom > around.bottom - 20) element.scrollTop += box.bottom - around.bottom + 80;
  }

  /** A token's box in the coordinates of the canvas behind the text; null where it isn't shown. */
  function box(place) {
    const span = spans.get(place);
    if (!span) return null;
    const origin = element.getBoundingClientRect();
    const rect = span.getClientRects()[0] ?? span.getBoundingClientRect();
    const top = rect.top - origin.top + element.scrollTop;
    const room = parseFloat(getComputedStyle(span.parentElement).paddingTop);
    return { x: rect.left - origin.left + rect.width / 2, top, bottom: top + rect.height, room };
  }

  /** The token nearest above or below another. */
  function beside(place, down) {
    const from = box(place);
    let best = null;
    for (const other of spans.keys()) {
      const to = box(other);
      const away = down ? to.top - from.bottom : from.top - to.bottom;
      if (away < -4) continue;
      const far = away * 4 + Math.abs(to.x - from.x);
      if (!best || far < best.far) best = { other, far };
    }
    return best ? best.other : place;
  }

  root.addEventListener("click", (event) => {
    const place = places.get(event.target.closest?.("[role=option]"));
    if (place === undefined) return;
    if (event.shiftKey || event.ctrlKey || event.metaKey) on.pin(place);
    else on.choose(place, handle);
  });
  root.addEventListener("keydown", (event) => {
    const place = active ?? shown[0];
    const leftwards = getComputedStyle(spans.get(place)?.parentElement ?? root).direction === "rtl" ? 1 : -1;
    const moves = {
      ArrowLeft: () => place + leftwards, ArrowRight: () => place - leftwards,
      ArrowUp: () => beside(place, false), ArrowDown: () => beside(place, true),
      Home: () => 0, End: () => text.size - 1,
    };
    if (event.altKey || event.metaKey || event.ctrlKey) return;
    if (moves[event.key]) on.choose(Math.max(0, Math.min(text.size - 1, moves[event.key]())), handle);
    else if (event.key === "Enter" || event.key === " ") on.pin(place);
    else return;
    event.preventDefault();
  });

  element.append(root);
  fill();
  const handle = { root, mark, choose, box, end: () => root.remove() };
  return handle;
}

/** A token's text, with the signs that stand for white space set apart. */
function tokenParts(label, known) {
  if (!known) return [label];
  return visibleToken(label)
    .split(/([␣⏎⇥␍]+)/u)
    .filter(Boolean)
    .map((part) => (/[␣⏎⇥␍]/u.test(part) ? makeElement("span", { class: "qkv-white", text: part }) : part));
}

/**
 * One arc: over the line where both tokens stand in one, else from line to line.
 * @param {CanvasRenderingContext2D} context
 * @param {{x: number, top: number, bottom: number, room: number} | null} from
 * @param {{x: number, top: number, bottom: number, room: number} | null} to
 * @param {{color: string, width: number, dashes: number[]}} look
 */
export function drawArc(context, from, to, look) {
  if (!from || !to) return;
  context.save();
  context.strokeStyle = look.color;
  context.lineWidth = look.width;
  context.lineCap = look.dashes.length ? "butt" : "round";
  context.setLineDash(look.dashes);
  context.beginPath();
  const sameLine = Math.abs(from.top - to.top) < 6;
  // What runs across lines runs across words too: they must stay legible.
  context.globalAlpha = sameLine ? 0.9 : 0.55;
  if (sameLine) {
    const across = Math.abs(from.x - to.x) / 2;
    const high = Math.min(across, from.room * Math.min(1, 0.45 + across / 400));
    context.ellipse((from.x + to.x) / 2, from.top, across, high, 0, Math.PI, 2 * Math.PI);
  } else {
    const up = to.top < from.top;
    const [y0, y1] = up ? [from.top, to.bottom] : [from.bottom, to.top];
    const bend = Math.max(16, Math.abs(y1 - y0) * 0.5) * (up ? -1 : 1);
    context.moveTo(from.x, y0);
    context.bezierCurveTo(from.x, y0 + bend, to.x, y1 - bend, to.x, y1);
  }
  context.stroke();
  context.restore();
}
