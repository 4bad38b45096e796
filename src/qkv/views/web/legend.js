// The ramp with its ticks, a mark at what even attention would give, and what hatching means.
// needs: core, maptiles

/**
 * @typedef {object} LegendProps
 * @property {Theme} theme
 * @property {boolean} log
 * @property {number | null} uniform how many keys the row may look at
 * @property {boolean} [signed] whether it is one of changes, from less to more
 */

/**
 * Mount a legend.
 * @param {HTMLElement} element
 * @param {LegendProps} props
 * @returns {(() => void) & {update: (props: Partial<LegendProps>) => void}} what cleans up
 */
export function mountLegend(element, props) {
  let state = { ...props };
  const bar = makeElement("div", { class: "qkv-ramp" });
  const ticks = makeElement("div", { class: "qkv-ticks" });
  const mark = makeElement("span", { class: "qkv-mark" });
  const scale = makeElement("div", { class: "qkv-scale" }, bar, ticks, mark);
  const hatch = makeElement("canvas", { class: "qkv-hatch", "aria-hidden": "true" });
  const masked = makeElement("span", { class: "qkv-masked" }, hatch, "masked");
  const root = makeElement("div", { class: "qkv-legend" }, scale, masked);
  element.append(root);

  const draw = () => {
    const { theme, log, uniform, signed } = state;
    const stops = Array.from({ length: 17 }, (_, at) => rampColor(theme, at / 16));
    const falls = signed ? Array.from({ length: 16 }, (_, at) => rampColor(theme, (16 - at) / 16, "fall")) : [];
    bar.style.background = `linear-gradient(to right, ${[...falls, ...stops].join(", ")})`;
    const values = log ? [0.001, 0.01, 0.1, 1] : [0, 0.25, 0.5, 0.75, 1];
    const signs = log ? [-1, -0.1, 0, 0.1, 1] : [-1, -0.5, 0, 0.5, 1];
    ticks.replaceChildren(
      ...(signed ? signs : values).map((value) => {
        const text = String(value).replace(/^(-?)0\./, "$1.").replace("-", "−").replace(/^([.1])/, signed ? "+$1" : "$1");
        const tick = makeElement("span", { text });
        const place = rampPlace(Math.abs(value), log);
        tick.style.left = `${(signed ? 0.5 + Math.sign(value) * place * 0.5 : place) * 100}%`;
        return tick;
      }),
    );
    mark.hidden = signed || uniform === null || uniform < 2;
    if (!mark.hidden) {
      const place = rampPlace(1 / uniform, log);
      mark.style.left = `${place * 100}%`;
      mark.classList.toggle("qkv-mark-end", place > 0.6);
      mark.textContent = `even, this row ${briefWeight(1 / uniform)}`;
      mark.title = `1/${uniform.toLocaleString("en")}: what this row would give each of its keys, if all alike`;
    }
    const { context, ratio } = sizeCanvas(hatch, 20, 12);
    context.fillStyle = hatchPattern(context, theme, ratio);
    context.fillRect(0, 0, 20, 12);
  };
  draw();
  const update = (changes) => {
    state = { ...state, ...changes };
    draw();
  };
  return Object.assign(() => root.remove(), { update });
}
