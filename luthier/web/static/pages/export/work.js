// A job that makes something, where it was asked for: how far it is, how to end it, what came of it.
//
// What goes in: a kind of job and its fields; or a job that another page has started. What comes out: its progress from
// its own log, then its checks or its problems.

import { del, job, part, watch } from "../../lib/api.js";
import { busy, clear, h, icon, problems } from "../../lib/dom.js";
import { duration } from "../../lib/format.js";
import { t } from "../../lib/i18n.js";
import { checksTable } from "./checks.js";

const PERCENT = /(\d+) ?%/;

// onDone(job) is told when it has ended.
export class Work {
  constructor({ onDone }) {
    this.done = onDone;
    this.element = h("div", { class: "work", "aria-live": "polite" });
    this.running = false;
  }

  async start(button, kind, fields) {
    if (this.running) return null;
    this.running = true;
    clear(this.element);
    try {
      return this.ended(
        await busy(
          button,
          job(kind, fields, (now) => this.show(now)).catch((error) => this.refused(error)),
        ),
      );
    } finally {
      this.running = false;
    }
  }

  async join(started) {
    this.running = true;
    try {
      this.show(started);
      this.ended(await watch(started, (now) => this.show(now)));
    } finally {
      this.running = false;
    }
  }

  refused(error) {
    if (!Array.isArray(error.problems)) throw error;
    clear(this.element, problems(error.problems));
    return null;
  }

  show(now) {
    if (now.state !== "running") return;
    const percent = now.log
      .map((line) => PERCENT.exec(line)?.[1])
      .filter(Boolean)
      .at(-1);
    const text =
      percent === undefined
        ? t("export.preparing")
        : percent === "100"
          ? t("export.checking")
          : t("export.writing", { percent });
    // Kept while it runs: what is redrawn loses the keyboard.
    if (!this.bar?.isConnected) this.begin(now);
    if (percent === undefined || percent === "100") this.bar.removeAttribute("value");
    else this.bar.value = Number(percent) / 100;
    if (this.text.textContent !== text) this.text.textContent = text;
    this.time.textContent = duration(Date.now() / 1000 - now.started_s);
  }

  begin(now) {
    this.bar = h("progress", { max: 1, "aria-label": t(`common.job.${now.kind}`) });
    this.text = h("span");
    this.time = h("span", { class: "muted number", "aria-live": "off" });
    const cancel = h(
      "button",
      {
        type: "button",
        class: "button small",
        onclick: (event) => busy(event.currentTarget, del(`jobs/${part(now.id)}`)),
      },
      icon("stop"),
      t("common.cancel"),
    );
    clear(
      this.element,
      this.bar,
      h("div", { class: "row spread small" }, h("span", { class: "row" }, this.text, this.time), cancel),
    );
  }

  ended(now) {
    if (!now) return null;
    if (now.state === "cancelled") clear(this.element, h("p", { class: "muted" }, t("export.cancelled")));
    else if (now.state === "failed") clear(this.element, problems(now.problems));
    else this.report(now.result);
    this.done(now);
    return now;
  }

  report(result) {
    const checks = result.receipt?.checks ?? [];
    const bad = checks.some((each) => each.status === "fail");
    clear(
      this.element,
      h(
        "p",
        { class: bad ? "bad" : "good" },
        icon(bad ? "warn" : "check"),
        " ",
        t(bad ? "export.done_bad" : "export.done", { path: (result.path ?? "").split("/").at(-1) }),
      ),
      checksTable(checks),
    );
  }
}
