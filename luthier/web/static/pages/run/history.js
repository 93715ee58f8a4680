// What has happened in a run, kept whole while more comes.
//
// What goes in: the server's thinned history, and the events behind it as they come. What comes out: for each curve
// the points (step, value) it has now, told to whoever draws: all anew, or one more, or taken back to a step. What an
// earlier attempt did behind the step that a later one went on from counts no more.

import { get, part, stream } from "../../lib/api.js";

const POINTS = 1500;
// About one for each pixel of a curve.
const THIN_AGAIN = 3000;
// Steps that came one by one, after which the history is asked for again, thinned.
const BATCH_MS = 6;

export const STEP_SERIES = ["loss", "lr", "grad_norm", "tokens_per_s", "memory_bytes"];

// path: of a run. Thinned, between two steps where they are given.
export const historyOf = (path, [from, to] = [null, null]) => get(`${path}/history`, { points: POINTS, from, to });

// draw: {all(tables), point(name, step, value), cut(step)}; tables: Map of name to [steps, values]. onEvents(events):
// all but those of steps, the ones of the past first; null: those so far count no more. onEarlier(count): of those, so
// many come before the first that was given. onState: of the line.
export class History {
  constructor(name, draw, { onEvents, onEarlier, onState }) {
    this.path = `runs/${part(name)}`;
    this.draw = draw;
    this.onEvents = onEvents;
    this.onEarlier = onEarlier;
    this.onState = onState;
    this.range = [null, null];
    this.heard = 0;
    this.drawn = 0;
    // Numbers of the last events that came, and that a history held which is drawn.
    this.asked = 0;
    this.fresh = [];
    this.waiting = [];
    this.planned = false;
    this.close = () => {};
    this.gone = false;
  }

  // The past, which may have been asked for already, then what comes.
  async start(asked = this.ask()) {
    const past = await asked;
    this.heard = past.last;
    this.waiting = [];
    this.fresh = [];
    this.take(past);
    this.onEarlier(past.earlier);
    this.onEvents(past.events);
    this.follow();
    return past;
  }

  follow() {
    this.close();
    if (this.gone) return;
    this.close = stream(`${this.path}/events`, {
      after: this.heard,
      onEvent: (event) => {
        this.heard = event.seq;
        this.waiting.push(event);
        this.plan();
      },
      // Another log took the place of this one.
      onReset: () => {
        this.close();
        this.onEvents(null);
        this.start().catch(this.later);
      },
      onState: (state, problems) => this.onState(state, problems),
    });
  }

  end() {
    this.gone = true;
    this.close();
  }

  ask() {
    return historyOf(this.path, this.range);
  }

  // Events other than steps before the one of this number: the last of them, and how many come before those.
  before(seq) {
    return get(`${this.path}/told`, { before: seq });
  }

  // A stretch of steps in finer detail, or with null, null all.
  async zoom(from, to) {
    this.range = [from, to];
    await this.again();
  }

  async again() {
    this.asked += 1;
    const mine = this.asked;
    const past = await this.ask();
    if (mine === this.asked && !this.gone) this.take(past);
  }

  // Draws a history, and behind it what came meanwhile.
  take(past) {
    this.drawn = past.last;
    this.fresh = this.fresh.filter((event) => event.seq > past.last);
    this.draw.all(tables(past));
    for (const event of this.fresh) this.curve(event);
  }

  // ---------------------------------------------------------------------------------------------- what comes

  // However many events come at once, each turn takes a few milliseconds, so that the page answers meanwhile.
  plan() {
    if (this.planned) return;
    this.planned = true;
    requestAnimationFrame(() => this.turn());
  }

  turn() {
    const end = performance.now() + BATCH_MS;
    const told = [];
    let taken = 0;
    while (taken < this.waiting.length && performance.now() < end) {
      const event = this.waiting[taken];
      taken += 1;
      if (event.seq > this.drawn) {
        this.fresh.push(event);
        this.curve(event);
      }
      if (event.kind !== "step") told.push(event);
    }
    this.waiting.splice(0, taken);
    if (told.length && !this.gone) this.onEvents(told);
    this.planned = false;
    if (this.waiting.length && !this.gone) this.plan();
    else if (this.fresh.length > THIN_AGAIN) this.again().catch(this.later);
  }

  // The line is torn; the next turn asks again.
  later = (error) => {
    if (error.status !== 0) throw error;
  };

  curve(event) {
    if (event.kind === "resumed") {
      const from = event.data.from_step ?? 0;
      this.draw.cut(from > 0 ? from : -1);
    }
    if (this.range[1] !== null && event.step > this.range[1]) return;
    for (const [name, value] of points(event)) this.draw.point(name, event.step, value);
  }
}

// The curves' names and values that an event has a point of.
export function* points(event) {
  const { kind, data } = event;
  if (event.step === null || event.step === undefined) return;
  if (kind === "step") {
    for (const name of STEP_SERIES) if (data[name] !== undefined) yield [name, data[name]];
    for (const [name, value] of Object.entries(data.measures ?? {})) yield [`measure.${name}`, value];
  } else if (kind === "validation") {
    yield* validationPoints(data);
  } else if (kind === "rollout") {
    yield* rolloutPoints(data);
  }
}

function* rolloutPoints(data) {
  for (const name of ["reward", "kl", "entropy", "answer_tokens"])
    if (typeof data[name] === "number") yield [`rollout.${name}`, data[name]];
}

function* validationPoints(data) {
  if (typeof data.loss === "number") yield ["validation", data.loss];
  if (typeof data.reward === "number") yield ["validation.reward", data.reward];
  const terms = Object.entries(data.terms ?? {});
  if (terms.length > 1) for (const [name, value] of terms) yield [`term.${name}`, value];
  for (const [name, value] of Object.entries(data.measures ?? {}))
    yield [`validation.measure.${name}`, value?.mean ?? value];
}

// A history as tables: name to [steps, values].
export function tables(past) {
  const found = new Map();
  const { step, ...series } = past.series;
  for (const [name, values] of Object.entries(series))
    if (name !== "epoch" && values.some((value) => value !== null)) found.set(name, [step, values]);
  const add = (name, at, value) => {
    if (!found.has(name)) found.set(name, [[], []]);
    const [xs, ys] = found.get(name);
    xs.push(at);
    ys.push(value);
  };
  for (const { step: at, ...data } of past.validation)
    for (const [name, value] of validationPoints(data)) add(name, at, value);
  for (const { step: at, ...data } of past.rollouts)
    for (const [name, value] of rolloutPoints(data)) add(name, at, value);
  return found;
}
