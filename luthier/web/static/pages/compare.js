// Several runs beside each other: their curves, what differs in them, what came of them, what they answer.
//
// What goes in: names of runs in the address. What comes out: what `luthier runs compare` finds, as tables and curves.

import { h, icon, problems } from "../lib/dom.js";
import { t, has } from "../lib/i18n.js";
import { get, part } from "../lib/api.js";
import { NOTHING, bytes, count, duration, number } from "../lib/format.js";
import { chart, join, palette } from "../lib/charts.js";
import { compareLink, recipeText, runLink, stateChip } from "../lib/runs.js";
import { tables } from "./run/history.js";
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
const LOWER_IS_BETTER = ["loss", "validation"];
const CURVES = [
  // title, curve, whether it is single measurements
  ["compare.loss", "loss", false],
  ["compare.validation", "validation", true],
];

export async function show(root, { path }) {
  const names = [...new Set(path)];
  const { runs } = await get("runs");
  const missing = names.filter((name) => !runs.some((run) => run.name === name));
  const chosen = names.filter((name) => !missing.includes(name));
  root.append(h("h1", {}, t("common.page.compare")), picker(runs, chosen));
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
  const asked = Promise.all([
    get("compare", { run: chosen }),
    ...chosen.map((name) => get(`runs/${part(name)}/history`, { points: POINTS })),
  ]);
  const [found, ...pasts] = await asked.catch((error) => {
    // One that cannot be read, say: the others can still be chosen.
    if (!error.problems || error.status === 0) throw error;
    root.append(problems(error.problems));
    return [null];
  });
  if (found === null) return undefined;
  const charts = curves(root, chosen, pasts);
  root.append(
    results(found),
    differences("recipe", t("compare.recipe"), found),
    differences("material", t("compare.material"), found),
    samples(chosen, pasts),
  );
  return () => charts.forEach((each) => each.destroy());
}

// ------------------------------------------------------------------------------------------------ which

function picker(runs, chosen) {
  const left = runs.filter((run) => !chosen.includes(run.name));
  const select = h(
    "select",
    { id: "compare-add", onchange: () => (location.hash = compareLink([...chosen, select.value])) },
    h("option", { value: "" }, t("compare.add")),
    left.map((run) => h("option", { value: run.name }, `${run.name} (${recipeText(run)})`)),
  );
  const states = new Map(runs.map((run) => [run.name, run.state]));
  return h(
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
          stateChip(states.get(name)),
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
  );
}

// ------------------------------------------------------------------------------------------------ curves

function curves(root, names, pasts) {
  const found = pasts.map(tables);
  const smooth = h("input", {
    type: "range",
    min: 0,
    max: 0.98,
    step: 0.02,
    value: 0.9,
    oninput: () => charts.forEach((each) => each.setSmooth(Number(smooth.value))),
  });
  const log = h(
    "button",
    { type: "button", class: "button small", "aria-pressed": "false", onclick: () => toggle() },
    t("run.log_scale"),
  );
  const grid = h("div", { class: "charts two" });
  root.append(
    h(
      "section",
      { class: "panel", "aria-labelledby": "curves-title" },
      h("h2", { id: "curves-title" }, t("run.curves")),
      h("div", { class: "row tools" }, h("label", { class: "check small" }, t("run.smooth"), smooth), log),
      grid,
    ),
  );
  const charts = CURVES.filter(([, curve]) => found.some((each) => each.has(curve))).map(([title, curve, points]) => {
    const made = chart(grid, {
      title: t(title),
      series: names.map((name, index) => ({ label: name, color: palette(index), points })),
      smooth: Number(smooth.value),
      height: 300,
      sync: "compare",
    });
    made.set(join(found.map((each) => each.get(curve) ?? [[], []])));
    return made;
  });
  function toggle() {
    const on = log.getAttribute("aria-pressed") !== "true";
    log.setAttribute("aria-pressed", String(on));
    charts.forEach((each) => each.setLog(on));
  }
  return charts;
}

// ------------------------------------------------------------------------------------------------ tables

function table(title, head, rows, look = "") {
  return h(
    "section",
    { class: "panel" },
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
  );
}

function results(found) {
  const rows = Object.entries(found.results).map(([name, values]) => {
    const known = values.filter((value) => typeof value === "number");
    const best = LOWER_IS_BETTER.includes(name) && new Set(known).size > 1 ? Math.min(...known) : null;
    const format = RESULTS[name] ?? plain;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, label(name)),
      values.map((value) =>
        h(
          "td",
          {},
          value === null ? NOTHING : format(value),
          value !== null && value === best
            ? h("span", { class: "best" }, icon("check"), h("span", { class: "sr" }, t("compare.best")))
            : null,
        ),
      ),
    );
  });
  return table(t("compare.results"), ["", ...found.runs], rows, "numbers");
}

function label(name) {
  return has(`compare.result.${name}`) ? t(`compare.result.${name}`) : name;
}

function differences(which, title, found) {
  const rows = Object.entries(found[which]).map(([name, values]) =>
    h(
      "tr",
      {},
      h("th", { scope: "row", class: "mono break" }, name),
      values.map((value) => h("td", { class: "break" }, value === null ? NOTHING : plain(value))),
    ),
  );
  if (!rows.length)
    return h("section", { class: "panel" }, h("h2", {}, title), h("p", { class: "muted" }, t("compare.same")));
  return table(title, ["", ...found.runs], rows);
}

function plain(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

// ------------------------------------------------------------------------------------------------ answers

// The last samples of each run; prompts that several have stand together.
function samples(names, pasts) {
  const last = pasts.map((past) => past.events.filter((event) => event.kind === "samples").at(-1));
  if (!last.some(Boolean))
    return h(
      "section",
      { class: "panel" },
      h("h2", {}, t("run.samples")),
      h("p", { class: "muted" }, t("compare.no_samples")),
    );
  const prompts = new Map();
  last.forEach((event, index) => {
    for (const sample of event?.data.samples ?? []) {
      if (!prompts.has(sample.prompt)) prompts.set(sample.prompt, { sample, answers: names.map(() => undefined) });
      prompts.get(sample.prompt).answers[index] = sample.answer;
    }
  });
  const title = (index) => t("compare.at_step", { run: names[index], step: count(last[index].step) });
  return h(
    "section",
    { class: "panel" },
    h("h2", {}, t("run.samples")),
    [...prompts.values()].map(({ sample, answers }) =>
      card(
        sample,
        answers.flatMap((text, index) => (last[index] ? [{ title: title(index), text }] : [])),
      ),
    ),
  );
}
