"""One data file, read and checked to its last row.

What goes in: a file and the format it is said to have. What comes out: its examples one by one, with their places and
content hashes, and in the end an `Account`: the rows that are left out with the reason, and what there is to tell about
the file. Kept + left out = read. No example is held on to, so a file may be larger than the memory.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Ints
from luthier.data import detection, opening, own, readers, wellformed
from luthier.data.examples import Chat, Example, RowFault, content, texts
from luthier.data.formats import FORMATS
from luthier.data.readers import Fault, Row, place
from luthier.data.renaming import Renaming
from luthier.errors import DataError, Problem
from luthier.text import say

HEAD_ROWS = 100
"""Rows that a file's format is told from; chosen, not tuned."""
SHOWN = 20
"""Rows of one kind of fault, or words of one kind, that are named; the others are counted."""
PLACES_SHOWN = 3
MOST_WORDS = 1000
"""Different words that are counted; of more, the later ones are not."""
HASH_BYTES = 16
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
_PLACEHOLDER = re.compile(r"(?<!\{)\{\{\s*[\w.\-]+(?: [\w.\-]+)*\s*\}\}(?!\})")

NO_NAMES = Renaming()
Role = Literal["train", "validation"]


@dataclass(frozen=True, slots=True)
class Kept:
    """A row that is an example. path, number, line: see `readers.Row`; hash: `content_hash`."""

    example: Example
    path: str
    number: int
    line: int
    hash: bytes

    @property
    def where(self) -> str:
        return place(self.path, self.line, self.number)


@dataclass(frozen=True, slots=True)
class Excluded:
    """A row that was read and is not used. where: `file:line`; `reason` is for people, in their language."""

    path: str
    number: int
    where: str
    reason_id: str
    reason: str


@dataclass
class Tally:
    """How many rows show something, the first of them, and what exactly was seen."""

    rows: int = 0
    places: list[str] = field(default_factory=list)
    words: dict[str, int] = field(default_factory=dict)

    def add(self, where: str, words: Sequence[str] = ()) -> None:
        self.rows += 1
        for word in words:
            if word in self.words or len(self.words) < MOST_WORDS:
                self.words[word] = self.words.get(word, 0) + 1
        if len(self.places) < PLACES_SHOWN:
            self.places.append(where)

    def note(self, id: str, path: str, **values: Any) -> Problem:
        words = ", ".join(sorted(self.words, key=lambda word: -self.words[word])[:SHOWN])
        values = {"rows": self.rows, "places": ", ".join(self.places), "words": words, **values}
        return Problem(id, path, values=values)


TALLIES = ("placeholders", "unanswered", "unmapped")


