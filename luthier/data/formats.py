"""Rows as typed examples.

What goes in: the plain value of one row. What comes out: a `Chat`, `Text` or `Completion`, whole and in order, or a
`RowFault` that names the field, what is wrong with it and how to mend it. A row is taken as it is or refused: nothing
is trimmed, merged, reordered or filled in.

To add a format: write `row -> Example` below, and add one line to `FORMATS`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from luthier.data import strict_json
from luthier.data.strict_json import Invalid, shorten
from luthier.errors import Problem
from luthier.text import say

# --------------------------------------------------------------------------------------------------- examples


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    Attributes:
        role: system, user, assistant or tool.
        content: its text.
        weight: what the loss of its tokens is multiplied with; only an assistant's turns are learnt.
        extra: what else a chat template may render: tool_calls, reasoning_content, name, tool_call_id.
    """

    role: str
    content: str
    weight: float = 1.0
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, rendered with the chat template. `tools`: the schemas offered to the assistant."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """A document; all of it is learnt."""

    text: str


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and what follows it, joined without a chat template; the completion is learnt."""

    prompt: str
    completion: str


Example = Chat | Text | Completion


class RowFault(Exception):
    """A row that cannot be used; message id, the field at fault, and what fills the message."""

    def __init__(self, id: str, field: str = "", value: str = "", **values: Any) -> None:
        super().__init__(id)
        self.id = id
        self.field = field
        self.value = value
        self.values = values

    def problem(self, where: str) -> Problem:
        return Problem(self.id, where, self.field, self.value, self.values)


# ------------------------------------------------------------------------------------------------------ fields

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
"""Role names seen in data -> roles. `function_call` is a turn whose text is the call, in JSON."""

WEIGHT_KEYS = ("loss_weight", "weight", "train")
EXTRA_KEYS = ("reasoning_content", "tool_calls", "name", "tool_call_id")
TURN_KEYS = frozenset(("role", "from", "content", "value", *WEIGHT_KEYS, *EXTRA_KEYS))
PART_STAGES = {"reasoning": 0, "text": 1, "tool_call": 2}
"""Kind of a content part -> where it stands within a turn; a template renders them in this order."""


def type_word(value: Any) -> str:
    """A word for the type of a value, as people who write JSON know it."""
    names = {bool: "true/false", int: "number", float: "number", str: "text", list: "list", dict: "object"}
    return say("data.type_null") if value is None else names.get(type(value), type(value).__name__)


def _wrong_type(field: str, value: Any, wanted: str) -> RowFault:
    return RowFault("data.wrong_type", field, got=type_word(value), wanted=wanted)


def _record(row: Any) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise RowFault("data.row_type", value=shorten(repr(row)[:200]), got=type_word(row))
    return row


def _text(record: Mapping[str, Any], field: str) -> str:
    """A field that must be there and hold text."""
    if field not in record:
        present = ", ".join(map(str, record)) or "-"
        near = difflib.get_close_matches(field, map(str, record), n=1)
        hint = say("data.hint_rename", old=near[0], new=field) if near else ""
        raise RowFault("data.missing_field", field, present=shorten(present, 200), hint=hint)
    value = record[field]
    if value is None:
        raise RowFault("data.null_field", field)
    if not isinstance(value, str):
        raise _wrong_type(field, value, "text")
    return value


def filled(text: str, field: str, id: str) -> None:
    """Raises RowFault `id` where the text holds nothing but white space."""
    if not text.strip():
        raise RowFault(id, field)


def _optional_text(record: Mapping[str, Any], field: str) -> str:
    """A field that may be absent, null or empty."""
    return "" if record.get(field) is None else _text(record, field)


