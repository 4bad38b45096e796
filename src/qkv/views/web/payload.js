// A payload opened: heads are inflated when they are asked for, and looked up, never computed.
// needs: core

/**
 * @typedef {object} StoredHead
 * @property {number} queries
 * @property {number} keys
 * @property {(row: number, col: number) => Reading} read
 * @property {(row: number) => Float32Array} row every key's weight; NaN where forbidden
 * @property {(col: number) => Float32Array} column every query's weight; NaN where forbidden
 * @property {(row: number) => {key: number, weight: number}[]} top the largest, largest first
 * @property {Float32Array} entropy of each query's row, in nats
 * @property {Float32Array} received by each key, from all queries
 * @property {Int32Array} count how many keys each row may look at
 * @property {Float32Array} even what each key would be given if every row spread itself evenly
 */

/**
 * Inflate some bytes. Written and read by hand: of a blob's stream, piped and wrapped in a response,
 * Chromium may collect a part as garbage while it is awaited.
 * @param {Uint8Array} bytes
 * @returns {Promise<Uint8Array>}
 */
async function inflateBytes(bytes) {
  const { readable, writable } = new DecompressionStream("deflate");
  const writer = writable.getWriter();
  // What goes wrong here comes out of the reader too.
  writer.write(bytes).catch(() => {});
  writer.close().catch(() => {});
  const parts = [];
  const reader = readable.getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read()) parts.push(next.value);
  const all = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let place = 0;
  for (const part of parts) {
    all.set(part, place);
    place += part.length;
  }
  return all;
}

/**
 * The bytes of some base64.
 * @param {string} text
 * @returns {Uint8Array}
 */
export function base64Bytes(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

/** Reads arrays one after another; wide numbers lie in planes of bytes, little-endian. */
function planeReader(bytes) {
  let place = 0;
  const raw = (size) => bytes.subarray(place, (place += size));
  const take = (kind, count) => {
    const width = kind.BYTES_PER_ELEMENT;
    const from = raw(count * width);
    const to = new Uint8Array(count * width);
    for (let plane = 0; plane < width; plane++) {
      for (let at = 0; at < count; at++) to[at * width + plane] = from[plane * count + at];
    }
    return new kind(to.buffer);
  };
  return { raw, take };
}

/** @param {number} bits of a float16 @returns {number} */
function halfFloat(bits) {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024);
  return bits & 0x8000 ? -size : size;
}

/** What a mask allows: where each row's cells begin among those stored, and which are holes. */
function readMask(bytes, queries, keys, withHoles) {
  const reader = planeReader(bytes);
  const [start, stop, count] = [0, 0, 0].map(() => reader.take(Int32Array, queries));
  const even = reader.take(Float32Array, keys);
  const begin = new Float64Array(queries + 1);
  for (let row = 0; row < queries; row++) begin[row + 1] = begin[row] + stop[row] - start[row];
  const holes = withHoles ? reader.raw(Math.ceil(begin[queries] / 8)) : null;
  /** The place of a cell among those stored, or -1 where it is forbidden. */
  const find = (row, col) => {
    if (col < start[row] || col >= stop[row]) return -1;
    const at = begin[row] + col - start[row];
    return holes && !((holes[at >> 3] >> (7 - (at & 7))) & 1) ? -1 : at;
  };
  return { start, stop, count, even, cells: begin[queries], find };
}

/** @returns {StoredHead} */
function readHead(bytes, mask, queries, keys, bounds, top) {
  const reader = planeReader(bytes);
  const levels = reader.raw(Math.ceil(mask.cells / 2));
  const topKeys = reader.take(Uint32Array, queries * top);
  const topWeights = Float32Array.from(reader.take(Uint16Array, queries * top), halfFloat);
  const entropy = reader.take(Float32Array, queries);
  const received = reader.take(Float32Array, keys);
  // Where only its level is known, a cell is drawn as the middle of that level.
  const middle = bounds.slice(0, -1).map((low, at) => Math.sqrt(low * bounds[at + 1]));
  const levelAt = (at) => (at & 1 ? levels[at >> 1] & 15 : levels[at >> 1] >> 4);
  const exact = (row, col) => {
    for (let at = row * top; at < (row + 1) * top; at++) {
      if (topKeys[at] === col) return topWeights[at];
    }
    return null;
  };
  const read = (row, col) => {
    const at = mask.find(row, col);
    if (at < 0) return { allowed: false, exact: null, low: 0, high: 0 };
    const level = levelAt(at);
    return { allowed: true, exact: exact(row, col), low: bounds[level], high: bounds[level + 1], level };
  };
  const weight = (row, col) => {
    const at = mask.find(row, col);
    if (at < 0) return NaN;
    return exact(row, col) ?? middle[levelAt(at)];
  };
  const row = (query) => {
    const weights = new Float32Array(keys).fill(NaN);
    for (let col = mask.start[query]; col < mask.stop[query]; col++) {
      const at = mask.find(query, col);
      if (at >= 0) weights[col] = middle[levelAt(at)];
    }
    for (let at = query * top; at < (query + 1) * top; at++) {
      if (topKeys[at] < keys) weights[topKeys[at]] = topWeights[at];
    }
    return weights;
  };
  const column = (key) => Float32Array.from({ length: queries }, (_, query) => weight(query, key));
  const largest = (query) => {
    const found = [];
    for (let at = query * top; at < (query + 1) * top; at++) {
      if (topKeys[at] < keys) found.push({ key: topKeys[at], weight: topWeights[at] });
    }
    return found.sort((a, b) => b.weight - a.weight);
  };
  const { count, even } = mask;
  return { queries, keys, read, row, column, top: largest, entropy, received, count, even };
}

