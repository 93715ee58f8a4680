// The steps of the New run page: their order, which fields each of them shows, and the way between them.
//
// What goes in: names of steps and fields. What comes out: the address of a step, and which field is to have the focus
// once it is shown.

import { plain } from "./state.js";

export const STEPS = ["model", "data", "settings", "plan", "start"];

const SHOWN = {
  model: ["model.path"],
  data: ["data.train", "data.validation", "data.bad_rows", "data.too_long", "data.max_tokens", "data.template"],
  start: ["run.name"],
};
// Fields that have a place of their own; all others are in `settings`.

// The step in which a field is mended.
export function stepOf(field) {
  const name = plain(field);
  for (const [step, fields] of Object.entries(SHOWN)) {
    if (fields.some((each) => name === each || name.startsWith(`${each}.`))) return step;
  }
  return name === "model" ? "model" : name === "data" ? "data" : "settings";
}

let wanted = null;

// Shows a step; `field` is brought into view there.
export function go(step, field = null) {
  wanted = field;
  const address = `#/new/${step}`;
  if (location.hash === address) window.dispatchEvent(new Event("luthier:field"));
  else location.hash = address;
}

// The field that was asked for, once.
export function takeWanted() {
  const field = wanted;
  wanted = null;
  return field;
}
