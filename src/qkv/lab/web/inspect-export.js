// What is on screen, to be kept: a picture, a table, a page, a link.

import { makeElement } from "./views.js";

/** What each file holds of all of a head, and where the map is zoomed. */
const KINDS = [
  ["png", "PNG", "the head as a picture, with the chosen cell", "this part of the head as a picture"],
  ["svg", "SVG", "the head as a drawing, with the chosen cell", "this part of the head as a drawing"],
  ["csv", "CSV", "every weight of the head as a table", "every weight of this part as a table"],
  ["html", "page", "every head as one page that needs nothing else"],
];

/**
 * @param {HTMLElement} element
 * @param {{canvas: () => HTMLCanvasElement}} on
 */
export function mountExport(element, { canvas }) {
  const links = KINDS.map(([, text]) => makeElement("a", { class: "save", text, download: true }));
  const copy = makeElement("button", { type: "button", class: "plain", text: "copy a link", onclick: copyLink });
  const said = makeElement("span", { class: "soft", role: "status" });
  const drawn = makeElement("button", { type: "button", class: "plain save", text: "PNG", "aria-label": "save what changed as a picture, PNG", onclick: saveDrawn });
  element.append(makeElement("span", { class: "soft", text: "Save as" }), drawn, ...links, copy, said);
  let state = null;

  /** What changed is drawn here alone: the picture is taken as it is on screen. */
  function saveDrawn() {
    canvas().toBlob((blob) => {
      const link = makeElement("a", { href: URL.createObjectURL(blob), download: `${state.text.file}-${state.head}-change.png` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }

  async function copyLink() {
    const whole = state.linked ? "" : ", without the text, which is too long for one";
    try {
      await navigator.clipboard.writeText(location.href);
      said.textContent = `copied${whole}`;
    } catch {
      said.textContent = `the address above is the link${whole}`;
    }
    setTimeout(() => (said.textContent = ""), 4000);
  }

  /**
   * @param {{text: OpenText, head: string, cursor: [number, number], against: string | null,
   *   log: boolean, how: string, span: {rows: [number, number], cols: [number, number]} | null,
   *   linked: boolean, theme: string}} shown `linked`: whether the address has all of it
   */
  function update(given) {
    state = given;
    const { text, head, cursor, against, log, how, span, theme } = given;
    const { queries, keys } = text.layer(head);
    const part = span ?? { rows: [0, queries], cols: [0, keys] };
    const cells = (part.rows[1] - part.rows[0]) * (part.cols[1] - part.cols[0]);
    links.forEach((link, at) => {
      const [kind, , whole, cut = whole] = KINDS[at];
      const title = span ? cut : whole;
      // What came along is pooled by its largest.
      const query = new URLSearchParams({ trace: text.trace, head, kind, theme, scale: log ? "log" : "linear", how: text.stored ? "max" : how });
      if (kind !== "csv") query.set("cell", cursor.join(","));
      if (kind === "csv" && against) query.set("against", against);
      if (span && kind !== "html") for (const side of ["rows", "cols"]) query.set(side, part[side].join(":"));
      link.hidden = (kind !== "csv" && against) || (kind === "html" && !text.stored) || (kind === "csv" && cells > text.limits.table);
      link.title = title;
      link.setAttribute("aria-label", `save ${title}, ${kind.toUpperCase()}`);
      link.href = `api/export?${query}`;
    });
    drawn.hidden = !against;
  }
  return { update };
}
