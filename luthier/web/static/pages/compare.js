// Several runs beside each other: their curves, what differs in them, what came of them, what they answer.
//
// What goes in: names of runs in the address. What comes out: what `luthier runs compare` finds, as tables and curves,
// asked for again while one of them is being trained.

import { clear, h, icon, problems, whenNew } from "../lib/dom.js";
import { t, has } from "../lib/i18n.js";
import { get } from "../lib/api.js";
import { NOTHING, bytes, count, duration, number } from "../lib/format.js";
import { chart, join, palette } from "../lib/charts.js";
import { onOverview } from "../lib/overview.js";
import { compareLink, recipeText, runLink, stateChip } from "../lib/runs.js";
import { nameOf } from "./run/curves.js";
import { measureText } from "./run/judged.js";
import { card } from "./run/samples.js";

const POINTS = 1000;
const RESULTS = {
  steps: count,
  loss: number,
  validation: number,
  tokens: count,
  time: duration,
  speed: (value) => t("run.fact.tokens_per_s", { tokens: count(value) }),
  memory: bytes,
};
const CURVES = [
  // title, curve, whether it is single measurements
  ["compare.loss", "step", false],
  ["compare.validation", "validation", true],
];
const AGAIN_MS = 2000;
// Between two questions while a run goes on: curves over the whole of runs do not change faster than that.

export async function show(root, { path }) {
  const names = [...new Set(path)];
  const { runs } = await get("runs");
  const missing = names.filter((name) => !runs.some((run) => run.name === name));
  const chosen = names.filter((name) => !missing.includes(name));
  const tellStates = picker(root, runs, chosen);
  if (missing.length)
    root.append(
      problems(
        missing.map((name) => ({
          id: "web.no_run",
          where: "",
          field: "",
          value: name,
          rule: t("compare.missing"),
          remedy: "",
        })),
      ),
    );
  if (chosen.length < 2) {
    root.append(h("p", { class: "panel muted" }, runs.length < 2 ? t("compare.too_few") : t("compare.choose")));
    return undefined;
  }
  const fault = h("div");
  root.append(fault);
  const ask = () => get("compare", { run: chosen, points: POINTS });
  const found = await ask().catch((error) => {
    // One that cannot be read, say: the others can still be chosen.
    if (!error.problems || error.status === 0) throw error;
    clear(fault, problems(error.problems));
    return null;
  });
  if (found === null) return undefined;
  const charts = new Charts(root, chosen);
  const rest = ["results", "scores", "recipe", "material", "samples"].map(() => h("section", { class: "panel" }));
  root.append(...rest);
  const shows = [showResults, showScores, differences("compare.recipe"), differences("compare.material"), showSamples].map(
    (fill, index) => whenNew((value) => renew(rest[index], fill(value))),
  );
  function draw(now) {
    charts.set(now.curves);
    const { runs: order, results, scores, better, recipe, material } = now;
    [
      { order, results, better },
      { order, scores, better },
      { order, table: recipe },
      { order, table: material },
      { order, samples: now.samples },
    ].forEach((value, index) => shows[index](value));
  }
  draw(found);
  const end = follow(chosen, tellStates, () => ask().then((now) => root.isConnected && draw(now)));
  return () => {
    end();
    charts.destroy();
  };
}

// Asks again whenever one of the runs has got on, but not more often than every AGAIN_MS.
function follow(names, tellStates, ask) {
  let [latest, asked, timer, gone] = [null, null, null, false];
  function plan() {
    if (!gone && timer === null && latest !== asked) timer = setTimeout(again, AGAIN_MS);
  }
  async function again() {
    asked = latest;
    try {
      await ask();
      timer = null;
      plan();
    } catch (error) {
      if (!Array.isArray(error.problems)) throw error;
      // The line is torn, or a run is gone: the next word of the server asks again.
      [asked, timer] = [null, null];
    }
  }
  const end = onOverview((now) => {
    const ours = now.runs.filter((run) => names.includes(run.name));
    tellStates(new Map(ours.map((run) => [run.name, run.state])));
    latest = JSON.stringify(ours.map((run) => [run.name, run.state, run.step, run.best]));
    plan();
  });
  return () => {
    gone = true;
    clearTimeout(timer);
    end();
  };
}

