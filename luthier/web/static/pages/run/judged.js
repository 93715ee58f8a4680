// What is judged in a run that learns from judged answers or from rewards: alarms, and how well it does on the rows
// held out, before step 1 and now.
//
// What goes in: events `alarm` and `validation`. What comes out: a panel, as soon as there is something for it.

import { h, clear, icon } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { count, number, percent } from "../../lib/format.js";
import { nameOf } from "./curves.js";

const SHARES = ["accuracy", "confidence", "prefers_longer", "longer_chosen"];

export class Judged {
  constructor(panel) {
    this.panel = panel;
    this.alarms = h("div", { class: "stack", dataset: { part: "alarms" } });
    this.measures = h("div", { class: "table-scroll", tabindex: "0", role: "region", "aria-label": t("run.judged") });
    panel.append(h("h2", {}, t("run.judged")), this.alarms, this.measures);
    this.forget();
  }

  forget() {
    this.raised = [];
    this.found = [];
    this.draw();
  }

  add(events) {
    for (const { kind, step, data } of events) {
      if (kind === "resumed" || kind === "started") this.backTo(data.from_step ?? 0);
      if (kind === "alarm") this.raised.push({ step, text: data.text ?? data.alarm });
      if (kind === "validation" && data.measures) this.found.push({ step, measures: data.measures });
    }
    this.draw();
  }

  // With events that were not there at first.
  again(events) {
    this.raised = [];
    this.found = [];
    this.add(events);
  }

  // What was done behind the step that an attempt goes on from is done again.
  backTo(from) {
    this.raised = this.raised.filter(({ step }) => from > 0 && step <= from);
    this.found = this.found.filter(({ step }) => from > 0 && step <= from);
  }

  draw() {
    this.panel.hidden = !this.raised.length && !this.found.length;
    clear(
      this.alarms,
      this.raised
        .toReversed()
        .map(({ step, text }) =>
          h(
            "div",
            { class: "notice" },
            icon("warn"),
            h(
              "p",
              { class: "break" },
              h("span", { class: "muted" }, t("run.judged.step", { step: count(step) })),
              " ",
              text,
            ),
          ),
        ),
    );
    clear(this.measures, this.found.length ? table(this.found[0], this.found.at(-1)) : null);
  }
}

function table(first, last) {
  const columns = first === last ? [last] : [first, last];
  const title = ({ step }) => (step ? t("run.judged.step", { step: count(step) }) : t("run.judged.before"));
  return h(
    "table",
    { class: "table numbers" },
    h("caption", { class: "sr" }, t("run.judged")),
    h("thead", {}, h("tr", {}, ["", ...columns.map(title)].map((text) => h("th", { scope: "col" }, text)))),
    h(
      "tbody",
      {},
      Object.keys(last.measures).map((name) =>
        h(
          "tr",
          { dataset: { measure: name } },
          h("th", { scope: "row" }, nameOf(name)),
          columns.map(({ measures }) => h("td", {}, measureText(name, measures[name]))),
        ),
      ),
    ),
  );
}

// A mean, with its 95 % interval where there is one.
export function measureText(name, measure) {
  const shown = (each) => (SHARES.includes(name) ? percent(each) : number(each));
  if (!measure) return number(null);
  if (measure.low === null || measure.low === undefined) return shown(measure.mean);
  return t("run.judged.interval", { mean: shown(measure.mean), low: shown(measure.low), high: shown(measure.high) });
}
