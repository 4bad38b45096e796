// What the page shows, as its address says it: a link to the page is a link to all of this.

import { ownColumn } from "./inspect-views.js";

/**
 * A text beyond this many characters stays out of the address, which people read and mail cuts. The
 * browser's history has it: it is there after a reload, and on the way back.
 */
const LONGEST_LINKED = 600;

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
 * @property {number | null} step of its probes, which read a passage of their own: the text and the
 *   changes wait until it is null again
 * @property {boolean} cut
 * @property {Changes} changes
 *
 * @typedef {Wanted & {head: string | null, cursor: [number, number] | null, direction: "out" | "in",
 *   pins: number[], log: boolean, how: "max" | "sum", part: View | null,
 *   sort: {column: string | null, down: boolean} | null, ordered: boolean, kept: Wanted | null,
 *   view: "now" | "before" | "change"}} InspectState `part` of the map is seen, where it is zoomed
 */

/** What the address calls the order of the heads themselves. */
const HEADS = "head";
const WANTED = { item: "own", text: null, step: null, cut: false, changes: {} };
/** Before the names of what is compared with, where it differs. */
const WAS = "was-";

/** @returns {InspectState} */
export function readAddress() {
  const query = new URLSearchParams(location.search);
  const numbers = (name) => (query.get(name) ?? "").split(",").filter((part) => /^\d+$/.test(part)).map(Number);
  const cursor = numbers("cell");
  const wanted = wantedIn(query, "", { ...WANTED, text: history.state?.text ?? null });
  return {
    ...wanted,
    head: query.get("head"),
    cursor: cursor.length === 2 ? /** @type {[number, number]} */ (cursor) : null,
    direction: query.get("direction") === "in" ? "in" : "out",
    pins: numbers("pins"),
    log: query.get("scale") !== "linear",
    how: query.get("pooling") === "sum" ? "sum" : "max",
    part: partOf(query),
    sort: sortOf(query),
    ordered: query.has("ordered"),
    kept: history.state?.kept ?? (query.has("kept") ? wantedIn(query, WAS, { ...WANTED, item: wanted.item, text: wanted.text }) : null),
    view: ["before", "change"].includes(query.get("view")) ? query.get("view") : "now",
  };
}

/** By a score from the largest down, by the heads from the first on, unless it says otherwise. */
function sortOf(query) {
  if (!query.has("sort")) return null;
  const column = query.get("sort") === HEADS ? null : query.get("sort");
  return { column, down: query.has("order") ? query.get("order") === "down" : column !== null };
}

function partOf(query) {
  const [zoom, y, x] = [query.get("zoom"), ...(query.get("corner") ?? "0,0").split(",")].map(Number);
  return zoom > 1 && zoom < Infinity && y >= 0 && x >= 0 ? { zoom, x, y } : null;
}

/** What is read, as an address says it; what it doesn't say of it is as in `other`. @returns {Wanted} */
function wantedIn(query, prefix, other) {
  const get = (name) => query.get(prefix + name);
  const heads = (name) => (get(name) ?? "").split(",").filter((head) => /^L\d+H\d+$/.test(head));
  const temperature = Number(get("temperature"));
  return {
    item: get("item") ?? other.item,
    // No text is empty: that stands for the model's own.
    text: get("text") === null ? other.text : get("text") || null,
    step: /^\d{1,9}$/.test(get("step") ?? "") ? Number(get("step")) : null,
    cut: get("cut") !== null,
    changes: tidy({
      ablate: heads("without"),
      uniform: heads("uniform"),
      mask: get("mask") === "off" ? "off" : undefined,
      scale: get("qk") === "off" ? "off" : undefined,
      temperature: temperature > 0 ? temperature : undefined,
    }),
  };
}

function putWanted(query, prefix, { item, text, step, cut, changes }, other) {
  const put = (name, value, usual = null) => value !== usual && value !== null && query.set(prefix + name, String(value));
  put("item", item, other.item);
  if (text !== other.text && isShort(text)) query.set(`${prefix}text`, text ?? "");
  put("step", step);
  if (cut) query.set(`${prefix}cut`, "yes");
  put("without", (changes.ablate ?? []).join(","), "");
  put("uniform", (changes.uniform ?? []).join(","), "");
  put("mask", changes.mask ?? null);
  put("qk", changes.scale ?? null);
  put("temperature", changes.temperature ?? null);
}

const isShort = (text) => (text ?? "").length <= LONGEST_LINKED;

