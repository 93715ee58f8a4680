"""The first rows of a data file, before anything is decided about it.

What goes in: a file, and the format and names that a recipe may already give it. What comes out: its rows as text, its
columns with a few values of each, the format that it would be read as, what would be learnt of each row, and, where no
format fits, which column is most likely which. At most `LOOKED_BYTES` of the unpacked file are read, whatever its size;
no code of the user's own is run. Torch-free.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.data import detection, guesses, opening, readers, wellformed
from luthier.data.examples import (
    LEARNS,
    Completion,
    Example,
    Labelled,
    Messages,
    Preference,
    RowFault,
    Text,
    all_messages,
)
from luthier.data.formats import FORMATS, Chat
from luthier.data.readers import Fault, Row
from luthier.data.renaming import Renaming
from luthier.data.strict_json import shorten
from luthier.data.turns import ROLES
from luthier.errors import Problem

LOOKED_BYTES = 4 * 2**20
"""Of a file that is looked into: thousands of rows, read in tens of milliseconds; chosen, not tuned."""
HEAD_ROWS = 100
"""Rows that columns and format are told from, as a whole check does."""
TEXT_CHARACTERS, VALUE_CHARACTERS = 4_000, 120
"""Of a row, or a turn, that is shown, and of a value beside its column's name."""
MOST_COLUMNS, MOST_ROLES, VALUES = 200, 30, 3


@dataclass(frozen=True)
class Column:
    """name: dotted where it lies within an object; rows: of those looked at that have it; reads_as: what the format
    reads it as, None where it is not read."""

    name: str
    rows: int
    values: tuple[str, ...]
    reads_as: str | None = None


@dataclass(frozen=True)
class Speaker:
    """A name for who speaks, as turns have it. role: what it is read as, None where it is not; guess: what it most
    likely is."""

    name: str
    rows: int
    role: str | None
    guess: str | None


@dataclass(frozen=True)
class Shown:
    """A row. number, line: see `readers.Row`; text: it as JSON, or a document as it is; cut: whether there is more of
    it; turns: what would be learnt, None where it cannot be used; problem: why."""

    number: int
    line: int
    text: str
    cut: bool
    turns: tuple[dict[str, Any], ...] | None
    problem: Problem | None


@dataclass(frozen=True)
class Peek:
    """Attributes:
    whole: whether the file ends within what was looked at.
    format, why: as what it is read, and how that was chosen; empty where no format fits.
    methods: kinds of method that learn from its rows.
    proposal: {format, columns} for the recipe, where no format fits and it can be told which column is which.
    problems: of the file as a whole, and of the names that were given.
    """

    bytes: int
    whole: bool
    format: str = ""
    why: str = ""
    methods: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    speakers: tuple[Speaker, ...] = ()
    rows: tuple[Shown, ...] = ()
    proposal: Mapping[str, Any] | None = None
    problems: tuple[Problem, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """lines, columns: the texts of the rows and the names of the columns alone."""
        rows = [{**each.__dict__, "problem": each.problem and each.problem.to_json()} for each in self.rows]
        return {
            **self.__dict__,
            "lines": [each.text or (each.problem.rule if each.problem else "") for each in self.rows],
            "columns": [each.name for each in self.columns],
            "fields": [each.__dict__ for each in self.columns],
            "speakers": [each.__dict__ for each in self.speakers],
            "rows": rows,
            "problems": [each.to_json() for each in self.problems],
        }


def look(path: Path, format: str = "auto", names: Renaming | None = None, first: int = 1, count: int = 20) -> Peek:
    """Look into a file.

    Args:
        format: a name of `FORMATS`, or auto; of the user's own no examples are made.
        first, count: which of its rows to show, from 1 on.
    """
    names = names or Renaming()
    with _beginning(path) as (start, whole, size):
        if isinstance(start, Problem):
            return Peek(size, whole, problems=(start,))
        read = _whole_rows(readers.read(start), whole)
        head = list(itertools.islice(read, HEAD_ROWS))
        asked = itertools.islice(itertools.chain(head, read), first - 1, first - 1 + count)
        shown = [_told_of(each, start, path) for each in asked]
    faults = [_told_of(each, start, path) for each in head if isinstance(each, Fault)]
    fatal = [each.problem for each in faults if isinstance(each, Fault) and each.fatal]
    values = [each.value for each in head if isinstance(each, Row)]
    if not values and not fatal:
        values_ = {"most": LOOKED_BYTES >> 20}
        fatal.append(Problem("data.no_rows" if whole else "data.row_too_large", str(path), values=values_))
    chosen = _choose(str(path), format, names, values) if values else _Chosen()
    return Peek(
        size,
        whole,
        chosen.format,
        chosen.why,
        _methods(chosen.format, names, values),
        tuple(_columns(values, chosen.format, names)),
        tuple(_speakers(values, names)),
        tuple(_shown(each, chosen.format, names) for each in shown),
        chosen.proposal,
        (*fatal, *chosen.problems),
    )


# --------------------------------------------------------------------------------------------------- what is read


@contextlib.contextmanager
def _beginning(path: Path) -> Iterator[tuple[Path | Problem, bool, int]]:
    """A file of which no more can be read than is to be looked at, whether that is all, and the size of the real one.

    A table of columns is read a few rows at a time anyway. Of any other file that is packed or large, the beginning is
    copied: a packed file may hold a single line that no memory holds.
    """
    head = opening.look(path, readers.READERS)
    if isinstance(head, Problem):
        yield head, True, 0
        return
    size = path.stat().st_size
    columnar = any(head.startswith(magic) for magic in readers.MAGIC)
    if columnar or (size <= LOOKED_BYTES and not opening.is_packed(path)):
        yield path, True, size
        return
    try:
        with opening.stream(path) as content:
            data = content.read(LOOKED_BYTES)
            whole = not content.read(1)
    except opening.CUT_SHORT as error:
        yield opening.damaged(path, 0, error), True, size
        return
    except OSError as error:
        yield opening.refused(path, error), True, size
        return
    with contextlib.ExitStack() as stack:
        try:
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory())) / f"rows{opening.ending(path)}"
            copy.write_bytes(data)
        except OSError as error:  # no room for it
            yield opening.refused(path, error), True, size
            return
        yield copy, whole, size


