"""One data file, read and checked to its last row.

What goes in: a source of the recipe. What comes out: its examples with their places and content hashes, the rows that
are left out with the reason, and what there is to tell about the file. Kept + left out = read.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from luthier.data import detection, opening, own, readers, wellformed
from luthier.data.formats import FORMATS, Chat, Completion, Example, RowFault, Text
from luthier.data.readers import Fault, Row
from luthier.errors import DataError, Problem
from luthier.text import say

HEAD_ROWS = 100
"""Rows that a file's format is told from; chosen, not tuned."""
SHOWN = 20
"""Rows of one kind of fault, or words of one kind, that are named; the others are counted."""
PLACES_SHOWN = 3
_PLACEHOLDER = re.compile(r"(?<!\{)\{\{\s*[\w.\-]+(?: [\w.\-]+)*\s*\}\}(?!\})")

Role = Literal["train", "validation"]

Observer = Callable[[str, str, Role, Example, bytes], None]
"""Takes where a kept row stands, its file, that file's role, the example and its content hash."""


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


@dataclass(frozen=True, slots=True)
class Excluded:
    """A row that was read and is not used. `reason` is for people, in their language."""

    path: str
    number: int
    reason_id: str
    reason: str


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


@dataclass
class Tally:
    """How many rows show something, the first of them, and what exactly was seen."""

    rows: int = 0
    places: list[str] = field(default_factory=list)
    words: Counter[str] = field(default_factory=Counter)

    def add(self, where: str, words: Sequence[str] = ()) -> None:
        self.rows += 1
        self.words.update(words)
        if len(self.places) < PLACES_SHOWN:
            self.places.append(where)

    def note(self, id: str, path: str, **values: Any) -> Problem:
        words = ", ".join(word for word, _ in self.words.most_common(SHOWN))
        values = {"rows": self.rows, "places": ", ".join(self.places), "words": words, **values}
        return Problem(id, path, values=values)


