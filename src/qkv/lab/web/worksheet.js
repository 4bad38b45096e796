// Worksheet: one attention step by hand. Any number may be changed, and what follows from it
// follows; every cell says where it comes from.

import { getJson, postJson } from "./api.js";
import { makeElement } from "./views.js";
import { withSubscript } from "./worksheet-matrix.js";
import { Model, parseNumber } from "./worksheet-model.js";
import { Sheet } from "./worksheet-sheet.js";
import { digits, explain, sumDigits } from "./worksheet-words.js";

const MASKS = [["causal", "−∞ before softmax"], ["none", "no mask"], ["zero", "0 for −∞"], ["after", "after the softmax"]];

const MOST_TOKENS = 10;

/**
 * @param {HTMLElement} main
 * @param {{theme: () => Theme, facts: HTMLElement}} shell
 */
export async function mount(main, shell) {
  const model = new Model(await getJson("worksheet/examples"));
  model.fromQuery(new URLSearchParams(location.search));
  const read = makeElement("p", { class: "read" });
  const why = makeElement("p", { class: "why", "aria-live": "polite" });
  const problem = makeElement("p", { class: "problem", role: "alert", hidden: true });
  const says = makeElement("p", { class: "prose" });
  const gallery = makeElement("div", { class: "gallery", role: "group", "aria-label": "Worked examples" });
  const options = makeElement("div", { class: "options" });
  const board = makeElement("div", { class: "board" });
  const copies = makeElement("div", { class: "copies" });
  main.append(
    makeElement("h1", { class: "qkv-unseen", text: "Worksheet" }),
    makeElement("div", { class: "intro" }, gallery, says),
    makeElement("div", { class: "reading" }, read, why),
    problem, options, board, copies,
  );
  let sheet = null;
  let asking = null;
  let sent = 0;
  let keeping = 0;
  let known = null;

  /** Have it worked; the last to be asked is what is shown. */
  async function work() {
    asking?.abort();
    asking = new AbortController();
    const mine = (sent += 1);
    try {
      const reply = await postJson("worksheet", model.asked(), asking.signal);
      if (mine !== sent) return false;
      model.reply = reply;
      known = model.keep();
      if (!text.hidden) write().catch((error) => complain(error.message));
      problem.hidden = true;
      // Addresses may only be changed so often.
      clearTimeout(keeping);
      keeping = setTimeout(() => history.replaceState(null, "", `?${model.toQuery()}`), 200);
      return true;
    } catch (error) {
      if (error.name !== "AbortError") complain(error.message);
      return false;
    }
  }

  const complain = (message) => {
    problem.textContent = message;
    problem.hidden = false;
  };

  async function build() {
    const mine = sent + 1;
    if (!(await work())) {
      if (mine !== sent) return;
      if (model.reply) {
        // What is shown has the shape of what was answered last.
        Object.assign(model, structuredClone(known));
        drawGallery();
        drawOptions();
        return;
      }
      // An address that makes no worksheet: the example that it names does.
      model.take(model.example.id);
      if (!(await work())) return;
    }
    sheet = new Sheet(model, handlers, shell.theme);
    board.replaceChildren(sheet.element);
    if (!sheet.has(model.focus)) model.focus = ["pattern", 0, 0];
    drawGallery();
    drawOptions();
    show(model.focus);
  }

  async function refresh() {
    if (!(await work())) return;
    sheet.update();
    drawOptions();
    show(sheet.pointed ?? model.focus);
  }

  /** Light a cell, and say what it is made of. */
  function show(at) {
    sheet.point(at);
    const [name, row, col] = at;
    const { words } = explain(model, name, row, col);
    why.replaceChildren(makeElement("span", { class: "soft" }, ...withSubscript(`${placed(name, row, col)}  `)), ...words);
    const rows = ["q", "scores", "scaled", "masked", "exponentials", "pattern", "mixed", "joined", "output"];
    const asker = rows.includes(name) ? row : Math.min(model.focus[1], model.allowed.length - 1);
    read.textContent = model.reply.sentences[model.head][asker] + broken(asker);
  }

  function placed(name, row, col) {
    const asker = `t${(model.place(row) ?? row) + 1}`;
    if (["scores", "scaled", "masked", "exponentials", "pattern"].includes(name)) return `${name}, ${asker} → t${col + 1}`;
    const title = { x: "X", w_q: "W_Q", w_k: "W_K", w_v: "W_V", w_o: "W_O" }[name] ?? name;
    if (name.startsWith("w_")) return `${title}, row ${row + 1}, column ${col + 1}`;
    const own = ["x", "k", "v"].includes(name) ? `t${row + 1}` : asker;
    return `${title}, ${own}, channel ${col + 1}`;
  }

  const broken = (row) => {
    const weight = model.rows.weights[row];
    return Math.abs(weight - 1) > 1e-9 ? ` Its weights sum to ${sumDigits(weight)}, not 1.` : "";
  };

  const handlers = {
    onPoint: (name, row, col, chosen) => {
      if (chosen) model.focus = [name, row, col];
      show([name, row, col]);
      if (chosen) history.replaceState(null, "", `?${model.toQuery()}`);
    },
    onLeave: () => sheet.has(model.focus) && show(model.focus),
    onChange: (name, row, col, number) => {
      model.set(name, row, col, number);
      refresh();
    },
    onProblem: complain,
  };

  function drawGallery() {
    const right = model.examples.filter((one) => !one.of);
    const chosen = model.example.of || model.example.id;
    const button = (one) => makeElement("button", {
      type: "button", class: "plain choice", "aria-pressed": String(one.id === model.example.id), text: one.name,
      onclick: () => {
        model.take(one.id);
        build().then(() => gallery.querySelector("[aria-pressed=true]")?.focus());
      },
    });
    const ways = model.examples.filter((one) => one.of === chosen);
    gallery.replaceChildren(
      makeElement("div", { class: "line" }, ...right.map((one) => {
        const found = button(one);
        found.classList.toggle("within", one.id === chosen);
        return found;
      })),
      ...(ways.length ? [makeElement("div", { class: "line ways" }, makeElement("span", { class: "soft", text: "done wrong:" }), ...ways.map(button))] : []),
    );
    says.replaceChildren(...withSubscript(model.example.says));
  }

  /** One choice of several, as radio buttons that look like tabs. */
  function choices(name, legend, listed, now, onChoose) {
    return makeElement("fieldset", {}, makeElement("legend", { text: legend }), ...listed.map(([value, text]) => {
      const input = makeElement("input", { type: "radio", name, value, checked: value === now, onchange: () => onChoose(value) });
      return makeElement("label", {}, input, makeElement("span", { text }));
    }));
  }

  let stepped = null;

  /** A button that adds a token, or takes the last away. */
  const step = (by, name) => makeElement("button", {
    type: "button", class: "plain step-by", "aria-label": name, text: by < 0 ? "−" : "+",
    disabled: model.tokens + by < 1 || model.tokens + by > MOST_TOKENS,
    onclick: () => {
      stepped = name;
      model.resize(model.tokens + by);
      refreshAll();
    },
  });

  function drawOptions() {
    const focused = document.activeElement;
    const again = options.contains(focused) ? [focused.name, focused.value] : null;
    if (again?.[0] === "times") return;
    const usual = model.reply.usual_scale;
    const width = model.matrix("q")?.[0].length;
    const kind = model.scale === usual ? "root" : model.scale === 1 ? "off" : "times";
    const times = makeElement("input", { type: "text", class: "times", name: "times", size: "5", "aria-label": "scores are multiplied by" });
    times.value = digits(model.scale);
    times.addEventListener("change", () => {
      const number = parseNumber(times.value);
      if (number === null) complain(`“${times.value.slice(0, 20)}” is no number`);
      else {
        times.blur();
        model.setOption("scale", number);
        refreshAll();
      }
    });
    const scales = width > 1 ? [["root", `1/√${width}`], ["off", "off"]] : [["root", "none needed"]];
    if (kind === "times") scales.push(["times", "of your own"]);
    const pinned = Object.keys(model.pins).length;
    const reset = makeElement("button", { type: "button", class: "action", text: `reset ${pinned} changed ${pinned === 1 ? "number" : "numbers"}`, onclick: () => {
      model.pins = {};
      refreshAll();
    } });
    options.replaceChildren(
      choices("mask", "mask", MASKS, model.mask, async (value) => {
        model.setOption("mask", value);
        await refreshAll();
        const leak = model.largestLeak();
        if (leak) show((model.focus = ["pattern", ...leak]));
      }),
      makeElement("div", { class: "scales" },
        choices("scale", "scale", scales, kind, (value) => {
          model.setOption("scale", value === "root" ? null : 1);
          refreshAll();
        }),
        makeElement("label", { class: "field" }, "×", times)),
      makeElement("div", { class: "field", role: "group", "aria-label": "how many tokens" },
        makeElement("span", { class: "soft", text: "tokens" }), step(-1, "one token less"), makeElement("span", { text: String(model.tokens) }), step(1, "one token more")),
      ...(model.heads > 1 ? [choices("head", "head", Array.from({ length: model.heads }, (_, n) => [String(n), String(n + 1)]), String(model.head), (value) => {
        model.head = Number(value);
        refreshAll();
      })] : []),
      ...(pinned ? [reset] : []),
    );
    if (document.activeElement === document.body && stepped) options.querySelector(`[aria-label="${stepped}"]`)?.focus();
    stepped = null;
    if (again) options.querySelector(`[name="${again[0]}"][value="${again[1]}"]`)?.focus();
  }

  /** Formulas change with an option: the sheet is made anew. */
  const refreshAll = () => build();

  const status = makeElement("span", { class: "soft", role: "status" });
  const text = makeElement("textarea", { rows: "10", readonly: true, hidden: true, "aria-label": "the worksheet to copy", spellcheck: "false" });
  let written = "";

  /** Write the worksheet as it is now into the box. */
  async function write() {
    text.value = (await postJson("worksheet/copy", { kind: written, sheet: model.asked() })).text;
    status.textContent = "";
  }

  const copy = (kind, name) => makeElement("button", { type: "button", class: "action", text: `Copy as ${name}`, onclick: async () => {
    try {
      written = kind;
      await write();
      text.hidden = false;
      text.select();
      // Browsers hand out the clipboard on this machine only; elsewhere the text is there to copy.
      await navigator.clipboard?.writeText(text.value).then(() => (status.textContent = `copied as ${name}`), () => (status.textContent = "select and copy it"));
    } catch (error) {
      complain(error.message);
    }
  } });
  copies.append(makeElement("div", { class: "bar" }, copy("latex", "LaTeX"), copy("numpy", "NumPy"), status), text,
    makeElement("p", { class: "soft small", text: "T tokens, Q queries, K keys, D width of X, C channels of a head, H heads. Type into a cell, or go to it by the arrow keys and type; Delete takes back what was changed by hand." }));
  document.addEventListener("qkv-theme", () => sheet?.update());
  await build();
}