def _structure(value: Any, field: str) -> Any:
    """A list or object; tables (CSV, some Parquet) hold it as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return strict_json.loads(value)
    except Invalid as error:
        raise RowFault("data.json_field", field, reason=say(f"{error.id}.rule", **error.values)) from error


def _items(value: Any, field: str) -> list[Any]:
    """A list that may be absent, null or empty text."""
    if value is None or value == "":
        return []
    made = _structure(value, field)
    if not isinstance(made, list):
        raise _wrong_type(field, made, "list")
    return made


@contextmanager
def _within(field: str) -> Iterator[None]:
    """Faults inside the block name their field in full: `messages[3].content`."""
    try:
        yield
    except RowFault as fault:
        fault.field = f"{field}.{fault.field}" if fault.field else field
        raise


def _tools(record: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    tools = _items(record.get("tools"), "tools")
    for place, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise _wrong_type(f"tools[{place}]", tool, "object")
    return tuple(tools)


# ------------------------------------------------------------------------------------------------------- turns


def _turns(turns: Sequence[Any], key: str) -> tuple[Message, ...]:
    made: list[Message] = []
    try:
        for turn in turns:
            made.append(_turn(turn))
    except RowFault as fault:
        # A context manager per turn would cost more than the turn itself.
        with _within(f"{key}[{len(made)}]"):
            raise fault
    return tuple(made)


def _turn(turn: Any) -> Message:
    """A message of either spelling: role and content, or from and value."""
    if not isinstance(turn, dict):
        raise _wrong_type("", turn, "object")
    role_key = "role" if "role" in turn or "from" not in turn else "from"
    content_key = "content" if "content" in turn or "value" not in turn else "value"
    name, content = _role_name(turn, role_key), turn.get(content_key)
    extra = {key: turn[key] for key in EXTRA_KEYS if turn.get(key) is not None}
    if "tool_calls" in extra:
        calls = _items(extra.pop("tool_calls"), "tool_calls")
        if calls:
            extra["tool_calls"] = _calls(calls, "tool_calls")
    if name == "function_call":
        extra["tool_calls"], content = _calls(content, content_key), ""
    elif isinstance(content, list):
        content = _join_parts(content, content_key, extra)
    elif content is None and "tool_calls" in extra:
        content = ""
    elif not isinstance(content, str):
        content = _text(turn, content_key)  # says what is wrong with it
    return Message(ROLES[name], content, _weight(turn, ROLES[name]), extra)


def _role_name(turn: Mapping[str, Any], key: str) -> str:
    name = _text(turn, key)
    if name not in ROLES:
        near = difflib.get_close_matches(name.lower(), ROLES, n=1)
        hint = say("data.hint_rename", old=shorten(name), new=near[0]) if near else ""
        raise RowFault("data.unknown_role", key, shorten(name), roles=", ".join(ROLES), hint=hint)
    return name


def _weight(turn: Mapping[str, Any], role: str) -> float:
    given = [key for key in WEIGHT_KEYS if turn.get(key) is not None]
    if not given:
        return 1.0
    if len(given) > 1:
        raise RowFault("data.weights_twice", keys=", ".join(given))
    value = turn[given[0]]
    if not isinstance(value, (bool, int, float)) or not math.isfinite(value) or value < 0:
        raise RowFault("data.bad_weight", given[0], shorten(repr(value)[:100]))
    if value > 0 and role != "assistant":
        raise RowFault("data.weight_role", given[0], str(value), role=role)
    return float(value)


def _join_parts(parts: list[Any], field: str, extra: dict[str, Any]) -> str:
    """Text of a list of content parts; reasoning and tool calls among them go to `extra`."""
    found: dict[str, list[str]] = {kind: [] for kind in PART_STAGES}
    stage = 0
    for place, part in enumerate(parts):
        with _within(f"{field}[{place}]"):
            kind, text = _part(part)
            if PART_STAGES[kind] < stage:
                raise RowFault("data.part_order", "type", kind)
        stage = PART_STAGES[kind]
        found[kind].append(text)
    for kind, key in (("reasoning", "reasoning_content"), ("tool_call", "tool_calls")):
        if found[kind] and key in extra:
            raise RowFault("data.part_twice", field, key)
    if found["reasoning"]:
        extra["reasoning_content"] = "".join(found["reasoning"])
    if found["tool_call"]:
        extra["tool_calls"] = [call for text in found["tool_call"] for call in _calls(text, field)]
    return "".join(found["text"])


def _part(part: Any) -> tuple[str, str]:
    """Kind and text of a content part."""
    if not isinstance(part, dict):
        raise _wrong_type("", part, "object")
    kind = "text" if part.get("type") is None else part["type"]
    if not isinstance(kind, str) or kind not in PART_STAGES:
        raise RowFault("data.part_kind", "type", shorten(str(kind)), kinds=", ".join(PART_STAGES))
    return kind, _text(part, "text" if "text" in part or "value" not in part else "value")


def _calls(value: Any, field: str) -> list[dict[str, Any]]:
    """Tool calls: an object, a list of objects, or the JSON of either."""
    with _within(field):
        made = _structure(value, "")
        return [_call(each) for each in (made if isinstance(made, list) else [made])]


def _call(value: Any) -> dict[str, Any]:
    """A tool call in the form that chat templates read: {type, function: {name, arguments}}, arguments an object."""
    body = value.get("function", value) if isinstance(value, dict) else value
    if not isinstance(body, dict) or not isinstance(body.get("name"), str):
        raise RowFault("data.tool_call", value=shorten(repr(body)[:200]))
    arguments = _structure(body.get("arguments") or {}, "arguments")
    made: dict[str, Any] = {"type": "function", "function": {"name": body["name"], "arguments": arguments}}
    return {**made, "id": value["id"]} if value.get("id") is not None else made


# ------------------------------------------------------------------------------------------------------ formats


def _conversation(record: Mapping[str, Any], key: str) -> Chat:
    """The turns under `key`, after the system prompt that may stand beside them."""
    if key not in record or record[key] is None:
        _text(record, key)  # says which of the two it is
    turns = _items(record[key], key)
    system = _optional_text(record, "system")
    messages = _turns(turns, key)
    if system:
        if messages and messages[0].role == "system":
            raise RowFault("data.system_twice", "system")
        messages = (Message("system", system), *messages)
    return Chat(messages, _tools(record))


def _messages(row: Any) -> Example:
    return _conversation(_record({"messages": row} if isinstance(row, list) else row), "messages")


def _sharegpt(row: Any) -> Example:
    return _conversation(_record(row), "conversations")


def _alpaca(row: Any) -> Example:
    """instruction and input, in one line each, are the question; history holds earlier pairs of turns."""
    record = _record(row)
    instruction, extra, output = _text(record, "instruction"), _optional_text(record, "input"), _text(record, "output")
    system = _optional_text(record, "system")
    messages = [Message("system", system)] if system else []
    for place, pair in enumerate(_items(record.get("history"), "history")):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(each, str) for each in pair):
            raise RowFault("data.history", f"history[{place}]")
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    question = "\n".join(part for part in (instruction, extra) if part)
    filled(question, "instruction", "data.empty_question")
    filled(output, "output", "data.empty_answer")
    return Chat((*messages, Message("user", question), Message("assistant", output)))


def _prompt(row: Any) -> Example:
    record = _record(row)
    return Completion(_text(record, "prompt"), _text(record, "completion"))


def _qa(row: Any) -> Example:
    """A question and its answer, under the first pair of names that the row has."""
    record = _record(row)
    pairs = FORMATS["qa"].required
    question, answer = next((pair for pair in pairs if pair[0] in record and pair[1] in record), pairs[0])
    system = _optional_text(record, "system")
    head = (Message("system", system),) if system else ()
    asked, answered = _text(record, question), _text(record, answer)
    filled(asked, question, "data.empty_question")
    filled(answered, answer, "data.empty_answer")
    return Chat((*head, Message("user", asked), Message("assistant", answered)))


def _plain(row: Any) -> Example:
    return Text(_text(_record(row), "text"))


@dataclass(frozen=True)
class Format:
    """Attributes:
    parse: row -> Example; raises RowFault.
    required: the keys that a row of this format has; several sets are alternatives.
    optional: the keys that it may have.
    """

    parse: Callable[[Any], Example]
    required: tuple[tuple[str, ...], ...]
    optional: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    "messages": Format(_messages, (("messages",),), ("tools", "system")),
    "sharegpt": Format(_sharegpt, (("conversations",),), ("tools", "system")),
    "alpaca": Format(_alpaca, (("instruction", "output"),), ("input", "history", "system")),
    "prompt": Format(_prompt, (("prompt", "completion"),)),
    "qa": Format(
        _qa, (("question", "answer"), ("prompt", "response"), ("query", "response"), ("input", "output")), ("system",)
    ),
    "text": Format(_plain, (("text",),)),
}
"""Name -> format. Detection takes the first that fits the most rows, so richer formats stand before poorer ones."""
