// The text itself: choose a token and see arcs to where it looks, or from who looks at it.
// needs: core, mapinput, arcdraw

/**
 * @typedef {object} ArcSource
 * @property {(query: number) => Promise<Float32Array> | Float32Array} row every key's weight
 * @property {(key: number) => Promise<Float32Array> | Float32Array} column every query's weight
 *
 * @typedef {object} ArcText
 * @property {number} size how many tokens
 * @property {readonly string[] | null} labels
 *
 * @typedef {object} ArcProps
 * @property {ArcSource} source
 * @property {ArcText} keys the text that is looked at
 * @property {ArcText | null} queries the text that looks, where it is another one
 * @property {readonly number[] | null} places the key at which each query stands, else null
 * @property {number | null} chosen a query, or a key where direction is "in"
 * @property {readonly number[]} pins of the same kind as `chosen`
 * @property {"out" | "in"} direction where it looks, or who looks at it
 * @property {Theme} theme
 * @property {boolean} log
 * @property {(place: number) => void} [onChoose]
 * @property {(pins: number[]) => void} [onPins]
 * @property {(direction: "out" | "in") => void} [onDirection]
 * @property {(error: Error) => void} [onProblem] weights did not come
 */

const ARCS_OF_ONE = 8;
/** No arc is drawn for less than this. */
const LEAST_ARC = 0.01;
const DASHES = [[], [7, 3], [2, 3], [10, 3, 2, 3], [4, 2]];

/**
 * Mount the text with its arcs.
 * @param {HTMLElement} element
 * @param {ArcProps} props
 * @returns {(() => void) & {update: (props: Partial<ArcProps>) => void}} what cleans up
 */
