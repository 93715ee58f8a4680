"""Two texts beside each other in a terminal, while both grow.

What goes in: pieces of either text. What comes out: whole lines with both, each as soon as its two halves are known.
Nothing that was written is changed again, so that it can be scrolled back to, or piped.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

BETWEEN = " │ "
LEAST = 40
"""Columns of a half below which answers are easier to read one after the other. Chosen, not tuned."""


def fits(width: int) -> bool:
    return width >= 2 * LEAST + len(BETWEEN)


def width_of(text: str) -> int:
    """Columns that a text takes: two for each wide character, none for marks that join the one before."""
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Cc", "Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


class Columns:
    """Args:
    width: of the terminal.
    write: takes whole lines.
    """

    def __init__(self, width: int, write: Callable[[str], object], titles: tuple[str, str]) -> None:
        self._half = (width - len(BETWEEN)) // 2
        self._write = write
        self._rest = ["", ""]
        self._lines: tuple[list[str], list[str]] = ([], [])
        self._closed = [False, False]
        for side, title in enumerate(titles):
            self.push(side, f"[{title}]\n")

    def push(self, side: int, piece: str) -> None:
        """More of the left (0) or the right (1) text."""
        *lines, self._rest[side] = wrapped(self._rest[side] + piece.expandtabs(4), self._half)
        self._lines[side].extend(lines)
        self._tell()

    def close(self, side: int) -> None:
        """Nothing more comes on this side."""
        if not self._closed[side]:
            self._closed[side] = True
            if self._rest[side]:
                self._lines[side].append(self._rest[side])
            self._tell()

    def _tell(self) -> None:
        while all(lines or closed for lines, closed in zip(self._lines, self._closed, strict=True)) and any(
            self._lines
        ):
            left, right = (lines.pop(0) if lines else "" for lines in self._lines)
            filled = left + " " * (self._half - width_of(left))
            self._write((filled + BETWEEN + right).rstrip() + "\n")


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most so many columns, broken at spaces and wide characters where there are any; the last is still
    open, and may be empty."""
    lines = []
    for whole in text.split("\n"):
        line = "".join(char for char in whole if char.isprintable() or _char_width(char))
        while width_of(line) > width:
            at = _break(line, width)
            lines.append(line[:at].rstrip(" "))
            line = line[at:].lstrip(" ")
        lines.append(line)
    return lines


def _break(line: str, width: int) -> int:
    """Where to end a line that is too long: the last place within the width, by preference behind a space or beside a
    wide character."""
    taken = best = 0
    for at, char in enumerate(line):
        taken += _char_width(char)
        if taken > width:
            # A space that just does not fit is as good a place as one that does.
            return at if char == " " or not best else best
        if char == " " or _char_width(char) == 2:
            best = at + 1
    return len(line)
