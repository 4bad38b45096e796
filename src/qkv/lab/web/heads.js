// A text that a model has read: its heads, looked up where they came along, else asked for.

import { floatsOf, getJson, postFramed, postJson } from "./api.js";
import { openPayload, storedSource } from "./views.js";

/**
 * @typedef {object} OpenText
 * @property {string} trace what the server calls it
 * @property {any} header as `qkv.views.payload` describes it
 * @property {any[]} heads the entries of all heads, in order
 * @property {boolean} stored whether every head came along
 * @property {number | null} tokens how many the text has in all, where it was cut to the context
 * @property {string} file what files begin with that are made of it
 * @property {{slow: number, quick: number, scored: number, table: number}} limits in cells: a head
 *   beyond `slow` is pooled before it is drawn, beyond `quick` its tracks and thumbnail come late;
 *   of all heads beyond `scored` there are no scores, of more than `table` no table
 * @property {(name: string) => any} entry
 * @property {(name: string) => any} layer
 * @property {(name: string) => Labels} labels
 * @property {(name: string) => Promise<{source: MapSource, arcs: any, tracks: any}>} head
 * @property {(name: string) => MapSource & ArcSource} live a head whose every number the server gives
 * @property {() => Promise<Map<string, Thumbnail>>} thumbnails those that came along
 * @property {(names: string[], signal?: AbortSignal) => Promise<[string, Thumbnail][]>}
 *   makeThumbnails those that did not
 * @property {(signal?: AbortSignal) => Promise<void>} score what came without scores
 * @property {(name: string) => Promise<number | null>} progress of a long head that is read, 0 to 1
 * @property {(kind: string, question: object, signal?: AbortSignal) => Promise<any>} ask
 */

/**
 * Have a model read a text, or a probe, or open a trace.
 * @param {{item: string, text?: string, step?: number, changes?: object, cut?: boolean}} asked
 * @param {AbortSignal} [signal]
 * @returns {Promise<OpenText>}
 */
export async function openText(asked, signal) {
  const { reply, parts } = await postFramed("open", asked, signal);
  const { header, tokens, file, limits } = reply;
  let { trace } = reply;
  const [body] = parts;
  const stored = body.length > 0;
  const payload = stored ? openPayload(header, (offset, length) => body.slice(offset, offset + length)) : null;
  const heads = header.layers.flatMap((layer) => layer.heads);
  const layers = new Map(header.layers.flatMap((layer) => layer.heads.map((head) => [head.name, layer])));
  const entries = new Map(heads.map((head) => [head.name, head]));
  /** What made room for other texts is opened again. */
  const answered = async (path, question, stop) => {
    try {
      return await postFramed(path, { trace, ...question }, stop);
    } catch (error) {
      if (error.kind !== "ClosedError") throw error;
      trace = (await postFramed("open", asked, stop)).reply.trace;
      return postFramed(path, { trace, ...question }, stop);
    }
  };
  const ask = async (kind, question, stop) => {
    const answer = await answered("ask", { kind, ...question }, stop);
    if (answer.reply.kind === "error") throw new Error(answer.reply.message);
    return { ...answer.reply, numbers: answer.parts.map(floatsOf) };
  };
  const labels = (name) => {
    const layer = layers.get(name);
    return { queries: header.texts[layer.query_text].labels, keys: header.texts[layer.key_text].labels, places: layer.places };
  };
  const head = async (name) => {
    if (payload) {
      const found = await payload.head(name);
      return { source: storedSource(found), arcs: found, tracks: found };
    }
    const source = live(name);
    return { source, arcs: source, tracks: null };
  };
  const live = (name) => liveHead(ask, name, layers.get(name));
  const makeThumbnails = async (names, stop) => {
    const answer = await answered("thumbnails", { heads: names }, stop);
    return names.map((name, at) => {
      const [rows, cols] = answer.reply.sizes[at];
      return [name, { rows, cols, levels: answer.parts[at] }];
    });
  };
  /** Score heads that came without scores, as the header would have them. */
  const score = async (stop) => {
    const told = await postJson("scores", { trace }, stop);
    Object.assign(header, { table: told.table, begin: told.begin });
    heads.forEach((head, at) => (head.kind = told.kinds[at]));
  };
  const progress = async (name) => (await getJson(`progress?${new URLSearchParams({ trace, head: name })}`)).done;
  return {
    get trace() {
      return trace;
    },
    header, heads, stored, tokens, file, limits, ask, labels, head, live, makeThumbnails, score, progress,
    entry: (name) => entries.get(name),
    layer: (name) => layers.get(name),
    thumbnails: async () => (payload ? payload.thumbnails() : new Map()),
  };
}

/** A head whose every number comes from the server, as map, arcs and reasons ask for it. */
function liveHead(ask, name, { queries, keys }) {
  const one = async (kind, place) => (await ask(kind, { head: name, place })).numbers[0];
  const tile = async (level, rows, cols, how, signal) =>
    (await ask("tile", { head: name, level, rows, cols, how }, signal)).numbers[0];
  return {
    rows: queries,
    cols: keys,
    hows: ["max", "sum"],
    tile,
    read: async (row, col) => {
      const [weight] = await tile(0, [row, row + 1], [col, col + 1], "max");
      const allowed = !Number.isNaN(weight);
      return allowed ? { allowed, exact: weight, low: weight, high: weight } : { allowed, exact: null, low: 0, high: 0 };
    },
    row: (query) => one("row", query),
    column: (key) => one("column", key),
  };
}

/**
 * What changed from one head to another of the same size, as a map draws it. Where cells share a
 * pixel their sums are subtracted: the largest of the one and of the other may be different cells.
 * @param {MapSource} now
 * @param {MapSource} before
 * @returns {MapSource}
 */
export function changeSource(now, before) {
  const change = (after, less) => {
    if (Number.isNaN(after) && Number.isNaN(less)) return NaN;
    return (Number.isNaN(after) ? 0 : after) - (Number.isNaN(less) ? 0 : less);
  };
  return {
    rows: now.rows,
    cols: now.cols,
    hows: ["sum"],
    signed: true,
    tile: async (...asked) => {
      const [after, less] = await Promise.all([now.tile(...asked), before.tile(...asked)]);
      return after.map((weight, at) => change(weight, less[at]));
    },
    read: async (row, col) => {
      const [after, less] = await Promise.all([now.read(row, col), before.read(row, col)]);
      const exact = (after.exact ?? 0) - (less.exact ?? 0);
      return { allowed: after.allowed || less.allowed, exact, low: exact, high: exact, signed: true };
    },
  };
}
