// A text file, chosen or dropped: it is read here, in the browser.

import { makeElement } from "./views.js";

/** No model here reads more at once; a browser shows so much in a box without a pause. */
const MOST_BYTES = 2 ** 20;

/**
 * Let a file be chosen by a button, or dropped on an element.
 * @param {HTMLElement} target
 * @param {{onText: (text: string) => void, onProblem: (error: Error) => void}} on
 * @returns {HTMLElement} the button
 */
export function mountFile(target, { onText, onProblem }) {
  const input = makeElement("input", { type: "file", accept: "text/*,.txt,.md,.csv,.json,.py,.js", hidden: true, "aria-label": "A text file" });
  const button = makeElement("button", { type: "button", class: "plain small", text: "open a text file", onclick: () => input.click() });
  const take = (file) => file && readText(file).then(onText, onProblem);
  input.addEventListener("change", () => {
    take(input.files[0]);
    // The same file may be chosen again.
    input.value = "";
  });
  const hasFile = (event) => event.dataTransfer?.types.includes("Files");
  target.addEventListener("dragover", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    target.classList.add("dropping");
  });
  target.addEventListener("dragleave", () => target.classList.remove("dropping"));
  target.addEventListener("drop", (event) => {
    target.classList.remove("dropping");
    if (!hasFile(event)) return;
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
  return makeElement("span", {}, button, input);
}

/**
 * @param {File} file
 * @returns {Promise<string>}
 */
async function readText(file) {
  let bytes;
  try {
    bytes = new Uint8Array(await file.slice(0, MOST_BYTES).arrayBuffer());
  } catch {
    throw new Error(`${file.name} can't be read; is it a file, and still there?`);
  }
  try {
    // A letter of several bytes may be cut in two where a long file is.
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: file.size > MOST_BYTES });
  } catch {
    throw new Error(`${file.name} is no text in UTF-8; choose one that is`);
  }
}
