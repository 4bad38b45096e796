// Train: what to train, the runs there are, and one of them watched as it learns.

import { getJson, listen } from "./api.js";
import { mountChart } from "./train-chart.js";
import { mountForm } from "./train-form.js";
import { mountHeads } from "./train-heads.js";
import { fillActs, mountRuns } from "./train-runs.js";
import { mountSamples } from "./train-samples.js";
import { mountTimeline } from "./train-timeline.js";
import { isBroken, LIVING, nameOf, runFacts, runSentence } from "./train-words.js";
import { makeElement } from "./views.js";

const OWN = { id: "own", kind: "own", title: "", state: "finished", group: null, step: 0, steps: 0, can: [] };
const LISTS = ["losses", "validation", "samples", "probes", "births"];

/**
 * @param {HTMLElement} main
 * @param {{theme: () => Theme, facts: HTMLElement}} shell
 */
export async function mount(main, shell) {
  const [offers, listed] = await Promise.all([getJson("presets"), getJson("runs")]);
  const titles = new Map(offers.presets.map(({ name, title }) => [name, title]));
  const parts = lay(main);
  const query = new URL(location.href).searchParams;
  /** Runs by id, with all that is known of each. */
  const known = new Map();
  const state = {
    runs: [...listed, OWN],
    chosen: query.get("run"),
    also: new Set((query.get("with") ?? "").split("|").filter(Boolean)),
    head: query.get("head"),
    /** A step that was chosen; none follows the newest. */
    step: query.has("step") ? Number(query.get("step")) : null,
    waiting: null,
  };
  /** Ladders with their rungs below them, the last on top; all else by when it was begun. */
  const inOrder = () => state.runs.filter(({ group }) => !group).flatMap((run) => [run, ...rungs(run.id).reverse()]);
  const entry = (id) => state.runs.find((run) => run.id === id) ?? { ...OWN, id, kind: "run", title: id.split("/").at(-1) };
  if (!state.chosen) state.chosen = first(state.runs);

  const rungs = (id) => state.runs.filter((run) => run.group === id).sort((a, b) => (a.id < b.id ? -1 : 1));
  /** The run that is looked at: a ladder's is the rung under way, else its last. */
  function focus() {
    const of = rungs(state.chosen);
    if (of.length === 0) return state.chosen;
    return (of.find((run) => LIVING.has(run.state)) ?? of.filter((run) => run.step || run.state === "finished").at(-1) ?? of[0]).id;
  }
  const shownIds = () => {
    const of = rungs(state.chosen).map(({ id }) => id);
    return new Set([...(of.length ? of : [state.chosen]), ...state.also]);
  };
  const shownRuns = () => [...shownIds()].filter((id) => known.has(id)).map((id) => ({ id, name: nameOf(entry(id), titles), run: known.get(id) }));

  const form = mountForm(parts.form, offers, (id) => {
    state.waiting = id;
    choose(id);
  });
  const list = mountRuns(parts.runs, titles, {
    onChoose: choose,
    onShow: (id, shown) => {
      if (shown) state.also.add(id);
      else state.also.delete(id);
      changed();
    },
  });
  const chart = mountChart(parts.chart, { theme: shell.theme, onStep: (step) => goTo(nearest(step)) });
  const heads = mountHeads(parts.heads, { theme: shell.theme, onHead: (name) => {
    state.head = name;
    look();
  } });
  const timeline = mountTimeline(parts.timeline, heads.births, {
    onStep: goTo,
    onBirth: ({ step, head }) => {
      state.head = head;
      return goTo(probes().findIndex((probe) => probe.step === step));
    },
  });
  const samples = mountSamples(parts.samples);

  const probes = () => known.get(focus())?.probes ?? [];
  const nearest = (step) => probes().reduce((best, probe, place, all) => (Math.abs(probe.step - step) < Math.abs(all[best].step - step) ? place : best), 0);
  const place = () => (state.step === null ? Math.max(0, probes().length - 1) : nearest(state.step));

  function choose(id) {
    if (id !== state.chosen) state.step = null;
    state.chosen = id;
    changed();
  }

  /** Another step; the last one is followed on as the run goes on. */
  function goTo(at) {
    const all = probes();
    if (!all[at]) return null;
    state.step = at === all.length - 1 ? null : all[at].step;
    return look();
  }

  let looked = "";
  /** Show the probe passage at the step that is chosen. */
  async function look() {
    const [id, all, at] = [focus(), probes(), place()];
    const probe = all[at];
    parts.attention.hidden = !probe;
    parts.none.hidden = Boolean(probe) || !known.has(id);
    parts.none.textContent = noProbes(known.get(id));
    keepLink();
    if (!probe) return;
    const head = state.head;
    timeline.update({ probes: all, births: known.get(id).births, place: at, head: head ?? Object.keys(probe.heads)[0] ?? null });
    chart.update({ runs: shownRuns(), chosen: id, step: probe.step });
    const key = `${id} ${probe.step} ${head} ${all[at + 1]?.step}`;
    if (key === looked) return;
    looked = key;
    const shown = await heads.show(id, probe.step, head, all[at + 1]?.step ?? null);
    if (shown && head === null && state.head === null && focus() === id) {
      state.head = shown;
      timeline.update({ head: shown });
      keepLink();
    }
  }

  /** What is chosen changed: ask for what is shown now, and draw it. */
  function changed() {
    live.send({ watch: [...shownIds()] });
    draw(true);
  }

  function draw(soon = false) {
    const id = focus();
    const run = known.get(id);
    const named = nameOf(entry(id), titles);
    list.update({ runs: inOrder(), chosen: state.chosen, shown: shownIds() });
    const chosen = entry(state.chosen);
    fillActs(parts.acts, chosen, nameOf(chosen, titles));
    if (run) {
      setText(parts.read, runSentence(run, named));
      setText(parts.sub, runFacts(run));
      const broken = isBroken(run.head) ? run.head.reason : isBroken(chosen) ? chosen.reason : "";
      parts.reason.hidden = !broken;
      setText(parts.reason, broken);
    } else {
      setText(parts.read, chosen.state === "starting" ? `${nameOf(chosen, titles)} is starting.` : nameOf(chosen, titles));
      setText(parts.sub, chosen.kind === "ladder" && chosen.state === "starting" ? "The rungs are timed first, for some seconds." : "");
      parts.reason.hidden = !isBroken(chosen);
      setText(parts.reason, chosen.reason ?? "");
    }
    const runs = shownRuns();
    chart.update({ runs, chosen: id, step: probes()[place()]?.step ?? null }, soon);
    samples.update({ runs, chosen: runs.find((one) => one.id === id) });
    look();
  }

  function keepLink() {
    const told = new URLSearchParams({ run: state.chosen });
    if (state.also.size) told.set("with", [...state.also].join("|"));
    if (state.head) told.set("head", state.head);
    if (state.step !== null) told.set("step", String(state.step));
    history.replaceState(null, "", `${location.pathname}?${told}`);
  }

  function take(message) {
    if (message.kind === "runs") state.runs = [...message.runs, OWN];
    else if (message.kind === "run") {
      const { head, lists } = message;
      const run = known.get(head.id) ?? Object.fromEntries(LISTS.map((name) => [name, []]));
      for (const [name, { from, items }] of Object.entries(lists)) run[name] = [...run[name].slice(0, from), ...items];
      known.set(head.id, { ...run, head });
    } else return;
    if (message.kind === "runs") watchAgain();
    draw();
  }

  let watched = "";
  /** A ladder that is watched has a new rung: that one too. */
  function watchAgain() {
    const ids = [...shownIds()];
    if (ids.join("|") === watched) return;
    watched = ids.join("|");
    live.send({ watch: ids });
  }

  let lost = false;
  const live = listen(take, (connected) => {
    parts.lost.hidden = connected;
    if (connected) live.send({ watch: [...shownIds()] });
    if (connected && lost) shell.facts.textContent = "connected again";
    lost = !connected;
  });
  document.addEventListener("qkv-theme", ({ detail }) => {
    heads.retheme(detail);
    chart.draw();
  });
  watched = [...shownIds()].join("|");
  draw(true);
  form.estimate();
}

