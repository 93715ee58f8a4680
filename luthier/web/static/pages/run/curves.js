// The curves of a run: which charts there are, what they share, and what of other runs lies over them.
//
// What goes in: points by name. What comes out: charts, made as soon as there is something for them, all over one
// stretch of steps, as smooth as one slider says.

import { h, clear, icon, busy } from "../../lib/dom.js";
import { t, has } from "../../lib/i18n.js";
import { get, part } from "../../lib/api.js";
import { bytes, count, number } from "../../lib/format.js";
import { chart, join, palette } from "../../lib/charts.js";
import { tables } from "./history.js";

const OVERLAYS = 4;
const POINTS = 800;

const CHARTS = [
  // name, its curves [name, whether these are single measurements]; in the order of the page
  ["loss", [["loss"], ["validation", true]]],
  ["rollout.reward", [["rollout.reward"], ["validation.reward", true]]],
  ["lr", [["lr"]]],
  ["grad_norm", [["grad_norm"]]],
  ["tokens_per_s", [["tokens_per_s"]]],
  ["memory_bytes", [["memory_bytes"]]],
  ["rollout.kl", [["rollout.kl"]]],
  ["rollout.entropy", [["rollout.entropy"]]],
  ["rollout.answer_tokens", [["rollout.answer_tokens"]]],
];
const FORMATS = { memory_bytes: bytes, tokens_per_s: count };
const STEADY = ["lr", "memory_bytes"];
// Free of noise: never smoothed.

// onZoom(from, to): asks for a stretch in finer detail.
export class Curves {
  constructor(parent, { onZoom }) {
    this.onZoom = onZoom;
    this.others = [];
    this.grid = h("div", { class: "charts" });
    this.charts = new Map();
    this.overlays = new Map();
    this.tables = new Map();
    this.smooth = 0;
    this.log = false;
    this.range = [null, null];
    parent.append(this.tools(), this.grid);
    this.chart("loss");
  }

  destroy() {
    for (const each of this.charts.values()) each.chart.destroy();
  }

  // ---------------------------------------------------------------------------------------------- tools

  tools() {
    const smooth = h("input", {
      type: "range",
      min: 0,
      max: 0.98,
      step: 0.02,
      value: 0,
      "aria-label": t("run.smooth"),
      oninput: () => this.setSmooth(Number(smooth.value)),
    });
    this.log_switch = h(
      "button",
      { type: "button", class: "button small", "aria-pressed": "false", onclick: () => this.setLog(!this.log) },
      t("run.log_scale"),
    );
    const bound = (label) =>
      h("input", {
        type: "number",
        min: 0,
        step: 1,
        class: "bound",
        "aria-label": label,
        onchange: () => this.typed(),
      });
    this.from = bound(t("run.from_step"));
    this.to = bound(t("run.to_step"));
    this.all_button = h(
      "button",
      { type: "button", class: "button small", disabled: true, onclick: () => this.zoomTo(null, null) },
      t("run.all_steps"),
    );
    this.more = h(
      "select",
      { "aria-label": t("run.overlay"), onchange: () => this.pick() },
      h("option", { value: "" }, t("run.overlay.none")),
    );
    this.shown = h("span", { class: "row" });
    return h(
      "div",
      { class: "row tools" },
      h("label", { class: "check small" }, t("run.smooth"), smooth),
      this.log_switch,
      h("span", { class: "check small" }, t("run.steps"), this.from, "–", this.to, this.all_button),
      h("span", { class: "check small" }, t("run.overlay"), this.more),
      this.shown,
    );
  }

  setSmooth(value) {
    this.smooth = value;
    for (const each of this.charts.values()) each.chart.setSmooth(value);
  }

  setLog(value) {
    this.log = value;
    this.log_switch.setAttribute("aria-pressed", String(value));
    this.charts.get("loss").chart.setLog(value);
  }

  typed() {
    const [from, to] = [this.from, this.to].map((each) => (each.value === "" ? null : Number(each.value)));
    if (from === null || to === null || from < to) this.zoomTo(from, to);
  }

  zoomTo(from, to) {
    this.range = [from, to];
    this.from.value = from ?? "";
    this.to.value = to ?? "";
    this.all_button.disabled = from === null && to === null;
    for (const each of this.charts.values()) each.chart.setRange(from, to);
    this.onZoom(from, to);
  }

  // ---------------------------------------------------------------------------------------------- overlays

  // found: names of runs that can be laid over.
  offer(found) {
    const names = found.toSorted();
    if (names.join("/") === this.others.join("/")) return;
    this.others = names;
    this.tellOthers();
  }

  tellOthers() {
    const names = this.others.filter((name) => !this.overlays.has(name));
    clear(
      this.more,
      h("option", { value: "" }, t("run.overlay.none")),
      names.map((name) => h("option", { value: name }, name)),
    );
  }

  async pick() {
    const name = this.more.value;
    if (name === "" || this.overlays.size >= OVERLAYS) return;
    await busy(this.more, this.overlay(name));
    this.more.value = "";
    this.more.focus();
  }

