// The worksheet's bands of hinged matrices: what is multiplied stands at the left and above what
// comes out, and beside the pattern what is said of its rows.

import { makeElement } from "./views.js";
import { MatrixView } from "./worksheet-matrix.js";
import { digits, explain, scaleWords, sumDigits } from "./worksheet-words.js";

const WIDEST_HINGE = 8;
const MOST_ABREAST = 4;

const token = (at) => `t${at + 1}`;
const channel = (letter) => (at) => `${letter}${at + 1}`;

/** What each matrix is called, where it comes from, and what its axes are. */
function describe(model) {
  const by = scaleWords(model);
  const asker = (row) => token(model.place(row));
  const size = (name) => {
    const matrix = model.matrix(name);
    return [matrix.length, matrix[0].length];
  };
  const axes = (name, down, across) => `${size(name).join(" × ")} · ${down} × ${across}`;
  const from = (name, words) => (model.isGiven(name) ? "given" : words);
  const square = { down: "Q", across: "K", rowName: asker, colName: token };
  const masked = { causal: "later tokens −∞", none: "no mask", zero: "later tokens 0", after: "not yet" }[model.mask];
  const parts = {
    x: { title: "X", formula: "", down: "T", across: "D", rowName: token, colName: channel("d") },
    w_q: { title: "W_Q", formula: "", down: "D", across: "C", tone: "q", rowName: channel("d"), colName: channel("c") },
    w_k: { title: "W_K", formula: "", down: "D", across: "C", tone: "k", rowName: channel("d"), colName: channel("c") },
    w_v: { title: "W_V", formula: "", down: "D", across: "C", tone: "v", rowName: channel("d"), colName: channel("c") },
    q: { title: "q", formula: from("q", "X · W_Q"), down: "Q", across: "C", tone: "q", rowName: asker, colName: channel("c") },
    k: { title: "k", formula: from("k", "X · W_K"), down: "K", across: "C", tone: "k", rowName: token, colName: channel("c") },
    v: { title: "v", formula: from("v", "X · W_V"), down: "K", across: "C", tone: "v", rowName: token, colName: channel("c") },
    scores: { title: "scores", formula: from("scores", "q · kᵀ"), ...square },
    scaled: { title: "scaled", formula: by ? `scores ${by}` : "as they are", ...square },
    masked: { title: "masked", formula: masked, ...square },
    exponentials: { title: "exponentials", formula: "e to each", ...square },
    pattern: { title: "pattern", formula: model.mask === "after" ? "e / sum, then masked" : "e / sum of the row", ...square },
    mixed: { title: "mixed", formula: "pattern · v", down: "Q", across: "C", rowName: asker, colName: channel("c") },
    joined: { title: "joined", formula: "heads side by side", down: "Q", across: "H·C", rowName: asker, colName: channel("c") },
    w_o: { title: "W_O", formula: "", down: "H·C", across: "D", rowName: channel("c"), colName: channel("d") },
    output: { title: "output", formula: `${model.heads > 1 ? "joined" : "mixed"} · W_O`, down: "Q", across: "D", rowName: asker, colName: channel("d") },
  };
  return (name, extra = {}) => {
    const { down, across, ...part } = parts[name];
    const turned = extra.turned && { title: "kᵀ", formula: "k, turned", axes: `${size(name).reverse().join(" × ")} · ${across} × ${down}`, rowName: part.colName, colName: part.rowName };
    return { name, tone: "", ...part, axes: axes(name, down, across), ...extra, ...turned };
  };
}

