// Cards: turned by click or space, graded 1 to 4; printed, and taken to Anki.

import { fromHtml } from "./lessons.js";
import { mountRound } from "./practice-round.js";
import { makeElement } from "./views.js";

const PAPERS = [["a6", "A6"], ["a4", "A4"], ["letter", "Letter"]];

/**
 * @param {HTMLElement} element
 * @returns {Promise<{end: () => void}>}
 */
export async function mountCards(element) {
  const paper = makeElement("select", { id: "paper", onchange: () => (print.href = linkTo(paper.value)) },
    ...PAPERS.map(([value, text]) => makeElement("option", { value, text })));
  const linkTo = (size) => `api/practice/files/cards.pdf?paper=${size}`;
  const print = makeElement("a", { href: linkTo("a6"), download: "cards.pdf", text: "Print" });
  const tools = makeElement("div", { class: "tools bar" },
    makeElement("span", { class: "field" }, print, makeElement("label", { class: "qkv-unseen", for: "paper", text: "Paper" }), paper,
      makeElement("span", { class: "soft small", text: "a card on each sheet, its answer on the back" })),
    makeElement("a", { href: "api/practice/files/qkv.apkg", download: "qkv.apkg", text: "Anki deck" }),
    makeElement("a", { href: "api/practice/files/progress.jsonl", download: "progress.jsonl", text: "Your progress" }));
  const round = mountRound(element, {
    kind: "card", title: "Cards", intro: "Think, turn it over, say how well you knew it.",
    grades: ["again", "hard", "good", "easy"], face, tools: [tools],
  });
  await round.start();
  return round;
}

function face(item, turn) {
  const front = makeElement("div", { class: "front" });
  front.append(fromHtml(item.front));
  const over = makeElement("button", { class: "action", type: "button", onclick: turn }, "Turn over ", makeElement("kbd", { text: "space" }));
  const back = makeElement("div", { class: "back", tabindex: "-1", hidden: true });
  const card = makeElement("div", { class: "card", onclick: () => {
    // Who marks words to copy them doesn't turn the card.
    if (!getSelection().toString()) turn();
  } }, front, back);
  const element = makeElement("article", { class: "one", "aria-label": "Card" }, card, over);
  return {
    element,
    turn: () => {
      back.append(fromHtml(item.back));
      back.hidden = false;
      over.remove();
      card.classList.add("turned");
      back.focus({ preventScroll: true });
    },
    focus: () => over.focus({ preventScroll: true }),
    answer: () => "",
  };
}
