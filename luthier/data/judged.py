"""Rows for the methods that compare, judge or sample answers.

What goes in: the plain value of a row in any of the shapes in use: turns, single texts, or whole conversations that
share their beginning. What comes out: a `Preference`, `Labelled` or `Prompt`, or a `RowFault`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.data.examples import Example, Labelled, Message, Messages, Preference, Prompt, RowFault, Tools
from luthier.data.strict_json import shorten
from luthier.data.turns import (
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
    turn_of,
    turns_of,
    within,
    wrong_type,
)

PAIRS = (
    ("chosen", "rejected"),
    ("chosen_messages", "rejected_messages"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("response_j", "response_k"),
    ("preferred_output", "non_preferred_output"),
)
"""Names of the better and the worse answer."""
CHOICE = "better_response_id"
CHOSEN_BY_ID = ("response_0", "response_1", CHOICE)
"""Names of two answers, and of the number of the better one."""
ASKED = ("prompt", "conversations", "messages", "instruction", "question", "query", "problem", "input")
"""Names of what is answered, in the order in which they are looked for."""
ANSWERED = ("completion", "response", "output", "answer")
"""Names of a judged answer that stands beside its prompt."""
REFERENCES = ("answer", "ground_truth", "solution", "reference", "target")
"""Names of the answer that a rollout is judged by."""
LABELS = ("label", "kto_tag")
SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))
SETTINGS = ("system", "tools", "history")
"""What may stand beside a prompt."""
SPEAKS, SAYS = ("role", "from"), ("content", "value", "tool_calls", "function_call")
"""Keys of a turn: who, and what."""
SETTLED = frozenset(("text", *LABELS, *ANSWERED[:3], *itertools.chain.from_iterable(PAIRS)))
"""Keys beside which a prompt is no longer one that the model itself is to answer."""

_JUDGEMENTS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
"""A label as text -> what it says; tables hold it as text, and as a fraction where some rows have none."""
_SPEAKER = re.compile(r"\n\n(Human|Assistant):(?: |$)")
"""How transcripts in one text name their speakers."""
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


# ------------------------------------------------------------------------------------------------- what is asked


def _asked(record: Mapping[str, Any], field: str) -> tuple[Messages, Tools]:
    """The turns that are answered, under the name `field`, after the system prompt that may stand beside them."""
    value, tools = _listed(record[field]), tools_of(record)
    if isinstance(value, dict):  # {"messages": [...], "tools": [...]} under one key
        with within(field):
            messages, tools = turns_of(items_of(value.get("messages"), "messages"), "messages"), tools_of(value)
    elif isinstance(value, list):
        messages = turns_of(value, field)
    else:
        messages = _question(record, field)
    system = optional_text(record, "system")
    if system:
        if messages and messages[0].role == "system":
            raise RowFault("data.system_twice", "system")
        messages = (Message("system", system), *messages)
    return messages, tools


def _question(record: Mapping[str, Any], field: str) -> Messages:
    """One text, with the input that may belong to an instruction and the turns before it."""
    parts = [text_of(record, field)]
    if field == "instruction":
        parts.append(optional_text(record, "input"))
    question = "\n".join(part for part in parts if part)
    filled(question, field, "data.empty_question")
    return (*history_of(record), Message("user", question))


def _listed(value: Any) -> Any:
    """Turns that a table holds as JSON text; anything else as it is."""
    if isinstance(value, str) and value.startswith(("[{", '{"')):
        try:
            made = structure_of(value, "")
        except RowFault:
            return value
        return made if _is_turn(made[0] if isinstance(made, list) else made) else value
    return value


def _is_turn(value: Any) -> bool:
    """Whether somebody says something in it, or it holds turns: an answer that is JSON may well have a `role`."""
    if not isinstance(value, dict):
        return False
    return "messages" in value or not (value.keys().isdisjoint(SPEAKS) or value.keys().isdisjoint(SAYS))


def name_in(record: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of the names under which the record holds something; empty where there is none."""
    return next((name for name in names if record.get(name) is not None), "")


def _used(record: Mapping[str, Any]) -> set[str]:
    """The keys of what is asked."""
    field = name_in(record, ASKED)
    return {field, *SETTINGS, *(("input",) if field == "instruction" else ())}


