// Answers that are kept as rows to train on.
//
// What goes in: answers that a person found good, better than others, or voted on. What comes out: lines in data files
// below `uploads`, in formats that training reads, and the way to a run that is trained on them.

import { post, search } from "../../lib/api.js";
import { clear, field, h, icon } from "../../lib/dom.js";
import { count } from "../../lib/format.js";
import { t } from "../../lib/i18n.js";
import { KEPT_NAME, messages, save, state } from "./state.js";

const ENDINGS = { sft: "", preference: "-preferences", labelled: "-votes" };

// Writes one row; resolves once it is on the disk.
export async function keep(kind, row) {
  const file = (state.file.trim() || KEPT_NAME) + ENDINGS[kind];
  const told = await post("chat/rows", { file, kind, ...row });
  const place = state.files.findIndex((each) => each.path === told.path);
  state.files.splice(place < 0 ? state.files.length : place, 1, { ...told, kind });
  save();
  return told;
}

// The conversation up to an answer, as a row has it.
export function asked(place, index) {
  return messages(index, state.turns.slice(0, place + 1));
}

export function unsaved() {
  return state.turns
    .flatMap((turn, place) => turn.answers.map((answer, index) => ({ answer, place, index })))
    .filter(({ answer }) => answer?.vote && answer.saved.labelled !== `${answer.vote} ${answer.text}`);
}

export class Rows {
  constructor(box, { onSaved, onFault }) {
    this.box = box;
    this.saved = onSaved;
    this.fault = onFault;
  }

  draw() {
    const votes = unsaved();
    this.box.hidden = !state.turns.length && !state.files.length;
    const name = h("input", {
      type: "text",
      value: state.file,
      placeholder: KEPT_NAME,
      oninput: () => {
        state.file = name.value;
        save();
      },
    });
    clear(
      this.box,
      h("h2", {}, t("chat.rows")),
      h("p", { class: "muted" }, t("chat.rows.text")),
      h(
        "div",
        { class: "row rows-name" },
        field({ label: t("chat.rows.file"), input: name }),
        votes.length
          ? h(
              "button",
              { type: "button", class: "button", onclick: (event) => this.saveVotes(event.currentTarget, votes) },
              icon("check"),
              t("chat.rows.votes", { count: votes.length }),
            )
          : null,
      ),
      state.files.length
        ? h(
            "ul",
            { class: "queue" },
            state.files.map((each) =>
              h(
                "li",
                {},
                h(
                  "span",
                  { class: "break" },
                  h("code", {}, each.path),
                  " ",
                  h("span", { class: "muted small" }, t(`chat.rows.${each.kind}`, { count: count(each.rows) })),
                ),
                h(
                  "span",
                  { class: "actions" },
                  h(
                    "a",
                    { class: "button small", href: `#/new${search({ data: each.path })}` },
                    icon("play"),
                    t("chat.rows.train"),
                  ),
                  h(
                    "a",
                    { class: "button small", href: `api/files/download${search({ path: each.path })}`, download: "" },
                    icon("download"),
                    t("chat.rows.download"),
                  ),
                ),
              ),
            ),
          )
        : null,
    );
  }

  async saveVotes(button, votes) {
    button.disabled = true;
    try {
      for (const { answer, place, index } of votes) {
        await keep("labelled", {
          messages: [...asked(place, index), { role: "assistant", content: answer.text }],
          label: answer.vote === "up",
        });
        answer.saved.labelled = `${answer.vote} ${answer.text}`;
      }
      this.saved(t("chat.rows.votes_kept", { count: votes.length }));
    } catch (error) {
      if (!Array.isArray(error.problems)) throw error;
      this.fault(error.problems);
    }
    save();
    this.draw();
  }
}
