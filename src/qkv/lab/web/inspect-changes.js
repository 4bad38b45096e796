// Changes of the attention, what they do to the loss, and what the model then says comes next.

import { postJson } from "./api.js";
import { changeList, tidy, wantedOf } from "./inspect-state.js";
import { makeElement, uniqueId, visibleToken } from "./views.js";

const PAUSE_MS = 60;

/**
 * @typedef {object} Effect what is known of the loss, or the words in its place
 * @property {string} [words]
 * @property {boolean} [compared] whether there is something before
 * @property {import("./inspect-state.js").Changes} [changes]
 * @property {number} [loss_before]
 * @property {number} [loss_after]
 * @property {number | null} [change] null where the two count in other tokens
 * @property {{token: string, before: number | null, after: number}[]} [next]
 */

/**
 * Ask what changes do to the loss and to what comes next.
 * @param {import("./inspect-state.js").InspectState} wanted
 * @param {AbortSignal} signal
 * @returns {Promise<Effect>}
 */
export async function askEffect(wanted, signal) {
  const { kept } = wanted;
  const now = wantedOf(wanted);
  const compared = kept ? JSON.stringify(kept) !== JSON.stringify(now) : Object.keys(now.changes).length > 0;
  try {
    const found = await postJson("effect", kept ? { ...now, before: kept } : now, signal);
    return { ...found, changes: now.changes, compared: compared && found.loss_before !== null };
  } catch (error) {
    // A text of one token has weights, and no loss.
    if (error.kind !== "ShapeError" && error.kind !== "ConfigError") throw error;
    return { words: error.message };
  }
}

/**
 * @param {HTMLElement} bar
 * @param {HTMLElement} next where the next tokens stand
 * @param {{onChanges: (changes: import("./inspect-state.js").Changes) => void}} on
 */