export class Sheet {
  /**
   * @param {any} model
   * @param {any} handlers
   * @param {() => Theme} theme
   */
  constructor(model, handlers, theme) {
    this.model = model;
    this.handlers = handlers;
    this.theme = theme;
    this.views = [];
    this.element = makeElement("div", { class: "bands" });
    const made = describe(model);
    const view = (name, extra) => (name && model.matrix(name) ? this.add(made(name, extra)) : null);
    // What is too wide to be read beside the scores stands above, by itself.
    const hinged = model.matrix("q")?.[0].length <= WIDEST_HINGE;
    const copied = { copy: model.matrix("x") !== null || (model.matrix("q") !== null && !hinged) };
    const few = model.tokens <= MOST_ABREAST;
    if (model.matrix("x")) {
      this.band("Project", [[null, view("x")], [view("w_q"), view("q")], [view("w_k"), view("k")], [view("w_v"), view("v")]]);
    } else if (model.matrix("q") && !hinged) {
      this.band("Given", [[null, view("q")], [null, view("k")], [null, view("v")]]);
    }
    this.band("Compare, scale, mask", [
      [null, hinged ? view("q", copied) : null],
      [hinged ? view("k", { ...copied, turned: true }) : null, view("scores")],
      ...["scaled", "masked", ...(few ? ["exponentials"] : [])].map((name) => [null, view(name)]),
    ]);
    this.stats = makeElement("figure", { class: "matrix stats" });
    const several = model.heads > 1;
    this.band("Share out, mix", [
      [null, few ? null : view("exponentials")],
      [null, view("pattern")],
      [null, this.stats],
      [view("v", copied), view("mixed")],
      [null, several && model.matrix("output") ? view("joined") : null],
      model.matrix("output") ? [view("w_o"), view("output")] : [null, null],
    ]);
    this.update();
  }

  add(props) {
    const found = new MatrixView(this.model, { ...props, ...this.handlers });
    found.theme = this.theme;
    this.views.push(found);
    return found.element;
  }

  band(name, columns) {
    const band = makeElement("div", { class: "band", tabindex: "-1" });
    columns.filter(([top, bottom]) => top || bottom).forEach(([top, bottom], at) => {
      for (const [element, row] of [[top, 1], [bottom, 2]]) {
        if (!element) continue;
        element.style.gridColumn = String(at + 1);
        element.style.gridRow = String(row);
        element.classList.toggle("above", row === 1);
        band.append(element);
      }
    });
    this.element.append(makeElement("section", { class: "step", "aria-label": name }, makeElement("h2", { text: name }), band));
  }

  update() {
    for (const view of this.views) view.update();
    this.writeStats();
    this.point(this.pointed);
  }

  /** What is said of each row: its sum, the softmax's entropy and the size of its gradient. */
  writeStats() {
    const { weights, entropy, gradient } = this.model.rows;
    const { sound } = this.model;
    const cell = (number) => makeElement("td", { text: digits(number) });
    const sum = (weight) => makeElement("td", { class: Math.abs(weight - 1) > 1e-9 ? "wrong" : null, text: sumDigits(weight) });
    const names = ["sum", "entropy", ...(sound ? ["as it should be"] : []), "gradient", ...(sound ? ["as it should be"] : [])];
    const head = makeElement("tr", {}, makeElement("td", { class: "corner" }), ...names.map((text) => makeElement("th", { scope: "col", class: text.length > 9 ? "long" : null, text })));
    const lines = weights.map((weight, row) => makeElement("tr", {},
      makeElement("th", { scope: "row", text: token(this.model.place(row)) }),
      sum(weight),
      cell(entropy[row]), ...(sound ? [makeElement("td", { class: "soft", text: digits(sound.entropy[row]) })] : []),
      cell(gradient[row]), ...(sound ? [makeElement("td", { class: "soft", text: digits(sound.gradient[row]) })] : []),
    ));
    this.stats.replaceChildren(
      makeElement("figcaption", {}, makeElement("b", { text: "each row" }), " of the softmax", makeElement("small", { text: "in nats; ‖diag p − ppᵀ‖, by the scaled scores" })),
      makeElement("div", { class: "sheet", tabindex: "0", role: "group", "aria-label": "what is said of each row" }, makeElement("table", {}, makeElement("tbody", {}, head, ...lines))),
    );
  }

  /** Light a cell and all that it comes from. @param {[string, number, number] | undefined} at */
  point(at) {
    this.pointed = at;
    for (const view of this.views) view.unlight();
    if (!at) return;
    const [name, row, col] = at;
    const { lights } = explain(this.model, ...at);
    for (const view of this.views) {
      if (view.props.name === name) view.light(row, col, "here");
      for (const [source, down, right] of lights) {
        if (view.props.name === source) view.light(down, right);
      }
    }
  }

  /** Whether a matrix has such a cell. */
  has([name, row, col]) {
    const matrix = this.views.some((view) => view.props.name === name) && this.model.matrix(name);
    return Boolean(matrix && matrix[row] && matrix[row][col] !== undefined);
  }
}
