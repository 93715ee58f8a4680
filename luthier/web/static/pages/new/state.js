// The recipe of a new run while it is being made.
//
// What goes in: edits, of the recipe's text or of single settings. What comes out: the text as written, which is the
// one truth; and what the server derives from it: values, defaults, problems, the plan. Every step of the page reads
// and writes through here only. The text outlives a reload of the page, but not the browser's tab.

import { get, key, post } from "../../lib/api.js";
import { language } from "../../lib/i18n.js";

const KEPT = "luthier.new";
const FIRST = "model: nano\nmethod: sft\ntune: lora\nrun:\n  samples: 3\n";
// Who watches from a page wants to read what the model answers meanwhile; the command line writes none by itself.
const SCORING = ["reward"];
// Methods whose model writes no answers.
const TYPING_MS = 350;
// Until the text is looked at: while somebody types, each letter would be an error of its own.
const PLAN_MS = 250;
const NO_DATA = "data.json";
// Stands for the data of a plan that is asked for before there are any.

const FRESH = { text: FIRST, lost: "", key: "", check: null, counted: {}, unfolded: [], browsed: "", stage: "" };
// text: the recipe. lost: the text before a change of the form left its comments out. key: of the start, so that two
// clicks make one run. check: {id: of the job, of: what was checked, stops: whether training would}. counted: of what
// was checked, what rows there are; of several stages each has its own. unfolded: sections that stand open. browsed: the
// folder looked at last. stage: the one that was picked.

export const state = {
  ...FRESH,
  values: {},
  resolved: null,
  problems: [],
  readable: true,
  name: null,
  // Of a recipe with stages: {name, from, start, run, resolved}. Empty where something is wrong with it.
  stages: [],
  // The plan, its lines and what is wrong with it; null until the first is there. Of several stages, that of the one
  // that needs most, and all of them, {name, plan, lines}.
  plan: null,
  lines: [],
  stagePlans: [],
  planProblems: [],
  planning: false,
  // What the last edit did to memory and time: {names, before, after}, two plans.
  effect: null,
  // Why the server cannot be asked.
  trouble: [],
  fields: new Map(),
  sections: [],
  presets: [],
  formats: null,
};

const listeners = new Set();