def _transcript(text: str) -> Messages:
    """The turns of a conversation written as one text."""
    pieces = _SPEAKER.split(text)
    pairs = zip(pieces[1::2], pieces[2::2], strict=True)
    return tuple(Message(_SPEAKERS[speaker], said) for speaker, said in pairs)


# ------------------------------------------------------------------------------------------------------ pairs


def pair_in(record: Mapping[str, Any]) -> tuple[str, str]:
    """Names of the better and the worse answer of a row; the first is empty where there are none."""
    return next((pair for pair in PAIRS if pair[0] in record and pair[1] in record), ("", ""))


def _output_pair(record: Mapping[str, Any]) -> list[Any] | None:
    """[better, worse] under `output`."""
    output = record.get("output")
    pair = isinstance(output, list) and len(output) == 2 and not any(isinstance(each, dict) for each in output)
    return output if pair else None


def compares(record: Mapping[str, Any]) -> bool:
    """Whether a row holds two answers."""
    return pair_in(record)[0] != "" or record.keys() >= set(CHOSEN_BY_ID) or _output_pair(record) is not None


def _chosen_by_id(record: Mapping[str, Any]) -> tuple[str, str]:
    """As `pair_in`, where a number says which of two answers is the better one.

    Raises:
        RowFault: it names neither.
    """
    names = CHOSEN_BY_ID[:2]
    if not record.keys() >= set(CHOSEN_BY_ID):
        return "", ""
    if str(record[CHOICE]) not in ("0", "1"):
        raise RowFault("data.bad_choice", CHOICE, shorten(repr(record[CHOICE])[:100]))
    better = int(record[CHOICE])
    return names[better], names[1 - better]


def used_by_preference(record: Mapping[str, Any]) -> frozenset[str]:
    """Keys that `preference` reads of a row."""
    scores = () if record.get("margin") is not None else itertools.chain.from_iterable(SCORES)
    answers: tuple[str, ...] = pair_in(record)
    if not answers[0]:
        answers = CHOSEN_BY_ID if record.keys() >= set(CHOSEN_BY_ID) else ("output",)
    return frozenset((*_used(record), *answers, "margin", *scores))


def preference(row: Any) -> Example:
    """A prompt and two answers, each a text, a turn, turns, or the whole conversation."""
    record = record_of(row)
    names = pair_in(record)
    if not names[0]:
        names = _chosen_by_id(record)
    pair = _output_pair(record)
    if names[0]:
        pair = [record[name] for name in names]
    elif pair is not None:
        names = ("output[0]", "output[1]")
    else:
        text_of(record, "chosen" if "chosen" not in record else "rejected")  # says what is missing
        raise RowFault("data.missing_field", "rejected", present="", hint="")
    better, worse = (_way(value, name) for value, name in zip(pair, names, strict=True))
    field = name_in(record, ASKED)
    asked, tools = _asked(record, field) if field else ((), tools_of(record))
    if _is_whole(better) and _is_whole(worse):
        shared, better, worse = _part(better, worse, names)
        if asked and not _agree(asked, shared):
            raise RowFault("data.prompt_differs", field, other=names[0])
        asked = (*(each for each in asked[:1] if each.role == "system" and shared[:1] != (each,)), *shared)
    elif not field:
        raise RowFault("data.missing_field", ASKED[0], present=", ".join(map(str, record)), hint="")
    if better == worse:
        raise RowFault("data.same_answers", names[1], other=names[0])
    return Preference(asked, better, worse, tools, _margin(record))


def _way(value: Any, field: str) -> Messages:
    """An answer, or a whole conversation that ends in one."""
    value = _listed(value)
    if isinstance(value, str):
        return _transcript(value) if value.startswith("\n\nHuman:") else (Message("assistant", value),)
    if isinstance(value, dict):
        with within(field):
            return (turn_of(value),)
    if isinstance(value, list):
        return turns_of(value, field)
    if value is None:
        raise RowFault("data.null_field", field)
    raise wrong_type(field, value, "text")


def _is_whole(way: Messages) -> bool:
    return bool(way) and way[0].role in ("system", "user")


def _part(better: Messages, worse: Messages, names: tuple[str, str]) -> tuple[Messages, Messages, Messages]:
    """The beginning that two conversations share, up to an answer, and how each goes on."""
    shared = 0
    for one, other in zip(better, worse, strict=False):
        if one != other:
            break
        shared += 1
    while shared and not (_answers(better, shared) and _answers(worse, shared)):
        shared -= 1
    if not shared:
        id = "data.same_answers" if better == worse else "data.no_shared_prompt"
        raise RowFault(id, names[1], other=names[0])
    return better[:shared], better[shared:], worse[shared:]


