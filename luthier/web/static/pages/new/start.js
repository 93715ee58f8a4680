// The last step: a name, a look at the whole, and the button.
//
// What goes in: the recipe. What comes out: a run in the queue, once, however often the button is pressed.

import { part, post } from "../../lib/api.js";
import { clear, h, icon, unique } from "../../lib/dom.js";
import { count } from "../../lib/format.js";
import { t } from "../../lib/i18n.js";
import { kindName, memoryOf, showProblems, timeOf } from "./parts.js";
import {
  change,
  dataStop,
  everything,
  hasData,
  isStaged,
  settled,
  sources,
  startKey,
  startOver,
  state,
  subscribe,
  wrong,
  written,
} from "./state.js";
import { go } from "./steps.js";

const WAIT_MS = 300;

export async function show(place) {
  const id = unique("name");
  const complaints = h("div", { class: "problems", role: "alert", hidden: true });
  const refused = h("div", { class: "problems", role: "alert", hidden: true });
  const nameProblems = h("div", { class: "field-problem", id: `${id}-problem`, "aria-live": "polite", hidden: true });
  const name = h("input", {
    type: "text",
    id,
    autocomplete: "off",
    spellcheck: "false",
    "aria-describedby": `${id}-help ${id}-problem`,
  });
  const free = h("p", { class: "help", id: `${id}-help` });
  const facts = h("dl", { class: "facts" });
  const button = h(
    "button",
    { type: "button", class: "button primary big", id: "start", onclick: () => start() },
    icon("play"),
    t("new.start.button"),
  );
  const why = h("p", { class: "muted small", role: "status", "aria-live": "polite" });
  clear(
    place,
    h("p", { class: "lead" }, t("new.start.lead")),
    complaints,
    h(
      "section",
      { class: "panel" },
      h(
        "div",
        { class: "field setting", dataset: { field: "run.name" } },
        h("label", { for: id }, t("new.start.name")),
        name,
        free,
        nameProblems,
      ),
      h("h2", {}, t("new.start.summary")),
      facts,
      refused,
      h("div", { class: "actions" }, button, why),
    ),
  );
  let timer = null;
  let starting = false;

  function renamed() {
    clearTimeout(timer);
    const text = name.value.trim();
    return text === (written("run.name") ?? "") ? Promise.resolve() : change({ "run.name": text || null });
  }
  name.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(renamed, WAIT_MS);
  });
  name.addEventListener("change", renamed);

  async function start() {
    if (starting) return;
    starting = true;
    button.disabled = true;
    button.setAttribute("aria-busy", "true");
    showProblems(refused, []);
    try {
      await renamed();
      // The name that was proposed is the one that is taken, and the one that a second try asks for again.
      if (!written("run.name") && state.name) await change({ "run.name": state.name });
      if (state.problems.length) return;
      const made = await post("runs", { recipe: state.text, key: startKey() });
      await startOver();
      location.hash = `#/run/${part(made.name)}`;
    } catch (error) {
      if (!Array.isArray(error.problems)) throw error;
      showProblems(refused, error.problems, { jump: true });
    } finally {
      starting = false;
      button.removeAttribute("aria-busy");
      update("recipe");
    }
  }

  function row(title, value, step) {
    return [
      h("dt", {}, title),
      h(
        "dd",
        {},
        h("bdi", { class: "break" }, value),
        " ",
        h(
          "button",
          {
            type: "button",
            class: "button plain small",
            "aria-label": t("new.start.change", { what: title }),
            onclick: () => go(step),
          },
          t("new.start.edit"),
        ),
      ),
    ];
  }

  function update(what) {
    if (what === "note" || starting) return;
    const list = everything().filter((each) => each.field !== "run.name");
    showProblems(complaints, list, { jump: true });
    showProblems(nameProblems, wrong("run.name"));
    if (document.activeElement !== name) name.value = written("run.name") ?? "";
    name.placeholder = state.name ?? "";
    const taken = written("run.name") && state.name && state.name !== written("run.name");
    const several = isStaged() ? ".stages" : "";
    clear(
      free,
      taken
        ? t(`new.start.taken${several}`, { name: written("run.name") })
        : t(`new.start.name.help${several}`, { name: state.name ?? "–" }),
      taken
        ? [
            " ",
            h(
              "button",
              { type: "button", class: "button small", onclick: () => change({ "run.name": state.name }) },
              t("new.start.use", { name: state.name }),
            ),
          ]
        : null,
    );
    const fits = state.plan?.memory.fits !== false;
    const { plan } = state;
    // What each of several stages is stands above.
    const own = () => [
      row(t("new.step.model"), String(settled("model.path") ?? "–"), "model"),
      row(
        t("new.step.data"),
        hasData()
          ? sources()
              .map((each) => each.path)
              .join(", ")
          : t("new.start.no_data"),
        "data",
      ),
      row(
        t("new.method"),
        `${kindName("method", settled("method.kind"))}, ${kindName("tune", settled("tune.kind"))}`,
        "settings",
      ),
      row(t("new.start.length"), length(), "settings"),
    ];
    clear(
      facts,
      isStaged() ? null : own(),
      plan ? row(t("new.start.needs"), [memoryOf(plan), timeOf(plan)].join(" · "), "plan") : null,
    );
    // A plan that does not fit may be asked for all the same: memory may be free by then, and the run says so if not.
    button.disabled = starting || state.problems.length > 0 || !hasData() || Boolean(taken);
    const reasons = [
      !hasData() && "data",
      state.problems.length > 0 && "problems",
      dataStop() && "check",
      !fits && "memory",
    ];
    why.textContent = reasons.filter(Boolean).map((reason) => t(`new.start.why.${reason}`))[0] ?? "";
  }

  function length() {
    const steps = written("optim.steps");
    return steps
      ? t("new.start.steps", { steps: count(steps) })
      : t("new.start.epochs", { epochs: settled("optim.epochs") });
  }

  update("recipe");
  const stop = subscribe(update);
  return () => {
    clearTimeout(timer);
    stop();
  };
}
