"""Conversations of one shape, rendered without running the template again.

What goes in: a conversation and the function that lays one out by rendering it. What comes out: the same layout, put
together from the pieces that the template wrote for an earlier conversation of the same shape.

Most templates write what is said as it stands, or trimmed, and decide everything else by roles. Whether one does is
seen, not assumed: the first conversation of a shape is rendered with stand-ins in place of what is said, strings that
notice when they are looked into (`luthier.data.traced`). A shape in which one was, or in which a stand-in does not come
out whole, is rendered row by row as before.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from luthier.data.formats import Message
from luthier.data.layout import Answer, Layout
from luthier.data.traced import AWKWARD, CLOSE, OPEN, StandIn

MOST_SHAPES = 4096
"""Shapes remembered; more are rendered row by row. Not tuned."""
MOST_MESSAGES = 64
"""Longer conversations are rarely alike, so nothing is gained by remembering their shape."""


class Lays(Protocol):
    """Lays a conversation out by rendering it; None where the template refuses it or treats answers unalike."""

    def __call__(self, messages: Sequence[Message], weights: Mapping[int, float]) -> Layout | None: ...


@dataclasses.dataclass(frozen=True)
class _Place:
    """A position in the text: so many characters into a piece."""

    piece: int
    offset: int


@dataclasses.dataclass(frozen=True)
class _Shape:
    """pieces: literal text, or (message, trim). answers: with the places of their start and bound."""

    pieces: tuple[str | tuple[int, str], ...]
    answers: tuple[tuple[Answer, _Place, _Place], ...]
    generated: tuple[tuple[_Place, _Place], ...]
    words: str

    def layout(self, messages: Sequence[Message], weights: Mapping[int, float]) -> Layout:
        parts = [piece if isinstance(piece, str) else _words(messages, *piece) for piece in self.pieces]
        begins, length = [0], 0
        for part in parts:
            length += len(part)
            begins.append(length)

        def at(place: _Place) -> int:
            return begins[place.piece] + place.offset

        answers = tuple(
            [
                Answer(answer.message, answer.number, at(start), at(bound), weights.get(answer.message, 0.0))
                for answer, start, bound in self.answers
            ]
        )
        generated = tuple((at(start), at(end)) for start, end in self.generated)
        return Layout("".join(parts), False, answers, generated, self.words)


class Shapes:
    """Remembers the shapes of conversations for one template."""

    def __init__(self, lays: Lays) -> None:
        self._lays = lays
        self._known: dict[tuple[Any, ...], _Shape | None] = {}

    def layout(self, messages: Sequence[Message], weights: Mapping[int, float]) -> Layout | None:
        """The layout of a conversation whose shape can be remembered; None where it has to be rendered."""
        if len(messages) > MOST_MESSAGES or any(message.extra for message in messages):
            return None
        key = tuple(
            [
                (message.role, not message.content, message.content.isspace(), weights.get(index, 0.0) > 0)
                for index, message in enumerate(messages)
            ]
        )
        if key not in self._known:
            if len(self._known) >= MOST_SHAPES:
                return None
            self._known[key] = self._learn(messages, weights)
        shape = self._known[key]
        return None if shape is None else shape.layout(messages, weights)

    def _learn(self, messages: Sequence[Message], weights: Mapping[int, float]) -> _Shape | None:
        """Render the shape with stand-ins."""
        if any(message.content and not message.content.strip() for message in messages):
            return None  # blank words are there and, once trimmed, are not
        seen: list[str] = []
        stand_ins = [
            dataclasses.replace(message, content=StandIn(index, "", not message.content, seen))
            for index, message in enumerate(messages)
        ]
        made = self._lays(stand_ins, weights)
        if made is None or seen or made.marked or not all(answer.whole for answer in made.answers):
            return None
        return _shape(made)


def _words(messages: Sequence[Message], number: int, trim: str) -> str:
    words = messages[number].content
    return str(getattr(words, trim)()) if trim else words


def _shape(made: Layout) -> _Shape | None:
    """The pieces of a text with stand-ins in it; None where one of them did not come out whole."""
    pieces: list[str | tuple[int, str]] = []
    begins: list[int] = []
    at = 0
    while at < len(made.text):
        found = made.text.find(OPEN, at)
        if found < 0:
            found = len(made.text)
        if found > at:
            if CLOSE in made.text[at:found]:
                return None
            pieces.append(made.text[at:found])
            begins.append(at)
        if found == len(made.text):
            break
        end = made.text.find(CLOSE, found)
        number, awkward, trim = made.text[found + 1 : end].partition(AWKWARD)
        if end < 0 or not awkward or not number.isdigit() or trim not in ("", "strip", "lstrip", "rstrip"):
            return None
        pieces.append((int(number), trim))
        begins.append(found)
        at = end + 1
    places = _Places(pieces, begins, len(made.text))
    answers = [(answer, places.of(answer.start), places.of(answer.bound)) for answer in made.answers]
    generated = [(places.of(start), places.of(end)) for start, end in made.generated]
    if any(None in row for row in (*answers, *generated)):
        return None
    return _Shape(tuple(pieces), tuple(answers), tuple(generated), made.shape)  # type: ignore[arg-type]


class _Places:
    """Positions in the text with stand-ins, as places that hold for any words."""

    def __init__(self, pieces: Sequence[str | tuple[int, str]], begins: Sequence[int], length: int) -> None:
        self._pieces, self._begins, self._length = pieces, begins, length

    def of(self, position: int) -> _Place | None:
        """None within a stand-in, where no place is meant."""
        if position == self._length:
            return _Place(len(self._pieces), 0)
        piece = bisect_right(self._begins, position) - 1
        offset = position - self._begins[piece]
        return None if offset and not isinstance(self._pieces[piece], str) else _Place(piece, offset)
