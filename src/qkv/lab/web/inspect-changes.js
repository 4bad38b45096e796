// Changes of the attention, what they do to the loss, and what the model then says comes next.

import { changeList, tidy } from "./inspect-state.js";
import { makeElement, uniqueId, visibleToken } from "./views.js";

const PAUSE_MS = 60;

/**
 * @param {HTMLElement} bar
 * @param {HTMLElement} next where the next tokens stand
 * @param {{onChanges: (changes: import("./inspect-state.js").Changes) => void}} on
 */
export function mountChanges(bar, next, { onChanges }) {
  let state = { changes: {}, head: null, able: true };
  const toggle = (onclick) => makeElement("button", { type: "button", class: "toggle", "aria-pressed": "false", onclick });
  const flip = (name) => {
    const heads = state.changes[name] ?? [];
    const other = name === "ablate" ? "uniform" : "ablate";
    const without = (list) => (list ?? []).filter((head) => head !== state.head);
    const now = heads.includes(state.head) ? without(heads) : [...heads, state.head];
    change({ [name]: now, [other]: without(state.changes[other]) });
  };
  const ablate = toggle(() => flip("ablate"));
  const uniform = toggle(() => flip("uniform"));
  const mask = toggle(() => change({ mask: state.changes.mask ? undefined : "off" }));
  const scale = toggle(() => change({ scale: state.changes.scale ? undefined : "off" }));
  mask.textContent = "drop the mask";
  scale.textContent = "drop the scale";
  const id = uniqueId("temperature");
  // The middle is 1: each half of the range is a factor of four.
  const range = makeElement("input", { id, type: "range", min: "-2", max: "2", step: "0.1", value: "0" });
  const amount = makeElement("output", { for: id });
  const temperature = makeElement("span", { class: "field" }, makeElement("label", { for: id, text: "temperature" }), range, amount);
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
    timer = setTimeout(() => change({ temperature: value }), PAUSE_MS);
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
    return makeElement("button", { type: "button", class: "toggle", "aria-pressed": "true", "aria-label": `${words}: undo`, text: `${words} ×`, onclick: restore });
  }

  /** @param {{changes?: object, head?: string, able?: boolean, why?: string}} given `why` not able */
  function update(given) {
    state = { ...state, ...given };
    const { changes, head, able, why } = state;
    const has = (name) => (changes[name] ?? []).includes(head);
    const press = (button, pressed) => button.setAttribute("aria-pressed", String(pressed));
    ablate.textContent = has("ablate") ? `without ${head}` : `leave out ${head}`;
    uniform.textContent = has("uniform") ? `${head} is uniform` : `make ${head} uniform`;
    press(ablate, has("ablate"));
    press(uniform, has("uniform"));
    press(mask, Boolean(changes.mask));
    press(scale, Boolean(changes.scale));
    const value = changes.temperature ?? 1;
    range.value = String(Math.log2(value));
    sayAmount(value);
    const others = (name) => (changes[name] ?? []).filter((one) => one !== head).map((one) => chip(name, one));
    const held = chips.contains(document.activeElement);
    chips.replaceChildren(...others("ablate"), ...others("uniform"));
    if (held) (chips.querySelector("button") ?? ablate).focus();
    undo.hidden = Object.keys(changes).length === 0;
    for (const control of tools.querySelectorAll("button, input")) control.disabled = !able;
    bar.classList.toggle("unable", !able);
    if (!able) {
      loss.textContent = why;
      next.replaceChildren();
    }
  }

  const number = (value) => value.toFixed(3).replace(/^(-?)0\./, "$1.").replace("-", "−");

  /** @param {any} effect of `POST api/effect`; null while it is found out */
  function tell(effect, against) {
    bar.classList.toggle("waiting", effect === null);
    if (effect === null) return;
    const { loss_before: before, loss_after: after, change: rise } = effect;
    const changed = Object.keys(state.changes).length > 0 || against;
    const part = (text, kind = null) => makeElement("span", { class: kind, text });
    loss.replaceChildren(
      part("loss ", "soft"),
      ...(changed
        ? [part(number(before)), part(" → ", "soft"), makeElement("b", { text: number(after) }), part(` ${rise < 0 ? "" : "+"}${number(rise)} nats a token`, "soft")]
        : [makeElement("b", { text: number(after) }), part(" nats a token", "soft")]),
    );
    showNext(effect, changed);
  }

  function showNext(effect, changed) {
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
      makeElement("h2", { text: "What it says comes next" }),
      makeElement("table", { class: "next" },
        makeElement("caption", { class: "qkv-unseen", text: changed ? `probable next tokens, before and ${changeList(state.changes) || "after"}` : "probable next tokens" }),
        makeElement("thead", { class: changed ? null : "qkv-unseen" }, makeElement("tr", {}, heading("token", null), changed ? heading("before") : null, heading(changed ? "now" : "share"), makeElement("td"))),
        makeElement("tbody", {}, ...rows)));
  }

  /** @param {string} words in place of a loss */
  function say(words) {
    bar.classList.remove("waiting");
    loss.textContent = words;
    next.replaceChildren();
  }

  return { update, tell, say };
}
