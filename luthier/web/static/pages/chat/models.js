// The models that are open: loading, adapters on them, closing.
//
// What goes in: the server's list, as it changes; runs and models that can be opened. What comes out: models that are
// ready to be asked. Loading goes on when the page is left, and everybody who looks sees the same list.

import { get, post, del, part } from "../../lib/api.js";
import { busy, clear, field, h, icon, problems, unique } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";

const SOON_MS = 1000;
const LATER_MS = 5000;
const WHOLE = ["full", "freeze"];
// Ways of tuning that leave a model of its own, no adapter.
const OTHER = "\u0000other";

// onOpen(list) is told whenever something is another than before; onAsked(id, names) when this page has asked for a
// model.
export class Models {
  constructor(box, { onOpen, onAsked }) {
    this.box = box;
    this.tell = onOpen;
    this.asked = onAsked;
    this.open = [];
    this.runs = [];
    this.adapters = [];
    this.models = [];
    this.drawn = "";
    this.timer = null;
    this.left = false;
    this.list = h("ul", { class: "queue open-models" });
    this.fault = h("div");
    this.lead = h("p", { class: "muted", hidden: true }, t("chat.lead"));
    this.form = h("form", { class: "opener", hidden: true, onsubmit: (event) => this.submit(event) });
    this.button = h(
      "button",
      { type: "button", class: "button", "aria-expanded": "false", onclick: () => this.unfold(this.form.hidden) },
      icon("add"),
      t("chat.open"),
    );
    clear(
      box,
      h("div", { class: "panel-head" }, h("h2", {}, t("chat.models")), this.button),
      this.lead,
      this.form,
      this.fault,
      this.list,
    );
  }

  async begin() {
    await this.look();
    const [{ runs }, { models }] = await Promise.all([get("runs"), get("models")]);
    const finished = runs.filter((run) => run.state === "finished");
    this.runs = finished.map((run) => run.name);
    this.adapters = finished.filter((run) => !WHOLE.includes(run.tune)).map((run) => run.name);
    this.models = models.filter((model) => model.supported && model.source !== "run");
    this.drawForm();
    if (!this.open.length) this.unfold(true);
    this.drawn = "";
    this.draw();
  }

  end() {
    clearTimeout(this.timer);
    this.left = true;
  }

  unfold(wanted) {
    this.form.hidden = !wanted;
    this.button.setAttribute("aria-expanded", String(wanted));
  }

  // ---------------------------------------------------------------------------------------------- what is open

  async look() {
    clearTimeout(this.timer);
    if (!document.hidden) {
      try {
        this.take((await get("chat")).open);
      } catch (error) {
        if (error.status !== 0) throw error;
      }
    }
    // The page may have been left while the answer was on its way.
    if (this.left) return;
    this.timer = setTimeout(() => this.look(), this.open.some((each) => each.state === "loading") ? SOON_MS : LATER_MS);
  }

  take(open) {
    this.open = open;
    this.draw();
  }

  draw() {
    const text = JSON.stringify(this.open);
    if (text === this.drawn) return;
    this.drawn = text;
    clear(
      this.list,
      this.open.map((each) => this.row(each)),
    );
    this.list.hidden = !this.open.length;
    this.lead.hidden = this.open.length > 0;
    this.tell(this.open);
  }

  row(each) {
    const name = each.base ?? shortName(each.target);
    const close = h(
      "button",
      {
        type: "button",
        class: "button small",
        "aria-label": t("chat.close_one", { model: name }),
        onclick: (event) => this.change(event.currentTarget, del(`chat/${part(each.id)}`)),
      },
      icon("close"),
      t("chat.close"),
    );
    const state = h(
      "span",
      { class: "state", dataset: { state: { loading: "running", ready: "done", failed: "failed" }[each.state] } },
      t(`chat.state.${each.state}`),
    );
    return h(
      "li",
      { dataset: { chat: each.id, state: each.state } },
      h(
        "div",
        { class: "stack" },
        h("div", { class: "row" }, h("strong", { class: "break" }, name), state),
        each.state === "loading" ? h("progress", { "aria-label": t("chat.loading", { model: name }) }) : null,
        each.said ? h("p", { class: "muted small break" }, each.said) : null,
        each.adapters.length
          ? h(
              "div",
              { class: "row small" },
              each.adapters.map((adapter) => this.chip(each, adapter)),
            )
          : null,
        each.problems.length ? problems(each.problems) : null,
      ),
      h("div", { class: "actions" }, each.state === "ready" ? this.adder(each) : null, close),
    );
  }

