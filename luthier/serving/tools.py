"""Tool calls in an answer's text.

What goes in: a chat template's source, and text in pieces. What comes out: how the model that this template belongs to
writes its calls, and the text apart from the calls. What turns out to be no call is given back as the text that it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

Style = Literal["hermes", "llama3"]
OPEN, CLOSE = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"
MARKERS: dict[Style, tuple[str, ...]] = {"hermes": (OPEN, CLOSE), "llama3": (PYTHON_TAG,)}
"""Texts that mean something here even where they are control tokens, which are otherwise left out of the text."""

HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)+")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
"""The beginning of a call whose arguments can be told as they come."""
KEYS: dict[Style, str] = {"hermes": "arguments", "llama3": "parameters"}
"""What a call names its arguments by."""


class Call(NamedTuple):
    """name: of the function; arguments: a JSON object, as text."""

    name: str
    arguments: str


def style_of(template: str) -> Style | None:
    """How calls are written; None where the template knows no tools, or has a way that is not known here."""
    if "tools" not in template:
        return None
    if OPEN in template:
        return "hermes"
    return "llama3" if PYTHON_TAG in template or ('"parameters"' in template and "ipython" in template) else None


def call_of(text: str) -> Call | None:
    """The call that a JSON text is."""
    try:
        made: Any = json.loads(text)
    except ValueError:
        return None
    if not isinstance(made, dict) or not isinstance(made.get("name"), str) or not made["name"]:
        return None
    arguments = made.get("arguments", made.get("parameters", {}))
    if isinstance(arguments, str):  # some models write the object as text
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return None
    return Call(made["name"], json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None


class Begun(NamedTuple):
    """A call begins. name: of the function."""

    name: str


class More(NamedTuple):
    """A further piece of the arguments of the call that has begun."""

    text: str


Event = str | Begun | More


class Parser:
    """`push` and `flush` give texts and calls in their order. A call is told as it comes, once its function and the
    beginning of its arguments are known, if they come in this order; else once it is whole."""

    def __init__(self, style: Style) -> None:
        self._style = style
        self._held = ""
        self._read: Callable[[], list[Event] | None] = self._text if style == "hermes" else self._start
        self._arguments = _Object()
        self._called = False

    def push(self, piece: str) -> list[Event]:
        self._held += piece
        made: list[Event] = []
        while (some := self._read()) is not None:
            made += some
        return made

    def flush(self) -> list[Event]:
        rest, self._held = self._held, ""
        if self._read in (self._tail, self._rest_of_arguments):
            return []  # brackets that close, or what a stop token or the limit left of them
        if not rest.strip("\n" if self._style == "hermes" else None) and (self._called or not rest):
            return []
        if self._style == "llama3" and self._read != self._plain:
            calls = _objects(rest.strip().removeprefix(PYTHON_TAG))
            return _told(*calls) if calls else [rest]
        # A last call whose closing tag did not come, because a stop token or the limit did.
        call = call_of(rest.removeprefix(OPEN)) if self._read == self._head else None
        return _told(call) if call else [rest]

    # Each reads what is held as far as it can; None where more has to come, else what came of it.

    def _text(self) -> list[Event] | None:
        """Hermes: text, up to a call."""
        start = self._held.find(OPEN)
        shown = self._held[:start] if start >= 0 else self._held[: len(self._held) - _begins(self._held, OPEN)]
        # Line breaks between calls are the template's, as are those before the first one.
        kept = shown.rstrip("\n") if start >= 0 else shown
        if start < 0 and not shown.strip("\n"):
            return None
        self._held = self._held[len(shown) :]
        if start >= 0:
            self._read = self._head
        return [kept] if kept.strip("\n") else []

    def _start(self) -> list[Event] | None:
        """Llama 3: the whole answer is calls, or none of it is: told by its first character."""
        begin = self._held.lstrip()
        if not begin or (PYTHON_TAG.startswith(begin) and begin != PYTHON_TAG):
            return None
        self._read = self._head if begin.startswith(("{", PYTHON_TAG)) else self._plain
        return []

    def _plain(self) -> list[Event] | None:
        shown, self._held = self._held, ""
        return [shown] if shown else None

    def _head(self) -> list[Event] | None:
        """Up to where the arguments begin."""
        marker = OPEN if self._style == "hermes" else PYTHON_TAG
        inside = self._held.removeprefix(marker) if self._style == "hermes" else self._held.lstrip("; \n\t\r")
        inside = inside.removeprefix(marker)
        found = HEAD.match(inside)
        if found and (name := _name(found[1])):
            self._held, self._arguments, self._called = inside[found.end() :], _Object(), True
            self._read = self._rest_of_arguments
            return [Begun(name)]
        end = self._held.find(CLOSE) if self._style == "hermes" else -1
        if end < 0:
            return None
        whole, self._held = self._held[: end + len(CLOSE)], self._held[end + len(CLOSE) :]
        self._called, self._read = True, self._text
        call = call_of(whole[len(OPEN) : -len(CLOSE)])
        return _told(call) if call else [whole]

    def _rest_of_arguments(self) -> list[Event] | None:
        length = self._arguments.take(self._held)
        told, self._held = self._held[:length], self._held[length:]
        if self._arguments.ended:
            self._read = self._tail
        return [More(told)] if told else ([] if self._arguments.ended else None)

    def _tail(self) -> list[Event] | None:
        """Brackets that close the call, and its tag."""
        if self._style == "hermes":
            end = self._held.find(CLOSE)
            if end < 0:
                return None
            self._held, self._read = self._held[end + len(CLOSE) :], self._text
            return []
        rest = self._held.lstrip().removeprefix("}").lstrip("; \n\t\r")
        if not rest or PYTHON_TAG.startswith(rest):
            return None
        self._held = rest
        self._read = self._head if rest.startswith(("{", PYTHON_TAG)) else self._plain
        return []


class _Object:
    """Finds where a JSON object ends in a text that comes in pieces. ended: whether it has, or can be none."""

    def __init__(self) -> None:
        self.ended = False
        self._depth = 0
        self._quoted = self._escaped = False

    def take(self, text: str) -> int:
        """How much of the text belongs to the object."""
        for at, char in enumerate(text):
            if self._quoted:
                self._quoted = self._escaped or char != '"'
                self._escaped = char == "\\" and not self._escaped
                continue
            if char == "<":  # no JSON: the closing tag of a call that was left open
                self.ended = True
                return at
            self._quoted = char == '"'
            self._depth += (char in "{[") - (char in "}]")
            if self._depth == 0:
                self.ended = True
                return at + 1
        return len(text)


def _name(quoted: str) -> str | None:
    try:
        return str(json.loads(quoted))
    except ValueError:
        return None


def _told(*calls: Call) -> list[Event]:
    return [event for call in calls for event in (Begun(call.name), More(call.arguments))]


def _begins(text: str, marker: str) -> int:
    """Length of the end of the text that begins the marker, with the line breaks before it."""
    length = next((n for n in range(len(marker) - 1, 0, -1) if text.endswith(marker[:n])), 0)
    before = text[: len(text) - length]
    return length + len(before) - len(before.rstrip("\n"))


def _objects(text: str) -> list[Call]:
    """Calls in a text that is nothing else: JSON objects with `;` or white space between them."""
    decoder, calls, place = json.JSONDecoder(), [], 0
    while place < len(text):
        if text[place] in "; \n\t\r":
            place += 1
            continue
        try:
            _, end = decoder.raw_decode(text, place)
        except ValueError:
            return []
        call = call_of(text[place:end])
        if call is None:
            return []
        calls.append(call)
        place = end
    return calls
