// A control for each field of a recipe, made from what the server says about the field.
//
// What goes in: the name of a field. What comes out: its label, control, help, range, what is wrong with it and what
// the last change of it did to memory and time; kept up to date from the recipe, except while somebody is typing in it.

import { clear, h, unique } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { effectText, labelOf, showProblems } from "./parts.js";
import { change, enter, settled, state, subscribe, written, wrong } from "./state.js";

const SLIDERS = {
  "optim.lr": { from: 1e-6, to: 1e-2, marks: (at) => Number((10 ** at).toPrecision(1)), of: Math.log10, step: 0.05 },
  "optim.epochs": { from: 1, to: 10, step: 1 },
  "optim.batch": { from: 1, to: 256, marks: (at) => 2 ** at, of: Math.log2, step: 1 },
  "tune.rank": { from: 1, to: 256, marks: (at) => 2 ** at, of: Math.log2, step: 1 },
  "data.max_tokens": { from: 64, to: 32768, marks: (at) => 2 ** at, of: Math.log2, step: 1 },
};
// Where a slider helps: the usual range, and for numbers that matter by their size how it is spaced. What lies outside
// can be typed.

const MOST_BUTTONS = 4;
// Choices up to here stand side by side; more are a list that opens.

const WAIT_MS = 250;

const PLAIN = /^[A-Za-z_][\w./<>-]*$/;

// A field as the chosen kind of its section has it: its bounds and default may be others. Null where the kind has none.
function fieldOf(name) {
  const field = state.fields.get(name);
  if (field.kinds.length === 0) return field;
  const kind = settled(`${name.split(".")[0]}.kind`);
  return field.kinds.includes(kind) ? { ...field, ...field.by_kind[kind] } : null;
}

export function control(name, { folded = true } = {}) {
  const field = fieldOf(name);
  const id = unique("setting");
  const made = make(field, id);
  const places = {
    effect: h("p", { class: "effect", role: "status", "aria-live": "polite" }),
    problems: h("div", { class: "field-problem", id: `${id}-problem`, "aria-live": "polite", hidden: true }),
    reset: h(
      "button",
      { type: "button", class: "button plain small reset", onclick: () => change({ [name]: null }) },
      t("new.reset"),
    ),
  };
  const [first, ...rest] = sentences(field.help);
  const help = h(
    "div",
    { class: "help", id: `${id}-help` },
    first,
    rest.length && folded ? more(rest.join(" ")) : ` ${rest.join(" ")}`,
  );
  const head = [
    made.group
      ? h("span", { class: "setting-name" }, labelOf(name))
      : h("label", { class: "setting-name", for: id }, labelOf(name)),
    h("code", { class: "muted small", "aria-hidden": "true" }, name),
    places.reset,
  ];
  const node = h(
    made.group ? "fieldset" : "div",
    { class: "field setting", dataset: { field: name } },
    made.group ? h("legend", { class: "setting-head" }, ...head) : h("div", { class: "setting-head" }, ...head),
    made.node,
    range(field),
    help,
    places.problems,
    places.effect,
  );
  for (const each of made.inputs) each.setAttribute("aria-describedby", `${id}-help ${id}-problem`);

  function update() {
    const list = wrong(name);
    const given = written(name);
    made.show(given, settled(name));
    node.classList.toggle("given", given !== undefined);
    places.reset.hidden = given === undefined || field.required;
    showProblems(places.problems, list);
    for (const each of made.inputs) {
      if (list.length) each.setAttribute("aria-invalid", "true");
      else each.removeAttribute("aria-invalid");
      each.disabled = !state.readable;
    }
    const own = state.effect !== null && state.effect.names.includes(name) && !state.planning;
    const text = own ? effectText(state.effect) : "";
    if (places.effect.textContent !== text) places.effect.textContent = text;
  }
  update();
  return { node, stop: subscribe(update) };
}

function sentences(text) {
  const found = text.match(/^(.*?(?:[.!?](?=\s)|[。！？]))\s*(.*)$/s);
  return found && found[2] ? [found[1], found[2]] : [text];
}

