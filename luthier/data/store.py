"""Token sequences on disk, memory-mapped.

What goes in: a folder that `luthier.data.tokens` wrote. What comes out: sequences by number, their lengths and weights
as arrays, and the row of the data file that each came from. Only the sequences asked for are read into memory.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Floats, Ints, Rendered
from luthier.errors import DataError, Problem

TERM = "nll"
"""The loss term that the weights belong to."""
FORMAT = 1
"""Version of the folder's layout."""
META = "meta.json"


class TokenStore:
    """Token sequences, by uid 0..n-1. Opened by path, so it can be pickled.

    Attributes:
        lengths: tokens, int64 [n]; computed: tokens that enter the model (`computed_tokens`), int64 [n].
        loss_weight: sum of the weights, float32 [n]; sources: index of the data source, int32 [n].
        num_rows: rows of the data files that the sequences come from (a long text makes several sequences).
    """

    def __init__(self, path: Path) -> None:
        meta = read_meta(path)
        self.path = path
        self.fingerprint: str = meta["key"]
        self._offsets: Ints = np.load(path / "offsets.npy")
        self.computed: Ints = np.load(path / "computed.npy")
        self.loss_weight: Floats = np.load(path / "loss_weight.npy")
        self.sources: NDArray[np.int32] = np.load(path / "sources.npy")
        self._places: Ints = np.load(path / "places.npy")
        self._paths: list[str] = meta["paths"]
        self._table = None if meta["weight_table"] is None else np.asarray(meta["weight_table"], dtype=np.float32)
        self._ids = np.memmap(path / "ids.bin", dtype=np.int32, mode="r")
        self._weights = np.memmap(path / "weights.bin", dtype=np.float32 if self._table is None else np.uint8, mode="r")
        self.lengths: Ints = np.diff(self._offsets)
        self.num_rows = int(meta["rows"])

    @classmethod
    def open(cls, path: Path) -> TokenStore:
        """Open a folder that `build` made.

        Raises:
            DataError: it is no such folder, of another version, or incomplete.
        """
        try:
            meta = read_meta(path)
            sizes_hold = all((path / name).stat().st_size == size for name, (size, _) in meta["files"].items())
        except (OSError, ValueError, KeyError) as error:
            raise DataError(Problem("tokens.damaged", where=str(path))) from error
        if not sizes_hold:
            raise DataError(Problem("tokens.damaged", where=str(path)))
        return cls(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore.open, (self.path,)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        return int(self._offsets[-1])

    def __getitem__(self, uid: int) -> Rendered:
        if not 0 <= uid < len(self):
            raise IndexError(uid)
        span = slice(int(self._offsets[uid]), int(self._offsets[uid + 1]))
        weights = np.array(self._weights[span]) if self._table is None else self._table[self._weights[span]]
        return Rendered(uid, np.array(self._ids[span]), weights)

    def locate(self, uid: int) -> str:
        """`file:row` of a sequence."""
        path, number = self._places[uid]
        return f"{self._paths[path]}:{number}"


def computed_tokens(weights: Floats) -> int:
    """How many tokens of a sequence have to enter the model: those before the last learnt one, its target."""
    learnt = np.flatnonzero(weights)
    return int(learnt[-1]) if len(learnt) else 0


def read_meta(path: Path) -> dict[str, Any]:
    meta = json.loads((path / META).read_text(encoding="utf-8"))
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ValueError("another version")
    return meta


def checksum(path: Path) -> tuple[int, int]:
    """Size and CRC-32: finds torn and flipped bytes at the speed of the disk."""
    size = checksum = 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
    return size, checksum
