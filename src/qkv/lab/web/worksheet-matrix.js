// One matrix of the worksheet: a grid of numbers with its shape and axes. Arrows go from cell to
// cell; typing, Enter or a click changes a number where it may be changed.

import { makeElement, rampColor, rampPlace, uniqueId } from "./views.js";
import { parseNumber } from "./worksheet-model.js";
import { shortDigits } from "./worksheet-words.js";

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/**
 * @typedef {object} MatrixProps
 * @property {string} name as the model calls it
 * @property {string} title
 * @property {string} formula
 * @property {string} axes "4 tokens × 2 channels"
 * @property {string} tone the class of its hue: q, k, v or nothing
 * @property {boolean} [turned] rows and columns change places, as of kᵀ
 * @property {boolean} [stays] whether Enter leaves the cell chosen, not the one below it
 * @property {boolean} [copy] whether it stands elsewhere too
 * @property {(at: number) => string} rowName
 * @property {(at: number) => string} colName
 * @property {(name: string, row: number, col: number) => void} onPoint hovered or focused
 * @property {() => void} onLeave
 * @property {(name: string, row: number, col: number, number: number | null) => void} onChange
 * @property {(message: string) => void} onProblem
 */

/** "W_Q" with its Q set low. */
export function withSubscript(text) {
  return text.split(/(_[A-Z])/).map((part) => (part.startsWith("_") ? makeElement("sub", { text: part[1] }) : part));
}

/** Whether white can be read better on a colour than black: by the contrast that WCAG asks for. */
function isDark(color) {
  const [red, green, blue] = color.match(/\d+/g).map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179;
}

function refusal(name, text) {
  const least = name === "exponentials" ? "0" : "−1,000,000";
  return `“${text.slice(0, 20)}” is no number from ${least} to 1,000,000${name === "masked" ? ", nor −∞" : ""}`;
}

export class MatrixView {
  /** @param {any} model @param {MatrixProps} props */
  constructor(model, props) {
    this.model = model;
    this.props = props;
    this.cells = [];
    this.editing = null;
    const id = uniqueId("matrix");
    const [rows, cols] = this.shape();
    this.at = [0, 0];
    const head = makeElement("tr", { role: "row" }, makeElement("td", { role: "presentation" }));
    for (let col = 0; col < cols; col++) head.append(makeElement("th", { scope: "col", role: "columnheader", text: props.colName(col) }));
    const body = makeElement("tbody", { role: "rowgroup" }, head);
    for (let row = 0; row < rows; row++) {
      const line = makeElement("tr", { role: "row" }, makeElement("th", { scope: "row", role: "rowheader", text: props.rowName(row) }));
      this.cells.push(Array.from({ length: cols }, (_, col) => {
        const cell = makeElement("td", { role: "gridcell", tabindex: row || col ? "-1" : "0" });
        cell.dataset.at = `${row},${col}`;
        if (!model.isEditable(props.name)) cell.setAttribute("aria-readonly", "true");
        line.append(cell);
        return cell;
      }));
      body.append(line);
    }
    const grid = makeElement("table", { role: "grid", "aria-labelledby": id }, body);
    this.element = makeElement(
      "figure",
      { class: ["matrix", props.tone && `tone-${props.tone}`, props.copy && "copy"].filter(Boolean).join(" ") },
      makeElement("figcaption", { id },
        makeElement("b", { class: props.tone }, ...withSubscript(props.title)),
        makeElement("span", {}, " ", ...withSubscript(props.formula)),
        makeElement("small", { text: props.axes })),
      makeElement("div", { class: "sheet" }, grid),
    );
    this.listen(grid);
  }

  shape() {
    const matrix = this.model.matrix(this.props.name);
    const shape = [matrix.length, matrix[0].length];
    return this.props.turned ? shape.reverse() : shape;
  }

  /** A cell's row and column in the matrix itself. */
  place(row, col) {
    return this.props.turned ? [col, row] : [row, col];
  }

  listen(grid) {
    const found = (event) => event.target.closest("[data-at]")?.dataset.at.split(",").map(Number);
    const { name, onPoint, onLeave } = this.props;
    grid.addEventListener("pointerover", (event) => {
      const at = found(event);
      if (at) onPoint(name, ...this.place(...at), false);
    });
    grid.addEventListener("pointerleave", onLeave);
    grid.addEventListener("focusin", (event) => {
      const at = found(event);
      if (!at) return;
      this.rove(...at);
      onPoint(name, ...this.place(...at), true);
    });
    grid.addEventListener("click", (event) => {
      const at = found(event);
      if (at && event.target.tagName !== "INPUT") this.edit(...at);
    });
    grid.addEventListener("keydown", (event) => this.press(event, found(event)));
  }

