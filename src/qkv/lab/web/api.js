// All that pages ask of the server: the only module that fetches. Paths are relative, so that the
// lab works below any prefix.

import { capital } from "./sentence.js";

/**
 * An error's line, "got …; expected …; do …", as a page says it.
 * @param {string} line
 */
export function plainly(line) {
  const [, got, expected, remedy] = /^got ([^]*?); expected ([^]*?); ([^]*)$/.exec(line) ?? [];
  if (!remedy) return line;
  return `${capital(got)}, instead of ${expected}. ${capital(remedy)}.`;
}

/** What went wrong, as the server says it: got, expected, what to do. */
export class Refusal extends Error {
  /** @param {{error?: string, limit?: number, kind?: string}} told @param {number} status */
  constructor(told, status) {
    super(told.error ? plainly(told.error) : `the lab answered ${status}`);
    this.status = status;
    this.limit = told.limit ?? null;
    this.kind = told.kind ?? "";
  }
}

async function send(path, options) {
  let reply;
  try {
    reply = await fetch(`api/${path}`, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal({ error: "the lab can't be reached: is it still running?" }, 0);
  }
  if (reply.ok) return reply;
  const told = await reply.json().catch(() => ({}));
  throw new Refusal(told, reply.status);
}

/** @param {string} path @param {AbortSignal} [signal] */
export async function getJson(path, signal) {
  return (await send(path, { signal })).json();
}

/** @param {string} path @param {object} body @param {AbortSignal} [signal] */
export async function postJson(path, body, signal) {
  return (await send(path, posted(body, signal))).json();
}

/**
 * A reply of JSON and numbers, as `replies.framed` writes it.
 * @param {string} path
 * @param {object} body
 * @param {AbortSignal} [signal]
 * @returns {Promise<{reply: any, parts: Uint8Array[]}>}
 */
export async function postFramed(path, body, signal) {
  const data = await (await send(path, posted(body, signal))).arrayBuffer();
  const size = new DataView(data).getUint32(0, true);
  const reply = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
  let place = 4 + size;
  const parts = reply.lengths.map((length) => new Uint8Array(data, (place += length) - length, length));
  return { reply, parts };
}

const posted = (body, signal) => ({
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
  signal,
});

/** @param {Uint8Array} bytes */
export const floatsOf = (bytes) => new Float32Array(bytes.slice().buffer);

/**
 * What is live: one WebSocket, opened again whenever it is lost.
 * @param {(message: any) => void} onMessage
 * @param {(connected: boolean) => void} onState
 * @returns {{send: (message: object) => void, close: () => void}}
 */
export function listen(onMessage, onState) {
  let socket = null;
  let pause = 500;
  let ended = false;
  const waiting = [];
  const open = () => {
    const url = new URL("api/live", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    socket = new WebSocket(url);
    socket.onopen = () => {
      pause = 500;
      onState(true);
      for (const message of waiting.splice(0)) socket.send(message);
    };
    socket.onmessage = ({ data }) => onMessage(JSON.parse(data));
    socket.onclose = () => {
      if (ended) return;
      onState(false);
      setTimeout(() => ended || open(), pause);
      pause = Math.min(pause * 2, 8000);
    };
  };
  open();
  return {
    send: (message) => {
      const text = JSON.stringify(message);
      if (socket.readyState === WebSocket.OPEN) socket.send(text);
      else waiting.push(text);
    },
    close: () => {
      ended = true;
      socket.close();
    },
  };
}