  async overlay(name) {
    const past = await get(`runs/${part(name)}/history`, { points: POINTS });
    this.overlays.set(name, tables(past));
    this.tellOverlays();
  }

  tellOverlays() {
    this.tellOthers();
    clear(
      this.shown,
      [...this.overlays.keys()].map((name) =>
        h(
          "button",
          {
            type: "button",
            class: "button small",
            "aria-label": t("run.overlay.off", { run: name }),
            onclick: () => this.drop(name),
          },
          h("span", { class: "break" }, name),
          icon("close"),
        ),
      ),
    );
    this.remake();
  }

  drop(name) {
    this.overlays.delete(name);
    this.tellOverlays();
    this.more.focus();
  }

  // With other runs there are other curves in each chart.
  remake() {
    for (const [name, each] of this.charts) {
      const made = this.make(name);
      each.chart.element.replaceWith(made.chart.element);
      each.chart.destroy();
      this.charts.set(name, made);
      this.fill(name);
    }
  }

  // ---------------------------------------------------------------------------------------------- charts

  // Made when there is something for it, at its place.
  chart(name) {
    if (!this.charts.has(name)) {
      const made = this.make(name);
      const after = [...this.charts]
        .filter(([other]) => rank(other) > rank(name))
        .map(([, each]) => each.chart.element);
      const next = [...this.grid.children].find((element) => after.includes(element));
      if (next) next.before(made.chart.element);
      this.charts.set(name, made);
    }
    return this.charts.get(name);
  }

  // curves: the names in their order; those of other runs follow.
  make(name) {
    const curves = (CHARTS.find(([each]) => each === name)?.[1] ?? measureCurves(name)).map(([curve, points]) => ({
      curve,
      points: Boolean(points),
    }));
    const own = curves.map(({ curve, points }, index) => ({
      label: title(curve),
      color: palette(index),
      points,
      smooth: !STEADY.includes(name),
    }));
    const others = [...this.overlays.keys()].flatMap((run, index) => [
      { label: run, color: palette(curves.length + index), smooth: !STEADY.includes(name), points: curves[0].points },
    ]);
    const made = chart(this.grid, {
      title: title(name),
      series: [...own, ...others],
      smooth: this.smooth,
      log: name === "loss" && this.log,
      format: FORMATS[name] ?? number,
      height: name === "loss" ? 300 : 200,
      sync: "run",
      onZoom: (from, to) => this.zoomTo(from, to),
    });
    made.element.dataset.chart = name;
    made.setRange(...this.range);
    return { chart: made, curves: curves.map((each) => each.curve) };
  }

  fill(name) {
    const { chart: shown, curves } = this.charts.get(name);
    const own = curves.map((curve) => this.tables.get(curve) ?? [[], []]);
    const others = [...this.overlays.values()].map((theirs) => theirs.get(curves[0]) ?? [[], []]);
    shown.set(join([...own, ...others]));
  }

  // Which chart a curve is in.
  home(curve) {
    return (
      CHARTS.find(([, curves]) => curves.some(([name]) => name === curve))?.[0] ?? curve.replace(/^validation\./, "")
    );
  }

  // ---------------------------------------------------------------------------------------------- what History draws
  // on

  all(found) {
    this.tables = found;
    for (const curve of found.keys()) this.chart(this.home(curve));
    for (const name of this.charts.keys()) this.fill(name);
  }

  point(curve, step, value) {
    if (!this.tables.has(curve)) this.tables.set(curve, [[], []]);
    const [steps, values] = this.tables.get(curve);
    steps.push(step);
    values.push(value);
    const { chart: shown, curves } = this.chart(this.home(curve));
    const row = new Array(curves.length + 1).fill(null);
    row[0] = step;
    row[1 + curves.indexOf(curve)] = value;
    shown.append(row);
  }

  cut(behind) {
    for (const [name, [steps, values]] of this.tables) {
      const kept = steps.map((step) => step <= behind);
      this.tables.set(name, [steps.filter((_, index) => kept[index]), values.filter((_, index) => kept[index])]);
    }
    for (const each of this.charts.values()) each.chart.cut(behind, each.curves.length);
  }
}

function rank(name) {
  const place = CHARTS.findIndex(([each]) => each === name);
  return place < 0 ? CHARTS.length : place;
}

// A measure's own chart: what training and what validation says of it; a term of the validation loss stands alone.
function measureCurves(name) {
  if (name.startsWith("term.")) return [[name, true]];
  return [[name], [`validation.${name}`, true]];
}

function title(name) {
  if (has(`run.curve.${name}`)) return t(`run.curve.${name}`);
  const [, kind, rest] = /^(validation\.measure|measure|term)\.(.*)$/.exec(name) ?? [null, null, name];
  return kind === "validation.measure"
    ? t("run.curve.of_validation", { name: nameOf(rest) })
    : kind === "term"
      ? t("run.curve.of_term", { name: rest })
      : nameOf(rest);
}

// What a measure is called.
export function nameOf(measure) {
  return has(`run.measure.${measure}`) ? t(`run.measure.${measure}`) : measure;
}