class FileScan:
    """One file while it is read; see `check`."""

    def __init__(self, path: str, format: str, role: Role, source_index: int, method: str | None) -> None:
        """`method` is the kind of method that the examples are for; None where any is fine."""
        self.path = Path(path).expanduser()
        self.format = format
        self.is_own = own.is_own(format)
        self.read = 0
        self.items: list[Item] = []
        self.hashes: list[bytes] = []
        self.excluded: list[Excluded] = []
        self.faults: dict[str, list[Problem]] = {}
        self.counts: Counter[str] = Counter()
        self.fatal: list[Problem] = []
        self._observer: Observer | None = None
        self.places: list[str] = []
        self.placeholders, self.unmapped, self.unanswered = Tally(), Tally(), Tally()
        self._misfits = Tally()
        self._source_index = source_index
        self._role: Role = role
        self._why = say("data.why_given")
        self._method = method
        self._sha256, self._bytes = "", 0

    def check(self, observer: Observer | None = None) -> None:
        """Read all of it. `observer` is told of every kept row."""
        self._observer = observer
        before = _stamp(self.path)
        self._read_rows()
        if before is None or (self.fatal and not self.read):
            return
        try:
            with open(self.path, "rb") as file:
                self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                self._bytes = file.tell()
        except OSError as error:
            self.fatal.append(opening.refused(self.path, error))
            return
        if _stamp(self.path) != before:
            self.fatal.append(Problem("data.changed", str(self.path)))

    def _read_rows(self) -> None:
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
            else:
                self._take(each, parse)
        if not self.read and not self.fatal:
            self.fatal.append(Problem("data.no_rows", str(self.path)))
        if self._misfits.rows:
            id = "data.sft_on_text" if self._method == "sft" else "data.pretrain_on_chat"
            self.fatal.append(self._misfits.note(id, str(self.path)))

    def _choose(self, values: Sequence[Any]) -> Callable[[Any], Example] | None:
        """The function that makes examples of the rows; None where there are no rows or no format fits them."""
        if not values:
            return None
        if self.is_own:
            try:
                return own.load(self.format)
            except DataError as error:
                self.fatal += error.problems
                return None
        if self.format == "auto":
            try:
                self.format, self._why = detection.detect(values)
                rule = readers.document_rule(self.path)
                self._why = say(rule) if rule else self._why
            except RowFault as fault:
                self.format, self._why = "", ""
                self.fatal.append(fault.problem(str(self.path)))
                return None
        return FORMATS[self.format].parse

    def _take(self, row: Row, parse: Callable[[Any], Example]) -> None:
        self.read += 1
        try:
            example = wellformed.parse(parse, row.value)
            self.hashes.append(content_hash(example))
        except RowFault as fault:
            self._exclude(fault.problem(row.where), row.number)
            return
        self.items.append(Item(example, str(self.path), row.number, self._source_index))
        self.places.append(row.where)
        self._look(row, example)
        if self._observer is not None:
            self._observer(row.where, str(self.path), self._role, example, self.hashes[-1])

    def _look(self, row: Row, example: Example) -> None:
        """Keep in mind what the notes will tell."""
        if self._method is not None and isinstance(example, Text) != (self._method == "pretrain"):
            self._misfits.add(row.where)
        found = [word for text in _texts(example) if "{{" in text for word in _PLACEHOLDER.findall(text)]
        if found:
            self.placeholders.add(row.where, list(dict.fromkeys(found)))
        if isinstance(example, Chat) and example.messages[-1].role != "assistant":
            self.unanswered.add(row.where)
        if self.format in FORMATS:
            left = list(dict.fromkeys(detection.unmapped(self.format, row.value)))
            if left:
                self.unmapped.add(row.where, left)

    def _take_fault(self, fault: Fault) -> None:
        if fault.number:
            self.read += 1
            self._exclude(fault.problem, fault.number)
        if fault.fatal:
            self.fatal.append(fault.problem)

    def _exclude(self, problem: Problem, number: int) -> None:
        self.excluded.append(Excluded(str(self.path), number, problem.id, _reason(problem)))
        self.counts[problem.id] += 1
        named = self.faults.setdefault(problem.id, [])
        if len(named) < SHOWN:
            named.append(problem)

    def row_problems(self) -> Iterator[Problem]:
        """Every row that cannot be used, by kind, the first ones by name."""
        for id, named in self.faults.items():
            yield from (problem for problem in named if problem not in self.fatal)
            more = self.counts[id] - len(named)
            if more:
                yield Problem("data.more", str(self.path), values={"rows": more, "kind": named[0].rule})

    def report(self) -> FileReport:
        report = FileReport(
            str(self.path),
            self._role,
            self._source_index,
            "" if self.format == "auto" else self.format,
            "" if self.format == "auto" else self._why,
            self.read,
            len(self.items),
            len(set(self.hashes)),
            dict(self.counts),
            self._sha256,
            self._bytes,
        )
        assert report.excluded == len(self.excluded) == sum(report.faults.values()), "a row was lost"
        return report


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file is written to; None where there is no file to ask."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _reason(problem: Problem) -> str:
    return f"{problem.field}: {problem.rule}" if problem.field else problem.rule


def _texts(example: Example) -> Iterator[str]:
    match example:
        case Text(text):
            yield text
        case Completion(prompt, completion):
            yield prompt
            yield completion
        case Chat(messages):
            yield from (message.content for message in messages)


def content_hash(example: Example) -> bytes:
    """16 bytes that are equal for equal examples only, on every machine.

    Raises:
        RowFault: it holds what cannot be written down as UTF-8 JSON (only the user's own formats make such).
    """
    match example:
        case Text(text):
            content: list[Any] = ["text", text]
        case Completion(prompt, completion):
            content = ["completion", prompt, completion]
        case Chat(messages, tools):
            turns = [[each.role, each.content, each.weight, dict(each.extra)] for each in messages]
            content = ["chat", turns, list(tools)]
    try:
        written = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise RowFault("data.half_pair") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise RowFault("data.not_plain", reason=str(error)) from error
    return hashlib.blake2b(written, digest_size=16).digest()
