// The report on the data: a job `check`, and what it says.
//
// What goes in: the recipe. What comes out: the report, made anew when the model, the data or the method has changed;
// what it counted goes to the plan.

import { del, get, job, part, watch } from "../../lib/api.js";
import { clear, h, icon } from "../../lib/dom.js";
import { bytes, count } from "../../lib/format.js";
import { t } from "../../lib/i18n.js";
import { bars, histogram, shares } from "./draw.js";
import { problem } from "./parts.js";
import { checkedOf, checkDone, hasData, isStaged, note, stageShown, state, subscribe } from "./state.js";

const QUIET_MS = 500;
const LEFT_OUT_SHOWN = 20;
const ANSWERS_SHOWN = 8;

// Shows the report in a place; told is called with each report that is there, and with null while there is none.
export function report(place, told) {
  const verdict = h("div", { class: "verdict", role: "status", "aria-live": "polite" });
  const body = h("div", { class: "stack wide" });
  const again = h("button", { type: "button", class: "button small", onclick: () => start() }, t("new.check.again"));
  clear(place, h("div", { class: "panel-head" }, h("h2", {}, t("new.check")), again), verdict, body);
  let timer = null;
  let gone = false;
  let turn = 0;
  let running = null;

  async function start() {
    turn += 1;
    const own = turn;
    const of = checkedOf();
    if (running) del(`jobs/${part(running)}`).catch(ended);
    waiting();
    try {
      const done = await job("check", { recipe: state.text, stage: stageShown()?.name }, (now) => {
        if (own !== turn) return;
        running = now.id;
        if (state.check?.id !== now.id) note({ check: { id: now.id, of, stops: false } });
      });
      if (own === turn) finish(done);
    } catch (error) {
      if (!Array.isArray(error.problems)) throw error;
      if (own === turn && !gone) refused(error.problems);
    }
  }

  // A check that was started before, by this page or by the one before a reload.
  async function resume(known) {
    turn += 1;
    const own = turn;
    waiting();
    try {
      const done = await watch(await get(`jobs/${part(known.id)}`));
      if (own === turn) finish(done);
    } catch (error) {
      if (!Array.isArray(error.problems)) throw error;
      if (own === turn && !gone) start();
    }
  }

  function waiting() {
    again.disabled = true;
    clear(verdict, h("span", { class: "state", dataset: { state: "running" } }, t("new.check.running")));
    clear(body);
    told(null);
  }

  function refused(problems) {
    running = null;
    again.disabled = false;
    clear(verdict, h("p", { class: "bad strong" }, icon("warn"), t("new.check.refused")));
    clear(
      body,
      h(
        "div",
        { class: "problems" },
        problems.map((each) => problem(each, { jump: true })),
      ),
    );
    told(null);
  }

  function finish(done) {
    running = null;
    if (gone) return;
    if (!done.result?.files) return refused(done.problems);
    again.disabled = false;
    checkDone(
      counted(done.result),
      done.result.findings.some((each) => each.severity === "error"),
    );
    told(done.result);
    draw(done.result);
  }

  function draw(result) {
    const stops = result.findings.some((each) => each.severity === "error");
    clear(
      verdict,
      h(
        "p",
        { class: `strong ${stops ? "bad" : "good"}` },
        icon(stops ? "warn" : "check"),
        t(stops ? "new.check.stops" : "new.check.clean"),
      ),
    );
    clear(
      body,
      numbers(result),
      findings(result),
      lengths(result.statistics),
      learnt(result.statistics),
      answers(result.statistics),
      files(result),
      leftOut(result),
    );
  }

  // The recipe changes with every letter: the check waits for a pause.
  function update() {
    place.hidden = !hasData();
    if (!hasData()) {
      turn += 1;
      clearTimeout(timer);
      told(null);
      return;
    }
    const stageless = isStaged() && stageShown() === null;
    if (state.check?.of === checkedOf() || !state.readable || stageless) return;
    clearTimeout(timer);
    timer = setTimeout(start, QUIET_MS);
  }

  const stop = subscribe((what) => what === "recipe" && update());
  place.hidden = !hasData();
  if (hasData() && state.check?.of === checkedOf()) resume(state.check);
  else update();
  return () => {
    gone = true;
    turn += 1;
    clearTimeout(timer);
    stop();
  };
}

function ended(error) {
  // The job may have ended by itself meanwhile.
  if (!Array.isArray(error.problems)) throw error;
}

