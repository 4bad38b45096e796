// A worksheet's state: what is given, what is pinned, the options; to and from the address; and the
// server's numbers beside it.

const MATRICES = ["x", "w_q", "w_k", "w_v", "w_o", "q", "k", "v", "scores"];
const PINNABLE = ["q", "k", "v", "scores", "scaled", "masked", "exponentials", "pattern", "mixed", "output"];
const SQUARE = ["scores", "scaled", "masked", "exponentials", "pattern"];
const LARGEST = 1e6;

const plain = (text) => (/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text) ? Number(text) : NaN);

/**
 * @param {string} text
 * @param {string} [name] the matrix in which it is to stand: among masked numbers −∞ may
 * @returns {number | null}
 */
export function parseNumber(text, name = "") {
  const typed = text.trim().replaceAll("−", "-");
  // 1,000 may be a thousand, or one: it is refused.
  if (/^[-+]?[1-9]\d{0,2}(,\d{3})+$/.test(typed)) return null;
  const said = typed.replace(",", ".");
  if (name === "masked" && /^-(∞|inf(inity)?)$/i.test(said)) return -Infinity;
  if (name === "exponentials" && said.startsWith("-")) return null;
  const [over, under = "1", ...more] = said.split("/");
  const number = more.length ? NaN : plain(over) / plain(under);
  return Number.isFinite(number) && Math.abs(number) <= LARGEST ? number : null;
}

const write = (matrix) => matrix.map((row) => row.join(",")).join(";");
const read = (text) => text.split(";").map((row) => row.split(",").map(Number));

export class Model {
  /** @param {any[]} examples */
  constructor(examples) {
    this.examples = examples;
    this.head = 0;
    this.reply = null;
    this.take(examples[0].id);
  }

  /** Start from a worked example. @param {string} id */
  take(id) {
    this.example = this.examples.find((one) => one.id === id) ?? this.examples[0];
    this.sheet = structuredClone(this.example.sheet);
    // Whether every token asks, or only some do.
    const { x, q, scores } = this.sheet;
    this.allAsk = Boolean(x) || (q ?? scores).length === this.tokens;
    this.pins = {};
    this.head = 0;
    this.focus = ["pattern", this.example.row, this.example.col];
  }

  /** What can be gone back to: all but the server's numbers. */
  keep() {
    const { example, allAsk, head, focus } = this;
    return { example, allAsk, head, focus, sheet: structuredClone(this.sheet), pins: { ...this.pins } };
  }

  get mask() {
    return this.sheet.mask ?? "causal";
  }

  get scale() {
    return this.reply.scale;
  }

  get heads() {
    return this.sheet.heads ?? 1;
  }

  get allowed() {
    return this.reply.allowed;
  }

  /** The row and column of the later token that gets most weight, or none. */
  largestLeak() {
    const places = this.allowed.flatMap((row, at) => row.flatMap((allowed, col) => (allowed ? [] : [[at, col]])));
    const weight = ([row, col]) => this.reply.tables.pattern[this.head][row][col];
    const most = places.sort((a, b) => weight(b) - weight(a))[0];
    return most && weight(most) > 0 ? most : null;
  }

  /** What is said of each row of the head that is shown. */
  get rows() {
    return Object.fromEntries(Object.entries(this.reply.rows).map(([name, heads]) => [name, heads[this.head]]));
  }

  /** The same with the mask and the scale in force, where they aren't. */
  get sound() {
    const sound = this.reply.sound;
    return sound && { entropy: sound.entropy[this.head], gradient: sound.gradient[this.head] };
  }

  /** Where in the text a row's token stands, from 0. */
  place(row) {
    return this.reply.places[row];
  }

  /** What a page sends to have it worked. */
  asked() {
    return { ...this.sheet, pins: this.pins };
  }

  /** A matrix of the head that is shown; null where this worksheet has none. */
  matrix(name) {
    if (name === "output") return this.reply.output;
    if (name === "joined") return this.reply.tables.mixed[0].map((_, row) => this.reply.tables.mixed.flatMap((head) => head[row]));
    if (this.reply.tables[name]) return this.reply.tables[name][this.head];
    const found = this.sheet[name];
    if (!found || name === "x" || name === "w_o") return found ?? null;
    return found.map((row) => row.slice(...this.columns(row.length)));
  }

  /** Which columns of all heads are those of the one that is shown. */
  columns(width) {
    const each = width / this.heads;
    return [this.head * each, (this.head + 1) * each];
  }

  isGiven(name) {
    return MATRICES.includes(name) && name in this.sheet;
  }

  isEditable(name) {
    return this.isGiven(name) || PINNABLE.includes(name) || name === "joined";
  }

