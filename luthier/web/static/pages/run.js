// One run: how far it is, its curves, what it says, what came of it, and how to stop it or to go on.
//
// What goes in: a run's name; the server's overview says its state and the time left, its own stream every event. What
// comes out: a page that is the same whenever and wherever it is opened.

import { h, clear, refill, icon, problems, busy, dialog, field, toast, whenNew } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { get, post, part, search, watch } from "../lib/api.js";
import { bytes, count, date, duration, number, percent } from "../lib/format.js";
import { onOverview } from "../lib/overview.js";
import { compareLink, leftText, recipeText, share, stateChip, steps } from "../lib/runs.js";
import { History } from "./run/history.js";
import { Curves } from "./run/curves.js";
import { Events } from "./run/events.js";
import { Samples } from "./run/samples.js";
import * as parts from "./run/parts.js";

const RESUMABLE = ["new", "interrupted", "failed", "died"];
const ACTIVE = ["running", "queued"];

export async function show(root, { path }) {
  const name = path[0] ?? "";
  const place = `runs/${part(name)}`;
  let run = await get(place);
  let heard_s = Date.now() / 1000;
  let shown = false;
  let asked = null;
  // What was asked of the run and has not come about yet: the state that it had then.

  const state = h("span");
  const recipe = h("p", { class: "muted break" });
  const actions = h("div", { class: "actions" });
  const said = h("p", { class: "sr", role: "status" });
  const fault = h("div");
  const panel = (look = "") => h("section", { class: `panel ${look}` });
  const [progress, demo, samplesPanel, eventsPanel, outputs, receipt, recipePanel, logPanel] = [
    panel(),
    panel("demo"),
    panel(),
    panel(),
    panel(),
    panel(),
    panel(),
    panel(),
  ];
  const curvesPanel = panel("curves");
  demo.hidden = receipt.hidden = true;
  root.append(
    h(
      "div",
      { class: "page-head" },
      h("div", {}, h("div", { class: "row" }, h("h1", {}, name), state), recipe),
      actions,
    ),
    said,
    fault,
    progress,
    demo,
    curvesPanel,
    samplesPanel,
    h("div", { class: "grid wide" }, eventsPanel, h("div", { class: "column" }, outputs, receipt)),
    recipePanel,
    logPanel,
  );
  curvesPanel.append(h("h2", {}, t("run.curves")));

  const curves = new Curves(curvesPanel, { onZoom: (from, to) => history.zoom(from, to).catch(told) });
  const events = new Events(eventsPanel);
  const samples = new Samples(samplesPanel);
  const history = new History(name, curves, {
    onEvents: (found) => {
      for (const each of [events, samples]) found ? each.add(found) : each.forget();
    },
    onState: (line) => ["open", "ended"].includes(line) && renew().catch(told),
  });

  // A torn line is told in the header, and what was missed comes when it stands again.
  function told(error) {
    if (!Array.isArray(error.problems)) throw error;
    if (error.status !== 0) clear(fault, problems(error.problems));
  }

  // ---------------------------------------------------------------------------------------------- what is shown

  const showState = whenNew(() => {
    clear(state, stateChip(asked === run.state && run.state === "running" ? "stopping" : run.state));
    refill(actions, buttons());
  });

  const bar = h("progress", { max: 1, "aria-label": t("run.progress") });
  const amount = h("strong", { class: "number" });
  const rest = h("span", { class: "number left" });
  const facts = h("dl", { class: "tiles" });
  const wrong = h("div");
  progress.append(h("div", { class: "row spread" }, amount, rest), bar, facts, wrong);

  const showProgress = whenNew(() => {
    bar.value = share(run);
    bar.hidden = !run.num_steps;
    amount.textContent =
      run.step || run.num_steps
        ? t("run.step_is", { steps: steps(run) })
        : t(`run.before.${run.state === "queued" ? "queued" : run.state === "running" ? "running" : "other"}`);
    const rows = [
      [t("run.fact.loss"), number(run.loss)],
      [
        t("run.fact.best"),
        run.best ? t("run.fact.best_at", { loss: number(run.best[1]), step: count(run.best[0]) }) : null,
      ],
      [t("run.fact.speed"), run.tokens_per_s ? t("run.fact.tokens_per_s", { tokens: count(run.tokens_per_s) }) : null],
      [t("run.fact.memory"), planned(run)],
      [t("run.fact.time"), run.seconds ? duration(run.seconds) : null],
      [t("run.fact.started"), run.started_s ? date(run.started_s) : null],
      [t("run.fact.attempts"), attempts(run)],
    ];
    clear(
      facts,
      rows
        .filter(([, text]) => text && text !== "–")
        .map(([label, text]) => h("div", {}, h("dt", {}, label), h("dd", { class: "number" }, text))),
    );
    const found = run.problems?.length ? run.problems : [];
    clear(
      wrong,
      found.length
        ? problems(found)
        : run.problem
          ? h("p", { class: "notice break" }, icon("warn"), run.problem)
          : null,
    );
  });

  function tick() {
    rest.textContent = leftText(run, heard_s);
    // So that a tab in the background tells.
    if (shown) document.title = `${run.state === "running" ? `${percent(share(run))} · ` : ""}${name} · Luthier`;
  }

  function update() {
    recipe.textContent = recipeText(run);
    showState([run.state, asked, run.outputs]);
    showProgress(run);
    tick();
  }

  const showOutputs = whenNew((found) => parts.outputs(outputs, found));
  const showRecipe = whenNew((found) => parts.recipe(recipePanel, found));
  const showDemo = whenNew((job) => parts.demoOutcome(demo, job));
  const showReceipt = whenNew((found) => parts.receipt(receipt, found));

  // What the page has not in its streams: results, receipt, problems.
  async function renew() {
    const [now, job] = await Promise.all([get(place), demoJob(name)]);
    run = now;
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

  // ---------------------------------------------------------------------------------------------- what can be done

  function button(picture, text, action, look = "") {
    const node = h("button", { type: "button", class: `button ${look}` }, icon(picture), text);
    node.addEventListener("click", () => action(node));
    return node;
  }

  function buttons() {
    const link = (href, picture, text) => h("a", { class: "button", href }, icon(picture), text);
    return [
      ACTIVE.includes(run.state) && asked !== run.state
        ? button("stop", run.state === "running" ? t("run.stop") : t("run.withdraw"), stop, "danger")
        : null,
      run.state === "queued" ? button("first", t("run.first"), (node) => act(node, "first")) : null,
      RESUMABLE.includes(run.state)
        ? button(
            "play",
            run.state === "new" ? t("run.start") : t("run.resume"),
            (node) => act(node, "resume"),
            "primary",
          )
        : null,
      !["queued", "new", "damaged"].includes(run.state) ? button("longer", t("run.extend"), extend) : null,
      run.outputs?.length ? link(`#/chat${search({ target: name })}`, "chat", t("run.chat")) : null,
      run.outputs?.length ? link(`#/export/${part(name)}`, "export", t("run.export")) : null,
      link(compareLink([name]), "chart", t("common.page.compare")),
    ];
  }

  async function act(node, verb, body) {
    clear(fault);
    const before = run.state;
    const done = await busy(node, post(`${place}/${verb}`, body));
    if (!done) return false;
    run = { ...run, state: done.state };
    asked = verb === "stop" && done.state === before ? before : null;
    update();
    return true;
  }

  async function stop(node) {
    if (await act(node, "stop")) toast(run.state === "running" ? t("run.stop.asked") : t("run.withdraw.done"));
  }

  async function extend(node) {
    if (run.state === "running") {
      const answer = await dialog({
        title: t("run.extend"),
        body: h("p", {}, t("run.extend.running")),
        actions: [
          { label: t("common.cancel"), value: null },
          { label: t("run.stop"), value: "stop", kind: "primary" },
        ],
      });
      if (answer === "stop") await stop(node);
      return;
    }
    const total = h("input", { type: "number", min: 1, step: "any", value: run.num_steps ?? "" });
    const unit = h(
      "select",
      { onchange: () => (total.value = unit.value === "steps" ? (run.num_steps ?? "") : "") },
      h("option", { value: "steps" }, t("run.extend.steps")),
      h("option", { value: "epochs" }, t("run.extend.epochs")),
    );
    const answer = await dialog({
      title: t("run.extend"),
      body: h(
        "div",
        { class: "stack" },
        h("p", {}, t("run.extend.text")),
        field({ label: t("run.extend.unit"), input: unit }),
        field({ label: t("run.extend.total"), input: total }),
      ),
      actions: [
        { label: t("common.cancel"), value: null },
        { label: t("run.extend.save"), value: "save" },
        { label: t("run.extend.go"), value: "go", kind: "primary" },
      ],
    });
    if (answer === null || total.value === "") return;
    if (!(await act(node, "extend", { [unit.value]: Number(total.value) }))) return;
    toast(t("run.extend.done"), "good");
    if (answer === "go") await act(node, "resume");
    await renew();
  }

  // ---------------------------------------------------------------------------------------------- live

  update();
  await history.start();
  const endOverview = onOverview((now) => {
    curves.offer(
      now.runs
        .filter((each) => each.name !== name && each.step > 0)
        .map((each) => each.name)
        .sort(),
    );
    const mine = now.runs.find((each) => each.name === name);
    if (!mine) return;
    const before = run.state;
    run = { ...run, ...mine };
    heard_s = now.heard_s;
    if (asked !== null && asked !== run.state) asked = null;
    if (before !== run.state) {
      said.textContent = t("home.said", { run: name, state: t(`common.state.${run.state}`) });
      // Its stream ended with the attempt before.
      if (ACTIVE.includes(run.state)) history.follow();
      renew().catch(told);
    }
    update();
  });
  const endLog = parts.log(logPanel, name, () => ACTIVE.includes(run.state));
  const clock = setInterval(tick, 1000);
  shown = true;

  return () => {
    shown = false;
    history.end();
    curves.destroy();
    endOverview();
    endLog();
    clearInterval(clock);
  };
}

// The demonstration that made the run, if one did; with its result once it has one.
async function demoJob(name) {
  const { jobs } = await get("jobs");
  const job = jobs.find((each) => each.kind === "demo" && each.run === name);
  return job ? get(`jobs/${part(job.id)}`) : null;
}

function planned(run) {
  const peak = run.plan?.memory?.peak_bytes;
  return peak ? bytes(peak) : null;
}

function attempts(run) {
  const number = Array.isArray(run.attempts) ? run.attempts.length : run.attempts;
  return number > 1 ? count(number) : null;
}
