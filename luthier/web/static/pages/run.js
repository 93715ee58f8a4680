// One run: how far it is, its curves, what it says, what came of it, and how to stop it or to go on.
//
// What goes in: a run's name; the server's overview says its state and the time left, its own stream every event. What
// comes out: a page that is the same whenever and wherever it is opened.

import { h, clear, problems, whenNew } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { get, part, watch } from "../lib/api.js";
import { percent } from "../lib/format.js";
import { onOverview } from "../lib/overview.js";
import { awaited, recipeText, share, stagesOf, stateChip } from "../lib/runs.js";
import { ACTIVE, Controls } from "./run/controls.js";
import { Curves } from "./run/curves.js";
import { Events } from "./run/events.js";
import { History, historyOf } from "./run/history.js";
import { Judged } from "./run/judged.js";
import { Progress } from "./run/progress.js";
import { Samples } from "./run/samples.js";
import * as parts from "./run/parts.js";

export async function show(root, { path }) {
  const name = path[0] ?? "";
  const place = `runs/${part(name)}`;
  // Both at once: of a long run the second takes longest.
  const past = historyOf(place);
  past.catch(() => {});
  let run = await get(place);
  let heard_s = Date.now() / 1000;
  const on = frame(root, name);

  const progress = new Progress(on.progress);
  const controls = new Controls(on.controls, name, {
    onAnswer: (state) => {
      clear(on.fault);
      run = { ...run, state };
      update();
    },
    onLonger: () => renew().catch(told),
  });
  const curves = new Curves(on.curves, { onZoom: (from, to) => history.zoom(from, to).catch(told) });
  const events = new Events(on.events, {
    onEarlier: async (seq) => {
      const found = await history.before(seq);
      for (const each of [judged, samples]) each.again([...found.events, ...events.events]);
      return found;
    },
  });
  const judged = new Judged(on.judged);
  const samples = new Samples(on.samples);
  const history = new History(name, curves, {
    onEvents: (found) => {
      for (const each of [events, judged, samples]) found ? each.add(found) : each.forget();
    },
    onEarlier: (count) => events.setEarlier(count),
    onState: (line) => ["open", "ended"].includes(line) && renew().catch(told),
  });

  // A torn line is told in the header, and what was missed comes when it stands again.
  function told(error) {
    if (!Array.isArray(error.problems)) throw error;
    if (error.status !== 0) clear(on.fault, problems(error.problems));
  }

  // ---------------------------------------------------------------------------------------------- what is shown

  const showStages = whenNew((found) => parts.stages(on.stages, name, found));
  const showState = whenNew((state) => clear(on.state, stateChip(state)));
  const showOutputs = whenNew((found) => parts.outputs(on.outputs, found));
  const showRecipe = whenNew((found) => parts.recipe(on.recipe, found));
  const showDemo = whenNew((job) => parts.demoOutcome(on.demo, job));
  const showReceipt = whenNew((found) => parts.receipt(on.receipt, found));

  function update() {
    on.about.textContent = recipeText(run);
    controls.show(run);
    showState(controls.stopping ? "stopping" : run.state);
    progress.show(run);
    tick();
  }

  function tick() {
    progress.tick(run, heard_s);
    // So that a tab in the background tells.
    if (root.isConnected)
      document.title = `${run.state === "running" ? `${percent(share(run))} · ` : ""}${name} · Luthier`;
  }

  // What the page has not in its streams: results, receipt, problems.
  async function renew() {
    const [now, job] = await Promise.all([get(place), demoJob(name)]);
    run = { ...now, awaited: run.awaited };
    heard_s = Date.now() / 1000;
    update();
    follow(job);
    showOutputs(run.outputs);
    showRecipe({ name, yaml: run.yaml });
    showDemo(job);
    showReceipt(await parts.receiptOf(name));
  }

  // A demonstration goes on after its run has ended: it asks both models, merges, and reads that back.
  let followed = null;
  function follow(job) {
    if (job?.state !== "running" || followed === job.id) return;
    followed = job.id;
    watch(job)
      .then(() => root.isConnected && renew())
      .catch(told);
  }

  // ---------------------------------------------------------------------------------------------- live

  function hear(now) {
    curves.offer(now.runs.filter((each) => each.name !== name && each.step > 0).map((each) => each.name));
    const mine = now.runs.find((each) => each.name === name);
    if (!mine) return;
    const before = run.state;
    run = { ...run, ...mine, awaited: awaited(mine, now.runs) };
    showStages(stagesOf(mine, now.runs).map((each) => ({ name: each.name, state: each.state })));
    heard_s = now.heard_s;
    update();
    if (before === run.state) return;
    on.said.textContent = t("home.said", { run: name, state: t(`common.state.${run.state}`) });
    // Its stream ended with the attempt before.
    if (ACTIVE.includes(run.state)) history.follow();
    renew().catch(told);
  }

  update();
  await history.start(past);
  const endOverview = onOverview(hear);
  const endLog = parts.log(on.log, name, () => ACTIVE.includes(run.state));
  const clock = setInterval(tick, 1000);
  return () => {
    history.end();
    curves.destroy();
    endOverview();
    endLog();
    clearInterval(clock);
  };
}

// Where everything goes.
function frame(root, name) {
  const panel = (look = "") => h("section", { class: `panel ${look}` });
  const on = {
    state: h("span"),
    about: h("p", { class: "muted break" }),
    controls: h("div", { class: "actions" }),
    said: h("p", { class: "sr", role: "status" }),
    fault: h("div"),
    stages: h("nav", { class: "panel stages", "aria-label": t("run.stages"), hidden: true }),
    progress: panel(),
    demo: panel(),
    judged: panel(),
    curves: panel(),
    samples: panel(),
    events: panel(),
    outputs: panel(),
    receipt: panel(),
    recipe: panel(),
    log: panel(),
  };
  on.curves.append(h("h2", {}, t("run.curves")));
  const title = h("div", {}, h("div", { class: "row" }, h("h1", {}, name), on.state), on.about);
  root.append(
    h("div", { class: "page-head" }, title, on.controls),
    on.said,
    on.fault,
    on.stages,
    on.progress,
    on.demo,
    on.judged,
    on.curves,
    on.samples,
    h("div", { class: "grid wide" }, on.events, h("div", { class: "column" }, on.outputs, on.receipt)),
    on.recipe,
    on.log,
  );
  return on;
}

// The demonstration that made the run, if one did; with its result once it has one.
async function demoJob(name) {
  const { jobs } = await get("jobs");
  const job = jobs.find((each) => each.kind === "demo" && each.run === name);
  return job ? get(`jobs/${part(job.id)}`) : null;
}
