// The conversation: each question, and below it an answer of each column.
//
// What goes in: turns as they come, and pieces of text while they are written. What comes out: cards with what can be
// done with an answer: vote, mend, keep as a row, prefer over another, ask again. Text stays text.

import { clear, h, icon, problems, toast } from "../../lib/dom.js";
import { count, number } from "../../lib/format.js";
import { t } from "../../lib/i18n.js";
import { asked, keep } from "./rows.js";
import { save, state } from "./state.js";

// onAgain(place, index): asks a column again. onChange(): something about an answer is another than before.
export class Conversation {
  constructor(box, { onAgain, onChange }) {
    this.box = box;
    this.again = onAgain;
    this.changed = onChange;
    this.cards = new Map();
  }

  draw() {
    this.cards.clear();
    clear(
      this.box,
      state.greeting ? h("p", { class: "chat-greeting" }, state.greeting) : null,
      state.turns.map((turn, place) => this.turn(turn, place)),
    );
    this.box.hidden = !state.turns.length && !state.greeting;
  }

  turn(turn, place) {
    return h(
      "section",
      { class: "turn", "aria-label": t("chat.turn", { number: place + 1 }) },
      h("div", { class: "question" }, h("h3", { class: "sr" }, t("chat.you")), h("p", { class: "said" }, turn.text)),
      h(
        "div",
        { class: "chat-answers", style: { "--columns": String(Math.max(turn.answers.length, 1)) } },
        turn.answers.map((answer, index) =>
          answer
            ? this.card(answer, place, index)
            : h("div", { class: "chat-answer none muted small" }, t("chat.not_asked")),
        ),
      ),
    );
  }

  card(answer, place, index) {
    const text = h(
      "div",
      { class: "said", dir: "auto", tabindex: "0", role: "group", "aria-label": t("chat.text") },
      answer.text,
    );
    const foot = h("div", { class: "answer-foot" });
    const fault = h("div");
    const node = h(
      "article",
      {
        class: "chat-answer",
        "aria-label": t("chat.answer_of", { voice: answer.voice }),
        dataset: { state: answer.state },
      },
      h("h3", { class: "voice-name break" }, answer.voice),
      text,
      fault,
      foot,
    );
    this.cards.set(answer, { node, text, foot, fault, place, index });
    this.settle(answer);
    return node;
  }

  // A piece of text that has just been written.
  write(answer, piece) {
    answer.text += piece;
    // Its column may have been removed meanwhile.
    this.cards.get(answer)?.text.append(piece);
  }

  // What stands around an answer, after its state has changed.
  settle(answer) {
    if (!this.cards.has(answer)) return;
    const { node, text, foot, fault, place, index } = this.cards.get(answer);
    node.dataset.state = answer.state;
    node.setAttribute("aria-busy", String(answer.state === "writing"));
    clear(text, answer.text);
    clear(fault, answer.problems?.length ? problems(answer.problems) : null);
    clear(
      foot,
      h("span", { class: "muted small number" }, told(answer)),
      answer.state === "writing" ? null : this.actions(answer, place, index),
    );
  }

  actions(answer, place, index) {
    const button = (picture, name, act, more = {}) =>
      h(
        "button",
        { type: "button", class: "button plain small", "aria-label": name, title: name, onclick: act, ...more },
        icon(picture),
      );
    const vote = (way, picture) =>
      button(
        picture,
        t(`chat.vote.${way}`),
        () => this.change(answer, { vote: answer.vote === way ? null : way }, `vote-${way}`),
        { "aria-pressed": String(answer.vote === way), dataset: { act: `vote-${way}` } },
      );
    const kept = answer.saved.sft === answer.text;
    const rivals = this.rivals(answer, place);
    const preferred = rivals.length > 0 && answer.saved.preference === answer.text;
    const has = answer.text.trim() !== "";
    return h(
      "span",
      { class: "actions" },
      has
        ? [
            vote("up", "thumb_up"),
            vote("down", "thumb_down"),
            button("pencil", t("chat.edit"), () => this.edit(answer), { dataset: { act: "edit" } }),
          ]
        : null,
      has
        ? h(
            "button",
            {
              type: "button",
              class: "button small",
              disabled: kept,
              dataset: { act: "keep" },
              onclick: (event) => this.keep(event.currentTarget, answer, place, index),
            },
            kept ? icon("check") : null,
            t(kept ? "chat.kept" : "chat.keep"),
          )
        : null,
      has && rivals.length
        ? h(
            "button",
            {
              type: "button",
              class: "button small",
              disabled: preferred,
              dataset: { act: "prefer" },
              onclick: (event) => this.prefer(event.currentTarget, answer, place, index, rivals),
            },
            preferred ? icon("check") : null,
            t(preferred ? "chat.preferred" : answer.original === null ? "chat.prefer" : "chat.prefer_edited"),
          )
        : null,
      has
        ? button("copy", t("common.copy"), () =>
            navigator.clipboard.writeText(answer.text).then(() => toast(t("common.copied"), "good")),
          )
        : null,
      place === state.turns.length - 1
        ? button("again", t("chat.again"), () => this.again(place, index), { dataset: { act: "again" } })
        : null,
    );
  }

