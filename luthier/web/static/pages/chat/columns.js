// Who answers: up to three columns, each with a voice of its own.
//
// What goes in: the open models. What comes out: for each column a model, the adapters on it and their strengths.
// Another voice, or another strength, takes effect with the next answer; nothing is loaded anew.

import { clear, h, icon, unique } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { MOST_COLUMNS, addColumn, dropColumn, label, save, state } from "./state.js";

const STRONGEST = 1.5;
const STEP = 0.05;
const MIX = "\u0000mix";

// add: where the button for a further column stands. onChange() is called when a column has come, gone or changed its
// voice.
export class Columns {
  constructor(box, { add, onChange }) {
    this.box = box;
    this.add = add;
    this.changed = onChange;
    this.open = [];
    this.drawn = "";
    this.unfolded = new WeakSet();
  }

  update(open) {
    this.open = open;
    this.draw();
  }

  // Whether it can be asked now.
  ready(column) {
    const model = this.model(column);
    return model?.state === "ready" && Object.keys(column.strengths).every((name) => model.adapters.includes(name));
  }

  model(column) {
    return this.open.find((each) => each.id === column.chat);
  }

  // Redrawn only where something else is to be seen: a slider that is being moved stays.
  draw() {
    const text = JSON.stringify([
      state.columns.map((each) => [each.chat, each.base, Object.keys(each.strengths)]),
      this.open.map((each) => [each.id, each.state, each.base, each.adapters]),
    ]);
    if (text === this.drawn) return;
    this.drawn = text;
    this.box.hidden = !state.columns.length;
    this.box.style.setProperty("--columns", String(Math.max(state.columns.length, 1)));
    const ready = this.open.filter((each) => each.state === "ready");
    clear(
      this.box,
      state.columns.map((column, index) => this.head(column, index, ready)),
    );
    clear(this.add, state.columns.length && state.columns.length < MOST_COLUMNS ? this.adder(ready) : null);
  }

  head(column, index, ready) {
    const model = this.model(column);
    const name = t("chat.column", { number: index + 1 });
    const select = this.voices(column, ready, name);
    const drop = h(
      "button",
      {
        type: "button",
        class: "button plain small",
        "aria-label": t("chat.column.drop", { number: index + 1 }),
        onclick: () => this.drop(index),
      },
      icon("close"),
    );
    const sliders = model?.adapters.length ? this.sliders(column, model) : null;
    return h(
      "div",
      { class: "voice", role: "group", "aria-label": name, dataset: { column: String(index) } },
      h("div", { class: "row spread voice-head" }, select, state.columns.length > 1 ? drop : null),
      this.ready(column)
        ? null
        : h(
            "p",
            { class: "small warn" },
            model ? t(model.state === "loading" ? "chat.column.loading" : "chat.column.gone") : t("chat.column.gone"),
          ),
      sliders,
    );
  }

  voices(column, ready, name) {
    const names = Object.keys(column.strengths);
    const known =
      ready.some((each) => each.id === column.chat) &&
      names.length < 2 &&
      Object.values(column.strengths).every((each) => each === 1);
    const option = (model, adapter) =>
      h(
        "option",
        {
          value: JSON.stringify([model.id, adapter]),
          selected: known && column.chat === model.id && (names[0] ?? null) === adapter,
        },
        adapter ?? (model.adapters.length ? t("chat.base", { model: model.base }) : model.base),
      );
    return h(
      "select",
      {
        "aria-label": t("chat.column.voice", { column: name }),
        onchange: (event) => this.choose(column, event.target.value),
      },
      known ? null : h("option", { value: MIX, selected: true }, label(column)),
      ready.map((model) =>
        h(
          "optgroup",
          { label: model.base },
          model.adapters.includes(model.base) ? null : option(model, null),
          model.adapters.map((each) => option(model, each)),
        ),
      ),
    );
  }

  sliders(column, model) {
    const rows = model.adapters.map((name) => {
      const id = unique("strength");
      const shown = h("output", { class: "number", for: id }, String(column.strengths[name] ?? 0));
      const slider = h("input", {
        type: "range",
        id,
        min: 0,
        max: STRONGEST,
        step: STEP,
        value: column.strengths[name] ?? 0,
        oninput: () => {
          const value = Number(slider.value);
          shown.textContent = String(value);
          if (value) column.strengths[name] = value;
          else delete column.strengths[name];
          save();
        },
        onchange: () => this.settle(column),
      });
      return h("div", { class: "strength" }, h("label", { for: id, class: "break" }, name), slider, shown);
    });
    const [only] = Object.values(column.strengths);
    const plain = Object.keys(column.strengths).length < 2 && (only === undefined || only === 1);
    return h(
      "details",
      {
        class: "strengths",
        open: this.unfolded.has(column) || !plain,
        ontoggle: (event) => this.unfold(column, event.target.open),
      },
      h("summary", {}, t("chat.strength")),
      h("p", { class: "help" }, t("chat.strength.help")),
      rows,
    );
  }

  unfold(column, open) {
    if (open) this.unfolded.add(column);
    else this.unfolded.delete(column);
  }

  // After a slider is let go: the name of the voice above it may be another kind of one now.
  settle(column) {
    const focused = document.activeElement?.closest(".strength")?.querySelector("label")?.textContent;
    const index = state.columns.indexOf(column);
    this.drawn = "";
    this.draw();
    this.changed();
    for (const each of this.box.querySelectorAll(`[data-column="${index}"] .strength`))
      if (each.querySelector("label").textContent === focused) each.querySelector("input").focus();
  }

  choose(column, value) {
    if (value === MIX) return;
    const [chat, adapter] = JSON.parse(value);
    Object.assign(column, {
      chat,
      base: this.open.find((each) => each.id === chat).base,
      strengths: adapter === null ? {} : { [adapter]: 1 },
    });
    const index = state.columns.indexOf(column);
    this.redraw();
    this.box.querySelector(`[data-column="${index}"] select`)?.focus();
  }

  drop(index) {
    dropColumn(index);
    this.redraw();
    this.box.querySelector("select")?.focus();
  }

  redraw() {
    save();
    this.drawn = "";
    this.draw();
    this.changed();
  }

  // The next voice that no column has yet: the bases, the adapters, then mixes to begin with.
  adder(ready) {
    const taken = new Set(state.columns.map((each) => `${each.chat} ${label(each)}`));
    const voice = (model, strengths) => ({ chat: model.id, base: model.base, strengths });
    const plain = ready.flatMap((model) => [
      ...(model.adapters.includes(model.base) ? [] : [voice(model, {})]),
      ...model.adapters.map((each) => voice(model, { [each]: 1 })),
    ]);
    const mixed = ready.flatMap((model) => [
      ...(model.adapters.length > 1 ? [voice(model, Object.fromEntries(model.adapters.map((each) => [each, 1])))] : []),
      ...model.adapters.map((each) => voice(model, { [each]: 0.5 })),
    ]);
    const next = [...plain, ...mixed].find((each) => !taken.has(`${each.chat} ${label(each)}`));
    if (!next) return null;
    const add = () => {
      addColumn(next);
      this.redraw();
      this.box.querySelector(`[data-column="${state.columns.length - 1}"] select`)?.focus();
    };
    return h("button", { type: "button", class: "button", onclick: add }, icon("add"), t("chat.column.add"));
  }
}
