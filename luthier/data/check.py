"""The whole of every data file, checked before any weight is loaded.

What goes in: the recipe's sources. What comes out: `Checked`: the examples for training and validation, every row that
is left out and why, what should be known about the data, and what is wrong with it; also as lines for people and as
JSON. Examples are read again when asked for: none is held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luthier.batch import Ints
from luthier.config.schema import DataSection, RunConfig, Source
from luthier.data import own, split
from luthier.data.formats import Example
from luthier.data.scan import PLACES_SHOWN, Account, Excluded, FileScan, Role, Table, Tally
from luthier.data.split import Split
from luthier.errors import DataError, Problem
from luthier.text import say

__all__ = [
    "Checked",
    "Excluded",
    "FileReport",
    "Given",
    "Item",
    "Observer",
    "Rows",
    "check_path",
    "check_sources",
    "inspect",
    "judge",
    "lines",
    "report",
    "scans",
]

Observer = Callable[[str, str, Role, Example, bytes], None]
"""Takes where a kept row stands, its file, that file's role, the example and its content hash."""

REPEATS_ROWS, REPEATS_MEAN = 20, 4
"""From so many rows on, each occurring so often on average, the data is a few rows repeated; chosen, not tuned."""


@dataclass(frozen=True, slots=True)
class Item:
    """One example to learn from or to validate with.

    Attributes:
        path, number: the row it comes from, see `readers.Row`.
        source_index: which of `data.train` (or of the validation files) it belongs to; that source's weight applies.
    """

    example: Example
    path: str
    number: int
    source_index: int


@dataclass(frozen=True)
class Given:
    """A file that was read whole, and what it is for. source_index: which of the sources of its role it is."""

    account: Account
    table: Table
    role: Role
    source_index: int

    @property
    def path(self) -> str:
        return self.account.path


@dataclass(frozen=True)
class Rows:
    """Some rows of some files: chosen[i] are the places of files[i]'s rows in its table, ascending. Iterating reads the
    files again, and raises DataError where one has changed since."""

    files: tuple[Given, ...]
    chosen: tuple[Ints, ...]

    def __len__(self) -> int:
        return sum(len(each) for each in self.chosen)

    def hashes(self) -> Iterator[bytes]:
        """The content hash of every row; no file is read for it."""
        for file, chosen in zip(self.files, self.chosen, strict=True):
            yield from (each.tobytes() for each in file.table.hashes[chosen])

    def __iter__(self) -> Iterator[Item]:
        for file, chosen in zip(self.files, self.chosen, strict=True):
            wanted = iter(chosen.tolist())
            next_one = next(wanted, None)
            if next_one is None:
                continue
            scan = FileScan(file.path, file.account.format)
            for place, kept in enumerate(scan.rows()):
                if place != next_one:
                    continue
                if kept.hash != file.table.hashes[place].tobytes():
                    break
                yield Item(kept.example, kept.path, kept.number, file.source_index)
                next_one = next(wanted, None)
                if next_one is None:
                    break
            if next_one is not None:
                raise DataError(Problem("data.changed", file.path))


@dataclass(frozen=True)
class FileReport:
    """What one file held.

    Attributes:
        role, source_index: training or validation, and which of the sources.
        format, why: the format and how it was chosen; empty where the file could not be read so far.
        read, kept, distinct: rows; `kept` ones are examples, of which `distinct` differ.
        faults: message id -> number of rows left out for it.
        sha256, bytes: of the file as it lies on the disk.
    """

    path: str
    role: Role
    source_index: int
    format: str
    why: str
    read: int
    kept: int
    distinct: int
    faults: Mapping[str, int]
    sha256: str
    bytes: int

    @property
    def excluded(self) -> int:
        return self.read - self.kept

    @staticmethod
    def of(file: Given) -> FileReport:
        account, table = file.account, file.table
        report = FileReport(
            account.path,
            file.role,
            file.source_index,
            account.format,
            account.why,
            account.read,
            len(table),
            table.distinct,
            account.counts,
            account.sha256,
            account.bytes,
        )
        assert report.excluded == len(account.excluded) == sum(report.faults.values()), "a row was lost"
        return report


