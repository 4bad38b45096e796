// Train: what to train, the runs there are, and one of them watched as it learns.

import { getJson, listen, plainly } from "./api.js";
import { mountChart } from "./train-chart.js";
import { mountForm } from "./train-form.js";
import { mountHeads } from "./train-heads.js";
import { mountLadder } from "./train-ladder.js";
import { dropBusy, fillActs, mountRuns } from "./train-runs.js";
import { mountSamples } from "./train-samples.js";
import { mountTimeline } from "./train-timeline.js";
import { isBroken, LIVING, nameOf, runFacts, runSentence } from "./train-words.js";
import { makeElement } from "./views.js";

const OWN = { id: "own", kind: "own", title: "", state: "finished", group: null, step: 0, steps: 0, can: [] };
const RETRY_MS = 2000;
/** Runs watched at once: the lab takes no more. */
const MOST_WATCHED = 40;
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
    return new Set([...(of.length ? of : [state.chosen]), ...state.also].slice(0, MOST_WATCHED));
  };
  const shownRuns = () => [...shownIds()].filter((id) => known.has(id)).map((id) => ({ id, name: nameOf(entry(id), titles), run: known.get(id) }));

  const form = mountForm(parts.form, offers, choose);
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
  const ladder = mountLadder(parts.ladder);

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
  let retry = 0;
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
    let shown = null;
    try {
      shown = await heads.show(id, probe.step, head, all[at + 1]?.step ?? null);
    } catch (error) {
      askAgain(key, error);
    }
    if (shown && head === null && state.head === null && focus() === id) {
      state.head = shown;
      timeline.update({ head: shown });
      keepLink();
    }
  }

  /** What could not be had since the lab was not reached is asked for again; what it refused is not. */
  function askAgain(key, error) {
    clearTimeout(retry);
    if (looked !== key || (error.status >= 400 && error.status < 500)) return;
    looked = "";
    retry = setTimeout(look, RETRY_MS);
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
    const living = state.runs.some((one) => LIVING.has(one.state) && !one.host);
    form.update({ living });
    if (!living) dropBusy(main);
    fillLink(parts.inspect, id, run);
    const climbed = chosen.group ? entry(chosen.group) : chosen;
    ladder.update(climbed.rungs ?? []);
    if (run) {
      setText(parts.read, runSentence(run, named));
      setText(parts.sub, [runFacts(run), elsewhere(entry(chosen.group ?? chosen.id))].filter(Boolean).join(" · "));
      const broken = isBroken(run.head) ? run.head.reason : isBroken(chosen) ? chosen.reason : "";
      parts.reason.hidden = !broken;
      setText(parts.reason, plainly(broken));
    } else {
      setText(parts.read, chosen.state === "starting" ? `${nameOf(chosen, titles)} is starting.` : nameOf(chosen, titles));
      setText(parts.sub, chosen.kind === "ladder" && chosen.state === "starting" ? "The rungs are timed first, for some seconds." : "");
      parts.reason.hidden = !isBroken(chosen);
      setText(parts.reason, plainly(chosen.reason ?? ""));
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
  main.addEventListener("qkv-removed", ({ detail }) => {
    shell.facts.textContent = `${nameOf(entry(detail), titles)} was moved to the folder .trash`;
    state.runs = state.runs.filter(({ id, group }) => id !== detail && group !== detail);
    state.also = new Set([...state.also].filter((id) => id !== detail && !id.startsWith(`${detail}/`)));
    if (state.chosen === detail || state.chosen.startsWith(`${detail}/`)) choose(first(state.runs));
    else changed();
  });
  watched = [...shownIds()].join("|");
  draw(true);
  form.estimate();
}

/** What is shown to who comes without a link: what trains, else what waits to go on, else the newest with something to see. */
function first(runs) {
  const some = runs.filter((run) => !run.group && run.id !== OWN.id);
  const found = some.find((run) => LIVING.has(run.state)) ?? some.find((run) => run.state === "paused" || run.state === "interrupted");
  return (found ?? some.find((run) => run.step > 0 && run.state !== "unreadable"))?.id ?? OWN.id;
}

/** Why a run that trains has no buttons. */
const elsewhere = ({ state, can, host }) =>
  LIVING.has(state) && !can?.length && !host && state !== "stopping" ? "started in a terminal: Ctrl-C there pauses it" : "";

/** The way to Inspect, for a run that has heads and has learnt. */
function fillLink(link, id, run) {
  const has = id === OWN.id || Boolean(run?.head.about?.attention && run.head.step && run.head.state !== "unreadable");
  link.hidden = !has;
  link.href = `inspect?${new URLSearchParams({ item: id })}`;
}

function noProbes(run) {
  const { about = {}, state } = run?.head ?? {};
  if (!about.model) return "";
  if (!about.attention) return "It has no attention to watch.";
  if (about.probes) return LIVING.has(state) ? "The first probe comes after its second step." : "It has no probes.";
  return "It was trained without probes, as a ladder's rungs are in a terminal. Of one that is started here, attention can be watched.";
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
    inspect: makeElement("a", { text: "Look inside it", hidden: true }),
    ladder: makeElement("section", { class: "rungs", "aria-label": "The ladder, rung by rung", hidden: true }),
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
    makeElement("h1", { class: "qkv-unseen", text: "Train" }), parts.lost, parts.form, parts.read,
    made("div", "standing", parts.sub, parts.acts, parts.inspect), parts.reason,
    made("div", "watch", parts.chart, parts.runs), parts.ladder, parts.attention, parts.none, parts.samples,
  );
  return parts;
}
