// What the model answers while it learns: at each validation the same prompts, two steps side by side.
//
// What goes in: events `samples`. What comes out: a panel, as soon as there is one.

import { h, clear } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { count } from "../../lib/format.js";

export class Samples {
  constructor(panel) {
    this.panel = panel;
    this.panel.hidden = true;
    this.at = new Map();
    this.body = h("div", { class: "stack" });
    this.earlier = this.select(t("run.samples.earlier"));
    this.later = this.select(t("run.samples.later"));
    this.latest = true;
    this.later.addEventListener("change", () => (this.latest = this.later.value === String(this.steps().at(-1))));
    panel.append(
      h(
        "div",
        { class: "panel-head" },
        h("h2", {}, t("run.samples")),
        h(
          "div",
          { class: "row small" },
          h("label", { class: "check" }, t("run.samples.earlier"), this.earlier),
          h("label", { class: "check" }, t("run.samples.later"), this.later),
        ),
      ),
      this.body,
    );
  }

  select(label) {
    return h("select", { "aria-label": label, onchange: () => this.draw() });
  }

  steps() {
    return [...this.at.keys()].sort((a, b) => a - b);
  }

  add(events) {
    let found = false;
    for (const event of events) {
      if (event.kind === "resumed")
        for (const step of this.at.keys()) if (step > (event.data.from_step ?? 0)) this.at.delete(step);
      if (event.kind !== "samples") continue;
      this.at.set(event.step ?? event.data.step, event.data.samples);
      found = true;
    }
    if (!found) return;
    this.panel.hidden = false;
    const steps = this.steps();
    const kept = [this.earlier.value, this.latest ? "" : this.later.value];
    for (const each of [this.earlier, this.later])
      clear(
        each,
        steps.map((step) => h("option", { value: step }, t("run.samples.step", { step: count(step) }))),
      );
    this.earlier.value = steps.map(String).includes(kept[0]) ? kept[0] : steps[0];
    this.later.value = steps.map(String).includes(kept[1]) ? kept[1] : steps.at(-1);
    this.draw();
  }

  // All events anew, with earlier ones before those that were there.
  again(events) {
    this.at.clear();
    this.add(events);
  }

  forget() {
    this.at.clear();
    this.panel.hidden = true;
  }

  draw() {
    const [one, two] = [this.earlier, this.later].map((each) => ({
      step: Number(each.value),
      samples: this.at.get(Number(each.value)) ?? [],
    }));
    const sides = one.step === two.step ? [two] : [one, two];
    clear(
      this.body,
      two.samples.map((sample, index) =>
        card(
          sample,
          sides.map(({ step, samples }) => ({
            title: t("run.samples.step", { step: count(step) }),
            text: samples[index]?.answer,
          })),
        ),
      ),
    );
  }
}

// One prompt with what was answered; texts: [{title, text}]. Also used where runs are compared.
export function card(sample, texts) {
  return h(
    "article",
    { class: "sample" },
    h("p", { class: "prompt" }, sample.prompt),
    h(
      "div",
      { class: "answers" },
      texts.map(({ title, text }) =>
        h(
          "div",
          {},
          h("h3", { class: "muted small" }, title),
          h("p", { class: "answer" }, text ?? t("run.samples.missing")),
        ),
      ),
      sample.reference
        ? h(
            "div",
            {},
            h("h3", { class: "muted small" }, t("run.samples.reference")),
            h("p", { class: "answer reference" }, sample.reference),
          )
        : null,
    ),
  );
}
