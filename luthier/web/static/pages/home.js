// Home: what runs, what waits, what the machine has left, and where to begin.
//
// What goes in: the server's overview as it changes. What comes out: a list that is changed in place, so that the
// keyboard and the eye stay where they are.

import { h, clear, refill, icon, problems, busy, toast, whenNew } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { post, del, key, part, watch } from "../lib/api.js";
import { ago, bytes, number, percent } from "../lib/format.js";
import { spark } from "../lib/charts.js";
import { onOverview } from "../lib/overview.js";
import { awaited, compareLink, leftText, recipeText, runLink, share, stateChip, steps, waitText } from "../lib/runs.js";

const ORDER = ["running", "queued"];
const HALTED = ["interrupted", "failed", "died", "damaged", "gone", "new"];
// A run that waits for one of these waits until somebody does something.
const MANY = 8;
// Runs above which a list is worth a filter.

export async function show(root) {
  const said = h("p", { class: "sr", role: "status" });
  const fault = h("div");
  const welcome = h("section", { class: "panel welcome", hidden: true });
  const jobs = h("section", { class: "panel", "aria-labelledby": "jobs-title", hidden: true });
  const queue = h("section", { class: "panel", "aria-labelledby": "queue-title", hidden: true });
  const machine = h("section", { class: "panel", "aria-labelledby": "machine-title" });
  const list = runList(said);
  root.append(
    h(
      "div",
      { class: "page-head" },
      h("h1", {}, t("common.page.home")),
      h(
        "div",
        { class: "actions" },
        tryButton(fault, "button"),
        h("a", { class: "button primary", href: "#/new" }, icon("add"), t("common.page.new")),
      ),
    ),
    said,
    fault,
    welcome,
    jobs,
    list.element,
    queue,
    machine,
  );
  fillWelcome(welcome, fault);
  const showJobs = jobList(jobs);
  const showQueue = queueList(queue);
  const showMachine = machineList(machine);

  function update(now) {
    welcome.hidden = now.runs.length > 0;
    list.element.hidden = now.runs.length === 0;
    list.update(now.runs, now.heard_s);
    showJobs(now.jobs.filter((job) => job.state === "running"));
    showQueue(now.runs);
    showMachine(now);
  }

  const end = onOverview(update);
  const clock = setInterval(list.tick, 1000);
  return () => {
    end();
    clearInterval(clock);
  };
}

// ------------------------------------------------------------------------------------------------ where to begin

function fillWelcome(box, fault) {
  const step = (name, text) => h("li", {}, h("strong", {}, name), h("span", { class: "muted" }, text));
  box.append(
    h("h2", {}, t("home.welcome")),
    h("p", {}, t("home.welcome.text")),
    h(
      "ol",
      { class: "steps" },
      step(t("home.step.data"), t("home.step.data.text")),
      step(t("home.step.train"), t("home.step.train.text")),
      step(t("home.step.use"), t("home.step.use.text")),
    ),
    h(
      "div",
      { class: "actions" },
      tryButton(fault, "button primary big"),
      h("a", { class: "button big", href: "#/new" }, t("home.own")),
    ),
    h("p", { class: "muted small" }, t("home.try.text")),
  );
}

// Runs the demonstration, and leads to its run as soon as it has one.
function tryButton(fault, look) {
  const button = h("button", { type: "button", class: look }, icon("spark"), t("home.try"));
  button.addEventListener("click", async () => {
    clear(fault);
    const here = location.hash;
    const job = await busy(button, start());
    if (job && !job.run)
      clear(fault, h("section", { class: "panel" }, h("h2", {}, t("home.try.failed")), problems(job.problems)));
    else if (job && location.hash === here) location.hash = runLink(job.run);
  });
  return button;
}

// The demonstration's job, once it has a run or has come to an end without one.
async function start() {
  const job = await post("jobs", { kind: "demo", key: key() });
  return new Promise((resolve, reject) => {
    const told = (now) => now.run && resolve(now);
    told(job);
    watch(job, told).then(resolve, reject);
  });
}

// ------------------------------------------------------------------------------------------------ runs

