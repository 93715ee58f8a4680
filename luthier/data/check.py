"""The whole of every data file, checked before any weight is loaded.

What goes in: the recipe's sources. What comes out: `Checked`: the examples for training and validation, every row that
is left out and why, what should be known about the data, and what is wrong with it; also as lines for people and as
JSON. Examples are read again when asked for: none is held in memory.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Ints
from luthier.config.schema import DataSection, RunConfig, Source
from luthier.data import imitation, own, readers, sources, split
from luthier.data.examples import LEARNS, MISFITS, Chat, misfit
from luthier.data.formats import Example
from luthier.data.hub import Origin
from luthier.data.near import SAMPLE_ROWS, NearIndex, Pairs, content_of, settled
from luthier.data.readers import Row, place
from luthier.data.renaming import Renaming
from luthier.data.scan import HASH_TYPE, HEAD_ROWS, PLACES_SHOWN, Account, Excluded, FileScan, Role, Table, Tally
from luthier.data.speech import speech
from luthier.errors import DataError, Problem
from luthier.text import say

__all__ = [
    "Checked",
    "Excluded",
    "FileReport",
    "Given",
    "Item",
    "Rows",
    "Watcher",
    "check_path",
    "check_sources",
    "examples",
    "inspect",
    "judge",
    "lines",
    "report",
    "scans",
    "splits",
]

REPEATS_ROWS, REPEATS_MEAN = 20, 4
"""From so many rows on, each occurring so often on average, the data is a few rows repeated; chosen, not tuned."""


@dataclass(frozen=True, slots=True)
class Item:
    """One example to learn from or to validate with.

    Attributes:
        path, number, line: the row it comes from, see `readers.Row`.
        source_index: which of `data.train` (or of the validation files) it belongs to; that source's weight applies.
    """

    example: Example
    path: str
    number: int
    line: int
    source_index: int

    @property
    def where(self) -> str:
        return place(self.path, self.line, self.number)


@dataclass(frozen=True)
class Given:
    """A file that was read whole, and what it is for. source_index: which of the sources of its role it belongs to;
    names: what its columns and roles are called."""

    account: Account
    table: Table
    role: Role
    source_index: int
    names: Renaming

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
            scan = FileScan(file.path, file.account.format, file.names)
            for row, kept in enumerate(scan.rows()):
                if row != next_one:
                    continue
                if kept.hash != file.table.hashes[row].tobytes():
                    break
                yield Item(kept.example, kept.path, kept.number, kept.line, file.source_index)
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
        origin: where on a hub it comes from; None for a file that was given.
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
    origin: Origin | None

    @property
    def excluded(self) -> int:
        return self.read - self.kept

    @staticmethod
    def of(file: Given, origin: Origin | None) -> FileReport:
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
            origin,
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

    @property
    def given(self) -> tuple[Given, ...]:
        """Every file, those for training first."""
        return (*self.train.files, *(file for file in self.validation.files if file.role == "validation"))


class Watcher(Protocol):
    """Sees rows while they are read."""

    def see(self, where: str, path: str, role: Role, example: Example, content_hash: bytes) -> None:
        """A kept row: where it stands, its file, that file's role. Called for every row in order."""

    def alike(self, again: Iterable[Example]) -> Pairs:
        """Rows that are nearly the same, counted from 0 as they were seen. again: reads all of them once more."""


class Alike:
    """Watches for near duplicates only, and gives up where there are too many rows: what a split needs."""

    def __init__(self) -> None:
        self._index = NearIndex(SAMPLE_ROWS, gives_up=True)
        self._contents = array("Q")

    def see(self, where: str, path: str, role: Role, example: Example, content_hash: bytes) -> None:
        content = content_of(content_hash)
        self._index.add(len(self._contents), content, speech(example).own_text)
        self._contents.append(content)

    def alike(self, again: Iterable[Example]) -> Pairs:
        self._index = settled(self._index, self._contents, (speech(example).own_text for example in again))
        return self._index.pairs()


def check_sources(config: RunConfig) -> Checked:
    """Read and check every file of the recipe.

    Raises:
        DataError: a file cannot be read, or rows cannot be used and `data.bad_rows` is `stop`; every problem is listed.
    """
    checked = inspect(config, Alike() if splits(config.data) else None)
    if checked.problems:
        raise DataError(checked.problems)
    return checked


def inspect(config: RunConfig, watcher: Watcher | None = None) -> Checked:
    """`check_sources`, with the problems beside what could be read instead of an error.

    Args:
        watcher: sees every kept row as it is read, and says which ones stay on one side of a split; without one only
            equal rows do.
    """
    found = scans(config.data)
    files = _exhausted(found, watcher)
    alike = watcher.alike(examples(files)) if watcher is not None and splits(config.data) else None
    return judge(config.data, config.run.seed, config.method.kind, found, files, alike)


