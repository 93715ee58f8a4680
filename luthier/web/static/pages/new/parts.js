// Pieces that several steps are made of.
//
// What goes in: problems, plans, texts. What comes out: nodes.

import { clear, h, icon } from "../../lib/dom.js";
import { bytes, duration } from "../../lib/format.js";
import { has, t } from "../../lib/i18n.js";
import { enter, plain, state } from "./state.js";
import { go, stepOf } from "./steps.js";

// ------------------------------------------------------------------------------------------------ words

export function labelOf(name) {
  const id = `new.label.${plain(name)}`;
  return has(id) ? t(id) : name;
}

// A kind of method or tuning in words.
export function kindName(section, kind) {
  const id = `new.${section}.${kind}`;
  return has(id) ? t(id) : kind;
}

// ------------------------------------------------------------------------------------------------ problems

const SETTING = /(?<![\w.])((?:model|data|method|tune|optim|run)\.[a-z_]+|method|tune)=([\w.:+-]*\w)/g;
// A setting as remedies write it: `data.bad_rows=drop`.

function settings(text) {
  const found = [...text.matchAll(SETTING)].map(([, name, value]) => ({ name, value }));
  return found.filter(
    ({ name }, index) => state.fields.has(name) && found.findIndex((each) => each.name === name) === index,
  );
}

// One problem as the command line says it. Settings that its remedy names can be taken with a button; `jump` adds one
// that leads to the field.
export function problem(each, { jump = false } = {}) {
  const subject = each.field && each.value ? `${each.field} = ${each.value}` : each.field || each.value;
  const head = [each.where, subject].filter(Boolean).join(": ");
  const known =
    each.field && (state.fields.has(plain(each.field)) || ["model", "data", "method", "tune"].includes(each.field));
  const buttons = settings(each.remedy).map(({ name, value }) =>
    h(
      "button",
      { type: "button", class: "button small", onclick: () => enter(name, value) },
      t("new.apply", { setting: `${name}=${value}` }),
    ),
  );
  if (jump && known)
    buttons.unshift(
      h(
        "button",
        { type: "button", class: "button small", onclick: () => go(stepOf(each.field), each.field) },
        t("new.jump", { field: labelOf(each.field) }),
      ),
    );
  return h(
    "div",
    { class: `problem ${each.severity ?? ""}`, dataset: { id: each.id } },
    icon(each.severity === "note" ? "info" : "warn"),
    h(
      "div",
      {},
      head ? h("code", { class: "problem-where", dir: "auto" }, head) : null,
      h("p", { dir: "auto" }, each.rule),
      each.remedy ? h("p", { class: "muted pre", dir: "auto" }, each.remedy) : null,
      buttons.length ? h("div", { class: "actions" }, buttons) : null,
    ),
  );
}

// Shows a list of problems in a place that is read out when it changes.
export function showProblems(place, list, options) {
  const text = JSON.stringify(list);
  if (place.dataset.shown === text) return;
  place.dataset.shown = text;
  clear(
    place,
    list.map((each) => problem(each, options)),
  );
  place.hidden = list.length === 0;
}

// ------------------------------------------------------------------------------------------------ plans

const FROZEN = ["weights", "teacher", "reference", "judges", "dense"];
export const PARTS = [...FROZEN, "trainable", "gradients", "optimizer", "activations", "head", "passes", "answers"];

export function partName(part) {
  return t(`new.part.${part}`);
}

// The memory that a recipe takes; of one with several stages, the stage that takes most of it.
export function memoryOf({ memory }) {
  const values = { need: bytes(memory.peak_bytes), free: bytes(memory.free_bytes) };
  const most = state.stagePlans.find((each) => each.plan === state.plan);
  return most ? t("new.memory_of_stage", { ...values, stage: most.name }) : t("new.memory", values);
}

// The time of a run, or of a step where the number of rows is not known; of several stages, of all of them.
export function timeOf(plan) {
  const speeds = state.stagePlans.map((each) => each.plan.speed);
  if (speeds.length && speeds.every((each) => each?.run_s))
    return t("new.time.stages", { time: duration(speeds.reduce((sum, each) => sum + each.run_s, 0)) });
  const speed = speeds.length ? null : plan.speed;
  if (!speed) return t("new.time.unknown");
  return speed.run_s === null
    ? t("new.time.step", { time: duration(speed.step_s) })
    : t("new.time.run", { time: duration(speed.run_s) });
}

function signed(value, text) {
  return `${value > 0 ? "+" : "−"}${text}`;
}

function share(before, after) {
  const change = Math.round(100 * (after / before - 1));
  // A longer time is told as a factor: "+4900 %" says little.
  if (after / before >= 2) return t("new.effect.times", { times: (after / before).toFixed(1) });
  return change === 0 ? null : signed(change, `${Math.abs(change)} %`);
}

// What an edit did to memory and time, in a few words.
export function effectText({ before, after }) {
  const words = [];
  const memory = after.memory.peak_bytes - before.memory.peak_bytes;
  if (Math.abs(memory) >= 1e5) words.push(t("new.effect.memory", { change: signed(memory, bytes(Math.abs(memory))) }));
  if (before.speed && after.speed) {
    const whole = before.speed.run_s !== null && after.speed.run_s !== null;
    const change = whole
      ? share(before.speed.run_s, after.speed.run_s)
      : share(before.speed.step_s, after.speed.step_s);
    if (change !== null) words.push(t(whole ? "new.effect.time" : "new.effect.step", { change }));
  }
  if (before.memory.fits !== after.memory.fits)
    words.push(t(after.memory.fits ? "new.effect.fits" : "new.effect.fits_not"));
  return words.length ? words.join(" · ") : t("new.effect.none");
}

// Memory as a bar: one piece for each part, of what is free, or of what is needed where that is more. `parts`: of what
// is needed, so that small parts are seen as well.
export function memoryBar(plan, { small = false, parts = false } = {}) {
  const { memory } = plan;
  const whole = parts ? memory.peak_bytes : Math.max(memory.free_bytes, memory.peak_bytes);
  const pieces = PARTS.filter((part) => memory[part] > 0).map((part) => {
    const piece = h("span", { class: `piece part-${part}`, title: `${partName(part)}: ${bytes(memory[part])}` });
    piece.style.width = `${(100 * memory[part]) / whole}%`;
    return piece;
  });
  const label = t("new.memory", { need: bytes(memory.peak_bytes), free: bytes(memory.free_bytes) });
  const bar = h(
    "div",
    { class: `memory-bar${small ? " small" : ""}`, role: "img", "aria-label": parts ? t("new.plan.parts") : label },
    pieces,
  );
  if (!memory.fits) {
    const limit = h("span", { class: "limit" });
    limit.style.left = `${(100 * memory.free_bytes) / whole}%`;
    bar.append(limit);
  }
  return bar;
}