  // Answers to the same question that this one can be preferred to; an edited one to what it was before, too.
  rivals(answer, place) {
    const others = state.turns[place].answers
      .filter((each) => each && each !== answer && each.state === "done")
      .map((each) => each.text);
    return [...new Set([...others, answer.original ?? ""])].filter((text) => text.trim() && text !== answer.text);
  }

  change(answer, changes, act) {
    Object.assign(answer, changes);
    this.settle(answer);
    this.cards.get(answer).foot.querySelector(`[data-act="${act}"]`)?.focus();
    save();
    this.changed();
  }

  edit(answer) {
    const { text, foot } = this.cards.get(answer);
    const input = h("textarea", {
      rows: Math.min(Math.max(answer.text.split("\n").length + 1, 4), 16),
      "aria-label": t("chat.edit"),
      value: answer.text,
    });
    const done = () => {
      const original = answer.original ?? answer.text;
      this.change(
        answer,
        { text: input.value, original: input.value === original ? null : original, state: "done" },
        "edit",
      );
      this.around(answer);
    };
    clear(text, input);
    clear(
      foot,
      h("span", { class: "muted small" }, t("chat.edit.help")),
      h(
        "span",
        { class: "actions" },
        h(
          "button",
          { type: "button", class: "button small", onclick: () => this.change(answer, {}, "edit") },
          t("common.cancel"),
        ),
        h("button", { type: "button", class: "button small primary", onclick: done }, t("chat.edit.done")),
      ),
    );
    input.focus();
  }

  // The answers beside it can be compared with another one now.
  around(answer) {
    const { place } = this.cards.get(answer);
    for (const each of state.turns[place].answers)
      if (each && each !== answer && each.state !== "writing") this.settle(each);
  }

  async keep(button, answer, place, index) {
    const messages = [...asked(place, index), { role: "assistant", content: answer.text }];
    if (await this.written(button, answer, () => keep("sft", { messages })))
      this.change(answer, { saved: { ...answer.saved, sft: answer.text } }, "edit");
  }

  async prefer(button, answer, place, index, rivals) {
    const messages = asked(place, index);
    const write = async () => {
      for (const rejected of rivals) await keep("preference", { messages, chosen: answer.text, rejected });
      return true;
    };
    if (await this.written(button, answer, write))
      this.change(answer, { saved: { ...answer.saved, preference: answer.text } }, "edit");
  }

  async written(button, answer, write) {
    button.disabled = true;
    try {
      await write();
      toast(t("chat.kept_toast"), "good");
      return true;
    } catch (error) {
      if (!Array.isArray(error.problems)) throw error;
      clear(this.cards.get(answer).fault, problems(error.problems));
      button.disabled = false;
      return false;
    }
  }
}

function told(answer) {
  if (answer.state === "writing") return answer.text ? t("chat.writing") : t("chat.thinking");
  const parts = [];
  if (answer.state === "stopped") parts.push(t("chat.stopped"));
  if (answer.finish === "length") parts.push(t("chat.cut"));
  if (answer.original !== null) parts.push(t("chat.edited"));
  if (answer.tokens) parts.push(t("chat.tokens", { tokens: count(answer.tokens) }));
  if (answer.tokens > 1 && answer.seconds > 0)
    parts.push(t("chat.speed", { speed: number((answer.tokens - 1) / answer.seconds, 3) }));
  return parts.join(" · ");
}
