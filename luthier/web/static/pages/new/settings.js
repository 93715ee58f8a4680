// The step in which it is said how the model learns: three presets that suffice, and every field of the recipe for who
// wants it.
//
// What goes in: the tables of presets and fields. What comes out: settings in the recipe, with what each does to memory
// and time at once; the recipe's text beside them.

import { clear, h, unique } from "../../lib/dom.js";
import { has, t } from "../../lib/i18n.js";
import { controls } from "./controls.js";
import { editor } from "./editor.js";
import { effectText, kindName, labelOf, showProblems } from "./parts.js";
import { change, changeMethod, note, settled, state, subscribe, wrong, written } from "./state.js";

const ELSEWHERE = ["model.path", "data.validation", "method.kind", "tune.kind", "run.name"];
// Fields that are asked for in another way, here or in another step; those of files are as well.

const SAID = ["optim.epochs", "optim.batch", "tune.rank"];
// What a preset's card says of its values: those that somebody may have heard of.

export async function show(place, { open }) {
  const presets = h("section", { class: "panel" });
  const method = h("section", { class: "panel" });
  const all = h("section", { class: "panel" });
  const text = h("section", { class: "panel recipe" });
  clear(
    place,
    h("p", { class: "lead" }, t("new.settings.lead")),
    h("div", { class: "beside" }, h("div", { class: "stack wide" }, presets, method, all), text),
  );
  const stops = [presetCards(presets), methods(method), everything(all, open), editor(text)];
  return () => stops.forEach((stop) => stop());
}

// ------------------------------------------------------------------------------------------------ presets

function presetCards(place) {
  const group = unique("preset");
  const effect = h("p", { class: "effect", role: "status", "aria-live": "polite" });
  const own = h("p", { class: "muted small" });
  const radios = state.presets.map((preset) =>
    h("input", { type: "radio", name: group, value: preset.id, onchange: () => change(preset.values) }),
  );
  const cards = state.presets.map((preset, index) => {
    const values = SAID.filter((name) => name in preset.values).map(
      (name) => `${labelOf(name)} ${preset.values[name]}`,
    );
    return h(
      "label",
      { class: "card option" },
      radios[index],
      h(
        "span",
        { class: "option-text" },
        h("span", { class: "strong" }, preset.name),
        h("span", { class: "small" }, preset.help),
        h("span", { class: "muted small" }, values.join(" · ")),
      ),
    );
  });
  clear(
    place,
    h("h2", { id: `${group}-title` }, t("new.presets")),
    h("div", { class: "options three", role: "radiogroup", "aria-labelledby": `${group}-title` }, cards),
    own,
    effect,
  );

  // A value that is left open by a preset is left open by the recipe too.
  const same = (preset) =>
    Object.entries(preset.values).every(([name, value]) =>
      value === null ? (written(name) ?? null) === null : settled(name) === value,
    );
  function update() {
    const chosen = state.presets.find(same);
    for (const radio of radios) {
      radio.checked = radio.value === chosen?.id;
      radio.disabled = !state.readable;
    }
    own.textContent = chosen ? "" : t("new.presets.own");
    own.hidden = Boolean(chosen);
    const { effect: last } = state;
    const mine =
      last !== null &&
      !state.planning &&
      last.names.length > 1 &&
      state.presets.some((preset) => last.names.every((name) => name in preset.values));
    const words = mine ? effectText(last) : "";
    if (effect.textContent !== words) effect.textContent = words;
  }
  update();
  return subscribe(update);
}

// ------------------------------------------------------------------------------------------------ method and tuning

