// The page's frame: what stands where.

import { makeElement, mountChoices, uniqueId } from "./views.js";

/**
 * @param {HTMLElement} main
 * @param {{onOrder: (ordered: boolean) => void}} on
 */
export function layFrame(main, { onOrder }) {
  const section = (name, title, ...inside) => {
    const id = uniqueId(name);
    const heading = makeElement("h2", { id, text: title });
    return makeElement("section", { class: name, "aria-labelledby": id }, makeElement("div", { class: "heading" }, heading, ...inside));
  };
  const part = (name) => makeElement("div", { class: name });
  const source = makeElement("section", { class: "source", "aria-label": "What is read" });
  const problem = makeElement("p", { class: "problem", role: "alert", hidden: true });
  const busy = makeElement("p", { class: "busy", role: "status", text: "reading…" });
  const read = makeElement("p", { class: "read" });
  const sub = makeElement("p", { class: "sub" });
  const bar = makeElement("section", { class: "changes", "aria-label": "Changes" });
  const order = mountChoices("Order of the heads", [[false, "by layer"], [true, "by score"]], onOrder);
  const [compare, atlas, short, next, map, save, why, arcs, scores] =
    ["compare", "atlas", "short", "next-tokens", "map-view", "saves", "why-view", "arcs-view", "scores-view"].map(part);
  const heads = section("heads", "Every head", order.root);
  heads.append(atlas, short, next);
  const picture = section("map", "Who looks at whom", compare);
  picture.append(map, save);
  const reasons = section("why", "Why this weight");
  reasons.append(why);
  const text = section("arcs", "In the text");
  text.append(arcs);
  const all = section("scores", "Every score");
  all.append(scores);
  const shown = makeElement("div", { class: "shown", hidden: true }, read, sub, bar,
    makeElement("div", { class: "columns" }, heads, picture, reasons), text, all);
  main.append(makeElement("h1", { class: "qkv-unseen", text: "Inspect" }), source, problem, busy, shown);
  return { source, busy, problem, read, sub, bar, compare, atlas, short, next, map, save, why, arcs, scores, shown, order: order.root, setOrder: order.update };
}

/**
 * Say what went wrong, with ways on where there are some; nothing takes it away.
 * @param {HTMLElement} problem
 * @param {(Error & {ways?: [string, () => void][]}) | null} error
 */
export function sayProblem(problem, error) {
  problem.hidden = error === null;
  // What is lost may come back by itself.
  problem.dataset.lost = error?.status === 0 ? "yes" : "no";
  if (!error) return;
  const ways = (error.ways ?? []).map(([text, onclick]) => makeElement("button", { type: "button", class: "action", text, onclick }));
  problem.replaceChildren(makeElement("span", { text: `${error.message} ` }), ...ways);
}

/** What is open, for the header. */
export function factsOf(text) {
  const { header } = text;
  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
  const heads = header.layers[0].heads.length;
  const even = header.layers.every((layer) => layer.heads.length === heads);
  const tokens = Math.max(...header.texts.map(({ size }) => size));
  const shape = even ? `${plural(header.layers.length, "layer")} × ${plural(heads, "head")}` : plural(text.heads.length, "head");
  const read = text.tokens === null ? plural(tokens, "token") : `${tokens.toLocaleString("en")} of ${plural(text.tokens, "token")}`;
  return [header.note, shape, read].filter(Boolean).join(" · ");
}