// What a plan wants to know of the rows.
function counted(result) {
  const { tokens } = result.statistics;
  const rows = tokens?.lengths.rows;
  if (!rows) return null;
  const { lengths, learnt: scored } = tokens;
  return {
    longest: lengths.longest,
    tokens: lengths.total / rows,
    scored: Math.max(scored / rows, 1),
    rows: Math.max(result.train, 1),
  };
}

// ------------------------------------------------------------------------------------------------ pieces

function numbers(result) {
  const of = (name) => result.files.reduce((sum, file) => sum + file[name], 0);
  const facts = [
    ["read", of("read")],
    ["kept", of("kept")],
    ["excluded", of("excluded")],
    ["distinct", result.statistics.distinct],
    ["train", result.train],
    ["validation", result.validation],
  ];
  if (result.statistics.tokens) facts.push(["tokens", result.statistics.tokens.lengths.total]);
  return h(
    "dl",
    { class: "counts" },
    facts.map(([name, value]) => h("div", {}, h("dt", {}, t(`new.check.${name}`)), h("dd", {}, count(value)))),
  );
}

function findings(result) {
  const list = result.findings;
  if (!list.length) return h("p", { class: "muted" }, t("new.check.nothing"));
  return h(
    "div",
    { class: "stack" },
    h("h3", {}, t("new.check.findings", { count: list.length })),
    h("ul", { class: "findings problems" }, list.map(finding)),
  );
}

function finding(each) {
  const box = problem(each, { jump: true });
  const head = h(
    "p",
    { class: "finding-head" },
    h("strong", { class: "severity" }, t(`new.severity.${each.severity}`)),
    each.rows ? ` · ${t("new.check.rows", { rows: count(each.rows) })}` : "",
  );
  box.lastChild.prepend(head);
  return h("li", {}, box);
}

function lengths(statistics) {
  if (!statistics.characters) return null;
  const tokens = statistics.tokens;
  const shown = tokens ? tokens.lengths : statistics.characters;
  const label = t(tokens ? "new.check.tokens_of_rows" : "new.check.characters_of_rows");
  const marks = ["10", "50", "90", "99"].map((at) => `${at} %: ${count(shown.percentiles[at])}`);
  return h(
    "div",
    { class: "stack" },
    h("h3", {}, t("new.check.lengths")),
    histogram(shown.histogram, { label, bound: tokens?.max_tokens ?? null }),
    h(
      "p",
      { class: "muted small" },
      t("new.check.percentiles", {
        shortest: count(shown.shortest),
        longest: count(shown.longest),
        marks: marks.join(", "),
      }),
    ),
    tokens ? null : h("p", { class: "muted small" }, statistics.why_no_tokens),
  );
}

function learnt(statistics) {
  if (!statistics.tokens) return null;
  const { learnt: own, lengths: all } = statistics.tokens;
  return h(
    "div",
    { class: "stack" },
    h("h3", {}, t("new.check.learnt")),
    shares([
      { class: "learnt", label: t("new.mask.trained"), number: own },
      { class: "context", label: t("new.mask.context"), number: all.total - own },
    ]),
  );
}

function answers(statistics) {
  const list = statistics.labels.length ? statistics.labels : statistics.frequent;
  if (!list.length) return null;
  const label = t(statistics.labels.length ? "new.check.labels" : "new.check.frequent");
  return h(
    "div",
    { class: "stack" },
    h("h3", {}, label),
    bars(
      list.slice(0, ANSWERS_SHOWN).map((each) => [each.answer, each.rows]),
      label,
    ),
  );
}

function files(result) {
  return h(
    "div",
    { class: "stack" },
    h("h3", {}, t("new.check.files")),
    h(
      "ul",
      { class: "plain-list" },
      result.files.map((file) =>
        h(
          "li",
          {},
          h("bdi", { class: "strong break" }, file.path),
          " ",
          h(
            "span",
            { class: "muted" },
            [file.format, file.bytes ? bytes(file.bytes) : "", file.why].filter(Boolean).join(" · "),
          ),
        ),
      ),
    ),
  );
}

function leftOut(result) {
  if (!result.excluded.length) return null;
  const shown = result.excluded.slice(0, LEFT_OUT_SHOWN);
  return h(
    "div",
    { class: "stack" },
    h("h3", {}, t("new.check.left_out", { count: count(result.excluded.length) })),
    h(
      "ul",
      { class: "plain-list" },
      shown.map((each) => h("li", {}, h("code", { dir: "auto" }, each.where), " ", h("bdi", {}, each.reason))),
    ),
    shown.length < result.excluded.length
      ? h("p", { class: "muted small" }, t("new.check.more", { count: count(result.excluded.length - shown.length) }))
      : null,
  );
}
