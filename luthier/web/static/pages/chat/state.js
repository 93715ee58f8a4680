// What the chat page remembers: who answers, what was said, and how.
//
// What goes in: changes. What comes out: one state that all parts of the page read, kept for as long as the browser's
// tab is open, so that neither a reload nor a torn line loses a conversation.

export const MOST_COLUMNS = 3;
export const KEPT_NAME = "chat";
const PLACE = "luthier.chat";
const SAVE_MS = 300;

// columns: [{chat, base, strengths}]: which open model, what its base is called, adapter -> strength; none is the base.
// turns: [{text, answers: [answer per column]}]. An answer: {voice, text, original, state: writing|done|stopped|failed,
// finish, tokens, seconds, problems, vote: up|down|null, saved: {sft, preference, labelled}}; original: before it was
// edited. ways: sampling that is set. files: what was kept, {path, kind, rows}.
const FRESH = {
  columns: [],
  turns: [],
  system: "",
  character: "",
  greeting: "",
  ways: { temperature: 0 },
  file: KEPT_NAME,
  files: [],
  draft: "",
};

export const state = structuredClone(FRESH);

let due = null;

export function save() {
  clearTimeout(due);
  due = setTimeout(keep, SAVE_MS);
}

function keep() {
  clearTimeout(due);
  due = null;
  try {
    sessionStorage.setItem(PLACE, JSON.stringify(state));
  } catch (error) {
    // A browser that keeps nothing, or a conversation that is too long for it: the page goes on without.
    if (!(error instanceof DOMException)) throw error;
  }
}

// What is still to be saved is, before the page is gone.
window.addEventListener("pagehide", () => {
  if (due !== null) keep();
});

let restored = false;

// Once for each load of the page; later visits find the state as it is.
export function restore() {
  if (restored) return;
  restored = true;
  try {
    Object.assign(state, JSON.parse(sessionStorage.getItem(PLACE) ?? "{}"));
  } catch (error) {
    if (!(error instanceof DOMException || error instanceof SyntaxError)) throw error;
  }
  for (const answer of state.turns.flatMap((turn) => turn.answers))
    if (answer?.state === "writing") answer.state = "stopped";
}

export function forgetConversation() {
  state.turns = [];
  save();
}

// ------------------------------------------------------------------------------------------------ who answers

// Adapters and their strengths, in an order that does not depend on how they were chosen.
export function parts(column) {
  return Object.entries(column.strengths).sort(([a], [b]) => (a < b ? -1 : 1));
}

export function label(column) {
  const names = parts(column);
  if (!names.length) return column.base;
  return names.map(([name, strength]) => (strength === 1 ? name : `${name} × ${strength}`)).join(" + ");
}

export function addColumn(column) {
  if (state.columns.length >= MOST_COLUMNS) return;
  if (state.columns.some((each) => each.chat === column.chat && label(each) === label(column))) return;
  state.columns.push(column);
  save();
}

export function dropColumn(index) {
  state.columns.splice(index, 1);
  for (const turn of state.turns) turn.answers.splice(index, 1);
  state.turns = state.turns.filter((turn) => turn.answers.some(Boolean));
  save();
}

// What a model was closed and opened again by another id keeps its columns.
export function rejoin(open) {
  const ready = open.filter((each) => each.state === "ready");
  for (const column of state.columns) {
    if (open.some((each) => each.id === column.chat)) continue;
    const names = Object.keys(column.strengths);
    const found = ready.find(
      (each) => names.every((name) => each.adapters.includes(name)) && (names.length || each.base === column.base),
    );
    if (found) Object.assign(column, { chat: found.id, base: found.base });
  }
}

// ------------------------------------------------------------------------------------------------ what was said

// What a column is asked in its turn: the conversation as it went there. A column that was not there yet goes on from
// the first answer that is.
export function messages(index, turns = state.turns) {
  const made = state.system.trim() ? [{ role: "system", content: state.system }] : [];
  turns.forEach((turn, place) => {
    made.push({ role: "user", content: turn.text });
    const answer = turn.answers[index] ?? turn.answers.find((each) => each?.text);
    if (place < turns.length - 1) made.push({ role: "assistant", content: answer?.text ?? "" });
  });
  return made;
}