function more(text) {
  return h("details", { class: "more" }, h("summary", {}, t("new.more")), h("p", {}, text));
}

function range(field) {
  const { minimum, maximum } = field;
  const least =
    minimum === null
      ? null
      : t(field.exclusive_minimum ? "new.range.above" : "new.range.least", { minimum: said(minimum) });
  const most =
    maximum === null
      ? null
      : t(field.exclusive_maximum ? "new.range.below" : "new.range.most", { maximum: said(maximum) });
  const words = [[least, most].filter(Boolean).join(t("new.range.and"))].filter(Boolean);
  if (!field.required && field.default !== null && field.type !== "switch")
    words.push(t("new.default", { value: said(field.default) }));
  else if (field.unset) words.push(field.unset);
  return words.length ? h("p", { class: "range muted small" }, words.join(" · ")) : null;
}

// ------------------------------------------------------------------------------------------------ kinds of control

function make(field, id) {
  if (field.type === "switch") return toggle(field, id);
  if (field.type === "choice" && field.choices.length <= MOST_BUTTONS) return buttons(field, id);
  if (field.type === "choice") return list(field, id);
  if (field.type === "whole" || field.type === "number") return amount(field, id);
  if (field.type === "list" && field.takes === field.choices.join(" | ")) return several(field, id);
  return words(field, id);
}

function toggle(field, id) {
  const input = h("input", {
    type: "checkbox",
    role: "switch",
    class: "switch",
    id,
    onchange: () => change({ [field.name]: input.checked }),
  });
  const node = h("div", { class: "switch-row" }, input);
  return { node, inputs: [input], show: (_, settledValue) => (input.checked = settledValue === true) };
}

function buttons(field, id) {
  const inputs = field.choices.map((choice) =>
    h("input", { type: "radio", name: id, value: choice, onchange: () => change({ [field.name]: choice }) }),
  );
  const node = h(
    "div",
    { class: "segments" },
    inputs.map((input) => h("label", { class: "segment" }, input, h("span", {}, choiceName(input.value)))),
  );
  inputs[0].id = id;
  return {
    node,
    inputs,
    group: true,
    show: (_, value) => inputs.forEach((input) => (input.checked = input.value === String(value))),
  };
}

// Words of which any number may be chosen.
function several(field, id) {
  const inputs = field.choices.map((choice) =>
    h("input", {
      type: "checkbox",
      value: choice,
      onchange: () => change({ [field.name]: inputs.filter((input) => input.checked).map((input) => input.value) }),
    }),
  );
  const node = h(
    "div",
    { class: "segments" },
    inputs.map((input) => h("label", { class: "segment" }, input, h("span", {}, input.value))),
  );
  inputs[0].id = id;
  return {
    node,
    inputs,
    group: true,
    show: (_, value) =>
      inputs.forEach((input) => (input.checked = Array.isArray(value) && value.includes(input.value))),
  };
}

function list(field, id) {
  const node = h(
    "select",
    { id, onchange: () => change({ [field.name]: node.value }) },
    field.choices.map((choice) => h("option", { value: choice }, choiceName(choice))),
  );
  return { node, inputs: [node], show: (_, value) => value !== null && (node.value = value) };
}

function choiceName(choice) {
  return choice === "auto" ? t("new.auto") : choice;
}

// Text that is read like an override: nothing typed takes the setting out.
function later(field, input) {
  let timer = null;
  function send() {
    clearTimeout(timer);
    const text = input.value.trim();
    if (text === input.dataset.shown) return;
    input.dataset.shown = text;
    if (text === "") change({ [field.name]: null });
    else if (field.type === "text") change({ [field.name]: text });
    // The brackets of a list need not be typed.
    else
      enter(
        field.name,
        field.type === "list" && !text.startsWith("[") && !field.choices.includes(text) ? `[${text}]` : text,
      );
  }
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(send, WAIT_MS);
  });
  input.addEventListener("change", send);
}

// Puts a value into an input that nobody is typing in.
function put(input, text) {
  if (document.activeElement === input) return;
  input.dataset.shown = text;
  if (input.value !== text) input.value = text;
}

