"""A few numbers for every row seen, and where it stands.

What goes in: rows, one after the other. What comes out: arrays over all of them. Memory: 41 bytes a row, and its line
number as text.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Ints


class Ledger:
    """Numbers of all rows, by the order in which they were seen."""

    def __init__(self) -> None:
        self._contents, self._questions = array("Q"), array("Q")
        self._characters, self._files, self._ends = array("L"), array("L"), array("Q")
        self._validation = array("B")
        self._paths: dict[str, int] = {}
        self._written = bytearray()

    def __len__(self) -> int:
        return len(self._contents)

    def add(self, where: str, path: str, is_validation: bool, content: int, asked: Sequence[str], length: int) -> None:
        """A row. content: the first 64 bits of its hash; asked: its question; length: in characters."""
        self._contents.append(content)
        question = hashlib.blake2b("\0".join(asked).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self._questions.append(int.from_bytes(question, "little") if asked else 0)
        self._characters.append(length)
        self._files.append(self._paths.setdefault(path, len(self._paths)))
        self._validation.append(is_validation)
        self._written += where.removeprefix(path).encode("utf-8", "surrogatepass")
        self._ends.append(len(self._written))

    def place(self, row: int) -> str:
        """`file:line`, as messages have it."""
        path = list(self._paths)[self._files[row]]
        start = self._ends[row - 1] if row else 0
        written = self._written[start : self._ends[row]].decode("utf-8", "surrogatepass")
        return path + written

    @property
    def contents(self) -> NDArray[np.uint64]:
        return np.asarray(self._contents, dtype=np.uint64)

    @property
    def questions(self) -> NDArray[np.uint64]:
        """A hash of what is asked; 0 where nothing is."""
        return np.asarray(self._questions, dtype=np.uint64)

    @property
    def characters(self) -> Ints:
        return np.asarray(self._characters, dtype=np.int64)

    def validation(self, held_out: Iterable[int]) -> NDArray[np.bool_]:
        """Which rows are validated: those of files for validation, and those whose content is held out."""
        chosen = np.fromiter(held_out, dtype=np.uint64)
        given: NDArray[np.bool_] = np.asarray(self._validation, dtype=bool)
        return given | np.isin(self.contents, chosen)
