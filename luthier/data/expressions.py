"""Regular expressions as plain tables, for who has no engine to run them.

What goes in: the expressions by which a tokenizer cuts words. What comes out: their branches as rows of numbers
(`native.c` follows them as a backtracking engine would), and the sets of characters that these speak of, each of which
the `regex` library tells. What the tables cannot say is refused, never approximated: a group that is repeated, or that
stands behind something of no fixed length; lazy quantifiers; anchors; looking back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray

GREEDY, POSSESSIVE, NOT_AHEAD = range(3)
MOST_SETS = 31
"""Bits of a character's sets, less the one that says that they are known."""
MOST_REPEATS = 1000

_ATOM = re.compile(
    r"\[\^?(?!\])(?:\\.|[^\]\\\[&]|&(?!&))+\]|\\[pP]\{\^?\w+\}|\\[sSdDwWnrtfv]|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}"
    r"|\\[^\w\s]|[^\\\[\](){}?*+|^$]",
    re.DOTALL,
)
_QUANTIFIER = re.compile(r"(?:([?*+])|\{(\d+)(,?)(\d*)\})(\+?)(?!\?)")
_SIMPLE = {"?": (0, 1), "*": (0, -1), "+": (1, -1)}


class Unsaid(ValueError):
    """The expression cannot be put into tables."""


class Item(NamedTuple):
    """set: number of a set; least..most of it, most -1 for no bound; kind: GREEDY, POSSESSIVE, NOT_AHEAD."""

    set: int
    least: int
    most: int
    kind: int

    @property
    def is_fixed(self) -> bool:
        return self.least == self.most or self.kind == NOT_AHEAD


class Branch(NamedTuple):
    """items one after the other; then one of the tail's branches, if any fits."""

    items: tuple[Item, ...]
    tail: tuple[Branch, ...] = ()


class Tables(NamedTuple):
    """Expressions that cut one after the other.

    Attributes:
        items: int32 [I, 4] of `Item`; branches: int32 [B, 4], first and last item, first and last branch of the tail;
        levels: where each expression's branches end, int32 [E] (those of tails stand behind all of them).
        sets: expression of one character for each set.
    """

    items: NDArray[np.int32]
    branches: NDArray[np.int32]
    levels: NDArray[np.int32]
    sets: tuple[regex.Pattern[str], ...]

    def sets_of(self, character: str) -> int:
        """The sets that a character is in, as bits."""
        return sum(1 << number for number, each in enumerate(self.sets) if each.fullmatch(character))


def tables(patterns: Sequence[str]) -> Tables:
    """
    Raises:
        Unsaid: an expression cannot be put into tables.
    """
    sets: dict[str, int] = {}
    levels = [_Parser(pattern, sets).whole() for pattern in patterns]
    if len(sets) > MOST_SETS:
        raise Unsaid(f"{len(sets)} sets")
    branches = [branch for level in levels for branch in level]
    tails = [branch for each in branches for branch in each.tail]
    items: list[Item] = []
    rows: list[tuple[int, int, int, int]] = []
    tail = len(branches)
    for branch in [*branches, *tails]:
        rows.append((len(items), len(items) + len(branch.items), tail, tail + len(branch.tail)))
        items += branch.items
        tail += len(branch.tail)
    return Tables(
        np.asarray(items, np.int32).reshape(-1, 4),
        np.asarray(rows, np.int32).reshape(-1, 4),
        np.cumsum([len(level) for level in levels]).astype(np.int32),
        tuple(map(regex.compile, sets)),
    )


class _Parser:
    """Of one expression; new sets are numbered in `sets`."""

    def __init__(self, pattern: str, sets: dict[str, int]) -> None:
        self._pattern = pattern
        self._sets = sets
        self._at = 0

    def whole(self) -> list[Branch]:
        found = self._branches("")
        if self._at < len(self._pattern) or not all(any(item.least for item in each.items) for each in found):
            raise Unsaid(self._pattern)
        return found

    def _takes(self, text: str) -> bool:
        if not self._pattern.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _branches(self, flags: str) -> list[Branch]:
        """Up to the end, or to the bracket that closes the group."""
        found = self._branch(flags)
        while self._takes("|"):
            found += self._branch(flags)
        return found

    def _branch(self, flags: str) -> list[Branch]:
        """What stands between two bars: as many branches as the groups in it make of it."""
        made = [Branch(())]
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            if any(branch.tail for branch in made):
                raise Unsaid(self._pattern)  # something behind an optional group
            if self._takes("(?!"):
                ahead = Item(self._atom(flags), 0, 0, NOT_AHEAD)
                if not self._takes(")"):
                    raise Unsaid(self._pattern)
                made = [Branch((*branch.items, ahead)) for branch in made]
            elif self._pattern[self._at] == "(":
                made = self._grouped(made, flags)
            else:
                item = self._repeated(self._atom(flags))
                made = [Branch((*branch.items, item)) for branch in made]
        return made

    def _grouped(self, before: list[Branch], flags: str) -> list[Branch]:
        """Every branch of a group behind each that stands before it, or as the tail of it where it is optional."""
        flags = flags if self._takes("(?:") else "i" if self._takes("(?i:") else ""
        if self._pattern[self._at - 1] != ":":
            raise Unsaid(self._pattern)
        inner = self._branches(flags)
        if not self._takes(")") or any(branch.tail for branch in inner):
            raise Unsaid(self._pattern)
        if self._takes("?"):
            if self._pattern[self._at : self._at + 1] in ("?", "+"):
                raise Unsaid(self._pattern)
            return [Branch(branch.items, tuple(inner)) for branch in before]
        fixed = all(item.is_fixed for branch in before for item in branch.items)
        if self._pattern[self._at : self._at + 1] in ("*", "+", "{") or not fixed:
            raise Unsaid(self._pattern)
        return [Branch((*branch.items, *each.items)) for branch in before for each in inner]

    def _atom(self, flags: str) -> int:
        """The number of the set that stands here."""
        found = _ATOM.match(self._pattern, self._at)
        if found is None:
            raise Unsaid(self._pattern)
        self._at = found.end()
        source = f"(?{flags}:{found.group()})" if flags else found.group()
        return self._sets.setdefault(source, len(self._sets))

    def _repeated(self, set: int) -> Item:
        found = _QUANTIFIER.match(self._pattern, self._at)
        if found is None:
            if self._pattern[self._at : self._at + 1] in ("?", "*", "+", "{"):
                raise Unsaid(self._pattern)
            return Item(set, 1, 1, GREEDY)
        self._at = found.end()
        simple, least, comma, most, possessive = found.groups()
        low, high = _SIMPLE[simple] if simple else (int(least), int(most) if most else -1 if comma else int(least))
        if max(low, high) > MOST_REPEATS or 0 <= high < low or high == 0:
            raise Unsaid(self._pattern)
        return Item(set, low, high, POSSESSIVE if possessive else GREEDY)