function methods(place) {
  const method = state.sections.find((section) => section.name === "method");
  const tune = state.sections.find((section) => section.name === "tune");
  const id = unique("method");
  const group = unique("tune");
  const select = h(
    "select",
    { id, onchange: () => changeMethod(select.value) },
    method.kinds.map((kind) => h("option", { value: kind }, kindName("method", kind))),
  );
  const about = h("p", { class: "help", id: `${id}-help` });
  select.setAttribute("aria-describedby", about.id);
  const methodProblems = h("div", { class: "field-problem", "aria-live": "polite", hidden: true });
  const tuneProblems = h("div", { class: "field-problem", "aria-live": "polite", hidden: true });
  const needed = h("div", { class: "settings" });
  const effect = h("p", { class: "effect", role: "status", "aria-live": "polite" });
  const radios = tune.kinds.map((kind) =>
    h("input", { type: "radio", name: group, value: kind, onchange: () => change({ tune: kind }) }),
  );
  const cards = tune.kinds.map((kind, index) =>
    h(
      "label",
      { class: "card option" },
      radios[index],
      h(
        "span",
        { class: "option-text" },
        h("span", { class: "strong" }, kindName("tune", kind)),
        has(`new.tune.${kind}.help`) ? h("span", { class: "small" }, t(`new.tune.${kind}.help`)) : null,
      ),
    ),
  );
  clear(
    place,
    h("h2", {}, t("new.method")),
    h(
      "div",
      { class: "field", dataset: { field: "method" } },
      h("label", { for: id }, t("new.method.label")),
      select,
      about,
      methodProblems,
    ),
    needed,
    h(
      "div",
      { class: "field", dataset: { field: "tune" } },
      h("h3", { id: `${group}-title` }, t("new.tune.label")),
      h("div", { class: "options", role: "radiogroup", "aria-labelledby": `${group}-title` }, cards),
      tuneProblems,
    ),
    effect,
  );
  const must = method.fields.filter((field) => field.required && field.key !== "kind").map((field) => field.name);
  const stopNeeded = controls(needed, must);

  function update() {
    const kind = settled("method.kind");
    if (kind !== null) select.value = kind;
    about.textContent = has(`new.method.${kind}.help`) ? t(`new.method.${kind}.help`) : "";
    select.disabled = !state.readable;
    for (const radio of radios) {
      radio.checked = radio.value === settled("tune.kind");
      radio.disabled = !state.readable;
    }
    const alone = (section) =>
      wrong(section).filter((each) => each.field === section || each.field === `${section}.kind`);
    showProblems(methodProblems, alone("method"));
    showProblems(tuneProblems, alone("tune"));
    const mine =
      state.effect !== null &&
      !state.planning &&
      state.effect.names.some((name) => name === "method" || name === "tune");
    const words = mine ? effectText(state.effect) : "";
    if (effect.textContent !== words) effect.textContent = words;
  }
  update();
  const stop = subscribe(update);
  return () => {
    stop();
    stopNeeded();
  };
}

// ------------------------------------------------------------------------------------------------ every field

function own(field) {
  return !ELSEWHERE.includes(field.name) && !field.name.startsWith("data.train") && field.type !== "source";
}

// open: the field that is to be seen at once, in its section.
function everything(place, open) {
  const id = unique("find");
  const search = h("input", { type: "search", id, autocomplete: "off", spellcheck: "false", oninput: () => find() });
  const hits = h("div", { class: "settings" });
  const folds = h("div", { class: "folds" });
  clear(
    place,
    h("h2", {}, t("new.all")),
    h("p", { class: "help" }, t("new.all.help")),
    h("div", { class: "row" }, h("label", { for: id }, t("new.all.find")), search),
    hits,
    folds,
  );
  const stops = [];
  let stopHits = () => {};
  const sections = state.sections.map((section) => fold(section, section.fields.filter(own)));
  clear(
    folds,
    sections.map((each) => each.node),
  );

  function fold(section, fields) {
    const badge = h("span", { class: "badge" });
    const inner = h("div", { class: "settings" });
    const node = h(
      "details",
      { class: "fold-section", dataset: { section: section.name } },
      h(
        "summary",
        {},
        h("span", { class: "strong" }, t(`new.section.${section.name}`)),
        " ",
        h("code", { class: "muted small" }, section.name),
        " ",
        badge,
      ),
      h("p", { class: "help" }, section.help),
      inner,
    );
    let made = false;
    function fill() {
      if (made || !node.open) return;
      made = true;
      stops.push(
        controls(
          inner,
          fields.map((field) => field.name),
        ),
      );
    }
    node.addEventListener("toggle", () => {
      fill();
      const names = state.unfolded.filter((name) => name !== section.name);
      note({ unfolded: node.open ? [...names, section.name] : names });
    });
    const asked = open !== null && fields.some((field) => field.name === open || open.startsWith(`${field.name}.`));
    if (asked || state.unfolded.includes(section.name)) node.open = true;
    fill();
    function update() {
      const given = fields.filter((field) => written(field.name) !== undefined).length;
      const bad = fields.filter((field) => wrong(field.name).length).length;
      badge.textContent = bad
        ? t("new.section.wrong", { count: bad })
        : given
          ? t("new.section.given", { count: given })
          : "";
      badge.classList.toggle("bad", bad > 0);
      badge.hidden = !bad && !given;
    }
    update();
    return { node, update };
  }

  function find() {
    const words = search.value.trim().toLowerCase();
    stopHits();
    stopHits = () => {};
    folds.hidden = words !== "";
    if (!words) return clear(hits);
    const fields = state.sections.flatMap((section) => section.fields).filter(own);
    const found = fields.filter((field) =>
      [field.name, labelOf(field.name), field.help].some((text) => text.toLowerCase().includes(words)),
    );
    clear(hits);
    stopHits = controls(
      hits,
      found.slice(0, 12).map((field) => field.name),
    );
    if (!hits.childElementCount) clear(hits, h("p", { class: "muted" }, t("new.all.none")));
    return undefined;
  }

  const stop = subscribe(() => sections.forEach((each) => each.update()));
  return () => {
    stop();
    stopHits();
    stops.forEach((each) => each());
  };
}
