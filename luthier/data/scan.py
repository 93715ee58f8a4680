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
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Ints
from luthier.data import detection, opening, own, readers, wellformed
from luthier.data.examples import Chat, Example, RowFault, content, texts
from luthier.data.formats import FORMATS
from luthier.data.readers import Fault, Raw, Row, Unread, place
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
HASH_TYPE = np.dtype(f"V{HASH_BYTES}")
BLOCK_ROWS, BLOCK_CHARACTERS = 512, 2**19
"""Rows and characters looked at together: of 64 to 1024 rows, 256 to 512 took the least time."""
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
_PLACEHOLDER = re.compile(r"(?<!\{)\{\{\s*[\w.\-]+(?: [\w.\-]+)*\s*\}\}(?!\})")

NO_NAMES = Renaming()
Role = Literal["train", "validation"]


class Kept(NamedTuple):
    """A row that is an example (a named tuple, because millions are made). path, number, line: see `readers.Row`; hash:
    `content_hash`."""

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

    def count(self, kept: Kept) -> None:
        """As `add`: the place is only spelt where it is kept."""
        self.rows += 1
        if len(self.places) < PLACES_SHOWN:
            self.places.append(kept.where)

    def merge(self, later: Tally) -> None:
        """Count in what was seen after."""
        self.rows += later.rows
        self.places += later.places[: PLACES_SHOWN - len(self.places)]
        for word, count in later.words.items():
            if word in self.words or len(self.words) < MOST_WORDS:
                self.words[word] = self.words.get(word, 0) + count

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

    def fault(self, fault: Fault) -> None:
        """Count a row in that cannot be read, or what is wrong with the file."""
        if fault.number:
            self.read += 1
            self.exclude(fault.problem, fault.number)
        if fault.fatal:
            self.fatal.append(fault.problem)

    def exclude(self, problem: Problem, number: int) -> None:
        """Leave a row out."""
        # Many rows have the same fault, and their words need not be kept once for each.
        reason = sys.intern(f"{problem.field}: {problem.rule}" if problem.field else problem.rule)
        self.excluded.append((number, problem.where, problem.id, reason))
        named = self.faults.setdefault(problem.id, [])
        if len(named) < SHOWN:
            named.append(problem)

    def add(self, later: Account) -> None:
        """Count in the rows that come after, of the same file."""
        self.read += later.read
        self.excluded += later.excluded
        self.fatal += later.fatal
        for id, problems in later.faults.items():
            named = self.faults.setdefault(id, [])
            named += problems[: SHOWN - len(named)]
        for name in TALLIES:
            getattr(self, name).merge(getattr(later, name))
        for kind, tally in later.kinds.items():
            self.kinds.setdefault(kind, Tally()).merge(tally)

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


@dataclass
class Taken:
    """A block of rows, looked at. kept: those that are examples; account: of the block alone."""

    kept: list[Kept]
    account: Account

    @property
    def table(self) -> Table:
        numbers = np.asarray([each.number for each in self.kept], dtype=np.int64)
        lines = np.asarray([each.line for each in self.kept], dtype=np.int64)
        return Table(numbers, lines, np.frombuffer(b"".join([each.hash for each in self.kept]), dtype=HASH_TYPE))


@dataclass(frozen=True)
class Taker:
    """Makes examples of rows. It can be pickled where its format is one of `FORMATS`.

    Attributes:
        path: of the file.
        format: a name of `FORMATS`, or the user's `module:function`.
        names: what columns and roles are called in the file.
        parse: the function that the format names.
    """

    path: str
    format: str
    names: Renaming
    parse: Callable[[Any], Example]

    def __reduce__(self) -> tuple[Any, ...]:
        return _taker, (self.path, self.format, self.names)

    def take(self, rows: Iterable[Raw]) -> Taken:
        """What the rows are; what is wrong with some goes to the account."""
        taken = Taken([], Account(self.path))
        for each in readers.parsed(rows):
            if isinstance(each, Fault):
                taken.account.fault(each)
            else:
                self._take_row(each, taken)
        return taken

    def _take_row(self, row: Row, taken: Taken) -> None:
        account = taken.account
        account.read += 1
        value = self.names.apply(row.value) if self.names else row.value
        try:
            example = wellformed.parse(self.parse, value)
            digest = content_hash(example)
        except RowFault as fault:
            account.exclude(fault.problem(row.where), row.number)
            return
        kept = Kept(example, row.path, row.number, row.line, digest)
        taken.kept.append(kept)
        self._look(kept, row.value, value, account)

    def _look(self, kept: Kept, raw: Any, value: Any, account: Account) -> None:
        """Keep in mind what the notes will tell."""
        example = kept.example
        kind = type(example).__name__
        tally = account.kinds.get(kind)
        if tally is None:
            tally = account.kinds[kind] = Tally()
        tally.count(kept)
        found = [word for text in texts(example) if "{{" in text for word in _PLACEHOLDER.findall(text)]
        if found:
            account.placeholders.add(kept.where, list(dict.fromkeys(found)))
        if isinstance(example, Chat) and example.messages[-1].role != "assistant":
            account.unanswered.add(kept.where)
        if self.format in FORMATS:
            unread = [*detection.unmapped(self.format, value), *(self.names.shadowed(raw) if self.names else ())]
            if unread:
                left = [key for key in dict.fromkeys(unread) if key not in self.names.opened]
                if left:
                    account.unmapped.add(kept.where, left)


