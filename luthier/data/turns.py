"""Fields of a row, and the turns in them.

What goes in: the plain values of a row. What comes out: texts, lists and `Message`s as the formats need them, or a
`RowFault` that names the field, what is wrong with it and how to mend it. Nothing is trimmed, merged or filled in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from luthier.data import guesses, strict_json
from luthier.data.examples import Message, RowFault
from luthier.data.strict_json import Invalid, shorten
from luthier.text import say

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
TURN_KEYS = frozenset(("role", "from", "content", "value", *WEIGHT_KEYS, *EXTRA_KEYS, "function_call"))
TURN_LISTS = ("messages", "dialogue", "dialog", "turns", "conversation")
"""Keys under which turns of either spelling stand."""
PART_STAGES = {"reasoning": 0, "text": 1, "tool_call": 2}
"""Kind of a content part -> where it stands within a turn; a template renders them in this order."""


def type_word(value: Any) -> str:
    """A word for the type of a value, as people who write JSON know it."""
    names = {bool: "true/false", int: "number", float: "number", str: "text", list: "list", dict: "object"}
    return say("data.type_null") if value is None else names.get(type(value), type(value).__name__)


def wrong_type(field: str, value: Any, wanted: str) -> RowFault:
    return RowFault("data.wrong_type", field, got=type_word(value), wanted=wanted)


def record_of(row: Any) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise RowFault("data.row_type", value=shorten(repr(row)[:200]), got=type_word(row))
    return row


def text_of(record: Mapping[str, Any], field: str) -> str:
    """A field that must be there and hold text."""
    if field not in record:
        present = ", ".join(map(str, record)) or "-"
        near = guesses.column(field, map(str, record))
        hint = say("data.hint_column", old=near, new=field, line=guesses.line("columns", {field: near})) if near else ""
        raise RowFault("data.missing_field", field, present=shorten(present, 200), hint=hint)
    value = record[field]
    if value is None:
        raise RowFault("data.null_field", field)
    if not isinstance(value, str):
        raise wrong_type(field, value, "text")
    return value


def filled(text: str, field: str, id: str) -> None:
    """Raises RowFault `id` where the text holds nothing but white space."""
    if not text.strip():
        raise RowFault(id, field)


def optional_text(record: Mapping[str, Any], field: str) -> str:
    """A field that may be absent, null or empty."""
    return "" if record.get(field) is None else text_of(record, field)


def structure_of(value: Any, field: str) -> Any:
    """A list or object; tables (CSV, some Parquet) hold it as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return strict_json.loads(value)
    except Invalid as error:
        raise RowFault("data.json_field", field, reason=say(f"{error.id}.rule", **error.values)) from error


def items_of(value: Any, field: str) -> list[Any]:
    """A list that may be absent, null or empty text."""
    if value is None or value == "":
        return []
    made = structure_of(value, field)
    if not isinstance(made, list):
        raise wrong_type(field, made, "list")
    return made


@contextmanager
def within(field: str) -> Iterator[None]:
    """Faults inside the block name their field in full: `messages[3].content`."""
    try:
        yield
    except RowFault as fault:
        fault.field = f"{field}.{fault.field}" if fault.field else field
        raise


def tools_of(record: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    tools = items_of(record.get("tools"), "tools")
    for place, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise wrong_type(f"tools[{place}]", tool, "object")
    return tuple(tools)


def history_of(record: Mapping[str, Any]) -> tuple[Message, ...]:
    """Earlier pairs of question and answer."""
    made: list[Message] = []
    for place, pair in enumerate(items_of(record.get("history"), "history")):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(each, str) for each in pair):
            raise RowFault("data.history", f"history[{place}]")
        made += [Message("user", pair[0]), Message("assistant", pair[1])]
    return tuple(made)


# ------------------------------------------------------------------------------------------------------- turns


def roles_in(turns: Sequence[Any]) -> list[str]:
    """Roles of turns as far as they can be told; names that are not known stand for themselves."""
    names = [turn.get("role", turn.get("from")) for turn in turns if isinstance(turn, dict)]
    return [ROLES.get(name, name) for name in names if isinstance(name, str)]


