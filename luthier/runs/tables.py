"""How counts, bytes, times and tables are shown to people.

What goes in: numbers and rows of text. What comes out: short text, aligned also where characters are two cells wide.
The same tables read well in a terminal and, with bars, as Markdown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len

NOTHING = "–"
"""Stands where a value does not exist."""
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True)
class Answer:
    """What a command found. value: for programs; text: for people; good: False makes the command exit with 1."""

    value: Any
    text: tuple[str, ...]
    good: bool = True

    def lines(self) -> tuple[str, ...]:
        return self.text


def count(value: float | None) -> str:
    """A number of things: 9,043,968."""
    return NOTHING if value is None else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes in decimal units: 1.9 GB."""
    if value is None:
        return NOTHING
    rest, unit = float(value), 0
    while rest >= 999.5 and unit < len(UNITS) - 1:
        rest, unit = rest / 1000, unit + 1
    return f"{rest:.0f} {UNITS[unit]}" if unit == 0 or rest >= 99.5 else f"{rest:.1f} {UNITS[unit]}"


def duration(seconds: float | None) -> str:
    """A length of time: 0:41, 1:02:03, 2d 03:04:05."""
    if seconds is None:
        return NOTHING
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02}:{minute:02}:{second:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def span(seconds: float) -> str:
    """A length of time in words that need no guessing: 41 s, 2 min 12 s, 1 h 02 min."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minute:02} min"
    return f"{minute} min {second:02} s" if minute else f"{second} s"


def decimal(value: Any) -> str:
    """A measured number with four places after the point: 1.2346; small and huge ones with three digits: 2e-05."""
    if value is None:
        return NOTHING
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 1e6 else f"{value:.3g}"


def short_hash(digest: str) -> str:
    """The first 12 of a hash's characters: enough to tell files apart by eye."""
    return digest[:12]


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Aligned lines for a terminal. `right`: numbers of the columns that are aligned to the right."""
    lines = [header, *rows]
    widths = [max(cell_len(line[i]) for line in lines) for i in range(len(header))]
    return ["  ".join(_pad(line[i], widths[i], i in right) for i in range(len(header))).rstrip() for line in lines]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """The same as a Markdown table, whose source is aligned as well."""
    lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (header, *rows)]
    widths = [max(3, *(cell_len(line[i]) for line in lines)) for i in range(len(header))]
    rule = ["-" * (widths[i] - 1) + (":" if i in right else "-") for i in range(len(header))]
    padded = [[_pad(line[i], widths[i], i in right) for i in range(len(header))] for line in lines]
    return ["| " + " | ".join(line) + " |" for line in (padded[0], rule, *padded[1:])]


def _pad(text: str, width: int, to_the_right: bool) -> str:
    gap = " " * (width - cell_len(text))
    return gap + text if to_the_right else text + gap
