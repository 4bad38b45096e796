// What is on screen, to be kept: a picture, a table, a page, a link.

import { isLinked } from "./inspect-state.js";
import { makeElement } from "./views.js";

/** As `exporting.py` has it. */
const LARGEST_TABLE = 2 ** 22;
const KINDS = [
  ["png", "PNG", "the head as a picture"],
  ["svg", "SVG", "the head as a drawing"],
  ["csv", "CSV", "every weight of the head as a table"],
  ["html", "page", "every head as one page that needs nothing else"],
];

/**
 * @param {HTMLElement} element
 * @param {{canvas: () => HTMLCanvasElement}} on
 */
export function mountExport(element, { canvas }) {
  const links = KINDS.map(([kind, text, title]) =>
    makeElement("a", { class: "save", text, title, "aria-label": `save ${title}, ${kind.toUpperCase()}`, download: true }));
  const copy = makeElement("button", { type: "button", class: "plain", text: "copy a link", onclick: copyLink });
  const said = makeElement("span", { class: "soft", role: "status" });
  const drawn = makeElement("button", { type: "button", class: "plain save", text: "PNG", "aria-label": "save what changed as a picture, PNG", onclick: saveDrawn });
  element.append(makeElement("span", { class: "soft", text: "Save as" }), drawn, ...links, copy, said);
  let state = null;

  /** What changed is drawn here alone: the picture is taken as it is on screen. */
  function saveDrawn() {
    canvas().toBlob((blob) => {
      const link = makeElement("a", { href: URL.createObjectURL(blob), download: `${state.head}-change.png` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }

  async function copyLink() {
    const whole = isLinked(state) ? "" : ", without its text, which is too long for one";
    try {
      await navigator.clipboard.writeText(location.href);
      said.textContent = `copied${whole}`;
    } catch {
      said.textContent = `the address above is the link${whole}`;
    }
    setTimeout(() => (said.textContent = ""), 4000);
  }

  /** @param {{text: OpenText, head: string, against: string | null, cells: number, theme: string}} shown */
  function update(given) {
    state = given;
    const { text, head, against, log, theme } = given;
    const layer = text.layer(head);
    links.forEach((link, at) => {
      const [kind] = KINDS[at];
      const query = new URLSearchParams({ trace: text.trace, head, kind, theme, scale: log ? "log" : "linear" });
      if (kind === "csv" && against) query.set("against", against);
      const impossible =
        (kind !== "csv" && against) ||
        (kind === "html" && !text.stored) ||
        (kind === "csv" && layer.queries * layer.keys > LARGEST_TABLE);
      link.hidden = impossible;
      link.href = `api/export?${query}`;
    });
    drawn.hidden = !against;
  }
  return { update };
}
