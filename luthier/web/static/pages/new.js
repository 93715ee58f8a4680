// A new run, in steps that can be jumped: model, data, method and settings, plan, start.
//
// What goes in: the step in the address; `model`, `data` or `from` (a run whose recipe is taken) in its query. What
// comes out: the recipe in the making (`new/state.js`), which every step reads and writes, and which a reload keeps; in
// the end a run.

import { get, part } from "../lib/api.js";
import { clear, h, icon, problems as problemsOf } from "../lib/dom.js";
import { bytes } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { onState } from "../lib/overview.js";
import { labelOf, memoryBar, memoryOf, timeOf } from "./new/parts.js";
import { stages } from "./new/stages.js";
import {
  change,
  dataStop,
  everything,
  hasData,
  isCutOff,
  isStaged,
  refresh,
  replace,
  restore,
  settled,
  sources,
  startOver,
  state,
  subscribe,
  tables,
} from "./new/state.js";
import { go, STEPS, stepOf, takeWanted } from "./new/steps.js";

restore();

const ASKED = ["model", "data", "from"];
const FORMS = ["model", "data", "settings"];
// Steps with fields; the others tell all problems in full.

export async function show(root, { path, query }) {
  const step = STEPS.includes(path[0]) ? path[0] : "model";
  await tables();
  if (ASKED.some((name) => query[name] !== undefined)) await begin(query, step);
  else await refresh();
  const field = takeWanted();
  const trouble = h("div", { class: "trouble" });
  const several = h("section", { class: "panel", hidden: true });
  const mend = h("div", { class: "mend", role: "status", "aria-live": "polite" });
  const body = h("div", { class: "step" });
  const nav = stepper(step);
  const strip = footer(step);
  clear(
    root,
    nav.node,
    h("div", { class: "page-head" }, h("h1", {}, t(`new.title.${step}`)), again()),
    trouble,
    several,
    mend,
    body,
    strip.node,
  );
  function update() {
    nav.update();
    strip.update();
    if (FORMS.includes(step)) toMend(mend, faults(step));
    const text = JSON.stringify(state.trouble);
    if (trouble.dataset.shown === text) return;
    trouble.dataset.shown = text;
    clear(trouble, state.trouble.length ? problemsOf(state.trouble) : null);
  }
  const stops = [
    subscribe(update),
    stages(several, FORMS.includes(step)),
    onState((line) => line === "open" && isCutOff() && refresh()),
  ];
  const module = await import(`./new/${step}.js`);
  const leave = await module.show(body, { open: field });
  update();
  const jump = () => reveal(root, takeWanted());
  window.addEventListener("luthier:field", jump);
  // The frame gives the heading the focus once this returns.
  if (field) setTimeout(() => reveal(root, field));
  return () => {
    window.removeEventListener("luthier:field", jump);
    stops.forEach((stop) => stop());
    leave();
  };
}

// What is wrong with the fields of a step. That no data are there yet is what its step is about, and no fault.
function faults(step) {
  return everything().filter(
    (each) => each.field && stepOf(each.field) === step && (hasData() || each.field !== "data.train"),
  );
}

// A line for each, which leads to its field, where the whole is told.
function toMend(place, list) {
  const text = JSON.stringify(list);
  if (place.dataset.shown === text) return;
  place.dataset.shown = text;
  const line = (each) =>
    h(
      "li",
      {},
      h(
        "button",
        { type: "button", class: "button plain small", onclick: () => go(stepOf(each.field), each.field) },
        h("strong", {}, labelOf(each.field)),
        h("bdi", {}, each.rule),
      ),
    );
  clear(
    place,
    list.length
      ? [h("p", { class: "strong bad" }, t("new.mend", { count: list.length })), h("ul", {}, list.map(line))]
      : null,
  );
}

// What the address asks for is taken once: a reload must not undo what was changed since.
async function begin(query, step) {
  history.replaceState(null, "", `#/new/${step}`);
  if (query.from !== undefined) {
    const run = await get(`runs/${part(query.from)}`);
    await replace(run.yaml);
    await change({ "run.name": null, "run.dir": null });
  }
  const changes = {};
  if (query.model !== undefined) changes["model.path"] = query.model;
  if (query.data !== undefined) changes["data.train"] = query.data;
  if (Object.keys(changes).length) await change(changes);
}

