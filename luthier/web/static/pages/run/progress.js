// How far a run is, in a bar and a few numbers, and what is wrong with it.
//
// What goes in: the run as the server has it. What comes out: a panel that is changed in place.

import { h, clear, icon, problems, whenNew } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { NOTHING, bytes, count, date, duration, number } from "../../lib/format.js";
import { leftText, share, steps, waitText } from "../../lib/runs.js";

const BEFORE = ["queued", "running"];
// States that say what an unbegun run is waiting for.

export class Progress {
  constructor(panel) {
    this.bar = h("progress", { max: 1, "aria-label": t("run.progress") });
    this.amount = h("strong", { class: "number" });
    this.rest = h("span", { class: "number left" });
    this.facts = h("dl", { class: "tiles" });
    this.wrong = h("div");
    this.show = whenNew((run) => this.draw(run));
    panel.append(h("div", { class: "row spread" }, this.amount, this.rest), this.bar, this.facts, this.wrong);
  }

  // Between two words of the server the time left goes down by itself.
  tick(run, heard_s) {
    this.rest.textContent = leftText(run, heard_s);
  }

  draw(run) {
    const before = BEFORE.includes(run.state) ? run.state : "other";
    this.bar.value = share(run);
    this.bar.hidden = !run.num_steps;
    const begun = run.step || run.num_steps;
    this.amount.textContent = begun
      ? t("run.step_is", { steps: steps(run) })
      : run.awaited
        ? waitText(run.awaited)
        : t(`run.before.${before}`);
    const known = numbers(run).filter(([, text]) => text && text !== NOTHING);
    clear(
      this.facts,
      known.map(([label, text]) => h("div", {}, h("dt", {}, label), h("dd", { class: "number" }, text))),
    );
    const ending = run.problem ? h("p", { class: "notice break" }, icon("warn"), run.problem) : null;
    clear(this.wrong, run.problems?.length ? problems(run.problems) : ending);
  }
}

function numbers(run) {
  const best = run.best && { loss: number(run.best[1]), step: count(run.best[0]) };
  const attempts = run.attempts?.length;
  return [
    [t("run.fact.loss"), number(run.loss)],
    [t("run.fact.best"), best && t("run.fact.best_at", best)],
    [t("run.fact.speed"), run.tokens_per_s && t("run.fact.tokens_per_s", { tokens: count(run.tokens_per_s) })],
    [t("run.fact.memory"), bytes(run.plan?.memory?.peak_bytes)],
    [t("run.fact.time"), run.seconds && duration(run.seconds)],
    [t("run.fact.started"), date(run.started_s)],
    [t("run.fact.attempts"), attempts > 1 && count(attempts)],
  ];
}
