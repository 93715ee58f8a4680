"""Which fields of a conversation the chat template leaves out.

What goes in: a conversation, and the template as a function that writes it. What comes out: the names of the fields
whose words do not reach the text. Words are compared without white space and in the spellings that JSON and Python have
for them. Few letters occur elsewhere by chance, so each field is also written once with a mark behind it, which has to
be in the text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from luthier.data.formats import Message
from luthier.data.sandbox import TemplateFault

Write = Callable[[Sequence[Message], Sequence[Any]], str]
"""Messages and tools as the template writes them; raises `TemplateFault` where it refuses."""

LINKS = ("name", "tool_call_id")
"""Fields that say which message belongs to which: many templates write none, as the order says it too."""


def left_out(write: Write, messages: Sequence[Message], tools: Sequence[Any] = ()) -> Iterator[str]:
    """Names of fields: `tools`, `system`, `user.content`, `tool_calls`, `reasoning_content`...

    A template may show a message as it is only while it is the last one, so what is missed in the whole conversation is
    looked for in the conversation up to its message, too: what is shown there is what the model learns from it.
    """
    whole = _Written(write, messages, tools)
    if tools and not whole.holds(_TOOLS, [word for tool in tools for word in _schema(tool)]):
        yield "tools"
    for index, message in enumerate(messages):
        upto: _Written | None = None
        for field, value in fields(message).items():
            words = [word for word in _words(field, value) if word.strip()]
            if not words or whole.holds((index, field), words):
                continue
            upto = upto or _Written(write, messages[: index + 1], tools)
            if not upto.holds((index, field), words):
                yield name(message.role, field)


def name(role: str, field: str) -> str:
    """What the field is called in `data.accept_unread`."""
    if field != "content":
        return field
    return "system" if role == "system" else f"{role}.content"


def fields(message: Message) -> dict[str, Any]:
    """All that a message says."""
    return {"content": message.content, **message.extra}


_TOOLS = (-1, "tools")


class _Written:
    """A conversation as the template writes it, and written once more with a mark of its own behind each field."""

    def __init__(self, write: Write, messages: Sequence[Message], tools: Sequence[Any]) -> None:
        self._places = [_TOOLS, *((index, field) for index, each in enumerate(messages) for field in fields(each))]
        self._text = _try(write, messages, tools)
        marked = [self._with_marks(index, message) for index, message in enumerate(messages)]
        self._marked = _try(write, marked, [_followed(tool, self._mark(_TOOLS)) for tool in tools])
        self._squeezed = _squeeze(self._text or "")

    def holds(self, place: tuple[int, str], words: Sequence[str]) -> bool:
        """Whether the text holds the words because the field is written; a text that is refused holds all."""
        if self._text is None:
            return True
        if not all(any(each in self._squeezed for each in _spellings(word)) for word in words):
            return False
        # A template may refuse the marked words (a call of an unknown tool): then the words themselves have to do.
        return self._marked is None or self._mark(place) in self._marked

    def _mark(self, place: tuple[int, str]) -> str:
        return f"Qz{self._places.index(place)}q"

    def _with_marks(self, index: int, message: Message) -> Message:
        extra = {field: _followed(value, self._mark((index, field))) for field, value in message.extra.items()}
        return replace(message, content=message.content + self._mark((index, "content")), extra=extra)


def _try(write: Write, messages: Sequence[Message], tools: Sequence[Any]) -> str | None:
    try:
        return write(messages, tools)
    except TemplateFault:
        return None


# -------------------------------------------------------------------------------------------------------- words


def _words(field: str, value: Any) -> Iterator[str]:
    """What has to be read of a field: of a tool call its name and arguments, not its number."""
    if field == "tool_calls" and isinstance(value, (list, tuple)):
        for call in value:
            body = call.get("function", call) if isinstance(call, Mapping) else call
            yield from _strings(body)
    elif isinstance(value, Mapping):
        yield from _strings(list(value.values()))
    else:
        yield from _strings(value)


def _strings(value: Any, keys: bool = False) -> Iterator[str]:
    """All text within a value; the names of arguments too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if keys:
                yield str(key)
            yield from _strings(each, keys or key == "arguments")
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _strings(each, keys)


def _schema(tool: Any) -> Iterator[str]:
    """Names, descriptions, parameters and choices of a tool; how a template spells the types is its own affair."""
    if isinstance(tool, (list, tuple)):
        for each in tool:
            yield from _schema(each)
    if not isinstance(tool, Mapping):
        return
    for key, value in tool.items():
        if key in ("name", "description") and isinstance(value, str):
            yield value
        elif key == "properties" and isinstance(value, Mapping):
            yield from map(str, value)
            yield from _schema(list(value.values()))
        elif key == "enum" and isinstance(value, (list, tuple)):
            yield from (each for each in value if isinstance(each, str))
        else:
            yield from _schema(value)


def _followed(value: Any, mark: str) -> Any:
    """The value with the mark behind every text in it."""
    if isinstance(value, str):
        return value + mark
    if isinstance(value, Mapping):
        return {key: _followed(each, mark) for key, each in value.items()}
    return [_followed(each, mark) for each in value] if isinstance(value, (list, tuple)) else value


def _spellings(word: str) -> Iterator[str]:
    """The word without white space, as it is and as JSON and Python write it in quotes."""
    yield _squeeze(word)
    for written in (json.dumps(word, ensure_ascii=False), json.dumps(word), repr(word)):
        yield _squeeze(written[1:-1])


def _squeeze(text: str) -> str:
    return "".join(text.split())
