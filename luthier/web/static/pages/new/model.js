// The step in which a base model is chosen.
//
// What goes in: the models that are there, or the name of one. What comes out: `model.path` in the recipe. Each model
// says what it is and whether it can be trained here with the recipe as it stands.

import { get } from "../../lib/api.js";
import { clear, h, icon, unique } from "../../lib/dom.js";
import { bytes, count } from "../../lib/format.js";
import { t } from "../../lib/i18n.js";
import { problem, showProblems } from "./parts.js";
import { stepOf } from "./steps.js";
import { change, planOf, settled, state, subscribe, wrong, written } from "./state.js";

const MOST_PLANNED = 24;
// Models that are planned for at once, one after the other; of the others the chosen one is.

export async function show(place) {
  const list = h("div", { class: "models", role: "radiogroup", "aria-label": t("new.model.list") });
  const complaints = h("div", { class: "problems", role: "alert", hidden: true });
  clear(
    place,
    h("p", { class: "lead" }, t("new.model.lead")),
    complaints,
    h("div", { dataset: { field: "model.path" } }, list, other()),
  );
  const group = unique("model");
  let models = [];
  let gone = false;
  const fits = new Map();

  function other() {
    const input = h("input", {
      type: "text",
      id: unique("other"),
      autocomplete: "off",
      spellcheck: "false",
      dir: "auto",
      placeholder: "Qwen/Qwen2.5-0.5B-Instruct",
    });
    const button = h("button", { type: "submit", class: "button" }, t("new.model.look"));
    const answer = h("div", { class: "problems", role: "alert", hidden: true });
    async function look(event) {
      event.preventDefault();
      const path = input.value.trim();
      if (!path) return input.focus();
      button.disabled = true;
      button.setAttribute("aria-busy", "true");
      try {
        const about = await get("models/about", { path });
        add(about);
        showProblems(answer, about.problem ? [about.problem] : []);
        if (about.supported) {
          await change({ "model.path": about.path });
          draw();
          list.querySelector("input:checked")?.focus();
        }
      } catch (error) {
        if (!Array.isArray(error.problems)) throw error;
        showProblems(answer, error.problems);
      } finally {
        button.disabled = false;
        button.removeAttribute("aria-busy");
      }
    }
    return h(
      "form",
      { class: "other-model", onsubmit: look },
      h("label", { for: input.id }, t("new.model.other")),
      h("p", { class: "help" }, t("new.model.other.help")),
      h("div", { class: "row" }, input, button),
      answer,
    );
  }

  function add(about) {
    models = [...models.filter((each) => each.path !== about.path), about];
    draw();
    plan();
  }

  function draw() {
    const chosen = settled("model.path");
    clear(
      list,
      models.map((model) => card(model, model.path === chosen)),
    );
  }

  function card(model, isChosen) {
    const id = unique("model");
    const input = h("input", {
      type: "radio",
      name: group,
      id,
      checked: isChosen,
      disabled: !model.supported && !isChosen,
      onchange: () => change({ "model.path": model.path }),
    });
    return h(
      "label",
      { class: `model card${model.supported ? "" : " unsupported"}`, for: id, dataset: { path: model.path } },
      input,
      h(
        "span",
        { class: "model-text" },
        h(
          "span",
          { class: "model-name" },
          h("bdi", {}, model.name),
          h("span", { class: "badge" }, t(`new.model.source.${model.source}`)),
        ),
        note(model),
        h("span", { class: "model-facts" }, facts(model)),
        model.name === model.path ? null : h("span", { class: "path muted small", dir: "auto" }, model.path),
        fit(model),
      ),
    );
  }

  function note(model) {
    if (model.source === "shipped") return h("span", { class: "muted" }, t("new.model.nano"));
    return null;
  }

  function fact(label, value) {
    return value === null || value === undefined || value === ""
      ? null
      : h("span", { class: "fact" }, h("span", { class: "muted" }, label), " ", value);
  }

  function facts(model) {
    return [
      fact(t("new.model.family"), model.family),
      fact(t("new.model.parameters"), model.parameters === null ? null : count(model.parameters)),
      fact(t("new.model.size"), model.bytes === null ? null : bytes(model.bytes)),
      fact(t("new.model.context"), model.context === null ? null : count(model.context)),
      fact(t("new.model.licence"), model.licence),
      model.template === null || model.template === undefined
        ? null
        : fact(t("new.model.template"), t(model.template ? "new.yes" : "new.no_template")),
    ];
  }

  function fit(model) {
    if (!model.supported)
      return h("span", { class: "fit bad" }, icon("warn"), model.problem?.rule ?? t("new.model.unsupported"));
    const known = fits.get(model.path);
    if (known === undefined) return h("span", { class: "fit muted asked" }, t("new.model.fit.asked"));
    if (known.problems && state.problems.some((each) => each.field !== "data.train" && stepOf(each.field) !== "model"))
      return h("span", { class: "fit muted" }, t("new.model.fit.recipe"));
    if (known.problems) return h("span", { class: "fit bad" }, icon("warn"), known.problems[0].rule);
    const { memory, remedy } = known;
    const values = {
      need: bytes(memory.peak_bytes),
      free: bytes(memory.free_bytes),
      changes: remedy?.changes.join(", "),
    };
    if (memory.fits) return h("span", { class: "fit good" }, icon("check"), t("new.model.fit.yes", values));
    return h(
      "span",
      { class: "fit bad" },
      icon("warn"),
      t(remedy ? "new.model.fit.change" : "new.model.fit.no", values),
    );
  }

  // One after the other: each plan takes the server's time, and the first ones are looked at first.
  async function plan() {
    const asked = state.text;
    for (const model of models.slice(0, MOST_PLANNED)) {
      if (gone || state.text !== asked) return;
      if (!model.supported || fits.has(model.path)) continue;
      try {
        const answer = await planOf({ "model.path": model.path });
        fits.set(model.path, answer.plan ?? { problems: answer.problems });
      } catch (error) {
        if (!Array.isArray(error.problems)) throw error;
        fits.set(model.path, { problems: error.problems });
      }
      if (gone) return;
      const old = [...list.querySelectorAll(".model")]
        .find((each) => each.dataset.path === model.path)
        ?.querySelector(".fit");
      old?.replaceWith(fit(model));
    }
  }

  function update() {
    showProblems(
      complaints,
      wrong("model").filter((each) => stepOf(each.field) === "model"),
    );
    const chosen = settled("model.path");
    for (const each of list.querySelectorAll(".model"))
      each.querySelector("input").checked = each.dataset.path === chosen;
  }

  models = (await get("models")).models;
  const chosen = written("model.path");
  if (chosen && !models.some((each) => each.path === chosen)) {
    try {
      models.push(await get("models/about", { path: chosen }));
    } catch (error) {
      // The recipe's own problem says it.
      if (!Array.isArray(error.problems)) throw error;
      complaints.append(...error.problems.map((each) => problem(each)));
      complaints.hidden = false;
    }
  }
  draw();
  update();
  plan();
  const stop = subscribe((what) => what !== "note" && update());
  return () => {
    gone = true;
    stop();
  };
}