def _answers(way: Messages, at: int) -> bool:
    return at < len(way) and way[at].role == "assistant"


def _agree(asked: Messages, shared: Messages) -> bool:
    """Whether a prompt given beside two conversations is the one that they share."""
    said = [each.content.strip() for each in shared]
    return all(each.content.strip() in said for each in asked if each.role == "user")


def _margin(record: Mapping[str, Any]) -> float | None:
    if record.get("margin") is not None:
        return _number(record, "margin")
    for names in SCORES:
        if all(record.get(name) is not None for name in names):
            return _number(record, names[0]) - _number(record, names[1])
    return None


def _number(record: Mapping[str, Any], field: str) -> float:
    """A number; tables hold it as text."""
    value = record[field]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise wrong_type(field, value, "number")
    return number


# ------------------------------------------------------------------------------------------------------ labels


def judges(record: Mapping[str, Any]) -> bool:
    """Whether a row says true or false of an answer (a class in words or other numbers is no judgement)."""
    label = str(record.get(name_in(record, LABELS))).lower()
    return label in _JUDGEMENTS and (label in ("true", "false") or _holds_answer(record))


def _holds_answer(record: Mapping[str, Any]) -> bool:
    field = name_in(record, ASKED)
    return _ends_in_answer(record.get(field)) or name_in(record, ANSWERED) != ""


def used_by_labelled(record: Mapping[str, Any]) -> frozenset[str]:
    """Keys that `labelled` reads of a row."""
    answered = _answered(record, name_in(record, ASKED))
    return frozenset((*_used(record), name_in(record, LABELS), answered))


def _answered(record: Mapping[str, Any], field: str) -> str:
    """The name of the answer that stands beside the prompt; empty where the turns under `field` end in one."""
    return "" if _ends_in_answer(record.get(field)) else name_in(record, ANSWERED)


def _ends_in_answer(value: Any) -> bool:
    turns = _listed(value)
    return isinstance(turns, list) and roles_in(turns)[-1:] == ["assistant"]


def labelled(row: Any) -> Example:
    """A conversation that ends in an answer, or a prompt and an answer, with a label."""
    record = record_of(row)
    name = name_in(record, LABELS) or text_of(record, LABELS[0])
    label = record[name]
    if not isinstance(label, bool):
        said = str(label).lower()
        if said not in _JUDGEMENTS:
            raise RowFault("data.bad_label", name, shorten(repr(label)[:100]))
        label = _JUDGEMENTS[said]
    field = name_in(record, ASKED) or text_of(record, ASKED[0])
    messages, tools = _asked(record, field)
    given = _answered(record, field)
    if given:
        return Labelled(messages, _way(record[given], given), label, tools)
    if not messages or messages[-1].role != "assistant":
        raise RowFault("data.no_answer", field)
    return Labelled(messages[:-1], messages[-1:], label, tools)


# ------------------------------------------------------------------------------------------------- prompts only


def asks(record: Mapping[str, Any]) -> bool:
    """Whether a row holds a prompt and no answer to learn."""
    if not record.keys().isdisjoint(SETTLED) or record.keys() >= {"question", "answer"}:
        return False
    given = [record[key] for key in ("prompt", "conversations", *TURN_LISTS) if record.get(key) is not None]
    return all(_unanswered(each) for each in given)


def _unanswered(value: Any) -> bool:
    """Whether these are a text, or turns of which none is an answer; a name that is not known may well answer."""
    if isinstance(value, str):
        value = _listed(value)
    return isinstance(value, str) or (
        isinstance(value, list) and bool(value) and set(roles_in(value)) <= {"system", "user", "tool"}
    )


def prompt_only(row: Any) -> Example:
    record = record_of(row)
    field = name_in(record, ASKED) or text_of(record, ASKED[0])
    messages, tools = _asked(record, field)
    reference = name_in(record, REFERENCES)
    answer = record.get(reference)
    if answer is not None and not isinstance(answer, str):
        answer = str(answer) if isinstance(answer, (int, float)) else text_of(record, reference)
    used = {*_used(record), reference}
    columns = {str(key): value for key, value in record.items() if key not in used and value is not None}
    return Prompt(messages, tools, answer, columns)
