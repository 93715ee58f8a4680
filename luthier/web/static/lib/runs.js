// How a run is shown wherever one is shown: its state, how far it is, how long it still takes.
//
// What goes in: a run as the server's lists have it. What comes out: nodes and short texts.

import { h } from "./dom.js";
import { t } from "./i18n.js";
import { part } from "./api.js";
import { count, duration } from "./format.js";

export const runLink = (name) => `#/run/${part(name)}`;
export const compareLink = (names) => `#/compare/${names.map(part).join("/")}`;

export function stateChip(state) {
  return h("span", { class: "state", dataset: { state } }, t(`common.state.${state}`));
}

export function steps(run) {
  return run.num_steps ? t("common.steps_of", { step: count(run.step), steps: count(run.num_steps) }) : count(run.step);
}

export function share(run) {
  return run.num_steps ? Math.min(run.step / run.num_steps, 1) : 0;
}

// Seconds left, counted on from when the server said so; null where it does not know.
export function left(run, heard_s) {
  if (run.state !== "running" || run.eta_s === null || run.eta_s === undefined) return null;
  return Math.max(run.eta_s - (Date.now() / 1000 - heard_s), 0);
}

export function leftText(run, heard_s) {
  const seconds = left(run, heard_s);
  return seconds === null ? "" : t("common.left", { time: duration(seconds) });
}

export function recipeText(run) {
  return [run.model, run.method, run.tune].filter(Boolean).join(" · ");
}
