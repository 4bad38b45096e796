// Why this weight: what is known of a cell, of its row and of its key; its arithmetic where given.
// needs: core, hint

/**
 * @typedef {object} Arithmetic how one weight comes about, computed in Python
 * @property {{channel: number, q: number, k: number, product: number}[]} terms the largest first
 * @property {{name: string, value: number | null, text?: string}[]} steps from q·k on, in order
 * @property {number | null} exponent what the log-sum-exp is taken from; null for −∞
 * @property {{value: number, mixed: number, output?: number, left_out?: boolean} | null} adds
 *   lengths: of the value, of the weight times it, and of that behind W_O
 * @property {{kind: string, rows: {name: string, run: number, exact: number}[]} | null} precise null
 *   where masked
 *
 * @typedef {object} WhyProps
 * @property {Labels} labels
 * @property {[number, number]} cursor
 * @property {Reading} reading
 * @property {{key: number, weight: number}[]} top the row's largest weights, largest first
 * @property {number | null} entropy of the row, in nats
 * @property {number | null} count how many keys the row may look at
 * @property {number | null} received by the key
 * @property {number | null} even received by the key if every row spread itself evenly
 * @property {number | null} error how far the head's worst row is from its right sum
 * @property {Arithmetic | null} [arithmetic]
 * @property {Theme} theme
 * @property {(row: number, col: number) => void} [onCursor]
 */

/** So many terms of q·k are listed at once; the others are a click away. */
const SHOWN_TERMS = 7;
const OUTPUT_WORDS =
  "W_O is the matrix that turns what a head mixed into what it adds to the model's own vector of this token. " +
  "The number is the length of this key's part in that: weight × v × W_O.";
/** A product below this is written as .00: it has no bar, however small the others are. */
const LEAST_PRODUCT = 0.005;
/** How far the weight may be off that an exponential gives as it is written. */
const OFF = 0.01;
const MOST_PLACES = 6;

/**
 * Mount the reasons.
 * @param {HTMLElement} element
 * @param {WhyProps | {theme: Theme}} props
 * @returns {(() => void) & {update: (props: Partial<WhyProps>) => void}} what cleans up
 */
