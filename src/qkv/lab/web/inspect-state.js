// What the page shows, as its address says it: a link to the page is a link to all of this.

/** A text beyond this many characters stays out of the address, which browsers and mail cut. */
const LONGEST_LINKED = 4000;

/**
 * @typedef {object} Changes what is changed in the attention, as `POST api/open` takes it
 * @property {string[]} [ablate] heads left out
 * @property {string[]} [uniform] heads that look at everything alike
 * @property {"off"} [mask]
 * @property {"off"} [scale]
 * @property {number} [temperature]
 *
 * @typedef {object} Wanted what is read, and how it is changed
 * @property {string} item
 * @property {string | null} text null for the model's own passage
 * @property {number | null} step of its probes, in place of a text
 * @property {boolean} cut
 * @property {Changes} changes
 *
 * @typedef {Wanted & {head: string | null, cursor: [number, number] | null, direction: "out" | "in",
 *   pins: number[], log: boolean, sort: {column: string | null, down: boolean} | null,
 *   ordered: boolean, kept: Wanted | null, view: "now" | "before" | "change"}} InspectState
 */

const WANTED = { item: "own", text: null, step: null, cut: false, changes: {} };

/** @returns {InspectState} */
export function readAddress() {
  const query = new URLSearchParams(location.search);
  const number = (name) => (/^\d+$/.test(query.get(name) ?? "") ? Number(query.get(name)) : null);
  const numbers = (name) => (query.get(name) ?? "").split(",").filter((part) => /^\d+$/.test(part)).map(Number);
  const cursor = numbers("cell");
  return {
    ...WANTED,
    item: query.get("item") ?? "own",
    text: query.get("text"),
    step: number("step"),
    cut: query.has("cut"),
    changes: changesOf(query),
    head: query.get("head"),
    cursor: cursor.length === 2 ? /** @type {[number, number]} */ (cursor) : null,
    direction: query.get("direction") === "in" ? "in" : "out",
    pins: numbers("pins"),
    log: query.get("scale") !== "linear",
    sort: query.has("sort") ? { column: query.get("sort"), down: true } : null,
    ordered: query.has("ordered"),
    kept: keptOf(query.get("kept")),
    view: ["before", "change"].includes(query.get("view")) ? query.get("view") : "now",
  };
}

function changesOf(query) {
  const heads = (name) => (query.get(name) ?? "").split(",").filter((head) => /^L\d+H\d+$/.test(head));
  const temperature = Number(query.get("temperature"));
  return tidy({
    ablate: heads("without"),
    uniform: heads("uniform"),
    mask: query.get("mask") === "off" ? "off" : undefined,
    scale: query.get("qk") === "off" ? "off" : undefined,
    temperature: temperature > 0 ? temperature : undefined,
  });
}

function keptOf(text) {
  try {
    const { item, text: words, step, cut, changes } = JSON.parse(text);
    return { ...WANTED, item: String(item), text: words ?? null, step: step ?? null, cut: Boolean(cut), changes: changes ?? {} };
  } catch {
    return null;
  }
}

/** Put the state into the address, without a step in the browser's history. */
export function writeAddress(state) {
  const query = new URLSearchParams();
  const { item, text, step, cut, changes, head, cursor, direction, pins, log, sort, ordered, kept, view } = state;
  const put = (name, value, other) => value !== other && value !== null && query.set(name, String(value));
  put("item", item, "own");
  if (text !== null && text.length <= LONGEST_LINKED) put("text", text);
  put("step", step);
  if (cut) query.set("cut", "yes");
  put("without", (changes.ablate ?? []).join(","), "");
  put("uniform", (changes.uniform ?? []).join(","), "");
  put("mask", changes.mask ?? null);
  put("qk", changes.scale ?? null);
  put("temperature", changes.temperature ?? null);
  put("head", head);
  if (cursor) put("cell", cursor.join(","));
  put("direction", direction, "out");
  put("pins", pins.join(","), "");
  if (!log) query.set("scale", "linear");
  put("sort", sort?.column ?? null);
  if (ordered) query.set("ordered", "yes");
  if (kept && (kept.text ?? "").length <= LONGEST_LINKED) put("kept", JSON.stringify(kept));
  put("view", view, "now");
  const words = query.toString();
  history.replaceState(null, "", words ? `?${words}` : location.pathname);
}

/** Whether a link to the page brings all of it back. */
export const isLinked = ({ text, kept }) => Math.max((text ?? "").length, (kept?.text ?? "").length) <= LONGEST_LINKED;

/** Changes without those that change nothing. @returns {Changes} */
export function tidy(changes) {
  const kept = Object.entries(changes).filter(([name, value]) =>
    value !== undefined && value !== null && !(Array.isArray(value) && value.length === 0) && !(name === "temperature" && value === 1));
  return Object.fromEntries(kept);
}

/** @param {InspectState} state @returns {Wanted} */
export function wantedOf({ item, text, step, cut, changes }) {
  return { item, text, step, cut, changes };
}

/** What the page compares with: what was kept, else the same text before its changes. */
export function comparedWith(state) {
  if (state.kept) return state.kept;
  return Object.keys(state.changes).length ? { ...wantedOf(state), changes: {} } : null;
}

/** Changes in words: "without L1H2, no mask". */
export function changeList({ ablate = [], uniform = [], mask, scale, temperature }) {
  const parts = [
    ablate.length && `without ${ablate.join(", ")}`,
    uniform.length && `${uniform.join(", ")} uniform`,
    mask && "no mask",
    scale && "no scale",
    temperature && `temperature ${temperature}`,
  ];
  return parts.filter(Boolean).join(", ");
}
