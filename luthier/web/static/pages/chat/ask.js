// Asking a model.
//
// What goes in: a column and its conversation. What comes out: the answer's text as it is written, and how it ended.

import { events, open, part, post, Refused } from "../../lib/api.js";
import { t } from "../../lib/i18n.js";
import { parts } from "./state.js";

// How an open model calls the voice of a column; adapters with strengths are mixed there, without loading anything.
async function voiceOf(column) {
  const names = parts(column);
  if (!names.length) return column.base;
  if (names.length === 1 && names[0][1] === 1) return names[0][0];
  return (await post(`chat/${part(column.chat)}/mix`, { strengths: Object.fromEntries(names) })).voice;
}

// onText gets each piece of text. Resolves with {finish, tokens, seconds}; finish: stop, or length where the answer was
// cut off.
export async function ask(column, messages, ways, { signal, onText }) {
  const model = await voiceOf(column);
  signal.throwIfAborted();
  const body = { ...ways, model, messages, stream: true, stream_options: { include_usage: true } };
  const answer = await open(`chat/${part(column.chat)}/completions`, body, signal);
  let began = null;
  let [finish, tokens, whole] = [null, null, false];
  for await (const event of lines(answer.body)) {
    if (event.data === "[DONE]") {
      whole = true;
      break;
    }
    const told = JSON.parse(event.data);
    if (told.error) throw new Refused(500, [asProblem(told.error.message)]);
    tokens = told.usage?.completion_tokens ?? tokens;
    const choice = told.choices?.[0];
    finish = choice?.finish_reason ?? finish;
    const text = choice?.delta?.content;
    if (!text) continue;
    began ??= performance.now();
    onText(text);
  }
  if (!whole) throw torn();
  return { finish, tokens, seconds: began === null ? 0 : (performance.now() - began) / 1000 };
}

async function* lines(body) {
  try {
    yield* events(body);
  } catch (error) {
    // What a browser throws where the line breaks.
    if (error instanceof TypeError) throw torn();
    throw error;
  }
}

function torn() {
  return new Refused(0, [asProblem(t("chat.torn"))]);
}

function asProblem(rule) {
  return { id: "chat.answer", where: "", field: "", value: "", rule, remedy: "" };
}