@dataclass
class Account:
    """What there is to tell about a file, whatever it is used for.

    Attributes:
        format, why: the format and how it was chosen; empty where the file could not be read so far.
        read: rows.
        excluded: rows left out: number, where, message id, reason.
        faults: message id -> the first problems of that kind.
        fatal: what makes the file unusable.
        placeholders, unanswered, unmapped: rows with unfilled placeholders, without an answer at the end, and with
            columns that the format does not read.
        kinds: name of an example's type -> the rows of that type.
        sha256, bytes: of the file as it lies on the disk.
    """

    path: str
    format: str = ""
    why: str = ""
    read: int = 0
    excluded: list[tuple[int, str, str, str]] = field(default_factory=list)
    faults: dict[str, list[Problem]] = field(default_factory=dict)
    fatal: list[Problem] = field(default_factory=list)
    placeholders: Tally = field(default_factory=Tally)
    unanswered: Tally = field(default_factory=Tally)
    unmapped: Tally = field(default_factory=Tally)
    kinds: dict[str, Tally] = field(default_factory=dict)
    sha256: str = ""
    bytes: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Message id -> number of rows left out for it."""
        return dict(Counter(id for _, _, id, _ in self.excluded))

    def row_problems(self) -> Iterator[Problem]:
        """Every row that cannot be used, by kind, the first ones by name."""
        counts = self.counts
        for id, named in self.faults.items():
            yield from (problem for problem in named if problem not in self.fatal)
            more = counts[id] - len(named)
            if more:
                yield Problem("data.more", self.path, values={"rows": more, "kind": named[0].rule})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], path: str) -> Account:
        """What `to_json` wrote. The file may have been moved since: it is told under `path`."""

        def moved(where: str) -> str:
            return path + where.removeprefix(value["path"]) if where.startswith(value["path"]) else where

        def problems(rows: Sequence[Mapping[str, Any]]) -> list[Problem]:
            return [Problem(**{**row, "where": moved(row["where"])}) for row in rows]

        def tally(given: Mapping[str, Any]) -> Tally:
            return Tally(given["rows"], [moved(each) for each in given["places"]], given["words"])

        tallies = {name: tally(value[name]) for name in TALLIES}
        kinds = {name: tally(given) for name, given in value["kinds"].items()}
        excluded = [(number, moved(where), id, reason) for number, where, id, reason in value["excluded"]]
        faults = {id: problems(rows) for id, rows in value["faults"].items()}
        rest = {
            "path": path,
            "excluded": excluded,
            "faults": faults,
            "fatal": problems(value["fatal"]),
            **tallies,
            "kinds": kinds,
        }
        return cls(**{**value, **rest})


@dataclass(frozen=True)
class Table:
    """The rows of a file that are examples, in order. numbers, lines: int64 [n], see `readers.Row`; hashes: content
    hashes, 16 bytes each, [n]."""

    numbers: Ints
    lines: Ints
    hashes: NDArray[np.void]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def distinct(self) -> int:
        return len(np.unique(self.hashes))

    def where(self, path: str, row: int) -> str:
        return place(path, int(self.lines[row]), int(self.numbers[row]))


class FileScan:
    """One file while it is read: go through `rows` once, to the end; then `account` and `table` are complete.

    Args:
        path: of the file.
        format: a name of `FORMATS`, the user's `module:function`, or auto.
        names: what columns and roles are called in the file.
    """

    def __init__(self, path: str, format: str, names: Renaming = NO_NAMES) -> None:
        self.path = Path(path).expanduser()
        self.format = format
        self.names = names
        self.account = Account(str(self.path))
        self._numbers, self._lines, self._hashes = array("q"), array("q"), bytearray()

    @property
    def table(self) -> Table:
        numbers, lines = (np.frombuffer(each, dtype=np.int64) for each in (self._numbers, self._lines))
        return Table(numbers, lines, np.frombuffer(bytes(self._hashes), dtype=f"V{HASH_BYTES}"))

    def rows(self) -> Iterator[Kept]:
        """Every row that is an example; what is wrong with the others goes to `account`."""
        before = _stamp(self.path)
        yield from self._rows()
        account = self.account
        if before is None or (account.fatal and not account.read):
            return
        try:
            account.sha256, account.bytes = fingerprint(self.path)
        except OSError as error:
            account.fatal.append(opening.refused(self.path, error))
            return
        if _stamp(self.path) != before:
            account.fatal.append(Problem("data.changed", str(self.path)))

    def exhaust(self) -> None:
        """Go through all rows."""
        for _ in self.rows():
            pass

    def _rows(self) -> Iterator[Kept]:
        rows = readers.read(self.path)
        head: list[Row | Fault] = []
        found = 0
        for each in rows:
            head.append(each)
            found += isinstance(each, Row)
            if found == HEAD_ROWS:
                break
        parse = self._choose([each.value for each in head if isinstance(each, Row)])
        for each in itertools.chain(head, rows):
            if isinstance(each, Fault):
                self._take_fault(each)
            elif parse is None:
                return
            elif (kept := self._take(each, parse)) is not None:
                yield kept
        if not self.account.read and not self.account.fatal:
            self.account.fatal.append(Problem("data.no_rows", str(self.path)))

    def _choose(self, values: Sequence[Any]) -> Callable[[Any], Example] | None:
        """The function that makes examples of the rows; None where there are no rows or no format fits them."""
        account = self.account
        if not values:
            return None
        account.format, account.why = self.format, say("data.why_given")
        wrong = list(self.names.problems(values, str(self.path)))
        if wrong:
            account.fatal += wrong
            return None
        if own.is_own(self.format):
            try:
                return own.load(self.format)
            except DataError as error:
                account.fatal += error.problems
                return None
        if self.format == "auto":
            account.format = account.why = ""
            try:
                account.format, account.why = detection.detect([self.names.apply(value) for value in values])
            except RowFault as fault:
                account.fatal.append(fault.problem(str(self.path)))
                return None
            rule = readers.document_rule(self.path)
            account.why = say(rule) if rule else account.why
        return FORMATS[account.format].parse

    def _take(self, row: Row, parse: Callable[[Any], Example]) -> Kept | None:
        self.account.read += 1
        value = self.names.apply(row.value)
        try:
            example = wellformed.parse(parse, value)
            digest = content_hash(example)
        except RowFault as fault:
            self._exclude(fault.problem(row.where), row.number)
            return None
        self._numbers.append(row.number)
        self._lines.append(row.line)
        self._hashes += digest
        self._look(row, value, example)
        return Kept(example, row.path, row.number, row.line, digest)

    def _look(self, row: Row, value: Any, example: Example) -> None:
        """Keep in mind what the notes will tell."""
        account = self.account
        account.kinds.setdefault(type(example).__name__, Tally()).add(row.where)
        found = [word for text in texts(example) if "{{" in text for word in _PLACEHOLDER.findall(text)]
        if found:
            account.placeholders.add(row.where, list(dict.fromkeys(found)))
        if isinstance(example, Chat) and example.messages[-1].role != "assistant":
            account.unanswered.add(row.where)
        if account.format in FORMATS:
            unread = dict.fromkeys([*detection.unmapped(account.format, value), *self.names.shadowed(row.value)])
            left = [key for key in unread if key not in self.names.opened]
            if left:
                account.unmapped.add(row.where, left)

    def _take_fault(self, fault: Fault) -> None:
        if fault.number:
            self.account.read += 1
            self._exclude(fault.problem, fault.number)
        if fault.fatal:
            self.account.fatal.append(fault.problem)

    def _exclude(self, problem: Problem, number: int) -> None:
        reason = f"{problem.field}: {problem.rule}" if problem.field else problem.rule
        self.account.excluded.append((number, problem.where, problem.id, reason))
        named = self.account.faults.setdefault(problem.id, [])
        if len(named) < SHOWN:
            named.append(problem)


def fingerprint(path: Path) -> tuple[str, int]:
    """SHA-256 and size of a file's bytes as they lie on the disk.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file is written to; None where there is no file to ask."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def content_hash(example: Example) -> bytes:
    """16 bytes that are equal for equal examples only, on every machine.

    Raises:
        RowFault: it holds what cannot be written down as UTF-8 JSON (only the user's own formats make such).
    """
    try:
        written = _ENCODER.encode(content(example)).encode()
    except UnicodeEncodeError as error:
        raise RowFault("data.half_pair") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise RowFault("data.not_plain", reason=str(error)) from error
    return hashlib.blake2b(written, digest_size=16).digest()
