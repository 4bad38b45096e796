// What hands do to a map: wheel, drag, pinch, keys, and the buttons beneath it.
// needs: core, hint

/**
 * Listen to a map's canvas.
 * @param {HTMLCanvasElement} canvas
 * @param {{zoomed: () => boolean, zoom: (factor: number, point: {x: number, y: number} | null) => void,
 *   pan: (across: number, down: number) => void, pick: (point: {x: number, y: number}) => void,
 *   hover: (point: {x: number, y: number} | null) => void,
 *   move: (key: string, far: boolean) => boolean}} on zoom by factor 0 shows all
 * @returns {() => void} what stops listening
 */
export function listenMap(canvas, on) {
  const pointers = new Map();
  let travelled = 0;
  let spread = 0;
  const pointOf = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const pinch = () => {
    const [a, b] = [...pointers.values()];
    return { middle: { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 }, spread: Math.hypot(a.x - b.x, a.y - b.y) };
  };

  const listeners = {
    wheel(event) {
      // A page that is scrolled by must not be caught: the map takes the wheel once it has focus.
      const wanted = event.ctrlKey || event.metaKey || document.activeElement === canvas || on.zoomed();
      const leaving = event.deltaY > 0 && !on.zoomed();
      if (!wanted || (leaving && !event.ctrlKey)) return;
      event.preventDefault();
      if (event.shiftKey) on.pan(-event.deltaY - event.deltaX, 0);
      else on.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), pointOf(event));
    },
    pointerdown(event) {
      if (event.button !== 0) return;
      pointers.set(event.pointerId, pointOf(event));
      if (pointers.size === 1) travelled = 0;
      if (pointers.size === 2) spread = pinch().spread;
      if (on.zoomed() || pointers.size === 2) canvas.setPointerCapture(event.pointerId);
    },
    pointermove(event) {
      const point = pointOf(event);
      const last = pointers.get(event.pointerId);
      if (!last) {
        if (event.pointerType !== "touch") on.hover(point);
        return;
      }
      travelled += Math.hypot(point.x - last.x, point.y - last.y);
      pointers.set(event.pointerId, point);
      if (pointers.size === 2) {
        const now = pinch();
        on.zoom(now.spread / Math.max(1, spread), now.middle);
        spread = now.spread;
      } else if (on.zoomed() && travelled > 4) {
        on.hover(null);
        on.pan(point.x - last.x, point.y - last.y);
      }
    },
    pointerup(event) {
      if (pointers.delete(event.pointerId) && pointers.size === 0 && travelled <= 4) {
        on.pick(pointOf(event));
      }
    },
    pointercancel(event) {
      pointers.delete(event.pointerId);
      travelled = Infinity;
    },
    pointerleave() {
      on.hover(null);
    },
    dblclick(event) {
      on.zoom(2, pointOf(event));
    },
    keydown(event) {
      if (event.altKey || event.metaKey) return;
      const zooms = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 0 };
      if (event.key in zooms && !event.ctrlKey) on.zoom(zooms[event.key], null);
      else if (!on.move(event.key, event.ctrlKey)) return;
      event.preventDefault();
    },
  };
  for (const [name, listener] of Object.entries(listeners)) {
    canvas.addEventListener(name, listener, { passive: false });
  }
  return () => {
    for (const [name, listener] of Object.entries(listeners)) canvas.removeEventListener(name, listener);
  };
}

/**
 * A group of buttons of which one is pressed.
 * @param {string} label
 * @param {[any, string][]} choices each a value and its words
 * @param {(value: any) => void} onChoose
 */
export function mountChoices(label, choices, onChoose) {
  const buttons = choices.map(([value, text]) =>
    makeElement("button", { type: "button", text, onclick: () => onChoose(value) }),
  );
  const root = makeElement("div", { class: "qkv-choices", role: "group", "aria-label": label }, ...buttons);
  const update = (chosen) =>
    buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(choices[at][0] === chosen)));
  return Object.assign(() => root.remove(), { root, update });
}

/**
 * The buttons beneath a map.
 * @param {HTMLElement} element
 * @param {{onZoom: (factor: number) => void, onLog: (log: boolean) => void,
 *   onHow: (how: string) => void}} on
 */
export function mountMapTools(element, on) {
  const scale = mountChoices("Scale", [[true, "log"], [false, "linear"]], on.onLog);
  const pooling = mountChoices("Pooling", [["max", "max"], ["sum", "sum"]], on.onHow);
  const meanings = [
    "Where cells share a pixel it shows the largest of their weights: a single strong one stays in sight.",
    "Where cells share a pixel it shows what its queries, on average, give to all of its keys together.",
  ];
  pooling.root.querySelectorAll("button").forEach((button, at) => explain(button, meanings[at]));
  const button = (text, label, factor) =>
    makeElement("button", { type: "button", text, "aria-label": label, onclick: () => on.onZoom(factor) });
  const zoom = makeElement("div", { class: "qkv-choices", role: "group", "aria-label": "Zoom" },
    button("−", "Zoom out", 1 / 1.5), button("+", "Zoom in", 1.5), button("all", "Show all", 0));
  const root = makeElement("div", { class: "qkv-tools" }, scale.root, pooling.root, zoom);
  element.append(root);
  const update = ({ log, how, hows }) => {
    scale.update(log);
    pooling.update(how);
    pooling.root.hidden = hows.length < 2;
  };
  return Object.assign(() => root.remove(), { update });
}