def turns_of(turns: Sequence[Any], key: str) -> tuple[Message, ...]:
    made: list[Message] = []
    try:
        for turn in turns:
            made.append(turn_of(turn))
    except RowFault as fault:
        if fault.id == "data.unknown_role":
            fault.values["hint"] = _roles_hint(turns)
        # A context manager per turn would cost more than the turn itself.
        with within(f"{key}[{len(made)}]"):
            raise fault
    return tuple(made)


def turn_of(turn: Any) -> Message:
    """A message of either spelling: role and content, or from and value."""
    if not isinstance(turn, dict):
        raise wrong_type("", turn, "object")
    if len(turn) == 2:
        # Nearly every turn: the rest is looked at only where there is more, or something is wrong.
        name, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if type(name) is str and type(content) is str and name in ROLES and name != "function_call":
            return Message(ROLES[name], content)
    role_key = "role" if "role" in turn or "from" not in turn else "from"
    content_key = "content" if "content" in turn or "value" not in turn else "value"
    name, content = _role_name(turn, role_key), turn.get(content_key)
    extra = _extra(turn)
    if name == "function_call":
        extra["tool_calls"], content = _calls(content, content_key), ""
    elif isinstance(content, list):
        content = _join_parts(content, content_key, extra)
    elif content is None and "tool_calls" in extra:
        content = ""
    elif not isinstance(content, str):
        content = text_of(turn, content_key)  # says what is wrong with it
    return Message(ROLES[name], content, _weight(turn, ROLES[name]), extra)


def _extra(turn: Mapping[str, Any]) -> dict[str, Any]:
    """What else a template may render; tool calls in the one form that templates read."""
    extra = {key: turn[key] for key in EXTRA_KEYS if turn.get(key) is not None}
    if "tool_calls" in extra:
        calls = items_of(extra.pop("tool_calls"), "tool_calls")
        if calls:
            extra["tool_calls"] = _calls(calls, "tool_calls")
    if turn.get("function_call") is not None:  # the older spelling of one call
        if "tool_calls" in extra:
            raise RowFault("data.calls_twice", "function_call")
        extra["tool_calls"] = _calls(turn["function_call"], "function_call")
    return extra


def _role_name(turn: Mapping[str, Any], key: str) -> str:
    name = text_of(turn, key)
    if name not in ROLES:
        raise RowFault("data.unknown_role", key, shorten(name), roles=", ".join(ROLES), hint="")
    return name


def _roles_hint(turns: Sequence[Any]) -> str:
    """The recipe's line for all role names of a conversation that are not known, as far as they can be guessed."""
    unknown = [name for name in dict.fromkeys(roles_in(turns)) if name not in ROLES]
    roles = {shorten(name): guesses.role(name, ROLES) or "user | assistant | system | tool" for name in unknown}
    return say("data.hint_roles", line=guesses.line("roles", roles))


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
        with within(f"{field}[{place}]"):
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
        raise wrong_type("", part, "object")
    kind = "text" if part.get("type") is None else part["type"]
    if not isinstance(kind, str) or kind not in PART_STAGES:
        raise RowFault("data.part_kind", "type", shorten(str(kind)), kinds=", ".join(PART_STAGES))
    return kind, text_of(part, "text" if "text" in part or "value" not in part else "value")


def _calls(value: Any, field: str) -> list[dict[str, Any]]:
    """Tool calls: an object, a list of objects, or the JSON of either."""
    with within(field):
        made = structure_of(value, "")
        return [_call(each) for each in (made if isinstance(made, list) else [made])]


def _call(value: Any) -> dict[str, Any]:
    """A tool call in the form that chat templates read: {type, function: {name, arguments}}, arguments an object."""
    body = value.get("function", value) if isinstance(value, dict) else value
    if not isinstance(body, dict) or not isinstance(body.get("name"), str):
        raise RowFault("data.tool_call", value=shorten(repr(body)[:200]))
    arguments = structure_of(body.get("arguments") or {}, "arguments")
    made: dict[str, Any] = {"type": "function", "function": {"name": body["name"], "arguments": arguments}}
    return {**made, "id": value["id"]} if value.get("id") is not None else made