function amount(field, id) {
  const whole = field.type === "whole";
  const input = h("input", {
    type: "text",
    inputmode: whole ? "numeric" : "decimal",
    autocomplete: "off",
    spellcheck: "false",
    class: "amount",
    id,
  });
  later(field, input);
  const slider = sliderOf(field);
  const node = h("div", { class: "amount-row" }, input);
  if (slider) {
    const { from, to, of = (value) => value, marks = (at) => at, step } = slider;
    const bar = h("input", {
      type: "range",
      min: of(from),
      max: of(to),
      step,
      "aria-label": t("new.slider", { field: labelOf(field.name) }),
    });
    bar.addEventListener("input", () => {
      input.value = said(marks(Number(bar.value)));
      input.dispatchEvent(new Event("input"));
    });
    node.append(bar);
    return {
      node,
      inputs: [input, bar],
      show(given, value) {
        showAmount(given, value);
        if (document.activeElement !== bar && typeof value === "number" && value > 0) bar.value = of(value);
        else if (document.activeElement !== bar && typeof value === "number") bar.value = value;
      },
    };
  }
  function showAmount(given, value) {
    put(input, given === undefined || given === null ? "" : said(given));
    input.placeholder = value === null || value === undefined ? t("new.auto") : said(value);
  }
  return { node, inputs: [input], show: showAmount };
}

function sliderOf(field) {
  if (SLIDERS[field.name]) return SLIDERS[field.name];
  const { minimum, maximum } = field;
  if (field.type !== "number" || minimum === null || maximum === null) return null;
  return { from: minimum, to: maximum, step: (maximum - minimum) / 100, marks: (at) => Number(at.toFixed(4)) };
}

function words(field, id) {
  const input = h("input", { type: "text", autocomplete: "off", spellcheck: "false", dir: "auto", id });
  later(field, input);
  const parts = [input];
  if (field.choices.length) {
    const options = h(
      "datalist",
      { id: `${id}-list` },
      [...new Set(field.choices)].map((choice) => h("option", { value: choice })),
    );
    input.setAttribute("list", options.id);
    parts.push(options);
  }
  return {
    node: h("div", { class: "words" }, parts),
    inputs: [input],
    show(given, value) {
      put(input, given === undefined || given === null ? "" : plainly(given));
      const empty = value === null || value === undefined || value === "" || plainly(value) === "";
      input.placeholder = empty ? field.takes : plainly(value);
    },
  };
}

// A value as people type it in a recipe.
export function said(value) {
  if (typeof value === "number" && value !== 0 && Math.abs(value) < 1e-3) return value.toExponential();
  if (Array.isArray(value)) return `[${value.map(within).join(", ")}]`;
  if (value !== null && typeof value === "object")
    return `{${Object.entries(value)
      .map(([name, each]) => `${within(name)}: ${within(each)}`)
      .join(", ")}}`;
  return String(value);
}

// Within a list, text that YAML would read otherwise needs quotes.
function within(value) {
  return typeof value === "string" && !PLAIN.test(value) ? JSON.stringify(value) : said(value);
}

// A list without its brackets, nothing for what is empty.
function plainly(value) {
  const text = said(value);
  if (text === "{}") return "";
  return Array.isArray(value) ? text.slice(1, -1) : text;
}

// ------------------------------------------------------------------------------------------------ groups

// Controls of a list of fields in a place; only those of the chosen kinds are there. Returns what takes them away.
export function controls(place, names, options) {
  let shown = [];
  let there = "";
  function update() {
    const own = names.filter((name) => fieldOf(name) !== null);
    const now = JSON.stringify(own.map((name) => fieldOf(name)));
    if (now === there) return;
    there = now;
    for (const each of shown) each.stop();
    shown = own.map((name) => control(name, options));
    clear(
      place,
      shown.map((each) => each.node),
    );
  }
  update();
  const stop = subscribe(update);
  return () => {
    stop();
    for (const each of shown) each.stop();
  };
}