  chip(each, name) {
    const drop = h(
      "button",
      {
        type: "button",
        class: "button plain small",
        "aria-label": t("chat.unload", { adapter: name }),
        onclick: (event) => this.change(event.currentTarget, del(`chat/${part(each.id)}/adapters/${part(name)}`)),
      },
      icon("close"),
    );
    return h("span", { class: "chip break" }, name, drop);
  }

  adder(each) {
    const others = this.adapters.filter((name) => !each.voices.includes(name));
    if (!others.length) return null;
    const add = async (event) => {
      const run = event.target.value;
      await this.change(event.target, post(`chat/${part(each.id)}/adapters`, { run }));
    };
    return h(
      "select",
      { "aria-label": t("chat.add_adapter_to", { model: each.base }), onchange: add },
      h("option", { value: "" }, t("chat.add_adapter")),
      others.map((name) => h("option", { value: name }, name)),
    );
  }

  async change(control, promise) {
    clear(this.fault);
    const done = await busy(
      control,
      promise.catch((error) => this.told(error)),
    );
    this.drawn = "";
    if (done !== undefined) await this.look();
    else this.draw();
  }

  told(error) {
    if (!Array.isArray(error.problems)) throw error;
    clear(this.fault, problems(error.problems));
  }

  // ---------------------------------------------------------------------------------------------- opening

  drawForm() {
    const id = unique("other");
    const other = h("input", {
      type: "text",
      id,
      name: "other",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: "Qwen/Qwen2.5-0.5B-Instruct",
      "aria-label": t("chat.other"),
    });
    other.hidden = true;
    const what = h(
      "select",
      {
        name: "what",
        onchange: () => {
          other.hidden = what.value !== OTHER;
          if (!other.hidden) other.focus();
        },
      },
      this.runs.length
        ? h(
            "optgroup",
            { label: t("chat.open.runs") },
            this.runs.map((name) => h("option", { value: name }, name)),
          )
        : null,
      h(
        "optgroup",
        { label: t("chat.open.models") },
        this.models.map((model) => h("option", { value: model.path }, model.name)),
        h("option", { value: OTHER }, t("chat.other")),
      ),
    );
    const device = h(
      "select",
      { name: "device" },
      ["auto", "cpu", "cuda"].map((name) => h("option", { value: name }, t(`chat.device.${name}`))),
    );
    const template = h(
      "select",
      { name: "template" },
      ["model", "chatml", "alpaca"].map((name) => h("option", { value: name }, t(`chat.template.${name}`))),
    );
    this.openButton = h("button", { type: "submit", class: "button primary" }, t("chat.open.go"));
    clear(
      this.form,
      h(
        "div",
        { class: "row opener-what" },
        field({ label: t("chat.open.what"), input: what }),
        other,
        this.openButton,
      ),
      h(
        "details",
        {},
        h("summary", {}, t("chat.more")),
        h(
          "div",
          { class: "grid" },
          field({ label: t("chat.device"), help: t("chat.device.help"), input: device }),
          field({ label: t("chat.template"), help: t("chat.template.help"), input: template }),
        ),
      ),
    );
  }

  async submit(event) {
    event.preventDefault();
    const given = new FormData(this.form);
    const target = given.get("what") === OTHER ? given.get("other").trim() : given.get("what");
    if (!target) return this.form.elements.other.focus();
    await this.openOne(target, { device: given.get("device"), template: given.get("template") });
  }

  async openOne(target, how = {}, adapters = []) {
    clear(this.fault);
    const entry = await busy(
      this.openButton,
      post("chat", { target, adapters, ...how }).catch((error) => this.told(error)),
    );
    if (!entry) return;
    this.asked(entry.id, [target, ...adapters]);
    this.unfold(false);
    this.drawn = "";
    await this.look();
  }
}

function shortName(target) {
  return target.startsWith("/") ? target.split("/").at(-1) : target;
}