/**
 * A stored head as a map draws it: weights by the tile, pooled by their largest.
 * @param {StoredHead} head
 * @returns {MapSource}
 */
export function storedSource(head) {
  const tile = async (level, rows, cols) => {
    const size = 2 ** level;
    const wide = cols[1] - cols[0];
    const values = new Float32Array((rows[1] - rows[0]) * wide).fill(NaN);
    const last = Math.min(head.keys, cols[1] * size);
    for (let row = rows[0] * size; row < Math.min(head.queries, rows[1] * size); row++) {
      const weights = head.row(row);
      const begin = (Math.floor(row / size) - rows[0]) * wide - cols[0];
      for (let col = cols[0] * size; col < last; col++) {
        const at = begin + Math.floor(col / size);
        // Written so that a weight beats NaN, and a larger weight a smaller one.
        if (!(weights[col] <= values[at]) && weights[col] >= 0) values[at] = weights[col];
      }
    }
    return values;
  };
  return {
    rows: head.queries,
    cols: head.keys,
    hows: ["max"],
    tile,
    read: head.read,
    known: (row, col) => head.read(row, col).exact,
    uniform: (row) => head.count[row],
  };
}

/**
 * @typedef {object} OpenPayload
 * @property {Record<string, any>} header
 * @property {{entry: any, layer: any}[]} heads in order
 * @property {(name: string) => Promise<StoredHead>} head
 * @property {() => Promise<Map<string, {rows: number, cols: number, levels: Uint8Array}>>} thumbnails
 */

/**
 * Open a payload.
 * @param {Record<string, any>} header
 * @param {(offset: number, length: number) => Uint8Array | Promise<Uint8Array>} cut a piece of its body
 * @param {number} [kept] how many heads stay inflated
 * @returns {OpenPayload}
 */
export function openPayload(header, cut, kept = 12) {
  if (header.format !== "qkv payload" || header.version !== 1) {
    throw new Error(`got ${header.format} ${header.version}; expected qkv payload 1`);
  }
  const heads = header.layers.flatMap((layer) => layer.heads.map((entry) => ({ entry, layer })));
  const byName = new Map(heads.map((each) => [each.entry.name, each]));
  const chunk = async (name) => inflateBytes(await cut(...header.chunks[name]));
  const masks = new Map();
  const open = new Map();
  const mask = (name, layer) => {
    if (!masks.has(name)) {
      const { queries, keys } = layer;
      masks.set(name, chunk(name).then((bytes) => readMask(bytes, queries, keys, header.holes[name])));
    }
    return masks.get(name);
  };
  const load = async (name) => {
    if (!byName.has(name)) throw new Error(`got head ${name}; expected one of the ${heads.length} stored`);
    const { entry, layer } = byName.get(name);
    const [bytes, seen] = await Promise.all([chunk(entry.name), mask(entry.seen, layer)]);
    return readHead(bytes, seen, layer.queries, layer.keys, header.bounds, header.top);
  };
  const head = (name) => {
    const found = open.get(name) ?? load(name);
    open.delete(name);
    open.set(name, found);
    if (open.size > kept) open.delete(open.keys().next().value);
    return found;
  };
  const thumbnails = async () => {
    const bytes = await chunk("thumbnails");
    let place = 0;
    return new Map(
      heads.map(({ entry }) => {
        const [rows, cols] = entry.thumb;
        const levels = bytes.subarray(place, (place += rows * cols));
        return [entry.name, { rows, cols, levels }];
      }),
    );
  };
  return { header, heads, head, thumbnails };
}
