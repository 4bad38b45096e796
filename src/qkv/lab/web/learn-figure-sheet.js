// Matrices of the worksheet in a figure: the worksheet's own engine and grids, fewer of them, and
// what is said of them left to the figure.

import { postJson } from "./api.js";
import { asker, makeProblem, onTheme } from "./learn-figure-frame.js";
import { makeElement } from "./views.js";
import { MatrixView } from "./worksheet-matrix.js";
import { Model } from "./worksheet-model.js";
import { explain } from "./worksheet-words.js";

const token = (at) => `t${at + 1}`;

/**
 * @typedef {object} Drawn one matrix of a figure
 * @property {string} name as the worksheet calls it
 * @property {string} title
 * @property {string} formula
 * @property {string} [tone] q, k, v or nothing
 * @property {boolean} [turned]
 * @property {(at: number) => string} [rowName]
 * @property {(at: number) => string} [colName]
 */

export class FigureSheet {
  /**
   * @param {object} sheet what the worksheet starts from
   * @param {{theme: () => Theme}} shell
   * @param {(sheet: FigureSheet) => void} onDrawn numbers were written, or another cell is looked at
   */
  constructor(sheet, shell, onDrawn) {
    this.model = new Model([{ id: "figure", of: "", row: 0, col: 0, sheet }]);
    this.shell = shell;
    this.onDrawn = onDrawn;
    this.views = [];
    this.at = null;
    this.problem = makeProblem();
    this.refresh = asker(
      () => postJson("worksheet", this.model.asked()),
      (reply) => this.take(reply),
      (message) => this.problem.tell(message),
    );
    this.unlisten = onTheme(() => this.draw());
  }

  take(reply) {
    this.model.reply = reply;
    this.draw();
  }

  /** The first numbers, before anything can be laid out. */
  async begin() {
    this.model.reply = await postJson("worksheet", this.model.asked());
  }

  /** A matrix's element. @param {Drawn} drawn */
  add(drawn) {
    const view = new MatrixView(this.model, {
      axes: "", tone: "", stays: true, rowName: token, colName: token, ...drawn,
      onPoint: (name, row, col, chosen) => this.point([name, row, col], chosen),
      onLeave: () => this.point(this.chosen),
      onChange: (name, row, col, number) => {
        this.model.set(name, row, col, number);
        this.chosen = this.at = [name, row, col];
        this.refresh();
      },
      onProblem: (message) => this.problem.tell(message),
    });
    view.theme = this.shell.theme;
    this.views.push(view);
    return view.element;
  }

  /** Caption of a matrix, where an option changes what it is. */
  caption(name, formula) {
    const view = this.views.find(({ props }) => props.name === name);
    view.element.querySelector("figcaption span").textContent = ` ${formula}`;
  }

  setOption(name, value) {
    this.model.setOption(name, value);
    this.refresh();
  }

  point(at, chosen = false) {
    if (chosen) this.chosen = at;
    this.at = at;
    this.light();
    this.onDrawn(this);
  }

  light() {
    for (const view of this.views) view.unlight();
    if (!this.at || !this.model.reply) return;
    const [name, row, col] = this.at;
    const { lights } = explain(this.model, name, row, col);
    for (const view of this.views) {
      if (view.props.name === name) view.light(row, col, "here");
      for (const [source, down, right] of lights) if (view.props.name === source) view.light(down, right);
    }
  }

  draw() {
    for (const view of this.views) view.update();
    this.light();
    this.onDrawn(this);
  }

  /** A cell's number and what it is made of. */
  words(name, row, col) {
    return explain(this.model, name, row, col).words;
  }

  /** One row of a table, of the head that is shown. */
  row(name, at) {
    return this.model.matrix(name)[at];
  }

  end() {
    this.unlisten();
  }
}

/** Some matrices side by side. @param {...HTMLElement} elements */
export const band = (...elements) => makeElement("div", { class: "matrices" }, ...elements);