def _whole_rows(rows: Iterable[Row | Fault], whole: bool) -> Iterator[Row | Fault]:
    """The rows that do not end where the copy does: the last one is held back."""
    if whole:
        yield from rows
        return
    held: Row | Fault | None = None
    for each in rows:
        if held is not None:
            yield held
        held = each


def _told_of(each: Row | Fault, copy: Path, path: Path) -> Row | Fault:
    """Under the name of the real file."""
    if isinstance(each, Fault):
        where = each.problem.where.replace(str(copy), str(path))
        return replace(each, problem=replace(each.problem, where=where))
    return each._replace(path=str(path))


# --------------------------------------------------------------------------------------------------- its format


@dataclass(frozen=True)
class _Chosen:
    format: str = ""
    why: str = ""
    proposal: Mapping[str, Any] | None = None
    problems: tuple[Problem, ...] = ()


def _choose(path: str, format: str, names: Renaming, values: Sequence[Any]) -> _Chosen:
    wrong = tuple(names.problems(values, path))
    if wrong or format != "auto":
        return _Chosen(format if format != "auto" else "", problems=wrong)
    try:
        found, why = detection.detect([names.apply(value) for value in values])
    except RowFault as fault:
        keys = list(dict.fromkeys(str(key) for value in values if isinstance(value, dict) for key in value))
        return _Chosen(proposal=_proposal(keys), problems=(fault.problem(path),))
    return _Chosen(found, why)


def _proposal(keys: Sequence[str]) -> dict[str, Any] | None:
    if not keys:
        return None
    name, _, columns = detection.nearest(keys)
    renamed = {target: key for target, key in columns.items() if target != key}
    return {"format": name, "columns": renamed} if renamed else None


def _methods(format: str, names: Renaming, values: Sequence[Any]) -> tuple[str, ...]:
    """Kinds of method that learn from the first row that can be used."""
    for value in values:
        made = _example(format, names, value)
        if made is not None and not isinstance(made, RowFault):
            return tuple(kind for kind, types in LEARNS.items() if isinstance(made, types))
    return ()


def _example(format: str, names: Renaming, value: Any) -> Example | RowFault | None:
    """None where no format is known, or where only the user's own code can tell."""
    if format not in FORMATS:
        return None
    try:
        return wellformed.parse(FORMATS[format].parse, names.apply(value))
    except RowFault as fault:
        return fault


# --------------------------------------------------------------------------------------------------- its columns