def _taker(path: str, format: str, names: Renaming) -> Taker:
    return Taker(path, format, names, FORMATS[format].parse)


class FileScan:
    """One file while it is read: go through `rows` once, to the end; then `account` and `table` are complete. Who looks
    at the rows elsewhere goes through `blocks`, gives what was found to `add`, in the same order, and calls `close`.

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
        self._before: tuple[int, int] | None = None

    def anew(self) -> FileScan:
        """The same file, not begun."""
        return FileScan(str(self.path), self.format, self.names)

    @property
    def table(self) -> Table:
        numbers, lines = (np.frombuffer(each, dtype=np.int64) for each in (self._numbers, self._lines))
        return Table(numbers, lines, np.frombuffer(bytes(self._hashes), dtype=HASH_TYPE))

    def rows(self) -> Iterator[Kept]:
        """Every row that is an example; what is wrong with the others goes to `account`."""
        for taker, block in self.blocks():
            taken = taker.take(block)
            self.add(taken.account, taken.table)
            yield from taken.kept
        self.close()

    def blocks(self) -> Iterator[tuple[Taker, list[Raw]]]:
        """All rows in blocks of bounded size (a row of any length is a block of its own at worst), and who makes
        examples of them. What is wrong with the file as a whole goes to `account`."""
        self._before = _stamp(self.path)
        rows = self._raw()
        head = list(_head(readers.parsed(rows)))
        taker = self._choose([each.value for each in head if isinstance(each, Row)])
        if taker is None:  # what is wrong with the rows before the first that can be read
            for fault in _faults(itertools.chain(head, readers.parsed(rows))):
                self.account.fault(fault)
        else:
            yield from ((taker, block) for block in _blocks(itertools.chain(head, rows)))

    def add(self, account: Account, table: Table) -> None:
        """Count a block in: its account, and the rows of it that are examples."""
        self.account.add(account)
        self._numbers.frombytes(table.numbers.tobytes())
        self._lines.frombytes(table.lines.tobytes())
        self._hashes += table.hashes.tobytes()

    def exhaust(self) -> None:
        """Go through all rows."""
        for _ in self.rows():
            pass

    def _raw(self) -> Iterator[Raw]:
        return readers.raw(self.path)

    def close(self) -> None:
        """Note what is known at the end of the file, once all blocks are counted in."""
        account, before = self.account, self._before
        if not account.read and not account.fatal:
            account.fatal.append(Problem("data.no_rows", str(self.path)))
        if before is None or (account.fatal and not account.read):
            return
        try:
            account.sha256, account.bytes = fingerprint(self.path)
        except OSError as error:
            account.fatal.append(opening.refused(self.path, error))
            return
        if _stamp(self.path) != before:
            account.fatal.append(Problem("data.changed", str(self.path)))

    def _choose(self, values: Sequence[Any]) -> Taker | None:
        """Who makes examples of the rows; None where there are no rows or no format fits them."""
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
                return Taker(str(self.path), self.format, self.names, own.load(self.format))
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
        return _taker(str(self.path), account.format, self.names)


def _head(rows: Iterator[Row | Fault]) -> Iterator[Row | Fault]:
    """What a file's format is told from."""
    found = 0
    for each in rows:
        yield each
        found += isinstance(each, Row)
        if found == HEAD_ROWS:
            return


def _faults(rows: Iterable[Row | Fault]) -> Iterator[Fault]:
    """Those before the first row that can be read."""
    for each in rows:
        if isinstance(each, Row):
            return
        yield each


def _blocks(rows: Iterable[Raw]) -> Iterator[list[Raw]]:
    block: list[Raw] = []
    held = 0
    for each in rows:
        block.append(each)
        if isinstance(each, Unread):
            held += len(each.data)
        elif isinstance(each, Row):
            held += _characters(each.value)
        if len(block) >= BLOCK_ROWS or held >= BLOCK_CHARACTERS:
            yield block
            block, held = [], 0
    if block:
        yield block


def _characters(value: Any) -> int:
    """About how much text is in a value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 1


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
    """16 bytes that are equal for equal examples only, on every machine. Most are conversations of nothing but words:
    those are written with the length of each, which takes a third of the time of JSON and looks like none.

    Raises:
        RowFault: it holds what cannot be written down as UTF-8 JSON (only the user's own formats make such).
    """
    try:
        if type(example) is Chat and not example.tools and not any([each.extra for each in example.messages]):
            turns = [f"{each.role} {each.weight} {len(each.content)} {each.content}" for each in example.messages]
            written = "chat ".join(["", *turns]).encode()
        else:
            written = _ENCODER.encode(content(example)).encode()
    except UnicodeEncodeError as error:
        raise RowFault("data.half_pair") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise RowFault("data.not_plain", reason=str(error)) from error
    return hashlib.blake2b(written, digest_size=16).digest()
