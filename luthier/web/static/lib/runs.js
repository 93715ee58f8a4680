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

// The runs of all stages of a recipe, in order, of which this is one; empty where it has no others. One that is gone is
// a name alone.
export function stagesOf(run, runs) {
  const of = (name) => runs.find((each) => each.name === name) ?? { name, state: "gone", stage: null };
  const chain = [run];
  while (chain[0].stage && !chain.some((each) => each.name === chain[0].stage.after))
    chain.unshift(of(chain[0].stage.after));
  for (let at = 0; at < chain.length; at += 1)
    chain.push(...runs.filter((each) => each.stage?.after === chain[at].name && !chain.includes(each)));
  return chain.length > 1 ? chain : [];
}

// The run that has to be finished before this one, where this waits for it; null where its turn alone counts.
export function awaited(run, runs) {
  if (run.state !== "queued" || !run.stage) return null;
  const name = run.stage.after;
  const state = runs.find((each) => each.name === name)?.state ?? "gone";
  return state === "finished" ? null : { name, state };
}

// Why it waits, in words.
export function waitText(first) {
  return t("common.waits_for", { run: first.name, state: t(`common.state.${first.state}`) });
}

export function recipeText(run) {
  return [run.model, run.method, run.tune].filter(Boolean).join(" · ");
}
