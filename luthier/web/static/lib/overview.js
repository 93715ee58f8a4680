// What goes on, live: one stream for whoever on the page wants to know.
//
// What goes in: listeners. What comes out: the server's overview, {runs, devices, disk, jobs}, the latest at once and
// then each new one; and whether the line to the server stands.

import { stream } from "./api.js";

const listeners = new Set();
const states = new Set();
let latest = null;
let state = "lost";
let end = null;

function start() {
  end ??= stream("overview", {
    onEvent: (value) => {
      latest = { ...value, heard_s: Date.now() / 1000 };
      for (const listener of listeners) listener(latest);
    },
    onState: (now) => {
      state = now;
      for (const listener of states) listener(now);
    },
  });
}

// Its texts are in the language that was asked for.
window.addEventListener("luthier:language", () => {
  end?.();
  end = null;
  start();
});

// Returns a function that ends it.
export function onOverview(listener) {
  start();
  listeners.add(listener);
  if (latest) listener(latest);
  return () => listeners.delete(listener);
}

export function onState(listener) {
  start();
  states.add(listener);
  listener(state);
  return () => states.delete(listener);
}
