"""Opening a data file.

What goes in: a path as the user gave it. What comes out: its content as bytes or as numbered lines, unpacked where it
is packed and without a byte order mark, or a `Problem` that says why there is none and what to do.
"""

from __future__ import annotations

import difflib
import gzip
import io
import itertools
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from luthier.data import columnar
from luthier.data.strict_json import shorten
from luthier.errors import Problem
from luthier.text import say

BOM = b"\xef\xbb\xbf"
CUT_SHORT: tuple[type[Exception], ...] = (
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    UnicodeDecodeError,
    *columnar.DAMAGED,
)
"""What damaged content raises; Arrow also raises errors of the system, see `refused`."""
_GZIP = b"\x1f\x8b"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_PACKED = {b"PK\x03\x04": "ZIP", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"%PDF": "PDF"}
"""First bytes -> what a file of a kind that is not read calls itself (an Excel workbook is a ZIP)."""
PACKED_ENDINGS = (".gz", ".zst", ".zstd")
_HEAD_BYTES = 64
_NAMES_SHOWN = 8
UNPACKED_BYTES = 1 << 18
"""Unpacked at a time, so that Arrow is not called for every few lines; chosen, not tuned."""


class Line(NamedTuple):
    """One line (a named tuple, because one is made per row).

    Attributes:
    number: 1-based.
    text: the line without its end; bytes that are no UTF-8 stand in it as half surrogates.
    end: `\\n`, `\\r\\n` or nothing.
    bad: offset in the (unpacked) file of the first byte that is no UTF-8, -1 for none.
    """

    number: int
    text: str
    end: str
    bad: int


def ending(path: Path) -> str:
    """The ending that says what is in the file, in small letters: `.json` for `rows.JSON.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED_ENDINGS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def look(path: Path, endings: Collection[str]) -> Problem | bytes:
    """The first bytes of a file that can be opened, or what is wrong with it.

    Args:
        endings: the endings that a reader exists for; folders are searched for them.
    """
    where = str(path)
    try:
        if not path.exists():
            return Problem("data.no_file", where, values={"near": _nearest(path, endings)})
        if not path.is_file():  # a pipe or a device could block for ever
            return Problem("data.not_a_file", where)
        with stream(path) as content:
            head = content.read(_HEAD_BYTES)
    except CUT_SHORT as error:
        return damaged(path, 0, error)
    except OSError as error:
        return refused(path, error)
    if not head:
        return Problem("data.empty_file", where)
    kind = next((name for magic, name in _PACKED.items() if head.startswith(magic)), None)
    if kind is not None:
        return Problem("data.packed", where, values={"kind": kind})
    return Problem("data.utf16", where) if head.startswith(_UTF16) else head


def damaged(path: Path, read: int, error: BaseException) -> Problem:
    """The file ends too early or holds something else than its name says; `read` rows came out before."""
    return Problem("data.damaged", str(path), values={"read": read, "reason": shorten(str(error), 200)})


def refused(path: Path, error: OSError, read: int = 0) -> Problem:
    """The operating system does not give the file; or it does, and Arrow finds it damaged after `read` rows."""
    if columnar.is_damage(error):
        return damaged(path, read, error)
    return Problem("data.unreadable", str(path), values={"reason": error.strerror or str(error)})


def _nearest(path: Path, endings: Collection[str]) -> str:
    """Existing names like the missing one; the nearest existing folder where its folder is missing too."""
    folder = path.parent
    if not folder.is_dir():
        there = next(each for each in folder.absolute().parents if each.is_dir())
        return say("data.no_folder", folder=str(folder), there=str(there))
    names = sorted(each.name for each in folder.iterdir())
    near = [name for name in names if name.split(".")[0] == path.name.split(".")[0]]
    near += [name for name in difflib.get_close_matches(path.name, names, n=3) if name not in near]
    if near:
        return say("data.near_names", names=", ".join(near[:_NAMES_SHOWN]))
    return say("data.names_there", folder=str(folder.absolute()), files=_files_in(folder, endings))


def _files_in(folder: Path, endings: Collection[str]) -> str:
    """A few names of data files in a folder."""
    names = sorted(each.name for each in folder.iterdir() if ending(each) in endings and each.is_file())
    shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
    return shown or say("data.no_data_files")


@contextmanager
def stream(path: Path) -> Iterator[BinaryIO]:
    """The content as bytes: unpacked where it is packed, whatever the name says, and without a byte order mark.

    Raises:
        OSError, or one of `CUT_SHORT`, on opening and on reading.
    """
    with open(path, "rb") as file:
        head = file.read(len(columnar.ZSTD_MAGIC))
        file.seek(0)
        content: BinaryIO = file
        if head.startswith(_GZIP):
            content = cast(BinaryIO, io.BufferedReader(gzip.GzipFile(fileobj=file)))
        elif head == columnar.ZSTD_MAGIC:
            content = io.BufferedReader(columnar.Zstandard(path), UNPACKED_BYTES)
        if content.read(len(BOM)) != BOM:
            content.seek(0)
        yield content


def is_packed(path: Path) -> bool:
    """Whether `stream` unpacks a file."""
    with open(path, "rb") as file:
        return file.read(len(columnar.ZSTD_MAGIC)).startswith((_GZIP, columnar.ZSTD_MAGIC))


def lines(path: Path) -> Iterator[Line]:
    """Every line, blank ones too. Only a line feed ends a line."""
    return itertools.starmap(decoded, bare_lines(path))


def bare_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """The number of every line, where it begins in the (unpacked) file, and its bytes with those that end it."""
    with stream(path) as content:
        offset = content.tell()
        for number, data in enumerate(content, 1):
            yield number, offset, data
            offset += len(data)


def decoded(number: int, offset: int, data: bytes) -> Line:
    """One of `bare_lines` as text."""
    bare = data.removesuffix(b"\n").removesuffix(b"\r")
    end = data[len(bare) :].decode()
    try:
        return Line(number, bare.decode(), end, -1)
    except UnicodeDecodeError as error:
        return Line(number, bare.decode("utf-8", "surrogateescape"), end, offset + error.start)