/**
 * Put the state into the address.
 * @param {InspectState} state
 * @param {boolean} [step] whether it is one that the browser's way back undoes
 */
export function writeAddress(state, step = false) {
  const query = new URLSearchParams();
  const { text, head, cursor, direction, pins, log, how, part, sort, ordered, kept, view } = state;
  const put = (name, value, other) => value !== other && value !== null && query.set(name, String(value));
  putWanted(query, "", state, WANTED);
  put("head", head);
  if (cursor) put("cell", cursor.join(","));
  put("direction", direction, "out");
  put("pins", pins.join(","), "");
  if (!log) query.set("scale", "linear");
  put("pooling", how, "max");
  if (part) {
    query.set("zoom", String(Number(part.zoom.toPrecision(4))));
    query.set("corner", [part.y, part.x].map((place) => Number(place.toFixed(2))).join(","));
  }
  if (sort) {
    query.set("sort", sort.column ?? HEADS);
    put("order", sort.down ? "down" : "up", sort.column === null ? "up" : "down");
  }
  if (ordered) query.set("ordered", "yes");
  const same = kept?.text === text;
  if (kept && (same || isShort(kept.text))) {
    query.set("kept", "yes");
    putWanted(query, WAS, kept, state);
  }
  put("view", view, "now");
  const words = query.toString();
  const beside = { text: isShort(text) ? null : text, kept: kept && !isShort(kept.text) ? kept : null };
  history[step ? "pushState" : "replaceState"](beside, "", words ? `?${words}` : location.pathname);
}

/** Whether a link to the page brings all of it back. */
export const isLinked = ({ text, kept }) => isShort(text) && isShort(kept?.text);

/** Changes without those that change nothing. @returns {Changes} */
export function tidy(changes) {
  const kept = Object.entries(changes).filter(([name, value]) =>
    value !== undefined && value !== null && !(Array.isArray(value) && value.length === 0) && !(name === "temperature" && value === 1));
  return Object.fromEntries(kept);
}

/** @param {InspectState} state @returns {Wanted} */
export function wantedOf({ item, text, step, cut, changes }) {
  return step === null ? { item, text, step, cut, changes } : { ...WANTED, item, step };
}

/** Whether two states read the same, but for what is changed in the attention. */
export const sameReading = (one, other) => ["item", "text", "step", "cut"].every((name) => one[name] === other[name]);

/** Where to begin in a head: at its strongest cell, where that is known. */
export const startOf = (text, name) => text.entry(name).strongest?.slice(0, 2) ?? [0, 0];

/**
 * Where to stand in a text that has come: as it is wanted, as far as there is such a place.
 * @param {InspectState} wanted
 * @param {OpenText} text
 * @returns {InspectState}
 */
export function settle(wanted, text) {
  const head = text.entry(wanted.head) ? wanted.head : (text.header.begin || text.heads[0].name);
  const { queries, keys } = text.layer(head);
  const inside = wanted.cursor && wanted.cursor[0] < queries && wanted.cursor[1] < keys;
  const pins = wanted.pins.filter((place) => place < (wanted.direction === "out" ? queries : keys));
  return { ...wanted, head, cursor: inside ? wanted.cursor : startOf(text, head), sort: sortIn(wanted.sort, text, head), pins };
}

/** The wanted order, where there is such a score; else by what the head is called. */
function sortIn(wanted, text, head) {
  const columns = text.header.table ?? [];
  const known = wanted && (wanted.column === null || columns.some(({ name }) => name === wanted.column));
  if (known || columns.length === 0) return wanted;
  const own = ownColumn(text, text.entry(head)) ?? columns.find(({ name }) => name !== "lift") ?? columns[0];
  return { column: own.name, down: true };
}

/** What the page compares with: what was kept, else the same text before its changes. */
export function comparedWith(state) {
  if (state.kept) return state.kept;
  return Object.keys(wantedOf(state).changes).length ? { ...wantedOf(state), changes: {} } : null;
}

/** Changes in words: "without L1H2, no mask". */
export function changeList({ ablate = [], uniform = [], mask, scale, temperature }) {
  const parts = [
    ablate.length && `without ${ablate.join(", ")}`,
    uniform.length && `${uniform.join(", ")} uniform`,
    mask && "no mask",
    scale && "no scale",
    temperature && `temperature of attention ${temperature}`,
  ];
  return parts.filter(Boolean).join(", ");
}