export function subscribe(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

// While an edit is under way the recipe is the one before it: whoever showed that now would take back what somebody has
// just chosen. The last edit's answer is told to all, with whatever has changed beside the recipe.
function tell(what) {
  if (isEditing()) return;
  for (const each of [...listeners]) each(what);
}

// ------------------------------------------------------------------------------------------------ keeping

export function restore() {
  try {
    Object.assign(state, FRESH, JSON.parse(sessionStorage.getItem(KEPT) ?? "{}"));
  } catch (error) {
    if (!(error instanceof DOMException || error instanceof SyntaxError)) throw error;
  }
}

function keep() {
  try {
    sessionStorage.setItem(
      KEPT,
      JSON.stringify(Object.fromEntries(Object.keys(FRESH).map((name) => [name, state[name]]))),
    );
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
  }
}

// What is kept beside the recipe.
export function note(facts) {
  Object.assign(state, facts);
  keep();
  tell("note");
}

export function startOver() {
  Object.assign(state, FRESH, { effect: null });
  keep();
  return read();
}

// The key of the start: the same until the recipe changes.
export function startKey() {
  if (!state.key) note({ key: key() });
  return state.key;
}

// ------------------------------------------------------------------------------------------------ tables

let tablesOf = null;

// Fields, presets and formats, in the page's language.
export async function tables() {
  if (tablesOf === language()) return;
  const [fields, presets, formats] = await Promise.all([get("fields"), get("presets"), get("formats")]);
  state.sections = fields.sections;
  state.fields = new Map(fields.sections.flatMap((section) => section.fields).map((field) => [field.name, field]));
  state.presets = presets.presets;
  state.formats = formats;
  tablesOf = language();
}

// ------------------------------------------------------------------------------------------------ edits

let queue = Promise.resolve();
let typing = null;
let edits = 0;
let answered = 0;

// Whether an edit is on its way: what the recipe says now is what it said before.
export const isEditing = () => answered < edits;

// Edits reach the server one after the other: each is laid over what the one before has made. changes: what is changed,
// or what says so at the edit's turn; none reads the text as it stands.
function read(changes = null, names = []) {
  clearTimeout(typing);
  edits += 1;
  const edit = edits;
  const made = queue.then(async () => {
    try {
      let before, answer;
      do {
        before = state.text;
        const now = typeof changes === "function" ? changes() : changes;
        answer = await post("recipe", { yaml: before, ...(now === null ? {} : { changes: now }) });
        // Letters typed meanwhile are kept: a change is laid over them anew, and the text alone is read next.
      } while (state.text !== before && changes !== null);
      if (state.text === before) take(answer, changes !== null);
      state.trouble = [];
      replan(names);
    } catch (error) {
      if (!Array.isArray(error.problems)) throw error;
      state.trouble = error.problems;
    } finally {
      answered = edit;
      if (!isEditing()) tell("recipe");
    }
  });
  // A fault is its own edit's, which throws it; those that follow are made all the same.
  queue = made.catch(() => undefined);
  return made;
}

function take(answer, changed) {
  if (changed) {
    if (answer.comments_lost) state.lost = state.text;
    write(answer.yaml);
  }
  state.readable = answer.readable;
  if (answer.readable) state.values = answer.values;
  state.resolved = answer.resolved;
  state.stages = answer.stages;
  state.problems = answer.problems;
  state.name = answer.name;
}

function write(text) {
  if (text === state.text) return;
  state.text = text;
  state.key = "";
  keep();
}

// Reads the recipe as it stands: after a reload, in another language, or once the server can be reached again.
export const refresh = () => read();

// Whether something could not be asked.
export const isCutOff = () => [...state.trouble, ...state.planProblems].some((each) => each.id === "web.unreachable");

// The recipe's text as somebody types it.
export function typed(text) {
  write(text);
  clearTimeout(typing);
  typing = setTimeout(() => read(), TYPING_MS);
}

// The recipe's text as a whole, at once.
export function replace(text) {
  write(text);
  return read();
}

// Settings, {dotted name: value}, of which null takes a word out; or as they stand on a command line, ["name=text"].
export function change(changes) {
  const names = Array.isArray(changes) ? changes.map((each) => each.split("=")[0]) : Object.keys(changes);
  return read(changes, names);
}

// A setting made from what it is once the edits before have been answered, so that none of them is undone.
export function remake(name, make) {
  return read(() => ({ [name]: make() }), [name]);
}

// How it learns. A model that only scores has no answers to show at validations.
export const changeMethod = (kind) =>
  change({ method: kind, ...(SCORING.includes(kind) ? { "run.samples": null } : {}) });

// One setting as it is typed: read like `name=text` on the command line, so that a wrong one gets the same message.
export function enter(name, text) {
  return change([`${name}=${text}`]);
}

// ------------------------------------------------------------------------------------------------ reading

function parts(name) {
  return name.split(".").map((part) => (/^\d+$/.test(part) ? Number(part) : part));
}

const BARE = { model: "path", method: "kind", tune: "kind" };
// Sections that a bare string stands for, and the field it fills.

function within(values, name) {
  let node = values;
  let place = "";
  for (const part of parts(name)) {
    if (typeof node === "string") return BARE[place] === part ? node : undefined;
    node = node?.[part];
    place = place ? `${place}.${part}` : String(part);
  }
  return node;
}

// A setting as written; undefined where it is not.
export function written(name) {
  const found = within(state.values, name);
  const bare = BARE[name];
  return bare && found !== null && typeof found === "object" ? found[bare] : found;
}

// A setting as it will be: written, worked out, or its default.
export function settled(name) {
  const given = written(name);
  if (given !== undefined && given !== null) return given;
  const found = state.resolved === null ? undefined : within(state.resolved, name);
  return found ?? state.fields.get(name)?.default ?? null;
}

// The training files, always as a list of {path, ...}.
export function sources() {
  return listed(state.values.data?.train);
}

export function listed(value) {
  const list = value === undefined || value === null ? [] : Array.isArray(value) ? value : [value];
  return list
    .map((each) => (typeof each === "string" ? { path: each } : each))
    .filter((each) => each && typeof each === "object");
}

// The name under which a field is documented: places in lists are left out, and files for validation have the fields of
// files for training.
export function plain(name) {
  return name
    .split(".")
    .filter((part) => !/^\d+$/.test(part))
    .join(".")
    .replace(/^data\.validation\./, "data.train.");
}

// What is wrong with a field or with what lies below it, the plan's refusals included.
export function wrong(name) {
  return everything().filter((each) => each.field === name || each.field.startsWith(`${name}.`));
}

// All that is wrong, without what is said twice.
export function everything() {
  const found = [...state.problems];
  for (const each of state.planProblems)
    if (!found.some((known) => known.id === each.id && known.field === each.field)) found.push(each);
  return found;
}

// Whether the recipe has several stages.
export const isStaged = () => state.values.stages !== undefined;

// The stage whose data and plan are looked at: the one that was picked, else the first; null where there are none.
export const stageShown = () => state.stages.find((each) => each.name === state.stage) ?? state.stages[0] ?? null;

export function pickStage(name) {
  note({ stage: name });
  tell("recipe");
}

// Whether data have been named. Each stage may name its own, and that one is missing is then the recipe's problem.
export const hasData = () => isStaged() || sources().length > 0;

// What the check of the data depends on: another model counts tokens otherwise, another method reads rows otherwise.
export function checkedOf(stage = stageShown()) {
  if (isStaged()) {
    const { name, resolved } = stage ?? {};
    return JSON.stringify([name, resolved?.model.path, resolved?.data, resolved?.method.kind, resolved?.run.seed]);
  }
  const { data, method } = state.values;
  return JSON.stringify([
    written("model.path"),
    data,
    typeof method === "string" ? method : method?.kind,
    state.values.run?.seed,
  ]);
}

// ------------------------------------------------------------------------------------------------ the plan

let planTimer = null;
let plans = 0;
let touched = new Set();

function replan(names) {
  for (const name of names) touched.add(name);
  state.planning = true;
  clearTimeout(planTimer);
  planTimer = setTimeout(plan, PLAN_MS);
}

// A plan of the recipe with changes laid over it, beside the one that is kept.
export function planOf(changes, text = state.text) {
  const first = hasData() ? {} : { "data.train": NO_DATA };
  const counted = state.stages.map((stage) => [stage.name, state.counted[checkedOf(stage)]]);
  const rows = isStaged() ? Object.fromEntries(counted.filter(([, found]) => found)) : state.counted[checkedOf()];
  return post("plan", { recipe: text, changes: { ...first, ...changes }, rows });
}

async function plan() {
  plans += 1;
  const turn = plans;
  const before = state.plan;
  let answer;
  try {
    answer = await planOf({});
  } catch (error) {
    if (!Array.isArray(error.problems)) throw error;
    if (turn !== plans) return;
    answer = { plan: null, lines: [], stages: [], problems: error.problems };
  }
  if (turn !== plans) return;
  state.plan = answer.stages.find((each) => each.name === answer.name)?.plan ?? answer.plan;
  state.lines = answer.lines;
  state.stagePlans = answer.stages;
  state.planProblems = answer.problems;
  state.planning = false;
  const names = [...touched];
  touched = new Set();
  if (names.length && before && answer.plan) state.effect = { names, before, after: answer.plan };
  else if (!answer.plan) state.effect = null;
  tell("plan");
}

// The check has been made: the plan takes what it counted. stops: whether training would stop at these data.
export function checkDone(rows, stops) {
  const kept = new Set(state.stages.map((stage) => checkedOf(stage)));
  const others = Object.entries(state.counted).filter(([of]) => kept.has(of));
  note({ check: { ...state.check, stops }, counted: { ...Object.fromEntries(others), [state.check.of]: rows } });
  replan([]);
}

// Whether the last check says that training would stop, and is of the data as they are named now.
export function dataStop() {
  return Boolean(state.check?.stops) && state.check.of === checkedOf();
}
