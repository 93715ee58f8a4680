// A recipe in several stages: which they are, in every step of the page, and which one is looked at.
//
// What goes in: the recipe. What comes out: the stages in their order with what each learns from, and on what. The form
// sets what they share; what one says of itself stands in the recipe's text.

import { clear, h, icon, unique } from "../../lib/dom.js";
import { count } from "../../lib/format.js";
import { t } from "../../lib/i18n.js";
import { kindName } from "./parts.js";
import { isStaged, pickStage, stageShown, state, subscribe } from "./state.js";
import { go } from "./steps.js";

// form: whether a form stands below.
export function stages(place, form) {
  function update(what) {
    if (what !== "recipe") return;
    const text = JSON.stringify([isStaged(), state.stages]);
    if (place.dataset.shown === text) return;
    place.dataset.shown = text;
    place.hidden = !isStaged();
    clear(
      place,
      h("h2", {}, t("new.stages", { count: state.stages.length || "?" })),
      h("ol", { class: "stage-list" }, state.stages.map(line)),
      form ? notice() : null,
    );
  }
  update("recipe");
  return subscribe(update);
}

function notice() {
  const button = h(
    "button",
    { type: "button", class: "button small", onclick: () => go("settings", "recipe") },
    t("new.recipe"),
  );
  return h(
    "div",
    { class: "notice" },
    icon("info"),
    h("div", { class: "stack" }, h("p", {}, t("new.stages.form")), h("div", { class: "actions" }, button)),
  );
}

function line({ name, from, start, run, resolved }) {
  const { model, method, tune, data, optim } = resolved;
  const length = optim.steps
    ? t("new.start.steps", { steps: count(optim.steps) })
    : t("new.start.epochs", { epochs: optim.epochs });
  const facts = [
    `${kindName("method", method.kind)}, ${kindName("tune", tune.kind)}`,
    data.train.map((each) => each.path).join(", "),
    length,
  ];
  return h(
    "li",
    { dataset: { stage: name } },
    h(
      "div",
      {},
      h("strong", {}, name),
      " ",
      h("bdi", { class: "break" }, facts.join(" · ")),
      h(
        "span",
        { class: "muted small block break" },
        t(`new.stages.${start}`, { from: from ?? "", model: model.path }),
        " ",
        t("new.stages.run", { run }),
      ),
    ),
  );
}

// Which stage is looked at.
export function stagePicker(place) {
  const id = unique("stage");
  const select = h("select", { id, onchange: () => pickStage(select.value) });
  clear(place, h("div", { class: "row" }, h("label", { for: id }, t("new.stages.pick")), select));
  function update(what) {
    if (what !== "recipe") return;
    place.hidden = state.stages.length === 0;
    const names = state.stages.map((each) => each.name);
    if (names.join("/") !== [...select.options].map((each) => each.value).join("/"))
      clear(
        select,
        names.map((name) => h("option", { value: name }, name)),
      );
    select.value = stageShown()?.name ?? "";
  }
  update("recipe");
  return subscribe(update);
}