// Fills a section anew; a table that is wider than the screen stays where it was moved to.
function renew(section, nodes) {
  const before = section.querySelector(".table-scroll");
  const [at, held] = [before?.scrollLeft ?? 0, before !== null && before === document.activeElement];
  clear(section, nodes);
  const now = section.querySelector(".table-scroll");
  if (now) now.scrollLeft = at;
  if (held) now?.focus({ preventScroll: true });
}

// ------------------------------------------------------------------------------------------------ which

// Returns what is told the runs' states, as they change.
function picker(root, runs, chosen) {
  const left = runs.filter((run) => !chosen.includes(run.name));
  const select = h(
    "select",
    { id: "compare-add", onchange: () => (location.hash = compareLink([...chosen, select.value])) },
    h("option", { value: "" }, t("compare.add")),
    left.map((run) => h("option", { value: run.name }, `${run.name} (${recipeText(run)})`)),
  );
  const chips = new Map(chosen.map((name) => [name, h("span")]));
  root.append(
    h("h1", {}, t("common.page.compare")),
    h(
      "section",
      { class: "panel", "aria-label": t("compare.which") },
      h(
        "ul",
        { class: "chosen" },
        chosen.map((name, index) =>
          h(
            "li",
            {},
            h("span", { class: "swatch", style: { background: `var(${palette(index)})` } }),
            h("a", { href: runLink(name), class: "break" }, name),
            chips.get(name),
            h(
              "a",
              {
                class: "button plain small",
                href: compareLink(chosen.filter((each) => each !== name)),
                "aria-label": t("compare.drop", { run: name }),
              },
              icon("close"),
            ),
          ),
        ),
      ),
      h("div", { class: "row" }, h("label", { class: "sr", for: "compare-add" }, t("compare.add")), select),
    ),
  );
  function tell(states) {
    for (const [name, chip] of chips) {
      const state = states.get(name) ?? "gone";
      if (chip.dataset.state === state) continue;
      chip.dataset.state = state;
      clear(chip, stateChip(state));
    }
  }
  tell(new Map(runs.map((run) => [run.name, run.state])));
  return tell;
}

// ------------------------------------------------------------------------------------------------ curves

class Charts {
  constructor(root, names) {
    this.names = names;
    this.charts = new Map();
    this.smooth = h("input", {
      type: "range",
      min: 0,
      max: 0.98,
      step: 0.02,
      value: 0.9,
      oninput: () => this.each((chart) => chart.setSmooth(Number(this.smooth.value))),
    });
    this.log = h(
      "button",
      { type: "button", class: "button small", "aria-pressed": "false", onclick: () => this.toggle() },
      t("run.log_scale"),
    );
    this.grid = h("div", { class: "charts two" });
    root.append(
      h(
        "section",
        { class: "panel", "aria-labelledby": "curves-title" },
        h("h2", { id: "curves-title" }, t("run.curves")),
        h("div", { class: "row tools" }, h("label", { class: "check small" }, t("run.smooth"), this.smooth), this.log),
        this.grid,
      ),
    );
  }

  each(what) {
    for (const chart of this.charts.values()) what(chart);
  }

  get isLog() {
    return this.log.getAttribute("aria-pressed") === "true";
  }

  toggle() {
    this.log.setAttribute("aria-pressed", String(!this.isLog));
    this.each((chart) => chart.setLog(this.isLog));
  }

  // curves: {run: {curve: [[step, value]...]}}; a chart is made when there is something for it.
  set(curves) {
    for (const [title, curve, points] of CURVES) {
      const found = this.names.map((name) => curves[name][curve]);
      if (!this.charts.has(curve) && !found.some((each) => each.length)) continue;
      if (!this.charts.has(curve)) this.charts.set(curve, this.make(title, points));
      this.charts.get(curve).set(join(found.map((each) => [each.map(([step]) => step), each.map(([, y]) => y)])));
    }
  }

  make(title, points) {
    return chart(this.grid, {
      title: t(title),
      series: this.names.map((name, index) => ({ label: name, color: palette(index), points })),
      smooth: Number(this.smooth.value),
      log: this.isLog,
      height: 300,
      sync: "compare",
    });
  }

