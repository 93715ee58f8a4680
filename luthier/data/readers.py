"""Data files as numbered rows.

What goes in: the path of a JSON, JSONL, CSV, TSV, Parquet, Arrow or plain text file, packed or not. What comes out: a
stream of `Row` (a plain value and the place it stands at) and `Fault` (a row, or a whole file, that cannot be read),
never an exception; from `raw` also lines of JSON that are still `Unread`. No row is changed, and none is skipped but
lines that hold nothing.

The content decides between an array and one value per line, whatever the file's ending. Plain text: one Markdown file
is one document; in other text, blank lines separate documents, and where there are none each line is a document.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from luthier.data import columnar, opening, strict_json
from luthier.data.opening import Line
from luthier.data.strict_json import Invalid, shorten
from luthier.errors import Problem
from luthier.text import say

SNIFF_BYTES = 1 << 24
"""A first line longer than 16 MiB is not one row among others: such a file is taken to be an array in one line."""
WRAPPERS = ("data", "rows", "examples", "instances", "items", "train")
"""Keys under which exporters put the list of rows when they write one object."""
JSON_SPACE = " \t\r\n"
_WRAPPER = re.compile(r'[ \t\r\n]*\{[ \t\r\n]*"(?:' + "|".join(WRAPPERS) + r')"[ \t\r\n]*:[ \t\r\n]*(?=\[)')
PREFACE_BYTES = 1 << 16
"""What may stand in an object before its list of rows: a version, a name, a licence; chosen, not tuned."""
_TEXT = r'"(?:[^"\\\x00-\x1f\ud800-\udfff]|\\.)*"'
_PREFACE = re.compile(
    rf"""[ \t\r\n]*\{{[ \t\r\n]*(?:{_TEXT}[ \t\r\n]*:[ \t\r\n]*(?:{_TEXT}|[-+.\w]+)[ \t\r\n]*,[ \t\r\n]*)+"""
    rf"""(?:"(?:{"|".join(WRAPPERS)})")[ \t\r\n]*:[ \t\r\n]*(?=\[[ \t\r\n]*[\[{{\]])"""
)
"""Texts, numbers and constants, then the list of rows. Bytes that are no UTF-8 are half surrogates here."""


class Row(NamedTuple):
    """One row as it stands in the file (a named tuple, because millions are made).

    Attributes:
        path: the file, as given.
        number: 1-based; the line that it begins in (JSONL, CSV, text), or the place in the array or table (JSON,
            Parquet).
        value: plain Python values; text becomes {"text": ...}.
        line: the line that it begins in, 0 where the format has no lines.
    """

    path: str
    number: int
    value: Any
    line: int = 0

    @property
    def where(self) -> str:
        return place(self.path, self.line, self.number)


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that cannot be read; with `fatal`, the file from here on (or as a whole, where `number` is 0)."""

    problem: Problem
    number: int
    fatal: bool = False


class Unread(NamedTuple):
    """A line of JSON as it stands in a file: whoever makes an example of it parses it, maybe in another process.

    Attributes:
        path, number: see `Row`.
        offset: where the line begins in the (unpacked) file; data: its bytes.
    """

    path: str
    number: int
    offset: int
    data: bytes

    def read(self) -> Row | Fault | None:
        """None for a line that holds nothing."""
        path, number, offset, data = self
        _, text, _, bad = opening.decoded(number, offset, data)
        if not text or text.isspace():
            return None
        if bad >= 0:
            return Fault(_not_utf8(f"{path}:{number}", bad), number)
        try:
            return Row(path, number, strict_json.loads(text), number)
        except Invalid as error:
            where = f"{path}:{number}"
            if error.id == "data.json_syntax":
                where = f"{where}:{error.position + 1}"
            return Fault(Problem(error.id, where, values=error.values), number)


Raw = Row | Fault | Unread
"""What readers give."""


def place(path: str, line: int, number: int) -> str:
    """`file:line`, with the row's number where it is another."""
    at = f"{path}:{line}" if line else path
    return at if line == number else say("data.row", at=at, number=number)


def read(path: Path) -> Iterator[Row | Fault]:
    """Every row of a file, in order; ends after a fatal fault. Memory is that of the largest row (Parquet: of a row
    group; Arrow: of a batch; Markdown: of the file)."""
    return parsed(raw(path))


def parsed(raw: Iterable[Raw]) -> Iterator[Row | Fault]:
    """The same with every line parsed."""
    for each in raw:
        row = each.read() if isinstance(each, Unread) else each
        if row is not None:
            yield row


def raw(path: Path) -> Iterator[Raw]:
    """As `read`, with lines of JSON still to be parsed."""
    head = opening.look(path, READERS)
    if isinstance(head, Problem):
        yield Fault(head, 0, fatal=True)
        return
    ending = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), opening.ending(path))
    if ending in MAGIC.values() and opening.is_packed(path):  # tables are packed within
        yield Fault(Problem("data.packed", str(path), values={"kind": f"packed {ending}"}), 0, fatal=True)
        return
    if ending not in READERS:
        values = {"endings": ", ".join(READERS)}
        yield Fault(Problem("data.ending", str(path), value=ending, values=values), 0, fatal=True)
        return
    number = 0
    try:
        for each in READERS[ending](path):
            number = each.number
            yield each
    except opening.CUT_SHORT as error:
        yield Fault(opening.damaged(path, number, error), 0, fatal=True)
    except MemoryError:  # one flipped bit in the length of a table's buffer
        too_much = MemoryError("more memory is asked for than there is")
        yield Fault(opening.damaged(path, number, too_much), 0, fatal=True)
    except OSError as error:
        yield Fault(opening.refused(path, error, number), 0, fatal=True)


def _not_utf8(where: str, byte: int) -> Problem:
    return Problem("data.not_utf8", where, values={"byte": byte})


# ------------------------------------------------------------------------------------------------------- JSON


def _json(path: Path) -> Iterator[Raw]:
    """An array, an object that wraps one, or one value per line."""
    with opening.stream(path) as stream:
        first, second = _first_lines(stream)
    wrapper = _WRAPPER.match(first + second)
    skip = wrapper.end() if wrapper is not None else _preface(path, first, second)
    if skip:
        return _array(path, skip=skip, closing="}")
    start = first.lstrip(JSON_SPACE)[:1]
    if not start:
        return iter(())
    if start == "[" and not _is_row(first, second, opening.ending(path)):
        return _array(path)
    if start == "{" and _is_spread_object(first, second, opening.ending(path)):
        problem = Problem("data.one_object", str(path), values={"wrappers": ", ".join(WRAPPERS)})
        return iter([Fault(problem, 0, fatal=True)])
    if start not in ("[", "{") and opening.ending(path) == ".json":
        problem = Problem("data.not_json", str(path), values={"start": shorten(first.strip(), 30)})
        return iter([Fault(problem, 0, fatal=True)])
    return _json_lines(path)


def _preface(path: Path, first: str, second: str) -> int:
    """How many characters of an object stand before its list of rows, where other keys do; 0 where it wraps none. Of a
    file with one object per line each is a row."""
    if first.lstrip(JSON_SPACE)[:1] != "{" or (
        _parses(first)[0] and (second.strip() or opening.ending(path) != ".json")
    ):
        return 0
    with opening.stream(path) as stream:
        found = _PREFACE.match(stream.read(PREFACE_BYTES).decode("utf-8", "surrogateescape"))
    return found.end() if found is not None and _parses(f"{found[0]}0}}")[1] is not None else 0


def _first_lines(stream: BinaryIO) -> tuple[str, str]:
    """The first two lines that hold anything, with their ends, and what stands before them."""
    found = ["", ""]
    for each in range(2):
        while not found[each].strip():
            data = stream.readline(SNIFF_BYTES)
            if not data:
                break
            found[each] += data.decode("utf-8", "replace")
    return found[0], found[1]


def _parses(text: str) -> tuple[bool, Any]:
    try:
        return True, strict_json.loads(text)
    except Invalid as error:
        # What is refused for another reason than its syntax is a value all the same.
        return error.id != "data.json_syntax", None


def _is_row(first: str, second: str, ending: str) -> bool:
    """Whether a line that begins with a bracket is one row (a bare conversation) and not the array of all rows."""
    whole, value = _parses(first)
    if not whole:
        return False
    if second.strip():
        return True
    return ending != ".json" and bool(value) and all(isinstance(each, dict) and "role" in each for each in value)


def _is_spread_object(first: str, second: str, ending: str) -> bool:
    """Whether one object is spread over several lines."""
    if first.strip(JSON_SPACE) == "{":
        return True
    more = second.lstrip(JSON_SPACE)
    return ending == ".json" and more != "" and not more.startswith("{") and not _parses(first)[0]


def _array(path: Path, skip: int = 0, closing: str = "") -> Iterator[Row | Fault]:
    name = str(path)
    with opening.stream(path) as stream:
        start = stream.tell()
        for each in strict_json.elements(stream, skip, closing):
            if each.fault is None:
                yield Row(name, each.number, each.value, each.line)
                continue
            values = dict(each.fault.values)
            if each.byte >= 0:
                values["byte"] = start + each.byte
            problem = Problem(each.fault.id, place(name, each.line, each.number), values=values)
            yield Fault(problem, each.number, each.fatal)


def _json_lines(path: Path) -> Iterator[Unread]:
    name = str(path)
    return (Unread(name, *line) for line in opening.bare_lines(path) if not line[2].isspace())


# -------------------------------------------------------------------------------------------------------- CSV


def _csv(path: Path) -> Iterator[Row | Fault]:
    return _table(path, ",")


def _tsv(path: Path) -> Iterator[Row | Fault]:
    return _table(path, "\t")


class _CsvLines:
    """Lines for the csv module, with their ends; remembers the first byte that is no UTF-8 since last asked."""

    def __init__(self, path: Path) -> None:
        self._lines = opening.lines(path)
        self._bad = -1

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            if self._bad < 0:
                self._bad = line.bad
            yield line.text + line.end

    def take_bad(self) -> int:
        bad, self._bad = self._bad, -1
        return bad


def _table(path: Path, usual: str) -> Iterator[Row | Fault]:
    """Rows as {column: text}. The first line names the columns."""
    # The module refuses cells of more than 128 KiB by default; long documents in a cell are fine here.
    csv.field_size_limit(2**31 - 1)
    lines = _CsvLines(path)
    reader = csv.reader(lines, delimiter=_delimiter(path, usual), strict=True)
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        where = f"{path}:{number}"
        lines.take_bad()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            fatal = "end of data" in str(error) or header is None
            id = "data.csv_open_quote" if "end of data" in str(error) else "data.csv_syntax"
            yield Fault(Problem(id, where, values={"reason": str(error)}), number, fatal)
            if fatal:
                return
            continue
        if cells is None:
            return
        bad = lines.take_bad()
        if not cells:
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            problem = _not_utf8(where, bad) if bad >= 0 else _bad_header(where, header)
            if problem is not None:
                yield Fault(problem, 0, fatal=True)
                return
        elif bad >= 0:
            yield Fault(_not_utf8(where, bad), number)
        elif len(cells) != len(header):
            values = {"wanted": len(header), "got": len(cells), "columns": shorten(", ".join(header), 200)}
            yield Fault(Problem("data.csv_cells", where, values=values), number)
        else:
            yield Row(str(path), number, dict(zip(header, cells, strict=True)), number)


def _delimiter(path: Path, usual: str) -> str:
    """What separates the cells: the usual mark of the ending, unless the first line has none and one of the others."""
    with opening.stream(path) as stream:
        first, _ = _first_lines(stream)
    present = [mark for mark in (",", "\t", ";", "|") if mark in first]
    return present[0] if usual not in present and len(present) == 1 else usual


def _bad_header(where: str, header: list[str]) -> Problem | None:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        return Problem("data.column_twice", where, values={"column": shorten(twice)})
    return None


# ---------------------------------------------------------------------------------------------- Parquet and Arrow


def _parquet(path: Path) -> Iterator[Row | Fault]:
    return _cells(path, columnar.parquet(path))


def _arrow(path: Path) -> Iterator[Row | Fault]:
    return _cells(path, columnar.arrow(path))


def _cells(path: Path, rows: Iterator[columnar.Cells | ValueError | OverflowError]) -> Iterator[Row | Fault]:
    name = str(path)
    for number, each in enumerate(rows, 1):
        if isinstance(each, dict):
            yield Row(name, number, each)
        else:
            values = {"reason": shorten(str(each), 200)}
            yield Fault(Problem("data.cell", place(name, 0, number), values=values), number)


# -------------------------------------------------------------------------------------------------------- text


def document_rule(path: Path) -> str:
    """The message id that says what a document is in this file; empty where it is no plain text."""
    kind = opening.ending(path)
    if kind == ".md":
        return "data.why_whole"
    if kind == ".txt":
        return "data.why_blocks" if _has_blank_lines(path) else "data.why_lines"
    return ""


def _text(path: Path) -> Iterator[Row | Fault]:
    """Documents between blank lines; each line a document where there are none."""
    blocks = _has_blank_lines(path)
    document: list[Line] = []
    for line in opening.lines(path):
        if line.text.strip():
            document.append(line)
        if document and (not blocks or not line.text.strip()):
            yield _document(path, document)
            document = []
    if document:
        yield _document(path, document)


def _has_blank_lines(path: Path) -> bool:
    """Whether a blank line stands between lines that hold something."""
    seen = blank = False
    for line in opening.lines(path):
        filled = bool(line.text.strip())
        if filled and blank:
            return True
        seen = seen or filled
        blank = seen and not filled
    return False


def _markdown(path: Path) -> Iterator[Row | Fault]:
    lines = list(opening.lines(path))
    if any(line.text.strip() for line in lines):
        yield _document(path, lines)


def _document(path: Path, lines: list[Line]) -> Row | Fault:
    number = lines[0].number
    bad = next((line for line in lines if line.bad >= 0), None)
    if bad is not None:
        return Fault(_not_utf8(f"{path}:{bad.number}", bad.bad), number)
    return Row(str(path), number, {"text": "\n".join(line.text for line in lines)}, number)


Reader = Callable[[Path], Iterator[Raw]]
READERS: dict[str, Reader] = {
    ".json": _json,
    ".jsonl": _json,
    ".ndjson": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
    ".txt": _text,
    ".md": _markdown,
}
"""File ending (before a `.gz` or `.zst`) -> reader."""
MAGIC = {columnar.PARQUET_MAGIC: ".parquet", columnar.ARROW_MAGIC: ".arrow"}
"""First bytes that say what a file is, whatever its name."""
