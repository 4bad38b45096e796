// One exercise on the page: what is given, a column for each token, and below it the stages as they
// are reached, with a box beside each key.

import { makeElement, uniqueId } from "./views.js";

const TRIES = 2;
const HOW = "Two decimals will do. 1/3, 2/√2, e^1 and -inf are numbers too.";

export class HandSheet {
  /**
   * @param {any} exercise as the server describes it
   * @param {{check: (body: object) => Promise<any>, show: (stage: string) => Promise<any>,
   *   onward: () => [string, () => void][], onProblem: (error: Error) => void}} handlers
   */
  constructor(exercise, handlers) {
    this.exercise = exercise;
    this.handlers = handlers;
    this.at = -1;
    this.own = {};
    this.busy = false;
    this.firstTries = 0;
    const { title, story, introduction, tokens, place } = exercise;
    const names = Array.from({ length: tokens }, (_, token) => makeElement("th", { scope: "col", class: token === place ? "asking" : null },
      makeElement("i", { text: "token " }), String(token + 1)));
    this.body = makeElement("tbody", {}, ...exercise.given.map(givenRow));
    this.form = makeElement("form", { novalidate: true, autocomplete: "off" },
      makeElement("div", { class: "by-hand-scroll" },
        makeElement("table", {}, makeElement("caption", { class: "qkv-unseen", text: `${title}: what is given, and your numbers` }),
          makeElement("thead", {}, makeElement("tr", {}, makeElement("td"), ...names, makeElement("td", { class: "mark" }))), this.body)));
    for (const name of names) name.firstChild.style.fontStyle = "normal";
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.check();
    });
    this.bar = makeElement("div", { class: "bar" });
    this.form.append(this.bar);
    this.end = makeElement("div", { class: "done", role: "status", hidden: true });
    this.element = makeElement("section", { "aria-label": title },
      makeElement("h2", { text: title }),
      ...(story ? [makeElement("p", { class: "prose", text: story })] : []),
      makeElement("p", { class: "prose", text: introduction }),
      makeElement("p", { class: "soft small how", text: HOW }),
      this.form, this.end);
    this.next();
  }

  get stage() {
    return this.exercise.stages[this.at];
  }

  focus() {
    (this.inputs.find((input) => !input.value) ?? this.inputs[0])?.focus();
  }

  /** The next stage's row; after the last, what was done. */
  next() {
    this.at += 1;
    this.tries = 0;
    if (!this.stage) {
      this.finish();
      return;
    }
    const { id, name, asks, count } = this.stage;
    const { tokens, stages } = this.exercise;
    const wide = tokens + 2;
    const [saying, heading] = [uniqueId("said"), uniqueId("stage")];
    const word = id === "output" ? "channel" : "token";
    this.inputs = Array.from({ length: count }, (_, at) => makeElement("input", {
      type: "text", inputmode: "text", autocapitalize: "off", autocomplete: "off", spellcheck: "false", maxlength: "60",
      "aria-label": `${name}, ${word} ${at + 1}`, "aria-describedby": saying,
    }));
    this.inputs.forEach((input, at) => {
      input.addEventListener("keydown", (event) => this.press(event, at));
      input.addEventListener("input", () => input.removeAttribute("aria-invalid"));
    });
    // Channels of the output may be more than tokens; they stand in a cell of their own below.
    const cells = count <= tokens
      ? [...this.inputs.map((input) => makeElement("td", {}, input)), ...Array.from({ length: tokens - count }, () => makeElement("td"))]
      : [makeElement("td", { colspan: String(tokens) }, ...this.inputs)];
    this.mark = makeElement("td", { class: "mark", "aria-hidden": "true" });
    this.said = makeElement("p", { id: saying, role: "status" });
    this.saidRow = makeElement("tr", { class: "said" }, makeElement("td", { colspan: String(wide) }, this.said));
    this.body.append(
      makeElement("tr", { class: "stage-head" }, makeElement("th", { colspan: String(wide), scope: "rowgroup", id: heading },
        makeElement("b", { text: `${this.at + 1} ${name}` }), ` ${asks}`)),
      makeElement("tr", { class: "entry" }, makeElement("td"), ...cells, this.mark),
      this.saidRow,
    );
    this.drawBar(stages);
  }

  drawBar() {
    const offered = this.tries > 0;
    this.bar.replaceChildren(
      makeElement("button", { class: "action first", type: "submit", text: "Check" }),
      ...(offered ? [makeElement("button", { class: "action", type: "button", text: "Go on with my numbers", onclick: () => this.goOn() })] : []),
      ...(this.tries >= TRIES ? [makeElement("button", { class: "action", type: "button", text: "Show this stage", onclick: () => this.show() })] : []),
      makeElement("span", { class: "soft small", text: `stage ${this.at + 1} of ${this.exercise.stages.length}` }),
    );
  }

  /** Enter goes to the next empty box, and checks where there is none. */
  press(event, at) {
    if (event.key !== "Enter" || event.isComposing) return;
    const empty = [...this.inputs.slice(at + 1), ...this.inputs.slice(0, at)].find((input) => !input.value.trim());
    if (empty && this.inputs[at].value.trim()) {
      event.preventDefault();
      empty.focus();
    }
  }

  /** One request at a time, and a reply only for the stage that asked, on a sheet that is still there. */
  async ask(request, use) {
    if (!this.stage || this.busy) return;
    const { stage } = this;
    this.busy = true;
    this.form.setAttribute("aria-busy", "true");
    try {
      const reply = await request(stage.id);
      if (this.stage === stage && this.element.isConnected) use(reply);
    } catch (error) {
      if (this.element.isConnected) this.handlers.onProblem(error);
    } finally {
      this.busy = false;
      this.form.setAttribute("aria-busy", "false");
    }
  }

  check() {
    const answers = this.inputs.map((input) => input.value);
    return this.ask((stage) => this.handlers.check({ stage, answers, earlier: this.own }), (verdict) => {
      if (verdict.unread) this.point(verdict.unread.map(({ at }) => at), this.sayUnread(verdict.unread), "wrong");
      else this.take(verdict, answers);
    });
  }

  sayUnread(unread) {
    const empty = unread.filter(({ at }) => !this.inputs[at].value.trim());
    if (empty.length === unread.length) return empty.length === 1 ? "One box is still empty." : `${empty.length} boxes are still empty.`;
    const { says } = unread.find(({ at }) => this.inputs[at].value.trim());
    return says[0].toUpperCase() + says.slice(1);
  }

  take(verdict, answers) {
    const { right, follows, wrong, says, notice } = verdict;
    this.tries += 1;
    if (notice) this.handlers.onProblem(new Error(notice));
    if (right || follows) {
      if (right && this.tries === 1) this.firstTries += 1;
      this.close(answers, says, right ? "✓" : "→");
      return;
    }
    this.drawBar();
    this.point(wrong, says, "wrong");
  }

  /** Say what is wrong, and where. */
  point(places, words, state) {
    this.inputs.forEach((input, at) => {
      if (places.includes(at)) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
    });
    this.tell(words, state);
    const first = this.inputs[places[0] ?? 0];
    first.focus();
    first.select();
  }

  tell(words, state) {
    this.said.textContent = words;
    this.saidRow.dataset.state = state;
  }

  /** Leave a stage with these numbers. */
  close(answers, words, mark) {
    this.own = { ...this.own, [this.stage.id]: answers };
    this.tell(words, "done");
    this.mark.textContent = mark;
    for (const [at, input] of this.inputs.entries()) {
      input.value = answers[at].trim().replace(/^[-−]inf$/i, "−∞").replace(/^-/, "−");
      input.readOnly = true;
      input.removeAttribute("aria-invalid");
    }
    this.next();
    this.focus();
  }

  goOn() {
    if (this.busy) return;
    const answers = this.inputs.map((input) => input.value);
    if (answers.every((answer) => answer.trim())) this.close(answers, this.said.textContent, "…");
    else this.point(answers.flatMap((answer, at) => (answer.trim() ? [] : [at])), "Some boxes are still empty.", "wrong");
  }

  show() {
    return this.ask(this.handlers.show, ({ numbers }) => this.close(numbers, "These are the right numbers; go on from them.", "…"));
  }

  finish() {
    const total = this.exercise.stages.length;
    this.inputs = [];
    this.bar.remove();
    const buttons = this.handlers.onward().map(([text, onclick], at) =>
      makeElement("button", { class: at ? "action" : "action first", type: "button", text, onclick }));
    this.end.hidden = false;
    this.end.append(
      makeElement("p", { text: this.firstTries === total ? `All ${total} stages right at the first try.` : `Done: ${this.firstTries} of ${total} stages right at the first try.` }),
      makeElement("div", { class: "bar" }, ...buttons));
    buttons[0].focus();
  }
}

/** A row of what is given: vectors stand upright, channel below channel. */
function givenRow({ name, cells }) {
  const tone = name.length === 1 ? name : null;
  return makeElement("tr", { class: "given" },
    makeElement("th", { scope: "row", class: tone, text: name }),
    ...cells.map((vector) => makeElement("td", { class: tone }, ...(vector ?? []).map((number) => makeElement("span", { text: number })),
      vector || name !== "v" ? null : makeElement("span", { class: "soft small", text: "not given" }))),
    makeElement("td", { class: "mark" }));
}
