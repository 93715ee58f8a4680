"""Tool calls in an answer's text.

What goes in: a chat template's source, and text in pieces. What comes out: how the model that this template belongs to
writes its calls, and the text apart from the calls. A call is told when it is whole: what turns out to be no call is
given back as the text that it was.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

Style = Literal["hermes", "llama3"]
OPEN, CLOSE = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"
MARKERS: dict[Style, tuple[str, ...]] = {"hermes": (OPEN, CLOSE), "llama3": (PYTHON_TAG,)}
"""Texts that mean something here even where they are control tokens, which are otherwise left out of the text."""


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


class Parser:
    """`push` and `flush` give texts and calls in their order."""

    def __init__(self, style: Style) -> None:
        self._style = style
        self._held = ""
        self._begun = False
        self._inside = False
        self._called = False

    def push(self, piece: str) -> list[str | Call]:
        self._held += piece
        return self._hermes() if self._style == "hermes" else self._llama3()

    def flush(self) -> list[str | Call]:
        rest, self._held = self._held, ""
        if not rest.strip("\n" if self._style == "hermes" else None) and (self._called or not rest):
            return []
        if self._style == "llama3" and not self._begun:
            calls = _objects(rest.strip().removeprefix(PYTHON_TAG))
            return list(calls) if calls else [rest]
        # A last call whose closing tag did not come, because a stop token or the limit did.
        call = call_of(rest.removeprefix(OPEN)) if self._inside else None
        return [call or rest]

    def _hermes(self) -> list[str | Call]:
        made: list[str | Call] = []
        while True:
            if self._inside:
                end = self._held.find(CLOSE)
                if end < 0:
                    return made
                whole, self._held = self._held[: end + len(CLOSE)], self._held[end + len(CLOSE) :]
                made.append(call_of(whole[len(OPEN) : -len(CLOSE)]) or whole)
                self._inside, self._called = False, True
            start = self._held.find(OPEN)
            shown = self._held[:start] if start >= 0 else self._held[: len(self._held) - _begins(self._held, OPEN)]
            self._held = self._held[len(shown) :]
            # Line breaks between calls are the template's, as are those before the first one.
            kept = shown.rstrip("\n") if start >= 0 else shown
            if start < 0 and not shown.strip("\n") and shown:
                self._held, kept = shown + self._held, ""
            if kept.strip("\n"):
                made.append(kept)
            if start < 0:
                return made
            self._inside = True

    def _llama3(self) -> list[str | Call]:
        """The whole answer is a call, or none of it is: told by its first character."""
        begin = self._held.lstrip()
        if not self._begun and (not begin or begin[0] == "{" or PYTHON_TAG.startswith(begin[: len(PYTHON_TAG)])):
            return []
        self._begun = True
        shown, self._held = self._held, ""
        return [shown] if shown else []


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
