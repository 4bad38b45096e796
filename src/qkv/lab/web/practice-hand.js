// By hand: one row of attention, stage after stage, each checked at once; a wrong number is told
// the mistake that gives it. All numbers and verdicts are the server's.

import { getJson, postJson } from "./api.js";
import { HandSheet } from "./practice-hand-sheet.js";
import { makeElement } from "./views.js";

const SEEDS = 1_000_000;
const STYLE = "assets/practice-hand.css";

/**
 * @param {HTMLElement} element
 * @param {{theme: () => string}} _shell
 * @returns {Promise<{end: () => void}>}
 */
export async function mountHand(element, _shell) {
  if (!document.head.querySelector(`link[href="${STYLE}"]`)) document.head.append(makeElement("link", { rel: "stylesheet", href: STYLE }));
  const { exercises, next, notice } = await getJson("hand");
  const list = makeElement("ul", { class: "by-hand-list", "aria-label": "Exercises" });
  const problem = makeElement("p", { class: "problem", role: "alert", hidden: !notice, text: notice ?? "" });
  const board = makeElement("div", { class: "board" });
  const print = makeElement("p", { class: "soft small by-hand-print" });
  element.replaceChildren(makeElement("div", { class: "by-hand" }, list, problem, board, print));
  let ended = false;
  let asked = 0;

  /** A fresh exercise, whose number is in the address so that it can be had again. */
  const fresh = () => ({ seed: Math.floor(Math.random() * SEEDS) });

  async function open(wanted, focus) {
    const mine = (asked += 1);
    let exercise;
    try {
      exercise = await getJson(`hand/exercise?${new URLSearchParams(wanted)}`);
    } catch (error) {
      complain(error);
      return false;
    }
    if (ended || mine !== asked) return true;
    problem.hidden = true;
    keep(wanted);
    drawList(exercise);
    const sheet = new HandSheet(exercise, {
      check: (body) => postJson("hand/check", { ...wanted, ...body }),
      show: (stage) => getJson(`hand/numbers?${new URLSearchParams({ ...wanted, stage })}`),
      onProblem: complain,
      onward: () => [
        exercise.then && ["The one that follows", () => open({ exercise: exercise.then }, true)],
        ["A fresh one", () => open(fresh(), true)],
      ].filter(Boolean),
    });
    board.replaceChildren(sheet.element);
    if (focus) sheet.focus();
    const seed = exercise.seed ?? fresh().seed;
    print.replaceChildren("On paper: ",
      makeElement("a", { href: `api/hand/sheet.pdf?${new URLSearchParams({ seed, count: "6" })}`, download: `by-hand-${seed}.pdf`, text: "six exercises with a key" }),
      exercise.seed === null ? ", as a PDF." : ", beginning with this one, as a PDF.");
    return true;
  }

  function complain(error) {
    problem.textContent = error.message;
    problem.hidden = false;
  }

  function drawList(exercise) {
    const button = (text, pressed, wanted) => makeElement("li", {},
      makeElement("button", { class: "plain", type: "button", text, "aria-pressed": String(pressed), onclick: () => open(wanted(), true) }));
    list.replaceChildren(
      ...exercises.map(({ id, title }) => button(title, exercise.id === id, () => ({ exercise: id }))),
      button("A fresh one", exercise.seed !== null, fresh),
    );
  }

  function keep(wanted) {
    const query = new URLSearchParams(location.search);
    query.delete("exercise");
    query.delete("seed");
    for (const [name, value] of Object.entries(wanted)) query.set(name, String(value));
    history.replaceState(null, "", `?${query}`);
  }

  const query = new URLSearchParams(location.search);
  const named = query.get("exercise");
  const seed = query.get("seed");
  const usual = next ? { exercise: next } : fresh();
  const first = named ? { exercise: named } : seed ? { seed } : usual;
  if (!(await open(first, false))) {
    // An address that names none: what it says stays on the page, with an exercise below.
    const words = problem.textContent;
    await open(usual, false);
    complain({ message: words });
  }
  return {
    end: () => {
      ended = true;
      element.replaceChildren();
    },
  };
}
