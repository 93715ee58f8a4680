// What happened in a run, in plain words.
//
// What goes in: events as the log has them. What comes out: a list, the last one first; what an earlier attempt did
// that counts no more is struck through.

import { h, busy, clear, icon, said } from "../../lib/dom.js";
import { t, has } from "../../lib/i18n.js";
import { bytes, clock, count, date, duration, number, percent } from "../../lib/format.js";

const MINOR = ["best", "checkpoint", "rollout", "samples", "validation", "agreement"];
// These come again and again; shown where all is asked for.
const ENDS = ["died", "failed", "finished", "interrupted"];
const AT_FIRST = 30;
const MOST = 2000;

const WORDS = {
  // kind: the values of its sentence
  started: ({ data }) => ({ steps: count(data.num_steps) }),
  resumed: ({ data, attempt }) => ({ step: count(data.from_step ?? 0), attempt }),
  rehearsal: () => ({}),
  data: ({ data }) => ({
    train: count(data.train),
    validation: count(data.validation ?? 0),
    excluded: count(sum(Object.values(data.excluded ?? {}))),
    tokens: count(data.tokens),
  }),
  model: ({ data }) => ({
    trainable: count(data.trainable),
    total: count(data.total),
    percent: percent(data.trainable / data.total, 1),
  }),
  plan: ({ data }) => ({
    device: data.backend?.device ?? "?",
    dtype: data.backend?.dtype ?? "?",
    memory: bytes(data.memory?.peak_bytes),
  }),
  validation: ({ data, step }) => ({ step: count(step), loss: number(data.loss ?? data.reward) }),
  reference: ({ data }) => ({ sequences: count(data.sequences) }),
  rewards: ({ data }) => ({ rows: count(data.rows), real: number(data.real) }),
  agreement: ({ data }) => ({ difference: number(data.difference), bound: number(data.bound) }),
  rollout: ({ data }) => ({ round: count(data.round), reward: number(data.reward) }),
  alarm: ({ data }) => ({ text: data.text ?? data.alarm }),
  checkpoint: ({ step }) => ({ step: count(step) }),
  best: ({ data, step }) => ({ step: count(step), loss: number(data.loss) }),
  fault: ({ data, step }) => ({ step: count(step), what: data.what }),
  revised: ({ data }) => ({
    changes: (data.changes ?? []).map(([field, old, now]) => `${field}: ${plain(old)} → ${plain(now)}`).join("; "),
  }),
  note: ({ data }) => ({ text: data.text }),
  interrupted: ({ step }) => ({ step: count(step) }),
  failed: ({ data }) => ({ problem: data.problem ? said([data.problem]) : "" }),
  died: ({ data }) => ({
    how: data.signal
      ? t("run.died.signal", { signal: data.signal })
      : data.code === null || data.code === undefined
        ? t("run.died.unknown")
        : t("run.died.code", { code: data.code }),
  }),
  finished: ({ data }) => ({ steps: count(data.steps), tokens: count(data.tokens), time: duration(data.seconds) }),
  samples: ({ data, step }) => ({ step: count(step), samples: count(data.samples?.length ?? 0) }),
};
const LOOKS = {
  alarm: "warn",
  best: "check",
  died: "bad",
  failed: "bad",
  fault: "warn",
  finished: "good",
  interrupted: "warn",
  revised: "warn",
};

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

function plain(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

export function inWords(event) {
  const id = `run.event.${event.kind}`;
  return has(id) && WORDS[event.kind] ? t(id, WORDS[event.kind](event)) : `${event.kind} ${JSON.stringify(event.data)}`;
}

// onEarlier(seq): asks for those before this number, {events, earlier}.
export class Events {
  constructor(parent, { onEarlier }) {
    this.onEarlier = onEarlier;
    this.events = [];
    this.everything = false;
    this.limit = AT_FIRST;
    this.most = MOST;
    // How many came before the first one that is here.
    this.earlier = 0;
    this.list = h("ol", { class: "events" });
    this.more = button("down", t("run.events.more"), () => this.show(this.limit * 4));
    this.load = button("down", "", () => busy(this.load, this.older()));
    const all = h("input", { type: "checkbox", onchange: () => this.setEverything(all.checked) });
    parent.append(
      h(
        "div",
        { class: "panel-head" },
        h("h2", {}, t("run.events")),
        h("label", { class: "check small" }, all, t("run.events.all")),
      ),
      this.list,
      h("div", { class: "actions" }, this.more, this.load),
    );
  }

  setEverything(value) {
    this.everything = value;
    this.draw();
  }

  show(limit) {
    this.limit = limit;
    this.draw();
  }

  add(events) {
    this.events.push(...events);
    const dropped = Math.max(this.events.length - this.most, 0);
    this.events.splice(0, dropped);
    this.earlier += dropped;
    if (events.some((event) => this.shows(event))) this.draw();
  }

  setEarlier(count) {
    this.earlier = count;
    this.draw();
  }

  async older() {
    this.most += MOST; // before it is asked: none of those that are here may go meanwhile
    const { events, earlier } = await this.onEarlier(this.events[0].seq);
    this.events.unshift(...events);
    this.limit += events.length;
    this.setEarlier(earlier);
  }

  forget() {
    this.events = [];
    this.most = MOST;
    this.setEarlier(0);
  }

  shows(event) {
    return this.everything || !MINOR.includes(event.kind);
  }

  draw() {
    const undone = superseded(this.events);
    const shown = this.events.filter((event) => this.shows(event));
    this.more.hidden = shown.length <= this.limit;
    this.load.hidden = !this.more.hidden || this.earlier === 0 || this.events.length === 0;
    this.load.lastChild.textContent = t("run.events.earlier", { count: count(this.earlier) });
    clear(
      this.list,
      shown
        .slice(-this.limit)
        .reverse()
        .map((event) => line(event, undone.has(event))),
    );
  }
}

function button(picture, text, onclick) {
  return h(
    "button",
    { type: "button", class: "button small", hidden: true, onclick },
    icon(picture),
    h("span", {}, text),
  );
}

// What was done behind the step that a later attempt went on from is done again; how an attempt ended stays as it is.
function superseded(events) {
  const undone = new Set();
  let from = Infinity;
  for (const event of events.toReversed()) {
    const { kind, step, data } = event;
    if (step !== null && step > from && !ENDS.includes(kind)) undone.add(event);
    if (kind === "resumed" || kind === "started") from = Math.min(from, (data.from_step ?? 0) || -1);
  }
  return undone;
}

function line(event, undone) {
  const look = LOOKS[event.kind];
  return h(
    "li",
    { class: undone ? "superseded" : "", dataset: { kind: event.kind, seq: event.seq } },
    h(
      "time",
      { class: "muted small number", datetime: new Date(event.time_s * 1000).toISOString(), title: date(event.time_s) },
      clock(event.time_s),
    ),
    h(
      "div",
      { class: "break", dataset: look ? { look } : {} },
      look ? icon(look === "good" || look === "check" ? "check" : "warn") : null,
      h(
        "span",
        {},
        inWords(event),
        undone ? h("span", { class: "muted small" }, ` ${t("run.event.superseded")}`) : null,
      ),
      event.kind === "died" && event.data.said?.length ? h("pre", { class: "text" }, event.data.said.join("\n")) : null,
    ),
  );
}
