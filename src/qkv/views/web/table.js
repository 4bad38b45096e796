// A table of heads and their scores, sorted by any of them.
// needs: core, hint

/**
 * @typedef {object} ScoreColumn one score of every head, in the order of the heads
 * @property {string} name
 * @property {string} description
 * @property {(number | null)[]} values
 * @property {number | null | (number | null)[]} chance
 * @property {number | null} ceiling
 * @property {number | null | (number | null)[]} count
 *
 * @typedef {object} TableProps
 * @property {readonly AtlasHead[]} heads
 * @property {readonly ScoreColumn[]} columns
 * @property {string} caption
 * @property {boolean} [kinds] whether what a head is called has a column
 * @property {{column: string | null, down: boolean}} sort by a column's name, null for layer and head
 * @property {string | null} chosen
 * @property {Theme} theme
 * @property {(name: string) => void} [onChoose]
 * @property {(sort: {column: string | null, down: boolean}) => void} [onSort]
 */

/**
 * A column's number for one head, where it has one for each or one for all.
 * @param {number | null | (number | null)[]} values
 * @param {number} at
 * @returns {number | null}
 */
export function scoreOf(values, at) {
  return Array.isArray(values) ? values[at] : values;
}

/**
 * The heads in the order of a score: their numbers, heads without a score last.
 * @param {readonly ScoreColumn[]} columns
 * @param {number} count
 * @param {{column: string | null, down: boolean}} sort
 * @returns {number[]}
 */
export function sortHeads(columns, count, sort) {
  const order = Array.from({ length: count }, (_, at) => at);
  const column = columns.find((each) => each.name === sort.column);
  if (!column) return sort.down ? order.reverse() : order;
  const value = (at) => column.values[at] ?? (sort.down ? -Infinity : Infinity);
  return order.sort((a, b) => (sort.down ? value(b) - value(a) : value(a) - value(b)) || a - b);
}

/**
 * What a column says, with its chance and ceiling.
 * @param {ScoreColumn} column
 */
export function columnWords(column) {
  const parts = [`${column.name}: ${column.description || "a score of each head"}`.replace(/\.$/, "")];
  const even = "what even attention scores on the same rows";
  if (typeof column.chance === "number") parts.push(`chance, ${even}: ${briefNumber(column.chance)}`);
  else if (column.chance !== null) parts.push(`the mark is chance, ${even}`);
  if (column.ceiling !== null) parts.push(`ceiling ${briefNumber(column.ceiling)}`);
  return `${parts.join("; ")}.`;
}

/**
 * Mount a table of scores.
 * @param {HTMLElement} element
 * @param {TableProps} props
 * @returns {(() => void) & {update: (props: Partial<TableProps>) => void}} what cleans up
 */
export function mountScores(element, props) {
  let state = { ...props };
  const head = makeElement("thead");
  const body = makeElement("tbody");
  const caption = makeElement("caption", { class: "qkv-unseen" });
  const table = makeElement("table", {}, caption, head, body);
  const frame = makeElement("div", { class: "qkv-scroll", tabindex: "0", role: "region", "aria-label": props.caption }, table);
  const words = makeElement("p", { class: "qkv-note" });
  const root = makeElement("div", { class: "qkv-scores" }, frame, words);
  element.append(root);
  const rows = new Map();

  /** Headings by name, the same elements as long as there is such a column. */
  const headings = new Map();

  function heading(name, column = null) {
    if (!headings.has(name)) {
      const button = makeElement("button", { type: "button", text: name ?? "head", onclick: () => resort(name) });
      if (column) explain(button, columnWords(column));
      const arrow = makeElement("span", { class: "qkv-arrow", "aria-hidden": "true" });
      headings.set(name, { arrow, cell: makeElement("th", { scope: "col", class: name === null ? "" : "qkv-number" }, button, arrow) });
    }
    const { sort } = state;
    const { cell, arrow } = headings.get(name);
    const sorted = sort.column === name;
    cell.setAttribute("aria-sort", sorted ? (sort.down ? "descending" : "ascending") : "none");
    arrow.hidden = !sorted;
    arrow.textContent = sort.down ? "↓" : "↑";
    return cell;
  }

  function header() {
    head.replaceChildren(
      makeElement("tr", {}, heading(null), state.kinds ? makeElement("td", { text: "kind" }) : null, 
        // The bar stands beside the score that it is of.
        ...state.columns.flatMap((column) => [heading(column.name, column), column.name === state.sort.column ? makeElement("td") : null])),
    );
  }

  function resort(name) {
    const { sort } = state;
    // Scores are read from the largest down, heads from the first on.
    const down = sort.column === name ? !sort.down : name !== null;
    state.onSort?.({ column: name, down });
  }

  /** A bar as long as the sorted score, with a mark at chance. */
  function bar(column, at, most) {
    const value = column.values[at];
    if (value === null || !(most > 0)) return null;
    const fill = makeElement("i");
    fill.style.width = `${Math.max(0, Math.min(1, value / most)) * 100}%`;
    const chance = scoreOf(column.chance, at);
    const mark = chance === null ? null : makeElement("b");
    if (mark) mark.style.left = `${Math.min(1, chance / most) * 100}%`;
    return makeElement("span", { class: "qkv-bar", "aria-hidden": "true" }, fill, mark);
  }

  function fill() {
    const { columns, heads, sort } = state;
    // What moves, and what is made anew, loses the keyboard: it is given back by name.
    const held = table.contains(document.activeElement) ? document.activeElement : null;
    rows.clear();
    header();
    const sorted = columns.find((column) => column.name === sort.column) ?? null;
    const most = sorted ? (sorted.ceiling ?? Math.max(...sorted.values.map((value) => value ?? 0))) : 0;
    body.replaceChildren(
      ...sortHeads(columns, heads.length, sort).map((at) => {
        const { name, kind } = heads[at];
        const button = makeElement("button", { type: "button", text: name, onclick: () => state.onChoose?.(name) });
        const row = makeElement("tr", { title: kind || null },
          makeElement("th", { scope: "row" }, button),
          state.kinds ? makeElement("td", { class: "qkv-kind", text: kind || "" }) : null,
          ...columns.flatMap((column) => [
            makeElement("td", { class: "qkv-number", text: briefNumber(column.values[at]) }),
            column === sorted ? makeElement("td", { class: "qkv-bars" }, bar(sorted, at, most)) : null,
          ]),
        );
        rows.set(name, row);
        return row;
      }),
    );
    words.textContent = sorted ? columnWords(sorted) : "";
    caption.textContent = state.caption;
    if (held && held !== document.activeElement) (held.isConnected ? held : rows.get(held.textContent)?.querySelector("button"))?.focus();
  }

  function markChosen() {
    for (const [name, row] of rows) {
      row.classList.toggle("qkv-chosen", name === state.chosen);
      row.querySelector("button").setAttribute("aria-pressed", String(name === state.chosen));
    }
  }

  function update(changes) {
    const before = state;
    state = { ...state, ...changes };
    if (changes.theme) applyTheme(root, state.theme);
    const same = (name) => state[name].length === before[name].length && state[name].every((one, at) => one === before[name][at]);
    const { sort } = before;
    const sorted = state.sort.column === sort.column && state.sort.down === sort.down;
    if (!rows.size || !sorted || !same("heads") || !same("columns")) fill();
    markChosen();
  }
  adoptStyles(root);
  update({ ...props });
  return Object.assign(() => root.remove(), { update });
}