export function mountChanges(bar, next, { onChanges }) {
  let state = { changes: {}, head: null, able: true, why: "", effect: null, waiting: false };
  const toggle = (onclick, text) => makeElement("button", { type: "button", class: "toggle", "aria-pressed": "false", text, onclick });
  const flip = (name) => {
    const heads = state.changes[name] ?? [];
    const other = name === "ablate" ? "uniform" : "ablate";
    const without = (list) => (list ?? []).filter((head) => head !== state.head);
    const now = heads.includes(state.head) ? without(heads) : [...heads, state.head];
    change({ [name]: now, [other]: without(state.changes[other]) });
  };
  const ablate = toggle(() => flip("ablate"));
  const uniform = toggle(() => flip("uniform"));
  const mask = toggle(() => change({ mask: state.changes.mask ? undefined : "off" }), "drop the mask");
  const scale = toggle(() => change({ scale: state.changes.scale ? undefined : "off" }), "drop the scale");
  const id = uniqueId("temperature");
  // The middle is 1: each half of the range is a factor of four.
  const range = makeElement("input", { id, type: "range", min: "-2", max: "2", step: "0.1", value: "0" });
  const amount = makeElement("output", { for: id });
  const temperature = makeElement("span", { class: "field" }, makeElement("label", { for: id, text: "temperature of its attention" }), range, amount);
  const chips = makeElement("span", { class: "chips" });
  const undo = makeElement("button", { type: "button", class: "plain", text: "undo all", onclick: undoAll });
  const loss = makeElement("p", { class: "loss", role: "status" });
  const tools = makeElement("div", { class: "tools", role: "group", "aria-label": "Change it" },
    makeElement("h2", { text: "Change it" }), ablate, uniform, mask, scale, temperature, chips, undo);
  bar.append(tools, loss);

  let timer = 0;
  range.addEventListener("input", () => {
    const value = Number((2 ** Number(range.value)).toPrecision(2));
    sayAmount(value);
    clearTimeout(timer);
    timer = setTimeout(() => {
      timer = 0;
      change({ temperature: value });
    }, PAUSE_MS);
  });
  const sayAmount = (value) => {
    amount.textContent = String(value).replace(/^0\./, ".");
    range.setAttribute("aria-valuetext", String(value));
  };

  function undoAll() {
    change(null);
    // The button goes: the keyboard stands where changes begin.
    ablate.focus();
  }

  function change(changes) {
    onChanges(changes === null ? {} : tidy({ ...state.changes, ...changes }));
  }

  /** Heads other than the chosen one that are changed: each is a way back. */
  function chip(name, head) {
    const words = name === "ablate" ? `without ${head}` : `${head} uniform`;
    const restore = () => change({ [name]: state.changes[name].filter((one) => one !== head) });
    return makeElement("button", { type: "button", class: "toggle chip", "aria-label": `${words}: undo`, text: `${words} ×`, onclick: restore });
  }

  /**
   * @param {{changes?: object, head?: string, able?: boolean, why?: string, effect?: Effect | null,
   *   waiting?: boolean}} given `why` not able; `waiting` while the effect is found out
   */
  function update(given) {
    const before = state;
    state = { ...state, ...given };
    const { changes, head, able, why, effect, waiting } = state;
    const has = (name) => (changes[name] ?? []).includes(head);
    const press = (button, pressed) => button.setAttribute("aria-pressed", String(pressed));
    ablate.textContent = `leave out ${head}`;
    uniform.textContent = `make ${head} uniform`;
    press(ablate, has("ablate"));
    press(uniform, has("uniform"));
    press(mask, Boolean(changes.mask));
    press(scale, Boolean(changes.scale));
    if (!timer) {
      const value = changes.temperature ?? 1;
      range.value = String(Math.log2(value));
      sayAmount(value);
    }
    const others = (name) => (changes[name] ?? []).filter((one) => one !== head).map((one) => chip(name, one));
    const held = chips.contains(document.activeElement);
    chips.replaceChildren(...others("ablate"), ...others("uniform"));
    if (held) (chips.querySelector("button") ?? ablate).focus();
    undo.hidden = Object.keys(changes).length === 0;
    for (const control of tools.querySelectorAll("button, input")) control.disabled = !able;
    bar.classList.toggle("unable", !able);
    bar.classList.toggle("waiting", waiting && able);
    // What is said stays as it is, or it would be read aloud again.
    if (effect !== before.effect || able !== before.able || why !== before.why) tell(able ? effect : { words: why });
  }

  function tell(effect) {
    if (effect?.next) {
      loss.replaceChildren(...lossWords(effect));
      showNext(effect);
    } else {
      loss.textContent = effect?.words ?? "";
      next.replaceChildren();
    }
  }

  const number = (value) => value.toFixed(3).replace(/^(-?)0\./, "$1.").replace("-", "−");

  /** A change with its sign; of what is less than three places show, its size. */
  function changeText(value) {
    if (value === 0) return "no change";
    const text = Math.abs(value) < 0.0005 ? value.toExponential(0).replaceAll("-", "−") : number(value);
    return `${value > 0 ? "+" : ""}${text} nats a token`;
  }

  function lossWords({ loss_before: before, loss_after: after, change: rise, compared }) {
    const part = (text, kind = null) => makeElement("span", { class: kind, text });
    const told = makeElement("b", { text: number(after) });
    if (!compared) return [part("loss ", "soft"), told, part(" nats a token", "soft")];
    const words = rise === null ? "nats a token, of other tokens than before" : changeText(rise);
    return [part("loss ", "soft"), part(number(before)), part(" → ", "soft"), told, part(` ${words}`, "soft")];
  }

  function showNext(effect) {
    const changed = effect.compared && effect.change !== null;
    const share = (value) => (value < 0.0005 ? "< .001" : value.toFixed(3).replace(/^0/, ""));
    const bar = (value, kind) => {
      const fill = makeElement("i", { class: kind });
      fill.style.width = `${value * 100}%`;
      return fill;
    };
    const rows = effect.next.map(({ token, before, after }) =>
      makeElement("tr", {},
        makeElement("th", { scope: "row" }, makeElement("bdi", { text: visibleToken(token) })),
        changed ? makeElement("td", { class: "number soft", text: share(before) }) : null,
        makeElement("td", { class: "number", text: share(after) }),
        makeElement("td", { class: "bars", "aria-hidden": "true" }, changed ? bar(before, "was") : null, bar(after, "is"))));
    const heading = (text, kind = "number") => makeElement("th", { scope: "col", class: kind, text });
    next.replaceChildren(
      makeElement("h2", { text: "What it says comes after the text" }),
      makeElement("table", { class: "next" },
        makeElement("caption", { class: "qkv-unseen", text: changed ? `probable next tokens, before and ${changeList(effect.changes) || "after"}` : "probable next tokens" }),
        makeElement("thead", { class: changed ? null : "qkv-unseen" }, makeElement("tr", {}, heading("token", null), changed ? heading("before") : null, heading(changed ? "now" : "share"), makeElement("td"))),
        makeElement("tbody", {}, ...rows)));
  }

  return { update };
}
