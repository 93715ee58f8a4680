"""Rows as typed examples.

What goes in: the plain value of one row. What comes out: an example of `examples.py`, whole and in order, or a
`RowFault` that names the field, what is wrong with it and how to mend it. A row is taken as it is or refused: nothing
is trimmed, merged, reordered or filled in.

To add a format: write `row -> Example` below, and add one line to `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from luthier.data import judged
from luthier.data.examples import (
    Chat,
    Completion,
    Example,
    Labelled,
    Message,
    Preference,
    Prompt,
    RowFault,
    Text,
)
from luthier.data.turns import (
    TURN_KEYS,
    TURN_LISTS,
    filled,
    history_of,
    items_of,
    optional_text,
    record_of,
    roles_in,
    structure_of,
    text_of,
    tools_of,
    turns_of,
    within,
    wrong_type,
)

__all__ = [
    "FORMATS",
    "Chat",
    "Completion",
    "Example",
    "Format",
    "Labelled",
    "Message",
    "Preference",
    "Prompt",
    "RowFault",
    "Text",
    "filled",
]


def _conversation(record: Mapping[str, Any], key: str) -> Chat:
    """The turns under `key`, after the system prompt that may stand beside them."""
    if key not in record or record[key] is None:
        text_of(record, key)  # says which of the two it is
    turns = items_of(record[key], key)
    system = optional_text(record, "system")
    messages = turns_of(turns, key)
    if system:
        if messages and messages[0].role == "system":
            raise RowFault("data.system_twice", "system")
        messages = (Message("system", system), *messages)
    return Chat(messages, tools_of(record))


def _messages(row: Any) -> Example:
    record = record_of({"messages": row} if isinstance(row, list) else row)
    return _conversation(record, judged.name_in(record, TURN_LISTS) or "messages")


def _sharegpt(row: Any) -> Example:
    return _conversation(record_of(row), "conversations")


def _firefly(row: Any) -> Example:
    """conversation: [{human, assistant}, ...]."""
    record = record_of(row)
    if record.get("conversation") is None:
        text_of(record, "conversation")
    system = optional_text(record, "system")
    messages = [Message("system", system)] if system else []
    for place, pair in enumerate(items_of(record["conversation"], "conversation")):
        with within(f"conversation[{place}]"):
            if not isinstance(pair, dict):
                raise wrong_type("", pair, "object")
            messages += [Message("user", text_of(pair, "human")), Message("assistant", text_of(pair, "assistant"))]
    return Chat(tuple(messages))


def _alpaca(row: Any) -> Example:
    """instruction and input, in one line each, are the question; history holds earlier pairs of turns."""
    record = record_of(row)
    instruction, extra, output = (
        text_of(record, "instruction"),
        optional_text(record, "input"),
        text_of(record, "output"),
    )
    question = "\n".join(part for part in (instruction, extra) if part)
    filled(question, "instruction", "data.empty_question")
    filled(output, "output", "data.empty_answer")
    return _one_turn(record, question, output)


def _one_turn(record: Mapping[str, Any], asked: str, answered: str) -> Chat:
    """A question and its answer, after the system prompt and the earlier turns that may stand beside them."""
    system = optional_text(record, "system")
    head = (Message("system", system),) if system else ()
    return Chat((*head, *history_of(record), Message("user", asked), Message("assistant", answered)))


def _prompt(row: Any) -> Example:
    """Two texts are joined as they are; turns are a conversation."""
    record = record_of(row)
    if isinstance(record.get("prompt"), list) and isinstance(record.get("completion"), list):
        messages = (*turns_of(record["prompt"], "prompt"), *turns_of(record["completion"], "completion"))
        return Chat(messages, tools_of(record))
    return Completion(text_of(record, "prompt"), text_of(record, "completion"))


def _qa(row: Any) -> Example:
    """A question and its answer, under the first pair of names that the row has."""
    record = record_of(row)
    pairs = FORMATS["qa"].required
    question, answer = next((pair for pair in pairs if pair[0] in record and pair[1] in record), pairs[0])
    asked, answered = text_of(record, question), text_of(record, answer)
    filled(asked, question, "data.empty_question")
    filled(answered, answer, "data.empty_answer")
    return _one_turn(record, asked, answered)


def _answered(row: Any) -> Example:
    """What `luthier generate` writes: a prompt, and answers to it of which the first that ended by itself is learnt."""
    record = record_of(row)
    given = items_of(record.get("answers"), "answers")
    whole = [each for each in given if isinstance(each, dict) and each.get("finish", "stop") == "stop"]
    if not whole:
        raise RowFault("data.answers_cut" if given else "data.no_answer", "answers")
    with within("answers"):
        answer = text_of(whole[0], "text")
        filled(answer, "text", "data.empty_answer")
    if isinstance(record.get("prompt"), list):
        return Chat((*turns_of(record["prompt"], "prompt"), Message("assistant", answer)))
    asked = text_of(record, "prompt")
    filled(asked, "prompt", "data.empty_question")
    return Chat((Message("user", asked), Message("assistant", answer)))


def _has_answers(record: Mapping[str, Any]) -> bool:
    answers = record["answers"]
    return isinstance(answers, list) and all(isinstance(each, dict) and "text" in each for each in answers)


def _plain(row: Any) -> Example:
    return Text(text_of(record_of(row), "text"))


def _any(record: Mapping[str, Any]) -> bool:
    return True


def _has_pairs(record: Mapping[str, Any]) -> bool:
    """Whether each item of the conversation is a question with its answer."""
    try:
        turns = structure_of(record["conversation"], "")
    except RowFault:
        return False
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and "human" in turns[0]


def _has_turns(record: Mapping[str, Any]) -> bool:
    """Whether what is not called messages holds turns all the same."""
    if "messages" in record:
        return True
    value = record.get(judged.name_in(record, TURN_LISTS))
    try:
        return bool(roles_in(items_of(value, "")))
    except RowFault:
        return False


@dataclass(frozen=True)
class Format:
    """Attributes:
    parse: row -> Example; raises RowFault.
    required: the keys that a row of this format has; several sets are alternatives.
    optional: the keys that it may have.
    holds: whether a row that has the keys is of this format indeed, where keys alone do not tell.
    turn_keys: the keys of a turn that are read.
    used: the keys that are read of a row, where that depends on which of them it has.
    """

    parse: Callable[[Any], Example]
    required: tuple[tuple[str, ...], ...]
    optional: tuple[str, ...] = ()
    holds: Callable[[Mapping[str, Any]], bool] = _any
    turn_keys: frozenset[str] = TURN_KEYS
    used: Callable[[Mapping[str, Any]], frozenset[str]] | None = None


FORMATS: dict[str, Format] = {
    "preference": Format(
        judged.preference,
        (
            *((asked, "chosen", "rejected") for asked in judged.ASKED),
            *judged.PAIRS,
            judged.CHOSEN_BY_ID,
            ("instruction", "output"),
        ),
        (*judged.SETTINGS, "margin", *judged.SCORES[0], *judged.SCORES[1]),
        judged.compares,
        used=judged.used_by_preference,
    ),
    "labelled": Format(
        judged.labelled,
        (
            *(("messages", label) for label in judged.LABELS),
            *(("conversations", label) for label in judged.LABELS),
            *(
                (asked, answered, label)
                for asked in ("prompt", "instruction", "question", "query", "problem", "input")
                for answered in judged.ANSWERED
                for label in judged.LABELS
            ),
        ),
        judged.SETTINGS,
        judged.judges,
        used=judged.used_by_labelled,
    ),
    "answers": Format(_answered, (("prompt", "answers"),), ("row",), _has_answers),
    "prompt_only": Format(
        judged.prompt_only,
        (("prompt",), ("problem",), ("messages",), ("conversations",)),
        (*judged.SETTINGS, *judged.REFERENCES),
        judged.asks,
        used=frozenset[str],
    ),
    "messages": Format(_messages, tuple((key,) for key in TURN_LISTS), ("tools", "system"), _has_turns),
    "sharegpt": Format(_sharegpt, (("conversations",),), ("tools", "system")),
    "firefly": Format(_firefly, (("conversation",),), ("system",), _has_pairs, frozenset(("human", "assistant"))),
    "alpaca": Format(_alpaca, (("instruction", "output"),), ("input", "history", "system")),
    "prompt": Format(_prompt, (("prompt", "completion"),), ("tools",)),
    "qa": Format(
        _qa,
        (("question", "answer"), ("prompt", "response"), ("query", "response"), ("input", "output")),
        ("system", "history"),
    ),
    "text": Format(_plain, (("text",),)),
}
"""Name -> format. Detection takes the first that fits the most rows, so richer formats stand before poorer ones."""