@dataclass(frozen=True)
class Checked:
    """Attributes:
    notes: what should be known but stops nothing.
    problems: what stops training; empty after `check_sources`.
    plugins: the user's own formats, `module:function` -> source file.
    """

    train: Rows
    validation: Rows
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
    kept row as it is read."""
    files = [_exhausted(*each, observer) for each in scans(config.data)]
    return judge(config.data, config.run.seed, config.method.kind, files)


def check_path(path: str, format: str = "auto", observer: Observer | None = None) -> Checked:
    """`inspect` of one file without a recipe: nothing is held out, and any method is fine.

    Args:
        format: a name of `FORMATS`, the user's `module:function`, or auto.
        observer: is told of every kept row as it is read.
    """
    data = DataSection(train=(Source(path=path, format=format),), validation=0.0)
    return judge(data, 0, None, [_exhausted(*each, observer) for each in scans(data)])


# ----------------------------------------------------------------------------------------------------- all files


def scans(data: DataSection) -> Iterator[tuple[FileScan, Role, int]]:
    """A scan, not begun, of every file: those for training, then those for validation, each with its place."""
    given = data.validation if isinstance(data.validation, tuple) else ()
    roles: tuple[tuple[Role, tuple[Source, ...]], ...] = (("train", data.train), ("validation", given))
    for role, sources in roles:
        for index, source in enumerate(sources):
            yield FileScan(source.path, source.format if source.format != "auto" else data.format), role, index


def _exhausted(scan: FileScan, role: Role, source_index: int, observer: Observer | None) -> Given:
    for kept in scan.rows():
        if observer is not None:
            observer(kept.where, kept.path, role, kept.example, kept.hash)
    return Given(scan.account, scan.table, role, source_index)


def judge(data: DataSection, seed: int, method: str | None, files: Sequence[Given]) -> Checked:
    """What the accounts of all files come to, together with the recipe.

    Args:
        method: kind of method that the examples are for; None where any is fine.
    """
    train, valid = ([file for file in files if file.role == role] for role in ("train", "validation"))
    hashes = np.concatenate([file.table.hashes for file in train])
    share = 0.0 if isinstance(data.validation, tuple) else data.validation
    chosen = split.hold_out(hashes, split.wanted_rows(share, len(hashes)), seed)
    held_out = np.split(chosen.held_out, np.cumsum([len(file.table) for file in train])[:-1])
    validation = Rows(tuple(train), tuple(np.flatnonzero(each) for each in held_out))
    if valid:
        validation = Rows(tuple(valid), tuple(np.arange(len(file.table)) for file in valid))
    problems = (*_twice(files), *_problems(files, method, data.bad_rows == "stop"))
    formats = [file.account.format for file in files if own.is_own(file.account.format)]
    return Checked(
        train=Rows(tuple(train), tuple(np.flatnonzero(~each) for each in held_out)),
        validation=validation,
        excluded=tuple(Excluded(file.path, *row) for file in files for row in file.account.excluded),
        notes=(*_notes(train, valid, data), *_split_notes(chosen, data.validation, len(hashes))),
        problems=problems,
        files=tuple(FileReport.of(file) for file in files),
        plugins={} if problems else {format: own.source_file(format) for format in formats},
    )


def _twice(files: Iterable[Given]) -> Iterator[Problem]:
    """Files given more than once."""
    seen: set[Path] = set()
    for file in files:
        path = Path(file.path).absolute()
        if path in seen:
            yield Problem("data.file_twice", file.path)
        seen.add(path)


def _problems(files: Sequence[Given], method: str | None, stop: bool) -> Iterator[Problem]:
    """What is wrong with files, then with rows."""
    fatal = [problem for file in files for problem in (*file.account.fatal, *_misfits(file.account, method))]
    yield from fatal
    if stop:
        yield from (problem for file in files for problem in file.account.row_problems())
        bad, read = sum(len(file.account.excluded) for file in files), sum(file.account.read for file in files)
        if bad:
            yield Problem("data.stopped", values={"rows": bad, "read": read})
    elif not fatal:
        yield from (Problem("data.nothing_left", file.path) for file in files if not len(file.table))


def _misfits(account: Account, method: str | None) -> Iterator[Problem]:
    """Examples that the method does not learn from."""
    if method == "pretrain" and account.others.rows:
        yield account.others.note("data.pretrain_on_chat", account.path)
    elif method == "sft" and account.texts.rows:
        yield account.texts.note("data.sft_on_text", account.path)


# --------------------------------------------------------------------------------------------------------- notes


def _notes(train: Sequence[Given], valid: Sequence[Given], data: DataSection) -> Iterator[Problem]:
    for file in (each.account for each in (*train, *valid)):
        path = file.path
        if file.excluded and data.bad_rows == "drop":
            yield Problem("data.left_out", path, values={"rows": len(file.excluded), "read": file.read})
        if file.placeholders.rows and not data.allow_unfilled:
            yield file.placeholders.note("data.unfilled", path)
        if file.unanswered.rows:
            yield file.unanswered.note("data.unanswered", path)
        if file.unmapped.rows:
            yield file.unmapped.note("data.unread_keys", path)
    yield from _repeats(train)
    trained = np.concatenate([file.table.hashes for file in train])
    for given in valid:
        leaked = Tally()
        for row in np.flatnonzero(np.isin(given.table.hashes, trained)):
            leaked.add(given.table.where(given.path, int(row)))
        if leaked.rows:
            yield leaked.note("data.leak", given.path)


def _repeats(train: Sequence[Given]) -> Iterator[Problem]:
    """Rows that occur more than once in the training data, within and across files."""
    hashes = np.concatenate([file.table.hashes for file in train])
    _, firsts, group_of = np.unique(hashes, return_index=True, return_inverse=True)
    first_of = firsts[group_of]
    again = np.flatnonzero(first_of != np.arange(len(hashes)))
    starts = np.cumsum([0, *(len(file.table) for file in train)])

    def where(row: int) -> str:
        file = int(np.searchsorted(starts, row, side="right")) - 1
        return train[file].table.where(train[file].path, row - int(starts[file]))

    tally = Tally(len(again), [f"{where(row)} = {where(first_of[row])}" for row in again[:PLACES_SHOWN]])
    if len(hashes) >= REPEATS_ROWS and len(hashes) >= REPEATS_MEAN * len(firsts):
        yield tally.note("data.few_distinct", "", distinct=len(firsts), all=len(hashes))
    elif len(again):
        yield tally.note("data.duplicates", "", all=len(hashes))


def _split_notes(chosen: Split, share: object, rows: int) -> Iterator[Problem]:
    if share == "auto" and 0 < rows < split.AUTO_LEAST_ROWS:
        yield Problem("data.too_few_to_hold_out", values={"rows": rows, "least": split.AUTO_LEAST_ROWS})
    elif chosen.wanted and not chosen.held_out.any():
        yield Problem("data.nothing_held_out", values={"rows": chosen.wanted})
    elif chosen.copies:
        held_out = int(chosen.held_out.sum())
        yield Problem("data.copies_held_out", values={"copies": chosen.copies, "rows": held_out})


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