  press(event, at) {
    if (!at || event.ctrlKey || event.metaKey || event.altKey) return;
    if (this.editing) {
      if (event.key === "Escape") this.end(false);
      else if (event.key === "Enter") this.end(true, true);
      else return;
      event.preventDefault();
      return;
    }
    if (MOVES[event.key] || event.key === "Home" || event.key === "End") {
      const [rows, cols] = this.shape();
      const [down, right] = MOVES[event.key] ?? [0, event.key === "Home" ? -cols : cols];
      this.cells[Math.min(rows - 1, Math.max(0, at[0] + down))][Math.min(cols - 1, Math.max(0, at[1] + right))].focus();
    } else if (event.key === "Enter" || event.key === "F2") this.edit(...at);
    else if (/^[-−.,0-9]$/.test(event.key)) this.edit(...at, event.key);
    else if (event.key === "Delete" || event.key === "Backspace") this.props.onChange(this.props.name, ...this.place(...at), null);
    else return;
    event.preventDefault();
  }

  rove(row, col) {
    this.cells[this.at[0]][this.at[1]].tabIndex = -1;
    this.at = [row, col];
    this.cells[row][col].tabIndex = 0;
  }

  /** Open a field in a cell; numbers count while they are typed. */
  edit(row, col, typed = null) {
    const { name, onChange, onProblem } = this.props;
    const cell = this.cells[row][col];
    cell.focus();
    if (!this.model.isEditable(name)) return;
    const place = this.place(row, col);
    const found = this.model.matrix(name)[place[0]][place[1]];
    const before = name === "masked" ? (found ?? -Infinity) : found;
    const pinned = this.model.isPinned(name, ...place);
    const input = makeElement("input", {
      type: "text", inputmode: "text", autocomplete: "off", spellcheck: "false",
      "aria-label": `${this.props.title}, ${this.props.rowName(row)}, ${this.props.colName(col)}`,
    });
    input.value = typed ?? String(before ?? "").replace("-", "−").replace("Infinity", "∞");
    this.editing = { row, col, input, back: () => onChange(name, ...place, pinned || this.model.isGiven(name) ? before : null) };
    cell.replaceChildren(input);
    cell.classList.add("editing");
    const take = () => {
      const number = parseNumber(input.value, name);
      input.setAttribute("aria-invalid", String(number === null));
      if (number !== null && (number !== before || typed)) onChange(name, ...place, number);
      return number !== null || input.value.trim() === "";
    };
    input.addEventListener("input", take);
    input.addEventListener("blur", () => {
      if (this.editing?.input !== input) return;
      if (!take()) onProblem(refusal(name, input.value));
      this.end(true);
    });
    input.focus();
    if (typed === null) input.select();
    else take();
  }

  /** Close the field. @param {boolean} keep what was typed @param {boolean} [onward] to the next row */
  end(keep, onward = false) {
    const { row, col, input, back } = this.editing;
    const { name } = this.props;
    const failed = parseNumber(input.value, name) === null;
    if (keep && failed && input.value.trim() !== "") this.props.onProblem(refusal(name, input.value));
    const focused = document.activeElement === input;
    this.editing = null;
    this.cells[row][col].classList.remove("editing");
    if (!keep || failed) back();
    this.update();
    const next = onward && !this.props.stays && row + 1 < this.cells.length;
    if (focused) this.cells[next ? row + 1 : row][col].focus();
  }

  /** Write the numbers as they are now. */
  update() {
    const { name } = this.props;
    const matrix = this.model.matrix(name);
    const hatched = ["masked", "exponentials", "pattern"].includes(name);
    const theme = this.theme?.() ?? "light";
    this.cells.forEach((line, row) => line.forEach((cell, col) => {
      const [down, right] = this.place(row, col);
      const number = matrix[down]?.[right];
      if (this.editing?.row === row && this.editing?.col === col) return;
      const shut = hatched && !this.model.allowed[down][right];
      const masks = this.model.mask === "causal" || (this.model.mask === "after" && name === "pattern");
      const open = name === "masked" ? number !== null : number !== 0;
      const banned = shut && hatched && masks && !open;
      cell.textContent = name === "masked" && number === null ? "−∞" : shortDigits(number);
      cell.classList.toggle("banned", banned);
      cell.classList.toggle("leak", shut && !banned);
      cell.classList.toggle("pinned", this.model.isPinned(name, down, right));
      if (name === "pattern" && !banned) {
        const color = rampColor(theme, rampPlace(number, true));
        cell.style.background = color;
        cell.style.color = isDark(color) ? "white" : "black";
      } else if (name === "pattern") cell.style.background = cell.style.color = "";
    }));
  }

  /** Light a row, a column or a cell; nothing for none. */
  light(row, col, kind = "lit") {
    this.cells.forEach((line, down) => line.forEach((cell, right) => {
      const [r, c] = this.place(down, right);
      cell.classList.add(...((row === null || r === row) && (col === null || c === col) ? [kind] : []));
    }));
  }

  unlight() {
    for (const cell of this.cells.flat()) cell.classList.remove("lit", "here");
  }
}
