// How answers are made: system prompt, characters, sampling.
//
// What goes in: what a person sets. What comes out: `system` and `ways` of the state, which the next question is asked
// with.

import { get } from "../../lib/api.js";
import { clear, field, h, problems } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { save, state } from "./state.js";

const NONE = "";
const WAYS = [
  // name, least, most, step
  ["temperature", 0, 2, 0.05],
  ["max_tokens", 1, 32768, 1],
  ["top_p", 0.01, 1, 0.01],
  ["top_k", 0, 1000, 1],
  ["min_p", 0, 1, 0.01],
  ["repetition_penalty", 0.1, 10, 0.05],
  ["seed", 0, 2 ** 31, 1],
];
// Not set: whatever the model's process takes, which is none of it.

export class Settings {
  constructor(box, { onChange }) {
    this.box = box;
    this.changed = onChange;
    this.characters = [];
    this.fault = h("div");
  }

  async begin() {
    try {
      this.characters = (await get("chat/characters")).characters;
    } catch (error) {
      if (!Array.isArray(error.problems)) throw error;
      clear(this.fault, problems(error.problems));
    }
    this.draw();
  }

  draw() {
    const system = h("textarea", { rows: 3, value: state.system, oninput: () => this.set({ system: system.value }) });
    clear(
      this.box,
      h("summary", {}, t("chat.settings")),
      h(
        "div",
        { class: "stack chat-settings" },
        this.fault,
        this.characters.length
          ? field({ label: t("chat.character"), help: t("chat.character.help"), input: this.choice() })
          : null,
        field({ label: t("chat.system"), help: this.characters.length ? null : t("chat.system.help"), input: system }),
        h(
          "div",
          { class: "ways" },
          WAYS.map((way) => this.way(...way)),
          this.stops(),
        ),
      ),
    );
  }

  choice() {
    const pick = h(
      "select",
      { onchange: () => this.take(this.characters.find((each) => each.name === pick.value) ?? null) },
      h("option", { value: NONE }, t("chat.character.none")),
      this.characters.map((each) =>
        h("option", { value: each.name, selected: each.name === state.character }, each.name),
      ),
    );
    return pick;
  }

  // A character brings its instruction, what it says first, and ways of its own.
  take(character) {
    this.set({
      character: character?.name ?? NONE,
      system: character?.system ?? "",
      greeting: character?.greeting ?? "",
      ways: { ...state.ways, ...(character?.sampling ?? {}) },
    });
    this.draw();
    this.box.querySelector("select").focus();
  }

  way(name, min, max, step) {
    const input = h("input", {
      type: "number",
      min,
      max,
      step,
      value: state.ways[name] ?? "",
      placeholder: t("chat.way.off"),
      oninput: () => {
        if (!input.validity.valid) return;
        const ways = { ...state.ways };
        if (input.value === "") delete ways[name];
        else ways[name] = Number(input.value);
        this.set({ ways });
      },
    });
    return field({ label: t(`chat.way.${name}`), help: t(`chat.way.${name}.help`), input });
  }

  stops() {
    const input = h("input", {
      type: "text",
      value: (state.ways.stop ?? []).join(" | "),
      oninput: () => {
        const stop = input.value
          .split("|")
          .map((each) => each.trim())
          .filter(Boolean);
        const ways = { ...state.ways };
        if (stop.length) ways.stop = stop;
        else delete ways.stop;
        this.set({ ways });
      },
    });
    return field({ label: t("chat.way.stop"), help: t("chat.way.stop.help"), input });
  }

  set(changes) {
    Object.assign(state, changes);
    save();
    this.changed();
  }
}
