// Comparing: what is read now, what was before, and what changed from the one to the other.

import { changeList } from "./inspect-state.js";
import { makeElement, mountChoices } from "./views.js";

/** Of so many tokens each has a pixel of its own on most screens. */
const FINE_TOKENS = 600;

/**
 * @param {HTMLElement} element
 * @param {{onView: (view: "now" | "before" | "change") => void, onKeep: (keep: boolean) => void}} on
 */
export function mountCompare(element, { onView, onKeep }) {
  const choices = mountChoices("Compare", [["now", "now"], ["before", "before"], ["change", "what changed"]], onView);
  const keep = makeElement("button", { type: "button", class: "plain small", onclick: () => onKeep(keep.dataset.kept !== "yes") });
  const said = makeElement("p", { class: "soft small said" });
  element.append(choices.root, keep);
  element.after(said);

  /**
   * @param {{view: string, past: {title: string} | null, before: object | null, kept: object | null,
   *   why: string, hint: string}} shown `past` is what is compared with, `before` its head; `why`
   *   says why there is no change to be seen, if there is none
   */
  function update({ view, past, before, kept, why, hint }) {
    choices.root.hidden = past === null;
    choices.update(view);
    const buttons = choices.root.querySelectorAll("button");
    buttons[1].disabled = before === null;
    buttons[2].disabled = Boolean(why);
    buttons[2].title = why;
    keep.dataset.kept = kept ? "yes" : "no";
    keep.textContent = kept ? "let go" : "keep this to compare";
    keep.title = kept
      ? "compare with nothing but what it is before its changes"
      : "then choose another step, model or text, or change something: this is what it is compared with";
    const words = past === null ? ["change something, or keep this, to compare"] : [`before: ${past.title}`, why || hint];
    said.textContent = words.filter(Boolean).join(" · ");
  }
  return { update };
}

/**
 * What is compared with, in words.
 * @param {import("./inspect-state.js").Wanted} wanted
 * @param {OpenText} text
 */
export function titleOf({ step, changes }, text) {
  const labels = text.header.texts[0].labels;
  const words = labels ? labels.join("").slice(0, 24).replace(/\s+/g, " ") : "";
  return [text.header.title, step === null ? "" : `step ${step.toLocaleString("en")}`, words && `“${words}…”`, changeList(changes) || (step === null ? "unchanged" : "")]
    .filter(Boolean).join(", ");
}

/**
 * Why the weights of two heads can't be subtracted; empty where they can.
 * @param {import("./inspect-views.js").Shown} now
 * @param {import("./inspect-views.js").Shown | null} before null where there is no such head
 */
export function whyNoChange(now, before) {
  if (!before) return `it has no ${now.name}`;
  const same = now.source.rows === before.source.rows && now.source.cols === before.source.cols;
  return same ? "" : "texts of different lengths have no cells in common: look at one, then at the other";
}

/**
 * What to know when looking at what changed.
 * @param {import("./inspect-state.js").InspectState} state
 * @param {import("./inspect-views.js").Shown} now
 */
export function hintOf({ view, changes }, { name, source }) {
  if (view !== "change") return "";
  if ((changes.ablate ?? []).includes(name)) return "its own weights stay: what is left out is missed by the layers above it";
  const pooled = Math.max(source.rows, source.cols) > FINE_TOKENS;
  return pooled ? "where cells share a pixel: how much more its queries, on average, give to its keys" : "";
}