function runList(said) {
  const rows = new Map();
  const chosen = new Set();
  let heard_s = 0;
  let order = [];

  const compare = h("a", { class: "button", hidden: true }, icon("chart"), h("span"));
  const filter = h("input", {
    type: "search",
    placeholder: t("home.filter"),
    "aria-label": t("home.filter"),
    oninput: sift,
    hidden: true,
  });
  const body = h("tbody");
  const column = (name, look = "") => h("th", { scope: "col", class: look }, name);
  const table = h(
    "table",
    { class: "table runs" },
    h("caption", { class: "sr" }, t("common.page.home")),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        column(h("span", { class: "sr" }, t("home.choose"))),
        column(t("home.run")),
        column(t("home.state")),
        column(t("home.progress")),
        column(t("home.loss")),
        column(t("home.validation"), "number"),
        column(t("home.updated")),
      ),
    ),
    body,
  );
  const nothing = h("p", { class: "muted", hidden: true }, t("home.filter.none"));
  const element = h(
    "section",
    { class: "panel", "aria-labelledby": "runs-title", hidden: true },
    h(
      "div",
      { class: "panel-head" },
      h("h2", { id: "runs-title" }, t("home.list")),
      h("div", { class: "actions" }, filter, compare),
    ),
    h("div", { class: "table-scroll" }, table),
    nothing,
  );

  function tellChosen() {
    compare.hidden = chosen.size < 2;
    compare.href = compareLink([...chosen]);
    compare.lastChild.textContent = t("home.compare", { runs: chosen.size });
  }

  function sift() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows.values()) {
      row.element.hidden = !words.every((word) => row.text.includes(word));
      if (!row.element.hidden) shown += 1;
    }
    nothing.hidden = shown > 0 || rows.size === 0;
  }

  function choose(name, wanted) {
    if (wanted) chosen.add(name);
    else chosen.delete(name);
    tellChosen();
  }

  function update(runs, now_s) {
    heard_s = now_s;
    const names = new Set(runs.map((run) => run.name));
    for (const [name, row] of rows) {
      if (names.has(name)) continue;
      row.element.remove();
      rows.delete(name);
      choose(name, false);
    }
    for (const run of runs) {
      const row = rows.get(run.name);
      if (!row)
        rows.set(
          run.name,
          runRow(run, heard_s, (wanted) => choose(run.name, wanted)),
        );
      else if (row.update(run, heard_s))
        said.textContent = t("home.said", { run: run.name, state: t(`common.state.${run.state}`) });
    }
    arrange(sorted(runs).map((run) => run.name));
    filter.hidden = runs.length <= MANY;
    sift();
  }

  // Rows move only where the order changes: moving one takes the keyboard from it.
  function arrange(wanted) {
    if (wanted.join("/") === order.join("/")) return;
    order = wanted;
    wanted.forEach((name, index) => {
      const { element: row } = rows.get(name);
      if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null);
    });
  }

  return { element, update, tick: () => rows.forEach((row) => row.tick()) };
}

// What runs, then what waits in its order, then the rest, the last one that did something first.
function sorted(runs) {
  const rank = (run) => (ORDER.includes(run.state) ? ORDER.indexOf(run.state) : ORDER.length);
  return [...runs].sort((a, b) => {
    if (rank(a) !== rank(b)) return rank(a) - rank(b);
    if (a.state === "queued") return (a.place ?? 0) - (b.place ?? 0);
    if (a.state === "running") return (b.started_s ?? 0) - (a.started_s ?? 0);
    return (b.updated_s ?? 0) - (a.updated_s ?? 0);
  });
}

function runRow(first, first_s, onChoose) {
  let [run, heard_s] = [first, first_s];
  let drawn = "";
  const state = h("td", { dataset: { label: t("home.state") } });
  const bar = h("progress", { max: 1, "aria-label": t("home.progress") });
  const amount = h("span", { class: "number" });
  const rest = h("span", { class: "muted number" });
  const curve = h("span", { class: "curve" });
  const loss = h("span", { class: "number" });
  const best = h("td", { class: "number", dataset: { label: t("home.validation") } });
  const when = h("td", { class: "muted", dataset: { label: t("home.updated") } });
  const recipe = h("span", { class: "muted small break" });
  const problem = h("span", { class: "small bad break clamp" });
  const element = h(
    "tr",
    { dataset: { run: run.name } },
    h(
      "td",
      { class: "choose" },
      h("input", {
        type: "checkbox",
        "aria-label": t("home.choose_run", { run: run.name }),
        onchange: (event) => onChoose(event.target.checked),
      }),
    ),
    h(
      "th",
      { scope: "row", class: "name" },
      h("a", { class: "break", href: runLink(run.name) }, run.name),
      recipe,
      problem,
    ),
    state,
    h(
      "td",
      { class: "progress", dataset: { label: t("home.progress") } },
      bar,
      h("span", { class: "small row" }, amount, rest),
    ),
    h("td", { class: "loss", dataset: { label: t("home.loss") } }, loss, curve),
    best,
    when,
  );

  function draw() {
    clear(state, stateChip(run.state));
    bar.value = share(run);
    bar.hidden = run.step === 0 && run.state !== "running";
    amount.textContent =
      run.step || run.num_steps ? steps(run) : run.state === "running" ? t("run.before.running") : "";
    recipe.textContent = recipeText(run);
    problem.textContent = problem.title = run.problem ?? "";
    problem.hidden = !run.problem;
    loss.textContent = run.loss === null || run.loss === undefined ? "" : number(run.loss);
    clear(curve, run.spark?.length > 1 ? spark(run.spark) : null);
    best.textContent = run.best ? number(run.best[1]) : "";
  }

  function tick() {
    rest.textContent = leftText(run, heard_s);
    when.textContent = run.updated_s ? ago(run.updated_s) : "";
  }

  // Whether its state is another one now.
  function update(now, now_s) {
    const changed = now.state !== run.state;
    [run, heard_s] = [now, now_s];
    const text = JSON.stringify(now);
    if (text !== drawn) draw();
    drawn = text;
    tick();
    return changed;
  }

  update(first, first_s);
  return {
    element,
    update,
    tick,
    get text() {
      return `${run.name} ${recipeText(run)} ${t(`common.state.${run.state}`)}`.toLowerCase();
    },
  };
}