export function mountArcs(element, props) {
  let state = { ...props };
  let texts = null;
  let asked = 0;
  /** What is drawn: for the chosen token and each pin, its weights on the other side. */
  let looks = [];

  const directions = mountChoices(
    "Direction",
    [["out", "where it looks"], ["in", "who looks at it"]],
    (direction) => state.onDirection?.(direction),
  );
  const pin = makeElement("button", { type: "button", class: "qkv-pin", onclick: () => togglePin(state.chosen) });
  const clear = makeElement("button", { type: "button", class: "qkv-pin", text: "clear pins", onclick: () => state.onPins?.([]) });
  const tools = makeElement("div", { class: "qkv-tools" }, directions.root, pin, clear);
  const canvas = makeElement("canvas", { "aria-hidden": "true" });
  const body = makeElement("div", { class: "qkv-text" }, canvas);
  const list = makeElement("div", { class: "qkv-looks" });
  const live = makeElement("p", { class: "qkv-unseen", "aria-live": "polite" });
  const root = makeElement("div", { class: "qkv-arcs" }, tools, body, list, live);
  element.append(root);

  const cross = () => state.queries !== null;
  /** The text that a choice is made in, and the one that its weights lie in. */
  const chosenText = () => (cross() && state.direction === "out" ? texts.queries : texts.keys);
  const otherText = () => (cross() && state.direction === "in" ? texts.queries : texts.keys);
  const labelsOf = (kind) => (kind === "queries" && cross() ? state.queries.labels : state.keys.labels);
  /** The token at which a query stands. */
  const placeOf = (query) => (cross() || !state.places ? query : state.places[query]);
  const tokenOf = (choice) => (state.direction === "out" ? placeOf(choice) : choice);
  const choiceOf = (place) => {
    if (state.direction === "in" || cross() || !state.places) return place;
    return state.places.indexOf(place);
  };

  function build() {
    texts?.keys.end();
    if (texts?.queries !== texts?.keys) texts?.queries.end();
    const on = { choose, pin: (place) => togglePin(choiceOf(place)) };
    const make = (text, name) => mountTokens(body, text, name, !cross(), on);
    const queries = cross() ? make(state.queries, "the text that looks") : null;
    const keys = make(state.keys, cross() ? "the text that is looked at" : "the text");
    texts = { keys, queries: queries ?? keys };
  }

  function choose(place, text) {
    if (text !== chosenText()) {
      // In cross-attention a click in the other text asks the other question.
      state.onDirection?.(state.direction === "out" ? "in" : "out");
    }
    const choice = choiceOf(place);
    if (choice >= 0) state.onChoose?.(choice);
  }

  function togglePin(choice) {
    if (choice === null || choice < 0) return;
    const kept = state.pins.filter((each) => each !== choice);
    state.onPins?.(kept.length < state.pins.length ? kept : [...state.pins, choice]);
  }

  async function look() {
    const count = (asked += 1);
    const { source, direction } = state;
    const wanted = [...new Set([state.chosen, ...state.pins].filter((choice) => choice !== null))];
    const weights = await Promise.all(
      wanted.map((choice) => (direction === "out" ? source.row(choice) : source.column(choice))),
    );
    if (count !== asked) return;
    looks = wanted.map((choice, at) => {
      const places = direction === "in" ? (query) => placeOf(query) : (key) => key;
      const ranked = [...weights[at].keys()].filter((place) => weights[at][place] > 0);
      ranked.sort((a, b) => weights[at][b] - weights[at][a]);
      const most = ranked.slice(0, ARCS_OF_ONE).map((place) => ({ place: places(place), weight: weights[at][place] }));
      return { choice, token: tokenOf(choice), weights: weights[at], most };
    });
    show();
  }

  /** Mark the tokens, then draw the arcs. */
  function show() {
    const { theme, log, direction, chosen, pins } = state;
    const other = otherText();
    const first = looks.find((each) => each.choice === chosen) ?? looks[0];
    const marks = new Map();
    const dim = new Set();
    first?.weights.forEach((weight, at) => {
      const place = direction === "in" ? placeOf(at) : at;
      if (Number.isNaN(weight)) dim.add(place);
      else if (rampPlace(weight, log) > 0) marks.set(place, rampPlace(weight, log));
    });
    other.mark(marks, dim, theme);
    if (texts.queries !== texts.keys) (other === texts.keys ? texts.queries : texts.keys).mark(new Map(), new Set(), theme);
    const kind = direction === "out" ? "q" : "k";
    const chosenToken = chosen === null ? null : tokenOf(chosen);
    chosenText().choose(chosenToken, pins.map(tokenOf), kind);
    if (other !== chosenText()) other.choose(null, [], kind);
    draw();
    describe(first);
  }

  function draw() {
    if (!texts) return;
    const { theme, log } = state;
    const last = texts.keys.root;
    const { context } = sizeCanvas(canvas, body.clientWidth, last.offsetTop + last.offsetHeight);
    const from = chosenText();
    const to = otherText();
    looks.forEach((each, at) => {
      const start = from.box(each.token);
      const dashes = DASHES[at % DASHES.length];
      for (const { place, weight } of [...each.most].reverse()) {
        if (weight < LEAST_ARC || (place === each.token && from === to)) continue;
        const look = { color: rampColor(theme, Math.max(0.25, rampPlace(weight, log))), width: 0.75 + 3 * weight, dashes };
        drawArc(context, start, to.box(place), look);
      }
    });
  }

  function describe(first) {
    const { direction, chosen, pins } = state;
    const [from, to] = direction === "out" ? ["queries", "keys"] : ["keys", "queries"];
    pin.hidden = chosen === null;
    pin.textContent = pins.includes(chosen) ? "unpin" : "pin this token";
    clear.hidden = pins.length === 0;
    /** The sentence that reads one token's arcs aloud. */
    const words = ({ token, most }) => {
      const verbs = direction === "out" ? ["gives", "to"] : ["receives", "from"];
      const whom = most.slice(0, 3).map(
        ({ place, weight }) => `${briefWeight(weight)} ${verbs[1]} ${spokenToken(labelsOf(to), place)}`,
      );
      return `${spokenToken(labelsOf(from), token)} ${verbs[0]} ${whom.join(", ") || "nothing"}`;
    };
    const unpin = (each) =>
      makeElement("button", {
        type: "button",
        "aria-label": `unpin ${spokenToken(labelsOf(from), each.token)}`,
        text: "×",
        onclick: () => togglePin(each.choice),
      });
    const pinned = looks.filter((each) => pins.includes(each.choice));
    list.replaceChildren(
      ...pinned.map((each) => makeElement("p", {}, unpin(each), makeElement("span", { text: words(each) }))),
    );
    if (first) live.textContent = words(first);
  }

  function update(changes) {
    const before = state;
    state = { ...state, ...changes };
    if (changes.theme) applyTheme(root, state.theme);
    directions.update(state.direction);
    if (!texts || state.keys !== before.keys || state.queries !== before.queries) {
      build();
      looks = [];
    }
    const same = ["source", "chosen", "pins", "direction", "places"].every((name) => state[name] === before[name]);
    if (same && looks.length) show();
    else look().catch((error) => state.onProblem?.(error));
  }

  const unwatch = watchWidth(body, draw);
  update({ ...props });
  const cleanUp = () => {
    unwatch();
    root.remove();
  };
  return Object.assign(cleanUp, { update });
}
