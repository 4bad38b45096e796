// Questions, answered from memory before the answer opens; one section's, or all.

import { fromHtml } from "./lessons.js";
import { mountRound } from "./practice-round.js";
import { makeElement, uniqueId } from "./views.js";

/**
 * @param {HTMLElement} element
 * @returns {Promise<{end: () => void}>}
 */
export async function mountQuestions(element) {
  const sections = makeElement("select", { id: "of-section", onchange: () => choose() }, makeElement("option", { value: "", text: "all sections" }));
  const tools = makeElement("div", { class: "tools bar" },
    makeElement("span", { class: "field" }, makeElement("label", { for: "of-section", text: "From" }), sections));
  const section = () => new URLSearchParams(location.search).get("section") ?? "";
  const round = mountRound(element, {
    kind: "question", title: "Questions", intro: "Answer from memory, then open the answer and grade yourself.",
    grades: ["missed", "hard", "good", "easy"], face, section, tools: [tools],
    onQueue: (queue) => {
      if (sections.length > 1) return;
      sections.append(...queue.sections.map(([value, text]) => makeElement("option", { value, text })));
      sections.value = section();
    },
  });
  function choose() {
    const query = new URLSearchParams({ mode: "questions" });
    if (sections.value) query.set("section", sections.value);
    history.replaceState(null, "", `practice?${query}`);
    round.start();
  }
  await round.start();
  return round;
}

function face(item, turn) {
  const name = uniqueId("answer");
  const front = makeElement("div", { class: "front", id: `${name}-front` });
  front.append(fromHtml(item.front));
  const box = makeElement("textarea", { id: name, rows: "4", "aria-describedby": `${name}-front`, onkeydown: (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) turn();
  } });
  const open = makeElement("button", { class: "action", type: "button", text: "Show the answer", onclick: turn });
  const back = makeElement("div", { class: "back", tabindex: "-1", hidden: true });
  const label = makeElement("label", { for: name, text: "From memory. Type it, or think it." });
  const element = makeElement("article", { class: "one", "aria-labelledby": `${name}-front` }, front, label, box, open, back);
  return {
    element,
    turn: () => {
      open.remove();
      label.remove();
      if (box.value.trim()) box.replaceWith(makeElement("p", { class: "yours", text: box.value.trim() }));
      else box.remove();
      back.append(fromHtml(item.back));
      back.hidden = false;
      back.focus({ preventScroll: true });
    },
    focus: () => box.focus({ preventScroll: true }),
    answer: () => box.value,
  };
}