// ------------------------------------------------------------------------------------------------ queue, jobs, machine

function queueList(box) {
  const draw = whenNew((waiting) => {
    box.hidden = waiting.length === 0;
    refill(
      box,
      h("h2", { id: "queue-title" }, t("home.queue")),
      h("p", { class: "muted" }, t("home.queue.text")),
      h(
        "ol",
        { class: "queue" },
        waiting.map(({ name, first }, index) =>
          h(
            "li",
            {},
            h(
              "span",
              {},
              h("a", { href: runLink(name), class: "break" }, name),
              first
                ? h(
                    "span",
                    { class: `small block break ${HALTED.includes(first.state) ? "bad" : "muted"}` },
                    waitText(first),
                  )
                : null,
            ),
            h(
              "span",
              { class: "actions" },
              index
                ? act(
                    "first",
                    t("home.queue.first"),
                    t("home.queue.first_run", { run: name }),
                    `runs/${part(name)}/first`,
                  )
                : null,
              act("close", t("home.queue.out"), t("home.queue.out_run", { run: name }), `runs/${part(name)}/stop`),
            ),
          ),
        ),
      ),
    );
  });
  return (runs) => {
    const waiting = sorted(runs.filter((run) => run.state === "queued"));
    draw(waiting.map((run) => ({ name: run.name, place: run.place, first: awaited(run, runs) })));
  };
}

function act(picture, text, label, path) {
  return h(
    "button",
    {
      type: "button",
      class: "button small",
      "aria-label": label,
      onclick: (event) => busy(event.currentTarget, post(path)),
    },
    icon(picture),
    text,
  );
}

function jobList(box) {
  return whenNew((running) => {
    box.hidden = running.length === 0;
    refill(
      box,
      h("h2", { id: "jobs-title" }, t("home.jobs")),
      h(
        "ul",
        { class: "queue" },
        running.map((job) =>
          h(
            "li",
            {},
            h(
              "span",
              {},
              h("strong", {}, t(`common.job.${job.kind}`)),
              " ",
              job.run ? h("a", { href: runLink(job.run), class: "break" }, job.run) : null,
              h("span", { class: "muted small block break" }, job.log?.at(-1) ?? ""),
            ),
            h(
              "button",
              {
                type: "button",
                class: "button small",
                "aria-label": t("home.jobs.cancel_one", { job: t(`common.job.${job.kind}`) }),
                onclick: (event) => cancel(event.currentTarget, job),
              },
              icon("stop"),
              t("common.cancel"),
            ),
          ),
        ),
      ),
    );
  });
}

async function cancel(button, job) {
  const done = await busy(
    button,
    del(`jobs/${part(job.id)}`).then(() => true),
  );
  if (done) toast(t("home.jobs.cancelled"));
}

function machineList(box) {
  const draw = whenNew(({ devices, disk }) => {
    const meter = (name, used, total, text, picture) =>
      h(
        "div",
        { class: "stack" },
        h("span", { class: "row" }, icon(picture), h("strong", { class: "break" }, name)),
        h("progress", {
          class: used / total > 0.95 ? "full" : "",
          max: 1,
          value: total ? used / total : 0,
          "aria-label": `${name}: ${text}`,
        }),
        h("span", { class: "muted small number" }, text),
      );
    const memory = (device) =>
      t(device.kind === "gpu" ? "home.memory.gpu" : "home.memory.cpu", {
        free: bytes(device.free_bytes),
        total: bytes(device.total_bytes),
        used: percent(1 - device.free_bytes / device.total_bytes),
      });
    clear(
      box,
      h("h2", { id: "machine-title" }, t("home.machine")),
      h(
        "div",
        { class: "grid" },
        devices.map((device) =>
          meter(device.name, device.total_bytes - device.free_bytes, device.total_bytes, memory(device), "memory"),
        ),
        disk
          ? meter(
              t("home.disk"),
              disk.total_bytes - disk.free_bytes,
              disk.total_bytes,
              t("home.memory.disk", { free: bytes(disk.free_bytes), total: bytes(disk.total_bytes) }),
              "disk",
            )
          : null,
      ),
    );
  });
  return ({ devices, disk }) => draw({ devices, disk });
}