def check_path(path: str, format: str = "auto", watcher: Watcher | None = None) -> Checked:
    """`inspect` of one file without a recipe: nothing is held out, and any method is fine.

    Args:
        format: a name of `FORMATS`, the user's `module:function`, or auto.
        watcher: sees every kept row as it is read.
    """
    data = DataSection(train=(Source(path=path, format=format),), validation=0.0)
    found = scans(data)
    return judge(data, 0, None, found, _exhausted(found, watcher))


def splits(data: DataSection) -> bool:
    """Whether rows for validation are split off those for training."""
    return not isinstance(data.validation, tuple) and data.validation != 0


def examples(files: Sequence[Given]) -> Iterator[Example]:
    """Every kept row of all files once more, in the order in which they were read. Raises DataError where one has
    changed since."""
    return (item.example for item in Rows(tuple(files), tuple(np.arange(len(file.table)) for file in files)))


# ----------------------------------------------------------------------------------------------------- all files


class Scans(NamedTuple):
    """What the sources of a recipe stand for.

    files: a scan, not begun, of every file, its role and its source's place; those for training come first.
    notes, problems: what there is to tell about sources.
    origins: file -> where on a hub it comes from.
    """

    files: list[tuple[FileScan, Role, int]]
    notes: list[Problem]
    problems: list[Problem]
    origins: dict[str, Origin]


def scans(data: DataSection) -> Scans:
    """The files of all sources."""
    given = data.validation if isinstance(data.validation, tuple) else ()
    made = Scans([], [], [], {})
    roles: tuple[tuple[Role, tuple[Source, ...]], ...] = (("train", data.train), ("validation", given))
    for role, of_role in roles:
        for index, source in enumerate(of_role):
            found = sources.find(source)
            made.notes.extend(found.notes)
            made.problems.extend(found.problems)
            format = source.format if source.format != "auto" else data.format
            names = Renaming(source.columns, source.roles)
            files = [FileScan(path, format, names) for path in found.files]
            made.files.extend((scan, role, index) for scan in files)
            if found.origin is not None:
                made.origins.update(dict.fromkeys((scan.account.path for scan in files), found.origin))
    return made


def _exhausted(found: Scans, watcher: Watcher | None) -> list[Given]:
    made: list[Given] = []
    for scan, role, source_index in found.files:
        for kept in scan.rows():
            if watcher is not None:
                watcher.see(kept.where, kept.path, role, kept.example, kept.hash)
        made.append(Given(scan.account, scan.table, role, source_index, scan.names))
    return made


def judge(
    data: DataSection,
    seed: int,
    method: str | None,
    found: Scans,
    files: Sequence[Given],
    alike: Pairs | None = None,
) -> Checked:
    """What the accounts of all files come to, together with the recipe.

    Args:
        method: kind of method that the examples are for; None where any is fine.
        files: what came of the files found.
        alike: rows that are nearly the same, which a split of at most `SAMPLE_ROWS` rows keeps together; those for
            training count from 0.
    """
    train, valid = ([file for file in files if file.role == role] for role in ("train", "validation"))
    equal = split.Groups.equal(_hashes(train))
    share = 0.0 if isinstance(data.validation, tuple) else data.validation
    rows = len(equal.of_row)
    wanted = split.wanted_rows(share, rows)
    chosen = split.hold_out(equal, alike if rows <= SAMPLE_ROWS else None, wanted, seed)
    held_out = np.split(chosen.held_out, np.cumsum([len(file.table) for file in train])[:-1])[: len(train)]
    validation = Rows(tuple(train), tuple(np.flatnonzero(each) for each in held_out))
    if valid:
        validation = Rows(tuple(valid), tuple(np.arange(len(file.table)) for file in valid))
    problems = (*found.problems, *_twice(files), *_problems(files, method, data.bad_rows == "stop"))
    formats = [file.account.format for file in files if own.is_own(file.account.format)]
    return Checked(
        train=Rows(tuple(train), tuple(np.flatnonzero(~each) for each in held_out)),
        validation=validation,
        excluded=tuple(Excluded(file.path, *row) for file in files for row in file.account.excluded),
        notes=(
            *found.notes,
            *(note for file in files if method is None for note in _methods(file)),
            *_notes(train, valid, data, equal),
            *_split_notes(chosen, data.validation, rows),
        ),
        problems=problems,
        files=tuple(FileReport.of(file, found.origins.get(file.path)) for file in files),
        plugins={} if problems else {format: own.source_file(format) for format in formats},
    )


