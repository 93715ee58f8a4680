// What can be done with a run: stop, go on, go first, change where it stops; and where it leads.
//
// What goes in: the run as the server has it. What comes out: buttons for what its state allows; each asks the
// server, and a refusal is told as it says it.

import { h, refill, icon, busy, dialog, field, toast, whenNew } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { part, post, search } from "../../lib/api.js";
import { compareLink } from "../../lib/runs.js";

const RESUMABLE = ["new", "interrupted", "failed", "died"];
const FIXED = ["queued", "new", "damaged"];
// States in which there is no length to be changed.
export const ACTIVE = ["running", "queued"];

export class Controls {
  // onAnswer(state): the server has said what state the run is in now. onLonger: its recipe is another one now.
  constructor(box, name, { onAnswer, onLonger }) {
    this.box = box;
    this.name = name;
    this.onAnswer = onAnswer;
    this.onLonger = onLonger;
    this.run = null;
    this.stopping = false;
    // It has been told to stop, and still runs.
    this.draw = whenNew(() => refill(this.box, this.buttons()));
  }

  show(run) {
    if (run.state !== "running") this.stopping = false;
    this.run = run;
    this.draw([run.state, run.outputs, this.stopping]);
  }

  buttons() {
    const { state, outputs } = this.run;
    const { name } = this;
    return [
      state === "running" && !this.stopping ? button("stop", t("run.stop"), (node) => this.stop(node), "danger") : null,
      state === "queued" ? button("close", t("run.withdraw"), (node) => this.withdraw(node)) : null,
      state === "queued" ? button("first", t("run.first"), (node) => this.ask(node, "first")) : null,
      RESUMABLE.includes(state)
        ? button("play", t(state === "new" ? "run.start" : "run.resume"), (node) => this.ask(node, "resume"), "primary")
        : null,
      FIXED.includes(state) ? null : button("longer", t("run.extend"), (node) => this.extend(node)),
      outputs?.length ? link(`#/chat${search({ target: name })}`, "chat", t("run.chat")) : null,
      outputs?.length ? link(`#/export/${part(name)}`, "export", t("run.export")) : null,
      link(compareLink([name]), "chart", t("common.page.compare")),
    ];
  }

  // Whether the server did it.
  async ask(node, verb, body) {
    const done = await busy(node, post(`runs/${part(this.name)}/${verb}`, body));
    if (!done) return false;
    this.stopping = verb === "stop" && done.state === "running";
    this.onAnswer(done.state);
    return true;
  }

  async stop(node) {
    if (await this.ask(node, "stop")) toast(t("run.stop.asked"));
  }

  async withdraw(node) {
    if (await this.ask(node, "stop")) toast(t("run.withdraw.done"));
  }

  async extend(node) {
    if (this.run.state === "running") return this.stopFirst(node);
    const total = h("input", { type: "number", min: 1, step: "any", value: this.run.num_steps ?? "" });
    const unit = h(
      "select",
      { onchange: () => (total.value = unit.value === "steps" ? (this.run.num_steps ?? "") : "") },
      h("option", { value: "steps" }, t("run.extend.steps")),
      h("option", { value: "epochs" }, t("run.extend.epochs")),
    );
    const body = h(
      "div",
      { class: "stack" },
      h("p", {}, t("run.extend.text")),
      field({ label: t("run.extend.unit"), input: unit }),
      field({ label: t("run.extend.total"), input: total }),
    );
    const answer = await dialog({
      title: t("run.extend"),
      body,
      actions: [
        { label: t("common.cancel"), value: null },
        { label: t("run.extend.save"), value: "save" },
        { label: t("run.extend.go"), value: "go", kind: "primary" },
      ],
    });
    if (answer === null || total.value === "") return;
    if (!(await this.ask(node, "extend", { [unit.value]: Number(total.value) }))) return;
    toast(t("run.extend.done"), "good");
    if (answer === "go") await this.ask(node, "resume");
    this.onLonger();
  }

  async stopFirst(node) {
    const answer = await dialog({
      title: t("run.extend"),
      body: h("p", {}, t("run.extend.running")),
      actions: [
        { label: t("common.cancel"), value: null },
        { label: t("run.stop"), value: "stop", kind: "primary" },
      ],
    });
    if (answer === "stop") await this.stop(node);
  }
}

function button(picture, text, action, look = "") {
  const node = h("button", { type: "button", class: `button ${look}` }, icon(picture), text);
  node.addEventListener("click", () => action(node));
  return node;
}

function link(href, picture, text) {
  return h("a", { class: "button", href }, icon(picture), text);
}
