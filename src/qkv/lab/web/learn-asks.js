// What the guide asks in the line: a question to answer from memory, a step to work by hand.

import { postJson } from "./api.js";
import { fromHtml } from "./lessons.js";
import { makeElement, uniqueId } from "./views.js";

const MISSED = 1;
const GOOD = 3;

/**
 * @param {HTMLElement} element
 * @param {string} id
 * @param {{kind: "question", front: string, back: string} |
 *   {kind: "exercise", title: string, front: string, given: [string, string][], place: number, channels: number,
 *   then: any}} asked
 */
export function mountAsk(element, id, asked) {
  element.setAttribute("role", "group");
  if (asked.kind === "question") mountQuestion(element, id, asked);
  else mountStep(element, id, asked);
}

function mountQuestion(element, id, { front, back }) {
  const [asking, box] = [uniqueId("ask"), uniqueId("answer")];
  const question = makeElement("div", { class: "front", id: asking });
  question.append(fromHtml(front));
  element.setAttribute("aria-labelledby", asking);
  const said = makeElement("p", { class: "said", role: "status", tabindex: "-1" });
  const answer = makeElement("div", { class: "back", tabindex: "-1", hidden: true });
  answer.append(fromHtml(back));
  const typed = makeElement("textarea", { id: box, rows: "2" });
  let busy = false;
  const grade = (rating) => async () => {
    if (busy) return;
    busy = true;
    try {
      const { rest } = await postJson("practice/grade", { kind: "question", item: id, rating, answer: typed.value });
      said.textContent = `Kept. It comes back in Practice, in ${rest}.`;
      for (const button of grades.querySelectorAll("button")) button.disabled = true;
      said.focus({ preventScroll: true }); // a button that is off can't hold it
    } catch (error) {
      said.textContent = error.message;
    } finally {
      busy = false;
    }
  };
  const grades = makeElement("div", { class: "bar", hidden: true },
    makeElement("button", { class: "action", type: "button", text: "I had it", onclick: grade(GOOD) }),
    makeElement("button", { class: "action", type: "button", text: "I missed it", onclick: grade(MISSED) }));
  const reveal = makeElement("button", { class: "action", type: "button", text: "Show the answer", onclick: () => {
    reveal.hidden = true;
    answer.hidden = grades.hidden = false;
    answer.focus({ preventScroll: true });
  } });
  element.replaceChildren(
    question,
    makeElement("label", { for: box, text: "Without looking back. Type it, or think it." }),
    typed,
    reveal, answer, grades, said,
  );
}

function mountStep(element, id, { front, given, place, channels, then }) {
  const [asking, box, saying] = [uniqueId("ask"), uniqueId("answer"), uniqueId("said")];
  const story = makeElement("div", { class: "front" });
  story.append(fromHtml(front));
  const numbers = makeElement("dl", { class: "given" }, ...given.flatMap(([name, row]) => [
    makeElement("dt", { class: { query: "q", keys: "k", values: "v" }[name] ?? null, text: name }),
    makeElement("dd", { text: row }),
  ]));
  element.setAttribute("aria-labelledby", asking);
  const inputs = Array.from({ length: channels }, (_, at) => makeElement("input", {
    id: at === 0 ? box : null, type: "text", autocomplete: "off", spellcheck: "false", "aria-describedby": saying,
    "aria-label": channels > 1 ? `token ${place}, channel ${at + 1}` : null,
  }));
  const said = makeElement("p", { class: "said", id: saying, role: "status" });
  let busy = false;
  const check = async (event) => {
    event.preventDefault();
    if (busy) return;
    const answers = inputs.map(({ value }) => value.trim());
    const empty = answers.indexOf("");
    if (empty >= 0) {
      inputs[empty].focus();
      said.textContent = channels > 1 ? "One box is still empty." : "Nothing is written yet.";
      delete element.dataset.right;
      return;
    }
    busy = true;
    try {
      const { right = false, unread = [], says, notice } = await postJson("hand/check", { exercise: id, stage: "output", answers });
      said.textContent = [...unread.map((one) => one.says), says, notice].filter(Boolean).join(" ");
      for (const [at, input] of inputs.entries()) input.setAttribute("aria-invalid", String(unread.length ? unread.some((one) => one.at === at) : !right));
      if (unread.length) delete element.dataset.right;
      else element.dataset.right = String(right);
      if (right && then) goOn();
    } catch (error) {
      said.textContent = error.message;
      delete element.dataset.right;
    } finally {
      busy = false;
    }
  };
  /** The step that follows, which tells who understood from who was lucky. */
  const goOn = () => {
    const next = makeElement("div", { class: "ask" });
    element.after(next);
    mountAsk(next, then.id, then);
    then = null;
  };
  element.replaceChildren(
    story, numbers,
    makeElement("form", { onsubmit: check },
      makeElement("label", { for: box, id: asking, text: `What comes out for token ${place}?` }),
      makeElement("small", { class: "soft", text: `${channels > 1 ? "One number a channel. " : ""}Two decimals will do; so will 1/3, √2 or e^1.` }),
      makeElement("div", { class: "bar" }, ...inputs, makeElement("button", { class: "action", type: "submit", text: "Check" }))),
    said,
    makeElement("p", { class: "small" }, makeElement("a", { href: `practice?mode=hand&exercise=${id}`, text: "Work it stage by stage" })),
  );
}