def _hashes(files: Sequence[Given]) -> NDArray[np.void]:
    """Content hashes of all rows."""
    return np.concatenate([np.empty(0, HASH_TYPE), *(file.table.hashes for file in files)])


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
    fatal = [problem for file in files for problem in (*file.account.fatal, *_misfits(file, method))]
    yield from fatal
    if stop:
        yield from (problem for file in files for problem in file.account.row_problems())
        bad, read = sum(len(file.account.excluded) for file in files), sum(file.account.read for file in files)
        if bad:
            yield Problem("data.stopped", values={"rows": bad, "read": read})
    elif not fatal:
        yield from (Problem("data.nothing_left", file.path) for file in files if not len(file.table))


def _misfits(file: Given, method: str | None) -> Iterator[Problem]:
    """Examples that the method does not learn from."""
    account = file.account
    found: dict[str, Tally] = {}
    for kind in MISFITS:
        tally, id = account.kinds.get(kind.__name__), misfit(kind, method)
        if tally is not None and id:
            before = found.get(id, Tally())
            found[id] = Tally(before.rows + tally.rows, [*before.places, *tally.places][:PLACES_SHOWN])
    for id, tally in found.items():
        hint = _imitation(file) if method is not None and Chat in LEARNS[method] else ""
        yield tally.note(id, account.path, method=method, format=account.format, hint=hint)


def _imitation(file: Given) -> str:
    """The recipe's lines with which the answers of rows for other methods can be imitated, as far as can be told."""
    if file.names:
        return ""
    head = itertools.islice(readers.read(Path(file.path)), HEAD_ROWS)
    found = imitation.lines(file.account.format, [row.value for row in head if isinstance(row, Row)])
    return say("data.hint_imitate", lines=found) if found else ""


def _methods(file: Given) -> Iterator[Problem]:
    """Where no recipe says which method is meant: the one that the rows are for, unless it is the usual one."""
    account = file.account
    for kind in MISFITS:
        tally = account.kinds.get(kind.__name__)
        methods = [method for method, learns in LEARNS.items() if kind in learns]
        if tally is not None and "sft" not in methods:
            said = {"methods": ", ".join(methods), "first": methods[0], "format": account.format}
            yield tally.note("data.for_method", account.path, **said)


# --------------------------------------------------------------------------------------------------------- notes


def _notes(train: Sequence[Given], valid: Sequence[Given], data: DataSection, equal: split.Groups) -> Iterator[Problem]:
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
    yield from _repeats(train, equal)
    for given in valid:
        leaked = Tally()
        for row in np.flatnonzero(np.isin(given.table.hashes, equal.hashes)):
            leaked.add(given.table.where(given.path, int(row)))
        if leaked.rows:
            yield leaked.note("data.leak", given.path)


def _repeats(train: Sequence[Given], equal: split.Groups) -> Iterator[Problem]:
    """Rows that occur more than once in the training data, within and across files."""
    rows, different = len(equal.of_row), len(equal.firsts)
    first_of = equal.firsts[equal.of_row]
    repeated = np.flatnonzero(first_of != np.arange(rows))
    starts = np.cumsum([0, *(len(file.table) for file in train)])

    def where(row: int) -> str:
        file = int(np.searchsorted(starts, row, side="right")) - 1
        return train[file].table.where(train[file].path, row - int(starts[file]))

    tally = Tally(len(repeated), [f"{where(row)} = {where(first_of[row])}" for row in repeated[:PLACES_SHOWN]])
    if rows >= REPEATS_ROWS and rows >= REPEATS_MEAN * different:
        yield tally.note("data.few_distinct", "", distinct=different, all=rows)
    elif len(repeated):
        yield tally.note("data.duplicates", "", all=rows)


def _split_notes(chosen: split.Split, share: object, rows: int) -> Iterator[Problem]:
    if share == "auto" and 0 < rows < split.AUTO_LEAST_ROWS:
        yield Problem("data.too_few_to_hold_out", values={"rows": rows, "least": split.AUTO_LEAST_ROWS})
    elif chosen.wanted and not chosen.held_out.any():
        yield Problem("data.nothing_held_out", values={"rows": chosen.wanted})
    elif chosen.copies:
        held_out = int(chosen.held_out.sum())
        yield Problem("data.copies_held_out", values={"copies": chosen.copies, "rows": held_out})
    if chosen.parted:
        yield Problem("data.near_parted", values={"rows": int(chosen.held_out.sum())})
    if chosen.wanted and rows > SAMPLE_ROWS:
        yield Problem("data.near_not_searched", values={"most": SAMPLE_ROWS})


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