export function mountWhy(element, props) {
  let state = { ...props };
  /** Whether the smaller terms are listed too. */
  let every = false;
  const root = makeElement("div", { class: "qkv-why" });
  element.append(root);

  const line = (words, value, mark = "") =>
    makeElement("tr", { class: mark }, makeElement("th", { scope: "row", text: words }), makeElement("td", { class: "qkv-number", text: value }));

  function levelWords({ low, high, level }) {
    const range = low === 0 ? `below ${briefBound(high)}` : `${briefBound(low)} to ${briefBound(high)}`;
    return level === undefined ? range : `${level} of 15: ${range}`;
  }

  /** What is stored of the cell. */
  function cellTable() {
    const { labels, cursor, reading, count } = state;
    const token = (text, color) => makeElement("td", { class: `qkv-number ${color}`, text });
    const rows = [
      makeElement("tr", {}, makeElement("th", { scope: "row", class: "qkv-q", text: "q, this token" }), token(spokenQuery(labels, cursor[0]), "qkv-q")),
      makeElement("tr", {}, makeElement("th", { scope: "row", class: "qkv-k", text: "k, looked at" }), token(spokenKey(labels, cursor[1]), "qkv-k")),
    ];
    if (!reading.allowed) rows.push(line("allowed by the mask", "no"), line("weight", "0", "qkv-sum"));
    else {
      rows.push(line("allowed by the mask", count === null ? "yes" : count === 1 ? "yes, alone" : `yes, with ${(count - 1).toLocaleString("en")} more`));
      if (count > 1) rows.push(line(`even, this row: 1/${count.toLocaleString("en")}`, briefWeight(1 / count)));
      rows.push(line("step of the ramp", levelWords(reading)));
      rows.push(line("weight", readingWords(reading), "qkv-sum"));
    }
    return makeElement("table", {}, makeElement("tbody", {}, ...rows));
  }

  /** Every term of q·k, the smaller ones when they are asked for, and what becomes of their sum. */
  function arithmeticTable({ terms, steps, exponent, adds }) {
    const number = (value, color = "") => makeElement("td", { class: `qkv-number ${color}`, text: briefNumber(value) });
    const most = Math.max(...terms.map((term) => Math.abs(term.product)));
    const share = (product) => (Math.abs(product) < LEAST_PRODUCT ? 0 : Math.abs(product) / most);
    const columns = ["channel", "q", "k", "q·k", ""].map((text, at) =>
      makeElement("th", { scope: "col", class: ["", "qkv-number qkv-q", "qkv-number qkv-k", "qkv-number", ""][at], text }),
    );
    const bar = (product) => {
      const fill = makeElement("i", { class: product < 0 ? "qkv-negative" : "" });
      fill.style.width = `${share(product) * 100}%`;
      return makeElement("td", {}, makeElement("span", { class: "qkv-bar", "aria-hidden": "true" }, fill));
    };
    const wide = (words, value, mark = "") =>
      makeElement("tr", { class: mark }, makeElement("th", { scope: "row", colspan: "3" }, words), makeElement("td", { class: "qkv-number", text: value }), makeElement("td"));
    const term = ({ channel, q, k, product }) =>
      makeElement("tr", {}, makeElement("th", { scope: "row", text: String(channel) }), number(q, "qkv-q"), number(k, "qkv-k"), number(product), bar(product));
    const smaller = terms.slice(SHOWN_TERMS);
    const rest = smaller.reduce((sum, { product }) => sum + product, 0);
    return makeElement("table", {},
      makeElement("thead", {}, makeElement("tr", {}, ...columns)),
      makeElement("tbody", {},
        ...terms.slice(0, SHOWN_TERMS).map(term),
        smaller.length ? wide(smallerButton(smaller.length), briefNumber(rest)) : null,
        ...(every ? smaller.map(term) : []),
        ...steps.map(({ name, value, text }, at) => wide(name, text ?? briefNumber(value), at === 0 ? "qkv-rule" : "")),
        wide(weightWords(exponent, steps.at(-1)), state.reading.allowed ? readingWords(state.reading) : "0", "qkv-sum"),
        ...(adds ? addsRows(adds, wide) : []),
      ),
    );
  }

  const smallerButton = (count) =>
    makeElement("button", {
      type: "button",
      "aria-expanded": String(every),
      text: `${count} smaller ${count === 1 ? "term" : "terms"}`,
      onclick: () => {
        every = !every;
        update({});
      },
    });

  /** The exponential that ends in the weight: exp(3.10 − 4.20). */
  function weightWords(exponent, { value }) {
    if (exponent === null || !state.reading.allowed) return "exp(−∞) = weight";
    // In so many places that it can be worked out again: of near numbers two tell nothing.
    let places = 2;
    const rounded = (number) => Number(number.toFixed(places));
    while (places < MOST_PLACES && Math.abs(Math.expm1(rounded(exponent) - rounded(value) - (exponent - value))) > OFF) places += 1;
    const written = (number) => (Math.abs(number) < 100 || places > 2 ? number.toFixed(places).replace(/^(-?)0\./, "$1.").replace("-", "−") : briefNumber(number));
    return `exp(${written(exponent)} − ${written(value)}) = weight`.replace("− −", "+ ");
  }

  /** What the weight adds to the output, as lengths of vectors. */
  function addsRows({ value, mixed, output, left_out: leftOut }, wide) {
    const length = (number) => (number !== 0 && number < 0.005 ? briefWeight(number) : briefNumber(number));
    return [
      wide("× the length of v", length(value), "qkv-v"),
      wide(leftOut ? "the head is left out: added to its mix" : "= added to the head's mix", leftOut ? "0" : length(mixed)),
      output === undefined ? null : wide(explain(makeElement("span", { text: "behind W_O, to the output" }), OUTPUT_WORDS), leftOut ? "0" : length(output)),
    ].filter(Boolean);
  }

  /** The same numbers in the run's precision and in float64, with what lies between. */
  function preciseTable({ kind, rows }) {
    const digits = (value) => {
      const text = value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(7) : value.toPrecision(8);
      return text.replaceAll("-", "−").replace(/^(−?)0\./, "$1.");
    };
    const error = (gap) => (gap === 0 ? "0" : Math.abs(gap).toExponential(0).replace("-", "−"));
    const number = (text) => makeElement("td", { class: "qkv-number", text });
    const heading = ["", kind, "float64", "error"].map((text, at) =>
      at === 0 ? makeElement("td") : makeElement("th", { scope: "col", class: "qkv-number", text }));
    return makeElement("table", {},
      makeElement("thead", {}, makeElement("tr", {}, ...heading)),
      makeElement("tbody", {}, ...rows.map(({ name, run, exact }) =>
        makeElement("tr", {}, makeElement("th", { scope: "row", text: name }), number(digits(run)), number(digits(exact)), number(error(run - exact))))));
  }

  /** Where the row looks most; each is a way to that cell. */
  function topTable() {
    const { labels, cursor, top, onCursor } = state;
    return makeElement("table", {}, makeElement("tbody", {},
      ...top.map(({ key, weight }) => {
        const fill = makeElement("i");
        fill.style.width = `${Math.min(1, weight) * 100}%`;
        const name = spokenKey(labels, key);
        const button = makeElement("button", { type: "button", "aria-pressed": String(key === cursor[1]), text: name, onclick: () => onCursor?.(cursor[0], key) });
        return makeElement("tr", { class: key === cursor[1] ? "qkv-chosen" : "" },
          makeElement("th", { scope: "row" }, button),
          makeElement("td", { class: "qkv-number", text: weight < 1e-4 ? "< .0001" : briefWeight(weight) }),
          makeElement("td", {}, makeElement("span", { class: "qkv-bar", "aria-hidden": "true" }, fill)),
        );
      }),
    ));
  }

  /** What is known of the whole row, and of the key. */
  function rowTable() {
    const { entropy, count, received, even, error, top } = state;
    const sum = top.reduce((total, { weight }) => total + weight, 0);
    const rows = [];
    if (top.length > 1) rows.push(line(`these ${top.length} together`, briefWeight(Math.min(1, sum))));
    if (entropy !== null) rows.push(line("entropy of the row", `${briefNumber(entropy)} of ${briefNumber(Math.log(Math.max(1, count ?? 1)))} nats`));
    if (received !== null) {
      const words = even === null ? "" : `, evenly ${briefNumber(even)}`;
      rows.push(line("received by the key", `${briefNumber(received)}${words}`));
    }
    if (error !== null) rows.push(line("rows sum to 1 within", error === 0 ? "0" : error.toExponential(0).replace("-", "−")));
    return makeElement("table", {}, makeElement("tbody", {}, ...rows));
  }

  function draw() {
    if (!state.reading) return;
    const { labels, cursor, arithmetic } = state;
    const heading = (text) => makeElement("h3", { text });
    root.replaceChildren(
      arithmetic ? arithmeticTable(arithmetic) : cellTable(),
      ...(arithmetic?.precise ? [heading("To the last digit"), preciseTable(arithmetic.precise)] : []),
      ...(state.top.length ? [heading(`Where ${spokenQuery(labels, cursor[0])} looks most`), topTable()] : []),
      rowTable(),
    );
  }

  function update(changes) {
    // A way that was just taken keeps the keyboard where it is.
    const held = root.contains(document.activeElement) ? document.activeElement.textContent : null;
    state = { ...state, ...changes };
    if (changes.theme) applyTheme(root, state.theme);
    draw();
    if (held) [...root.querySelectorAll("button")].find((each) => each.textContent === held)?.focus();
  }
  adoptStyles(root);
  update({ ...props });
  return Object.assign(() => root.remove(), { update });
}