  destroy() {
    this.each((chart) => chart.destroy());
  }
}

// ------------------------------------------------------------------------------------------------ tables

function table(title, head, rows, look = "") {
  return [
    h("h2", {}, title),
    h(
      "div",
      { class: "table-scroll", tabindex: "0", role: "region", "aria-label": title },
      h(
        "table",
        { class: `table ${look}` },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            head.map((name) => h("th", { scope: "col" }, name)),
          ),
        ),
        h("tbody", {}, rows),
      ),
    ),
  ];
}

function showResults({ order, results, better }) {
  const rows = Object.entries(results).map(([name, values]) => {
    const format = RESULTS[name] ?? plain;
    const best = bestOf(values, better[name]);
    return row(
      label(name),
      values.map((value) => [value === null ? NOTHING : format(value), value !== null && value === best]),
    );
  });
  return table(t("compare.results"), ["", ...order], rows, "numbers");
}

// What was found on the rows held out, before step 1 and with the weights that ship.
function showScores({ order, scores, better }) {
  const title = t("compare.scores");
  if (!Object.keys(scores).length) return [h("h2", {}, title), h("p", { class: "muted" }, t("compare.no_scores"))];
  const rows = Object.entries(scores).map(([name, found]) => {
    const best = bestOf(
      found.map((score) => score?.[1]?.mean ?? null),
      better[name],
    );
    return row(
      scoreName(name),
      found.map((score) => {
        if (score === null) return [NOTHING, false];
        const [before, after] = score.map((each) => measureText(name, each));
        return [t("compare.change", { before, after }), score[1] !== null && score[1].mean === best];
      }),
    );
  });
  const [heading, body] = table(title, ["", ...order], rows, "numbers");
  return [heading, h("p", { class: "muted small" }, t("compare.scores.about")), body];
}

// better: `lower`, `higher`, or nothing where that cannot be said; of values that are all the same none is the best.
function bestOf(values, better) {
  const known = values.filter((value) => typeof value === "number");
  if (!better || new Set(known).size < 2) return null;
  return better === "lower" ? Math.min(...known) : Math.max(...known);
}

// cells: texts, each with whether it is the best.
function row(name, cells) {
  const mark = () => h("span", { class: "best" }, icon("check"), h("span", { class: "sr" }, t("compare.best")));
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, name),
    cells.map(([text, best]) => h("td", {}, text, best ? mark() : null)),
  );
}

function scoreName(name) {
  if (name === "validation") return t("compare.validation");
  return name.startsWith("term.") ? t("run.curve.of_term", { name: name.slice(5) }) : nameOf(name);
}

function label(name) {
  return has(`compare.result.${name}`) ? t(`compare.result.${name}`) : name;
}

// title: the id of one.
function differences(title) {
  return ({ order, table: found }) => {
    const rows = Object.entries(found).map(([name, values]) =>
      h(
        "tr",
        {},
        h("th", { scope: "row", class: "mono break" }, name),
        values.map((value) => h("td", { class: "break" }, value === null ? NOTHING : plain(value))),
      ),
    );
    if (!rows.length) return [h("h2", {}, t(title)), h("p", { class: "muted" }, t("compare.same"))];
    return table(t(title), ["", ...order], rows);
  };
}

function plain(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

// ------------------------------------------------------------------------------------------------ answers

// The last samples of each run; prompts that several have stand together.
function showSamples({ order, samples }) {
  const last = order.map((name) => samples[name]);
  const title = h("h2", {}, t("run.samples"));
  if (!last.some(Boolean)) return [title, h("p", { class: "muted" }, t("compare.no_samples"))];
  const prompts = new Map();
  last.forEach((found, index) => {
    for (const sample of found?.samples ?? []) {
      if (!prompts.has(sample.prompt)) prompts.set(sample.prompt, { sample, answers: order.map(() => undefined) });
      prompts.get(sample.prompt).answers[index] = sample.answer;
    }
  });
  const name = (index) => t("compare.at_step", { run: order[index], step: count(last[index].step) });
  return [
    title,
    [...prompts.values()].map(({ sample, answers }) =>
      card(
        sample,
        answers.flatMap((text, index) => (last[index] ? [{ title: name(index), text }] : [])),
      ),
    ),
  ];
}