def _columns(values: Sequence[Any], format: str, names: Renaming) -> Iterator[Column]:
    found: dict[str, list[Any]] = {}
    for value in values:
        for name, cell in _cells(value):
            found.setdefault(name, []).append(cell)
    renamed = {column: target for target, column in names.columns.items()}
    unread = (
        {key for value in values for key in detection.unmapped(format, names.apply(value))}
        if format in FORMATS
        else set(found)
    )
    for name, cells in itertools.islice(found.items(), MOST_COLUMNS):
        texts = dict.fromkeys(_text(cell) for cell in cells)
        shown = tuple(shorten(text, VALUE_CHARACTERS) for text in itertools.islice(texts, VALUES))
        own_name = name if name not in unread and "." not in name else None
        yield Column(name, len(cells), shown, renamed.get(name, own_name))


def _cells(value: Any) -> Iterator[tuple[str, Any]]:
    """The columns of a row that hold something, and what lies one level within objects."""
    if not isinstance(value, dict):
        return
    for key, cell in value.items():
        if cell is None:
            continue
        yield str(key), cell
        if isinstance(cell, dict):
            yield from ((f"{key}.{inner}", each) for inner, each in cell.items() if each is not None)


def _speakers(values: Sequence[Any], names: Renaming) -> Iterator[Speaker]:
    """Who speaks in the turns of the rows, under the names that the file has for them."""
    keys = {names.columns.get("role", "role"), names.columns.get("from", "from"), "role", "from"}
    found: dict[str, int] = {}
    for value in values:
        said = {turn[key] for turn in _turns(value) for key in keys if isinstance(turn.get(key), str)}
        for name in said:
            found[name] = found.get(name, 0) + 1
    for name, rows in itertools.islice(sorted(found.items(), key=lambda each: -each[1]), MOST_ROLES):
        role = ROLES.get(names.roles.get(name, name))
        guess = guesses.role(name, ROLES) or None
        yield Speaker(shorten(name), rows, role, guess)


def _turns(value: Any) -> Iterator[Mapping[str, Any]]:
    lists = value.values() if isinstance(value, dict) else [value]
    for each in lists:
        if isinstance(each, list):
            yield from (turn for turn in each if isinstance(turn, dict))


# --------------------------------------------------------------------------------------------------- its rows


def _shown(each: Row | Fault, format: str, names: Renaming) -> Shown:
    if isinstance(each, Fault):
        return Shown(each.number, 0, "", False, None, each.problem)
    is_document = isinstance(each.value, dict) and each.value.keys() == {"text"}
    text = _text(each.value["text"] if is_document else each.value)
    made = _example(format, names, each.value)
    problem = made.problem(each.where) if isinstance(made, RowFault) else None
    turns = None if made is None or isinstance(made, RowFault) else tuple(_learnt(made))
    return Shown(each.number, each.line, text[:TEXT_CHARACTERS], len(text) > TEXT_CHARACTERS, turns, problem)


def _text(value: Any) -> str:
    """As JSON; what JSON has no word for, dates and bytes in tables, as Python shows it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _learnt(example: Example) -> Iterator[dict[str, Any]]:
    """Its turns in order. side: 1 or -1 for an answer that is wanted or not, 0 where nobody judged."""
    match example:
        case Text(text):
            yield _turn("text", text, True)
        case Completion(prompt, completion):
            yield from (_turn("prompt", prompt, False), _turn("completion", completion, True))
        case Chat(messages):
            yield from (_turn(m.role, m.content, m.role == "assistant" and m.weight > 0, m.extra) for m in messages)
        case Preference(messages, chosen, rejected):
            yield from (*_asked(messages), *_answer(chosen, 1), *_answer(rejected, -1))
        case Labelled(messages, answer, label):
            yield from (*_asked(messages), *_answer(answer, 1 if label else -1))
        case _:
            yield from _asked(tuple(all_messages(example)))


def _asked(messages: Messages) -> Iterator[dict[str, Any]]:
    return (_turn(each.role, each.content, False, each.extra) for each in messages)


def _answer(messages: Messages, side: int) -> Iterator[dict[str, Any]]:
    return (_turn(each.role, each.content, each.role == "assistant", each.extra, side) for each in messages)


def _turn(role: str, text: str, learnt: bool, extra: Mapping[str, Any] | None = None, side: int = 0) -> dict[str, Any]:
    more = _text(dict(extra))[:TEXT_CHARACTERS] if extra else ""
    return {"role": role, "text": text[:TEXT_CHARACTERS], "more": more, "learnt": learnt, "side": side}
