// Comparing: what is read now, what was before, and what changed from the one to the other.

import { changeList } from "./inspect-state.js";
import { makeElement, mountChoices } from "./views.js";

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
   * @param {{view: string, before: any, kept: object | null, why: string}} shown `why` says why there
   *   is no change to be seen, if there is none
   */
  function update({ view, before, kept, why, title, hint }) {
    choices.root.hidden = before === null;
    choices.update(view);
    const buttons = choices.root.querySelectorAll("button");
    buttons[2].disabled = Boolean(why);
    buttons[2].title = why;
    keep.dataset.kept = kept ? "yes" : "no";
    keep.textContent = kept ? "let go" : "keep this to compare";
    keep.title = kept
      ? "compare with nothing but what it is before its changes"
      : "then choose another step, model or text, or change something: this is what it is compared with";
    const words = before === null ? ["change something, or keep this, to compare"] : [`before: ${title}`, why || hint];
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
 * @param {any} now
 * @param {any} before
 */
export function whyNoChange(now, before) {
  if (!now || !before) return "nothing to compare with";
  const same = now.source.rows === before.source.rows && now.source.cols === before.source.cols;
  return same ? "" : "texts of different lengths have no cells in common: look at one, then at the other";
}