  isPinned(name, row, col) {
    return this.key(name, row, col) in this.pins;
  }

  /** What a number is called that is changed by hand. */
  key(name, row, col) {
    if (name === "output") return `output.0.${row}.${col}`;
    if (name !== "joined") return `${name}.${this.head}.${row}.${col}`;
    const each = this.reply.tables.mixed[0][0].length;
    return `mixed.${Math.floor(col / each)}.${row}.${col % each}`;
  }

  /** What would stand where a number is pinned. */
  computed(name, row, col) {
    return this.reply.computed[this.key(name, row, col)] ?? null;
  }

  /** Set a number; null takes a pin away again. */
  set(name, row, col, number) {
    if (this.isGiven(name)) {
      if (number === null) return;
      const wide = this.sheet[name][row].length;
      const byHead = ["w_q", "w_k", "w_v", "q", "k", "v"].includes(name);
      this.sheet[name][row][(byHead ? this.columns(wide)[0] : 0) + col] = number;
    } else if (number === null) delete this.pins[this.key(name, row, col)];
    else this.pins[this.key(name, row, col)] = number;
  }

  /** How many tokens there are to look at. */
  get tokens() {
    const { x, k, scores } = this.sheet;
    return x?.length ?? k?.length ?? scores[0].length;
  }

  /** Add a token at the end, all of it 0, or take the last away. */
  resize(tokens) {
    const fit = (rows, count, make) => Array.from({ length: count }, (_, at) => rows[at] ?? make());
    for (const name of ["x", "k", "v", ...(this.allAsk ? ["q"] : [])]) {
      const rows = this.sheet[name];
      if (rows) this.sheet[name] = fit(rows, tokens, () => rows[0].map(() => 0));
    }
    if (this.sheet.scores) {
      this.sheet.scores = this.sheet.scores.map((row) => fit(row, tokens, () => 0));
      if (this.allAsk) this.sheet.scores = fit(this.sheet.scores, tokens, () => Array(tokens).fill(0));
    }
    if (this.sheet.places) this.sheet.places = this.sheet.places.map((place) => Math.min(place, tokens - 1));
    // What was changed by hand at a token that is gone is gone with it.
    this.pins = Object.fromEntries(Object.entries(this.pins).filter(([key]) => {
      const [name, , row, col] = key.split(".");
      return Number(row) < tokens && (!SQUARE.includes(name) || Number(col) < tokens);
    }));
  }

  setOption(name, value) {
    if (value === null) delete this.sheet[name];
    else this.sheet[name] = value;
  }

  /** The address of what is shown: the example, and what differs from it. */
  toQuery() {
    const query = new URLSearchParams();
    query.set("example", this.example.id);
    for (const name of MATRICES) {
      if (name in this.sheet && write(this.sheet[name]) !== write(this.example.sheet[name])) query.set(name, write(this.sheet[name]));
    }
    if (this.mask !== (this.example.sheet.mask ?? "causal")) query.set("mask", this.mask);
    if (this.sheet.scale !== this.example.sheet.scale) query.set("scale", this.sheet.scale ?? "root");
    for (const [key, number] of Object.entries(this.pins)) query.set(key, String(number));
    if (this.head) query.set("head", String(this.head));
    query.set("cell", this.focus.join("."));
    return query;
  }

  /** Take what an address says; what it says wrongly is left out. @param {URLSearchParams} query */
  fromQuery(query) {
    this.take(query.get("example"));
    for (const [key, text] of query) {
      const [name, ...places] = key.split(".");
      if (key in this.sheet && MATRICES.includes(key)) {
        const found = read(text);
        const even = found.every((row) => row.length === found[0].length && row.every(Number.isFinite));
        if (even) this.sheet[key] = found;
      } else if (PINNABLE.includes(name) && places.length === 3 && parseNumber(text, name) !== null) {
        this.pins[key] = parseNumber(text, name);
      }
    }
    if (["causal", "none", "zero", "after"].includes(query.get("mask"))) this.sheet.mask = query.get("mask");
    const scale = query.get("scale");
    if (scale === "root") delete this.sheet.scale;
    else if (scale && parseNumber(scale) !== null) this.sheet.scale = parseNumber(scale);
    if (this.sheet.places) this.sheet.places = this.sheet.places.map((place) => Math.min(place, this.tokens - 1));
    const head = Number(query.get("head"));
    if (Number.isInteger(head) && head > 0 && head < this.heads) this.head = head;
    const [name, row, col] = (query.get("cell") ?? "").split(".");
    if (name && Number.isInteger(Number(row)) && Number.isInteger(Number(col))) this.focus = [name, Number(row), Number(col)];
  }
}
