// How the page that trains says things: names of runs, how they stand, numbers with their units.

const STATES = {
  starting: "starting", running: "training", pausing: "saving, to pause", stopping: "saving, to stop", paused: "paused",
  stopped: "stopped", finished: "finished", interrupted: "paused", failed: "failed", ended: "ended", waiting: "not begun",
  silent: "silent", unreadable: "can't be read",
};
const LONGEST_NAME = 120;
export const LIVING = new Set(["starting", "running", "pausing", "stopping"]);
const BROKEN = new Set(["failed", "ended", "unreadable"]);

export const stateWords = (state) => STATES[state] ?? state;
export const isBroken = (head) => BROKEN.has(head.state);

/**
 * A run's name, the same wherever it is told of: its folder's; a rung's is its title.
 * @param {{id: string, title?: string}} run
 * @param {Map<string, string>} titles of recipes
 */
export function nameOf(run, titles) {
  if (run.id === "own") return "qkv's own model";
  const title = run.title ?? run.id.split("/").at(-1);
  const rung = /^\d\d-(.+)$/.exec(title);
  return rung ? (titles.get(rung[1]) ?? rung[1]) : title.slice(0, LONGEST_NAME);
}

/** @param {number} value */
export const count = (value) => Math.round(value).toLocaleString("en");

/** @param {number} value such as 410000 */
export function brief(value) {
  if (value >= 1e6) return `${Number((value / 1e6).toPrecision(3))} M`;
  return value >= 1e3 ? `${Number((value / 1e3).toPrecision(3))} k` : String(Math.round(value));
}

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  const hours = Math.floor(seconds / 3600);
  return hours < 48 ? `${hours} h ${Math.round((seconds % 3600) / 60)} min` : `${Math.round(hours / 24)} days`;
}

/** @param {number} value */
export const nats = (value) => value.toFixed(3);

/** What is last of a run's losses: on validation text where it is newer. */
export function lastLoss(run) {
  const trained = run.losses.at(-1);
  const validated = run.validation.at(-1);
  if (validated && (!trained || validated[0] >= trained[0])) return { step: validated[0], loss: validated[1], kind: "validation loss" };
  return trained ? { step: trained[0], loss: trained[2], kind: "loss" } : null;
}

/** The sentence about a run, and the line below it. */
export function runSentence({ head, ...run }, name) {
  const loss = lastLoss(run);
  const reached = loss ? `, and its ${loss.kind} is ${nats(loss.loss)}` : "";
  if (head.id === "own") return `How the heads of ${name} learnt, in ${count(head.step)} steps.`;
  const begun = { starting: `${name} is starting.`, waiting: `${name} has not begun.` };
  if (begun[head.state]) return begun[head.state];
  if (head.state === "unreadable") return `${name} can't be read.`;
  if (!head.steps) return BROKEN.has(head.state) || head.state === "stopped" ? `${name} did not begin.` : `${name} ${stateWords(head.state)}.`;
  if (head.state === "finished") return `${name} has learnt for ${count(head.step)} steps${reached}.`;
  const at = `step ${count(head.step)} of ${count(head.steps)}${reached}`;
  if (LIVING.has(head.state)) return `${name} is at ${at}.`;
  if (head.state === "silent") return `${name} was at ${at} when it was last heard of.`;
  return `${name} ${head.state === "ended" || head.state === "failed" ? head.state : `is ${stateWords(head.state)}`} at ${at}.`;
}

/** Speed, time left, what it learns from. */
export function runFacts(run) {
  const { head } = run;
  const { about = {} } = head;
  const live = LIVING.has(head.state);
  return [
    live && head.rate ? `${count(head.rate)} tokens/s` : "",
    live && head.left_s !== null && head.left_s !== undefined ? `about ${duration(head.left_s)} left` : "",
    head.tokens ? `${brief(head.tokens)} tokens of ${about.name || "text"}` : about.name || "",
    about.layers ? `${about.layers} ${about.layers > 1 ? "layers" : "layer"} of ${about.heads} ${about.heads > 1 ? "heads" : "head"}` : "",
    about.seed !== undefined && about.seed !== null ? `seed ${about.seed}` : "",
    head.host ? `on ${head.host}` : "",
    head.state === "silent" ? head.reason : "",
  ].filter(Boolean).join(" · ");
}