/** What is shown to who comes without a link: what trains, else what was trained last with probes. */
function first(runs) {
  const own = runs.at(-1).id;
  const alive = runs.find((run) => LIVING.has(run.state) && !run.group);
  return (alive ?? runs.find((run) => !run.group && run.state !== "unreadable"))?.id ?? own;
}

function noProbes(run) {
  const { about = {}, state } = run?.head ?? {};
  if (!about.model) return "";
  if (about.probes && about.layers) return LIVING.has(state) ? "The first probe comes after its second step." : "It has no probes.";
  if (about.probes === 0) return "Rungs of a ladder are trained without probes, so that their times compare. Train one by itself to watch its attention form.";
  return "It has no attention to watch.";
}

const setText = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

function lay(main) {
  const made = (tag, name, ...children) => makeElement(tag, { class: name }, ...children);
  const parts = {
    lost: makeElement("p", { class: "problem", role: "alert", hidden: true, text: "The lab can't be reached. What trains goes on without it, and this page comes back by itself. If the lab was started again, open its new link." }),
    read: makeElement("p", { class: "read" }),
    sub: makeElement("p", { class: "sub" }),
    acts: made("span", "acts"),
    reason: makeElement("p", { class: "problem", role: "alert", hidden: true }),
    form: makeElement("section", { class: "form", "aria-label": "Train a model" }),
    chart: makeElement("section", { class: "losses", "aria-label": "Losses" }),
    runs: makeElement("section", { class: "list", "aria-label": "Runs" }),
    none: makeElement("p", { class: "soft none", hidden: true }),
    timeline: made("div", "timeline"),
    heads: made("div", "probe"),
    samples: makeElement("section", { class: "samples", "aria-label": "Samples", hidden: true }),
  };
  parts.attention = makeElement("section", { class: "attention", "aria-label": "Attention as it forms", hidden: true },
    makeElement("h2", { text: "Attention as it forms, on a passage it has not learnt" }), parts.timeline, parts.heads);
  main.append(
    makeElement("h1", { class: "unseen", text: "Train" }), parts.lost, parts.form, parts.read,
    made("div", "standing", parts.sub, parts.acts), parts.reason,
    made("div", "watch", parts.chart, parts.runs), parts.attention, parts.none, parts.samples,
  );
  return parts;
}
