// Chat: the base and any adapters on the same question, side by side.
//
// What goes in: `target` (a run or a model to open) and `adapters` in the address; questions. What comes out: an answer
// of each column, written as it comes, and rows of those that are worth training on.

import { h, icon } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { ask } from "./chat/ask.js";
import { Columns } from "./chat/columns.js";
import { Models } from "./chat/models.js";
import { Rows } from "./chat/rows.js";
import { Settings } from "./chat/settings.js";
import { addColumn, forgetConversation, label, messages, rejoin, restore, save, state } from "./chat/state.js";
import { Conversation } from "./chat/turns.js";

const NEAR_PX = 160;
// As near to the end somebody reads along, and the page follows what is written.

const GAP_PX = 16;

let asking = null;
// What is being asked; it goes on while another page is looked at.
const wanted = new Map();
// Models that were asked for here, and which of their voices are to get columns once they are ready.

export async function show(root, { query }) {
  restore();
  const panel = (look = "") => h("section", { class: `panel ${look}` });
  const [modelsBox, rowsBox] = [panel(), panel()];
  const columnsBox = h("section", { class: "voices", "aria-label": t("chat.columns"), hidden: true });
  const settingsBox = h("details", { class: "panel" });
  const turnsBox = h("div", { class: "turns" });
  const said = h("p", { class: "sr", role: "status" });
  const renew = h("button", { type: "button", class: "button", onclick: begin }, icon("add"), t("chat.new"));

  const conversation = new Conversation(turnsBox, { onAgain: again, onChange: () => rows.draw() });
  const rows = new Rows(rowsBox, { onSaved: tellSaved, onFault: tellFault });
  const more = h("span");
  const columns = new Columns(columnsBox, { add: more, onChange: rearranged });
  const settings = new Settings(settingsBox, { onChange: look });
  const models = new Models(modelsBox, { onOpen: opened, onAsked: (id, names) => wanted.set(id, names) });
  const composer = compose();
  root.append(
    h("div", { class: "page-head" }, h("h1", {}, t("chat.title")), h("div", { class: "actions" }, more, renew)),
    said,
    modelsBox,
    settingsBox,
    columnsBox,
    turnsBox,
    composer.element,
    rowsBox,
  );
  conversation.draw();
  if (asking) Object.assign(asking, { shown: conversation, follow });
  rows.draw();
  look();

  // ---------------------------------------------------------------------------------------------- who answers

  function opened(open) {
    for (const [id, names] of wanted) {
      const model = open.find((each) => each.id === id);
      if (model?.state !== "ready") continue;
      wanted.delete(id);
      if (!state.columns.length && !model.adapters.includes(model.base))
        addColumn({ chat: id, base: model.base, strengths: {} });
      for (const name of names)
        if (model.adapters.includes(name)) addColumn({ chat: id, base: model.base, strengths: { [name]: 1 } });
      if (!state.columns.some((each) => each.chat === id)) addColumn({ chat: id, base: model.base, strengths: {} });
    }
    rejoin(open);
    columns.update(open);
    look();
  }

  function rearranged() {
    conversation.draw();
    rows.draw();
    look();
  }

  // ---------------------------------------------------------------------------------------------- asking

  function begin() {
    asking?.control.abort();
    forgetConversation();
    conversation.draw();
    rows.draw();
    look();
    composer.input.focus();
  }

  async function send() {
    const text = composer.input.value.trim();
    if (!text || asking || !able().length) return;
    composer.input.value = state.draft = "";
    const turn = { text, answers: state.columns.map((column) => (columns.ready(column) ? fresh(column) : null)) };
    state.turns.push(turn);
    conversation.draw();
    await write(turn.answers.flatMap((answer, index) => (answer ? [[answer, state.columns[index], index]] : [])));
  }

  async function again(place, index) {
    const column = state.columns[index];
    if (asking || !column || !columns.ready(column)) return;
    if (!state.ways.temperature) said.textContent = t("chat.always_same");
    const answer = fresh(column);
    state.turns[place].answers[index] = answer;
    conversation.draw();
    await write([[answer, column, index]]);
  }

  // All at once; each is told by itself when it has ended.
  async function write(answers) {
    const control = new AbortController();
    asking = { control, shown: conversation, follow };
    const mine = asking;
    save();
    look();
    follow(true);
    await Promise.all(answers.map(([answer, column, index]) => one(mine, answer, column, messages(index))));
    asking = null;
    save();
    rows.draw();
    // What can be preferred to what is known only now.
    for (const answer of state.turns.at(-1)?.answers ?? []) if (answer) mine.shown.settle(answer);
    window.dispatchEvent(new Event("luthier:answered"));
    follow();
  }

  function stop() {
    asking?.control.abort();
  }

  function able() {
    return state.columns.filter((column) => columns.ready(column));
  }

  // ---------------------------------------------------------------------------------------------- the question

  function compose() {
    const input = h("textarea", {
      rows: 2,
      value: state.draft,
      "aria-label": t("chat.question"),
      placeholder: t("chat.question"),
    });
    const go = h("button", { type: "submit", class: "button primary" }, t("chat.send"));
    const end = h(
      "button",
      { type: "button", class: "button danger", hidden: true, onclick: stop },
      icon("stop"),
      t("chat.stop"),
    );
    const hint = h("p", { class: "small muted" });
    input.addEventListener("input", () => {
      state.draft = input.value;
      save();
      look();
    });
    input.addEventListener("keydown", (event) => {
      // While an input method is at work, Enter is its own.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      send();
    });
    const submit = (event) => {
      event.preventDefault();
      send();
    };
    const element = h(
      "form",
      { class: "composer panel", onsubmit: submit },
      h("div", { class: "composer-row" }, input, h("div", { class: "actions" }, end, go)),
      hint,
    );
    return { element, input, go, end, hint };
  }

  function look() {
    const ready = able().length;
    composer.element.hidden = !state.columns.length;
    composer.go.hidden = asking !== null;
    composer.end.hidden = asking === null;
    composer.go.disabled = !ready || !composer.input.value.trim();
    composer.hint.textContent = ready ? t("chat.keys") : t("chat.nobody");
    renew.hidden = !state.turns.length;
  }

  // Keeps the end of the conversation above the question's place, which stays at the window's lower edge.
  function follow(now = false) {
    requestAnimationFrame(() => {
      const beyond = turnsBox.getBoundingClientRect().bottom + GAP_PX - composer.element.getBoundingClientRect().top;
      if (beyond > 0 && (now || beyond < NEAR_PX)) window.scrollBy(0, beyond);
    });
  }

  function tellSaved(text) {
    said.textContent = text;
  }

  function tellFault(list) {
    models.told({ problems: list });
  }

  function ended() {
    said.textContent = t("chat.answered");
    look();
  }

  window.addEventListener("luthier:answered", ended);
  await Promise.all([settings.begin(), models.begin()]);
  if (query.target) await models.openOne(query.target, {}, (query.adapters ?? "").split(",").filter(Boolean));
  return () => {
    window.removeEventListener("luthier:answered", ended);
    models.end();
  };
}

function fresh(column) {
  return {
    voice: label(column),
    text: "",
    original: null,
    state: "writing",
    finish: null,
    tokens: null,
    seconds: 0,
    problems: [],
    vote: null,
    saved: {},
  };
}

// Writes one answer to its end. The page that shows it may be another one by then.
async function one(mine, answer, column, conversation) {
  try {
    const { finish, tokens, seconds } = await ask(column, conversation, state.ways, {
      signal: mine.control.signal,
      onText: (piece) => {
        mine.shown.write(answer, piece);
        mine.follow();
      },
    });
    Object.assign(answer, { state: "done", finish, tokens, seconds });
  } catch (error) {
    if (error.name === "AbortError") answer.state = "stopped";
    else if (Array.isArray(error.problems)) Object.assign(answer, { state: "failed", problems: error.problems });
    else throw error;
  }
  mine.shown.settle(answer);
}
