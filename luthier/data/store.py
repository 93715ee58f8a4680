"""Token sequences of one data file on disk, memory-mapped.

What goes in: a folder that `luthier.data.tokens` wrote. What comes out: every sequence of the file, whole, with the
weights of its loss, and the row that each came from. Only the sequences asked for are read into memory; which of them
train, and how long ones are cut, is decided later (`luthier.data.sequences`), so one store serves many recipes.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Floats, Ints
from luthier.data.scan import HASH_BYTES, Account, Table
from luthier.errors import DataError, Problem

FORMAT = 3
"""Version of the folder's layout."""
META, VERIFIED = "meta.json", "verified.json"
READ_BYTES = 1 << 20
"""Columns up to here are read instead of mapped."""
COLUMNS: dict[str, str] = {
    "ends": "<i8",  # of the sequences, in tokens from the beginning of ids.bin
    "computed": "<i4",
    "loss_weight": "<f4",
    "rows": "<i8",  # place in the table of the row that a sequence comes from
    "texts": "|u1",  # 1: a plain text, which may be cut into pieces anywhere
    "sides": "|i1",  # 1: an answer that is wanted, -1: one that is not, 0: nobody judged
    "margins": "<f4",  # of the pair, where the data has one
    "numbers": "<i8",
    "lines": "<i8",
    "hashes": f"|V{HASH_BYTES}",
}
"""File (`<name>.bin`) -> dtype. The first seven have an entry per sequence, the others one per row."""


class TokenStore:
    """Sequences 0..n-1 of one file, in the file's order. Opened by path, so it can be pickled.

    Attributes:
        ends: int64 [n]; computed: tokens that enter the model (`computed_tokens`), int32 [n]; loss_weight: sum of the
            weights, float32 [n]; rows: int64 [n]; texts: bool [n]; sides: int8 [n]; margins: float32 [n].
        meta: what the builder wrote besides: account, laws.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.meta = read_meta(path)
        self.key: str = self.meta["key"]
        columns = {name: _column(path, name, dtype) for name, dtype in COLUMNS.items()}
        self.ends, self.computed, self.loss_weight = (columns[name] for name in ("ends", "computed", "loss_weight"))
        self.rows, self.texts = columns["rows"], columns["texts"]
        self.sides, self.margins = columns["sides"], columns["margins"]
        self._numbers, self._lines, self._hashes = (columns[name] for name in ("numbers", "lines", "hashes"))
        self._table = None if self.meta["weights"] is None else np.asarray(self.meta["weights"], dtype=np.float32)
        self._ids = _mapped(path / "ids.bin", np.dtype(np.int32))
        self._weights = _mapped(path / "weights.bin", np.dtype(np.float32 if self._table is None else np.uint8))

    @classmethod
    def open(cls, path: Path) -> TokenStore:
        """Open a folder that `build` made.

        Raises:
            DataError: it is no such folder, of another version, or incomplete.
        """
        try:
            if not verified(path, read_meta(path)):
                raise DataError(Problem("tokens.damaged", where=str(path)))
            return cls(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(Problem("tokens.damaged", where=str(path))) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore.open, (self.path,)

    @property
    def learnt(self) -> Ints:
        """How many tokens of each sequence are learnt, at most: exact where all weigh alike, int64 [n]."""
        weights = () if self._table is None else self._table[self._table > 0]
        if not len(weights):
            return np.asarray(self.computed, dtype=np.int64)
        learnt: Ints = np.minimum(np.ceil(self.loss_weight / min(weights)).astype(np.int64), self.computed)
        return learnt

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def starts(self) -> Ints:
        return np.concatenate([np.zeros(1, dtype=np.int64), self.ends[:-1]])

    @property
    def table(self) -> Table:
        """The rows of the file that are examples, those that gave no sequence too."""
        return Table(self._numbers, self._lines, self._hashes)

    def account(self, path: str) -> Account:
        """What was found in the file, which is at `path` now."""
        return Account.from_json(self.meta["account"], path)

    def ids(self, start: int, end: int) -> NDArray[np.int32]:
        """Tokens start..end of the whole store."""
        return np.array(self._ids[start:end])

    def weights(self, start: int, end: int) -> Floats:
        """Their weights."""
        stored = self._weights[start:end]
        return np.array(stored) if self._table is None else self._table[stored]


def computed_tokens(weights: Floats) -> int:
    """How many tokens of a sequence have to enter the model: those before the last learnt one, its target."""
    learnt = np.flatnonzero(weights)
    return int(learnt[-1]) if len(learnt) else 0


def read_meta(path: Path) -> dict[str, Any]:
    meta = json.loads((path / META).read_text(encoding="utf-8"))
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ValueError("another version")
    return meta


def verified(path: Path, meta: dict[str, Any]) -> bool:
    """Whether every file of a store holds what was written: by checksum the first time and whenever the file system
    says that a file has changed since, which keeps opening a large store quick.

    Raises:
        OSError: a file is missing.
    """
    stamps = {name: _stamp(path / name) for name in meta["files"]}
    try:
        known = json.loads((path / VERIFIED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    if known == stamps:
        return True
    if any(list(checksum(path / name)) != list(written) for name, written in meta["files"].items()):
        return False
    _remember(path, stamps)
    return True


def trusted(path: Path, meta: dict[str, Any]) -> None:
    """Note of a store that was just checked, on being written, that it was."""
    _remember(path, {name: _stamp(path / name) for name in meta["files"]})


def _remember(path: Path, stamps: dict[str, list[int]]) -> None:
    """A cache that may not be written to is verified anew each time."""
    temp = path / f".{VERIFIED}-{os.getpid()}"
    try:
        temp.write_text(json.dumps(stamps), encoding="utf-8")
        temp.replace(path / VERIFIED)
    except OSError:
        return


def _stamp(path: Path) -> list[int]:
    """Size, inode and time of the last change of content or status, which no program can set back."""
    status = path.stat()
    return [status.st_size, status.st_ino, status.st_ctime_ns]


def checksum(path: Path) -> tuple[int, int]:
    """Size and CRC-32: finds torn and flipped bytes at the speed of the disk."""
    size = checksum = 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
    return size, checksum


def _column(path: Path, name: str, dtype: str) -> NDArray[Any]:
    return _mapped(path / f"{name}.bin", np.dtype(dtype))


def _mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A file as an array: read where it is small, because a mapped one holds a file descriptor, of which there may be
    as few as 256; an empty one cannot be mapped."""
    if path.stat().st_size <= READ_BYTES:
        return np.fromfile(path, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")
