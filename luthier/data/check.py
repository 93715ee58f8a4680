"""The whole of every data file, checked before any weight is loaded.

What goes in: the recipe's sources. What comes out: `Checked`: the examples for training and validation, every row that
is left out and why, what should be known about the data, and what is wrong with it; also as lines for people and as
JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from luthier.config.schema import DataSection, RunConfig, Source
from luthier.data import own, split
from luthier.data.scan import PLACES_SHOWN, Excluded, FileReport, FileScan, Item, Observer, Tally
from luthier.data.split import Split
from luthier.errors import DataError, Problem
from luthier.text import say

__all__ = [
    "Checked",
    "Excluded",
    "FileReport",
    "Item",
    "check_path",
    "check_sources",
    "inspect",
    "lines",
    "report",
]

REPEATS_ROWS, REPEATS_MEAN = 20, 4
"""From so many rows on, each occurring so often on average, the data is a few rows repeated; chosen, not tuned."""


@dataclass(frozen=True)
class Checked:
    """Attributes:
    notes: what should be known but stops nothing.
    problems: what stops training; empty after `check_sources`.
    plugins: the user's own formats, `module:function` -> source file.
    """

    train: tuple[Item, ...]
    validation: tuple[Item, ...]
    excluded: tuple[Excluded, ...]
    notes: tuple[Problem, ...]
    problems: tuple[Problem, ...]
    files: tuple[FileReport, ...]
    plugins: Mapping[str, Path]


def check_sources(config: RunConfig) -> Checked:
    """Read and check every file of the recipe.

    Raises:
        DataError: a file cannot be read, or rows cannot be used and `data.bad_rows` is `stop`; every problem is listed.
    """
    checked = inspect(config)
    if checked.problems:
        raise DataError(checked.problems)
    return checked


def inspect(config: RunConfig, observer: Observer | None = None) -> Checked:
    """`check_sources`, with the problems beside what could be read instead of an error. `observer` is told of every
    kept row."""
    return _inspect(config.data, config.run.seed, config.method.kind, observer)


def check_path(path: str, format: str = "auto", observer: Observer | None = None) -> Checked:
    """`inspect` of one file without a recipe: nothing is held out, and any method is fine.

    Args:
        format: a name of `FORMATS`, the user's `module:function`, or auto.
        observer: is told of every kept row.
    """
    data = DataSection(train=(Source(path=path, format=format),), validation=0.0)
    return _inspect(data, 0, None, observer)


# ----------------------------------------------------------------------------------------------------- all files


def _inspect(data: DataSection, seed: int, method: str | None, observer: Observer | None) -> Checked:
    given = data.validation if isinstance(data.validation, tuple) else ()
    train = [_scan(source, data.format, index, method) for index, source in enumerate(data.train)]
    valid = [_scan(source, data.format, index, method, "validation") for index, source in enumerate(given)]
    files = (*train, *valid)
    for file in files:
        file.check(observer)
    items = [item for file in train for item in file.items]
    hashes = [each for file in train for each in file.hashes]
    if isinstance(data.validation, tuple):
        chosen = Split(frozenset(), 0, 0)
        held_out = [item for file in valid for item in file.items]
    else:
        chosen = split.hold_out(hashes, split.wanted_rows(data.validation, len(items)), seed)
        held_out = [items[index] for index in sorted(chosen.held_out)]
    problems = (*_twice(files), *_problems(files, data.bad_rows == "stop"))
    return Checked(
        train=tuple(item for index, item in enumerate(items) if index not in chosen.held_out),
        validation=tuple(held_out),
        excluded=tuple(row for file in files for row in file.excluded),
        notes=(*_notes(train, valid, data), *_split_notes(chosen, data.validation, len(items))),
        problems=problems,
        files=tuple(file.report() for file in files),
        plugins={} if problems else {file.format: own.source_file(file.format) for file in files if file.is_own},
    )


def _scan(
    source: Source, format: str, index: int, method: str | None, role: Literal["train", "validation"] = "train"
) -> FileScan:
    return FileScan(source.path, source.format if source.format != "auto" else format, role, index, method)


def _twice(files: Iterable[FileScan]) -> Iterator[Problem]:
    """Files given more than once."""
    seen: set[Path] = set()
    for file in files:
        path = file.path.absolute()
        if path in seen:
            yield Problem("data.file_twice", str(file.path))
        seen.add(path)


def _problems(files: Sequence[FileScan], stop: bool) -> Iterator[Problem]:
    """What is wrong with files, then with rows."""
    fatal = [problem for file in files for problem in file.fatal]
    yield from fatal
    if stop:
        yield from (problem for file in files for problem in file.row_problems())
        bad, read = sum(len(file.excluded) for file in files), sum(file.read for file in files)
        if bad:
            yield Problem("data.stopped", values={"rows": bad, "read": read})
    elif not fatal:
        yield from (Problem("data.nothing_left", str(file.path)) for file in files if not file.items)


# --------------------------------------------------------------------------------------------------------- notes


def _notes(train: Sequence[FileScan], valid: Sequence[FileScan], data: DataSection) -> Iterator[Problem]:
    for file in (*train, *valid):
        path = str(file.path)
        if file.excluded and data.bad_rows == "drop":
            yield Problem("data.left_out", path, values={"rows": len(file.excluded), "read": file.read})
        if file.placeholders.rows and not data.allow_unfilled:
            yield file.placeholders.note("data.unfilled", path)
        if file.unanswered.rows:
            yield file.unanswered.note("data.unanswered", path)
        if file.unmapped.rows:
            yield file.unmapped.note("data.unread_keys", path)
    yield from _repeats(train)
    trained = frozenset(each for file in train for each in file.hashes)
    for file in valid:
        leaked = Tally()
        for where, each in zip(file.places, file.hashes, strict=True):
            if each in trained:
                leaked.add(where)
        if leaked.rows:
            yield leaked.note("data.leak", str(file.path))


def _repeats(train: Sequence[FileScan]) -> Iterator[Problem]:
    """Rows that occur more than once in the training data, within and across files."""
    first: dict[bytes, str] = {}
    again = Tally()
    for file in train:
        for where, each in zip(file.places, file.hashes, strict=True):
            if each not in first:
                first[each] = where
            elif again.rows < PLACES_SHOWN:
                again.add(f"{where} = {first[each]}")
            else:
                again.rows += 1
    rows = again.rows + len(first)
    if rows >= REPEATS_ROWS and rows >= REPEATS_MEAN * len(first):
        yield again.note("data.few_distinct", "", distinct=len(first), all=rows)
    elif again.rows:
        yield again.note("data.duplicates", "", all=rows)


def _split_notes(chosen: Split, share: object, rows: int) -> Iterator[Problem]:
    if share == "auto" and 0 < rows < split.AUTO_LEAST_ROWS:
        yield Problem("data.too_few_to_hold_out", values={"rows": rows, "least": split.AUTO_LEAST_ROWS})
    elif chosen.wanted and not chosen.held_out:
        yield Problem("data.nothing_held_out", values={"rows": chosen.wanted})
    elif chosen.copies:
        yield Problem("data.copies_held_out", values={"copies": chosen.copies, "rows": len(chosen.held_out)})


# -------------------------------------------------------------------------------------------------------- output


def report(checked: Checked) -> dict[str, Any]:
    """Everything but the examples, as JSON values."""
    return {
        "files": [{**asdict(file), "excluded": file.excluded} for file in checked.files],
        "train": len(checked.train),
        "validation": len(checked.validation),
        "excluded": [asdict(row) for row in checked.excluded],
        "notes": [note.to_json() for note in checked.notes],
        "problems": [problem.to_json() for problem in checked.problems],
    }


def lines(checked: Checked) -> list[str]:
    """What was read, for people, without colours; `report` has what there is to say about it."""
    shown: list[str] = []
    for file in checked.files:
        shown.append(say("data.line_file", path=file.path, read=file.read, kept=file.kept, excluded=file.excluded))
        if file.format:
            shown.append("    " + say("data.line_format", format=file.format, why=file.why))
        shown += [f"    {rows} × {_first_reason(checked, file, id)}" for id, rows in file.faults.items()]
    shown.append(say("data.line_split", train=len(checked.train), validation=len(checked.validation)))
    return shown


def _first_reason(checked: Checked, file: FileReport, id: str) -> str:
    """The reason as the first row left out for it has it."""
    return next(row.reason for row in checked.excluded if row.path == file.path and row.reason_id == id)