// Brings a field into view and the keyboard to it, unfolding what it lies in.
function reveal(root, field) {
  if (!field) return;
  const parts = field.split(".");
  let node = null;
  for (let length = parts.length; length > 0 && !node; length -= 1) {
    const name = parts.slice(0, length).join(".");
    node = [...root.querySelectorAll("[data-field]")].find((each) => each.dataset.field === name);
  }
  if (!node) return;
  for (let around = node; around && around !== root; around = around.parentElement)
    if (around.matches("details")) around.open = true;
  node.scrollIntoView({ block: "center" });
  const target = node.matches("input, select, textarea")
    ? node
    : (node.querySelector('[aria-invalid="true"]') ??
      node.querySelector("input:not([type=hidden]), select, textarea, summary, button"));
  target?.focus({ preventScroll: true });
}

function again() {
  return h(
    "button",
    {
      type: "button",
      class: "button plain small",
      onclick: async () => {
        await startOver();
        if (location.hash === "#/new/model") window.dispatchEvent(new HashChangeEvent("hashchange"));
        else go("model");
      },
    },
    t("new.over"),
  );
}

// ------------------------------------------------------------------------------------------------ frame

function stepper(step) {
  const links = STEPS.map((name) =>
    h(
      "a",
      { href: `#/new/${name}`, "aria-current": name === step ? "step" : null },
      h("span", { class: "step-number", "aria-hidden": "true" }),
      h("span", { class: "step-name" }, t(`new.step.${name}`)),
      h("span", { class: "sr step-state" }),
      h("span", { class: "step-more muted small" }),
    ),
  );
  const node = h(
    "nav",
    { class: "stepper", "aria-label": t("new.steps") },
    h(
      "ol",
      {},
      links.map((link) => h("li", {}, link)),
    ),
  );

  function update() {
    for (const [index, name] of STEPS.entries()) {
      const own = faults(name);
      const fault =
        own.length > 0 || (name === "plan" && state.plan?.memory.fits === false) || (name === "data" && dataStop());
      const done =
        !fault &&
        (name === "model" ||
          (name === "data" && hasData()) ||
          name === "settings" ||
          (name === "plan" && state.plan !== null && hasData()));
      const link = links[index];
      link.dataset.state = fault ? "fault" : done ? "done" : "open";
      clear(link.querySelector(".step-number"), fault ? icon("warn") : done ? icon("check") : String(index + 1));
      link.querySelector(".step-state").textContent = fault ? t("new.step.fault") : done ? t("new.step.done") : "";
      link.querySelector(".step-more").textContent = more(name);
    }
  }
  update();
  return { node, update };
}

function more(name) {
  if (name === "model")
    return String(settled("model.path") ?? "")
      .split("/")
      .at(-1);
  if (name === "data") {
    const all = isStaged() ? state.stages.flatMap((each) => each.resolved.data.train) : sources();
    return [...new Set(all.map((each) => each.path.split("/").at(-1)))].join(", ");
  }
  if (name === "settings")
    return isStaged()
      ? state.stages.map((each) => each.resolved.method.kind).join(" → ")
      : [settled("method.kind"), settled("tune.kind")].filter(Boolean).join(", ");
  if (name === "plan" && state.plan) return bytes(state.plan.memory.peak_bytes);
  return "";
}

// What the run will need, at every step, and the way on.
function footer(step) {
  const at = STEPS.indexOf(step);
  const bar = h("div", { class: "strip-bar" });
  const words = h("p", { class: "small strip-words", role: "status", "aria-live": "polite" });
  const before = STEPS[at - 1];
  const after = STEPS[at + 1];
  const link = (name, label, kind, picture) =>
    h(
      "a",
      { class: `button ${kind}`, href: `#/new/${name}` },
      picture === "back" ? icon("back") : null,
      label,
      picture === "on" ? icon("next") : null,
    );
  const node = h(
    "div",
    { class: "strip" },
    before ? link(before, t(`new.step.${before}`), "", "back") : h("span", {}),
    h("div", { class: "strip-plan" }, bar, words),
    after ? link(after, t(`new.step.${after}`), "primary", "on") : h("span", {}),
  );
  function update() {
    const { plan } = state;
    node.classList.toggle("asking", state.planning);
    if (state.planning && plan && bar.firstChild) return;
    clear(bar, plan ? memoryBar(plan, { small: true }) : null);
    const fits = plan?.memory.fits;
    const text = plan
      ? [memoryOf(plan), fits ? timeOf(plan) : t("new.plan.fits_not")].join(" · ")
      : t(state.planning ? "new.strip.asked" : "new.strip.none");
    if (words.textContent !== text) words.textContent = text;
    words.classList.toggle("bad", fits === false);
  }
  update();
  return { node, update };
}
