"""The compiled part (`native.c`): texts to ids, a block of them in one call.

What goes in: the tables of a tokenizer's expressions, its added tokens, and texts. What comes out: their ids, as
`luthier.data.words` tells them word by word, several times faster. Where nothing was compiled, because there was no C
compiler when Luthier was installed, `of` gives None and words are told in Python.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier import compiled
from luthier.batch import Ints
from luthier.data import expressions
from luthier.data.expressions import Unsaid

SOURCE = Path(__file__).with_name("native.c")
CODE_POINTS = 0x110000
KNOWN = 1 << 31
"""Among the sets of a character: they were given."""

Answers = Sequence[tuple[int, int, bool]]
"""Start and bound of each answer in a text, in characters, and whether it is learnt."""
IdsOf = Callable[[list[str]], list[list[int]]]
"""Ids of words that were met for the first time."""


class Told(NamedTuple):
    """What texts are in tokens.

    Attributes:
        ids: int32 [T], of those texts that could be told, one behind the other.
        ends: where each text's end among them, int64 [n]; told: bool [n]. What is not told has none.
        spans: int64 [L, 2], where the answers that are learnt begin and where their stop tokens end, of told texts.
    """

    ids: NDArray[np.int32]
    ends: Ints
    told: NDArray[np.bool_]
    spans: Ints


_ADDRESS, _NUMBER = ctypes.c_void_p, ctypes.c_int64
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "new": (_ADDRESS, [_ADDRESS, *[_ADDRESS, _NUMBER] * 3, ctypes.c_char_p, _ADDRESS, _ADDRESS, _NUMBER]),
    "free": (None, [_ADDRESS]),
    "forget": (ctypes.c_int, [_ADDRESS]),
    "cut": (_NUMBER, [_ADDRESS, ctypes.c_char_p, _ADDRESS, _NUMBER, *[_ADDRESS] * 3, *[_ADDRESS] * 3]),
    "pieces": (_NUMBER, [_ADDRESS, ctypes.c_char_p, _NUMBER, _ADDRESS]),
    "count": (_NUMBER, [_ADDRESS]),
    "bytes": (_NUMBER, [_ADDRESS]),
    "keys": (_ADDRESS, [_ADDRESS, _NUMBER, _ADDRESS]),
    "learn": (ctypes.c_int, [_ADDRESS, _NUMBER, _NUMBER, _ADDRESS, _ADDRESS]),
    "length": (_NUMBER, [_ADDRESS]),
    "ids": (None, [_ADDRESS, _ADDRESS, _ADDRESS]),
}
"""Name (less `luthier_words_`) -> what it gives, what it takes."""


@functools.cache
def library(folder: Path = Path(__file__).parent) -> ctypes.CDLL | None:
    """The compiled part; None where there is none, or where it was built of another source than lies beside it."""
    return compiled.library(folder, "_native", (SOURCE,), "luthier_words_", _FUNCTIONS)


class NativeWords:
    """The table of one tokenizer's words. Made by `of`."""

    def __init__(self, library: ctypes.CDLL, tables: expressions.Tables, added: Mapping[str, int]) -> None:
        self._library = library
        self._tables = tables
        self._added = list(added)
        self._added_ids = [[each] for each in added.values()]
        self._sets = np.zeros(CODE_POINTS, np.uint32)
        self._lock = threading.Lock()
        self._learnt = 0
        texts = [each.encode() for each in self._added]
        ends = _ends(list(map(len, texts)))
        longest = np.asarray(sorted(range(len(texts)), key=lambda each: -len(texts[each])), np.int32)
        arguments: list[Any] = [_at(self._sets)]
        for table in (tables.items, tables.branches, tables.levels):
            arguments += [_at(table), len(table)]
        self._table = library.luthier_words_new(*arguments, b"".join(texts), _at(ends), _at(longest), len(texts))
        if not self._table:
            raise MemoryError
        weakref.finalize(self, library.luthier_words_free, self._table)
        self._learn(self._added_ids)

    def meet(self, character: str, *, known: bool = True) -> None:
        """Take the sets of a character up, or forget them: a text that holds it is not told."""
        self._sets[ord(character)] = KNOWN | self._tables.sets_of(character) if known else 0

    def pieces(self, text: str) -> list[str] | None:
        """The words of a text without added tokens; None where they cannot be told."""
        data = text.encode()
        ends = np.empty(len(data), np.int64)
        with self._lock:
            count = self._library.luthier_words_pieces(self._table, data, len(data), _at(ends))
        if count < 0:
            return None
        return [data[start:end].decode() for start, end in itertools.pairwise([0, *ends[:count].tolist()])]

    @property
    def count(self) -> int:
        """Words remembered."""
        return int(self._library.luthier_words_count(self._table))

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return int(self._library.luthier_words_bytes(self._table))

    def tell(self, texts: Sequence[str], answers: Sequence[Answers], stops: Collection[str], ids_of: IdsOf) -> Told:
        """The ids of texts, and where answers are in them; see `Told`.

        A text is told where the sets of its characters are known, each answer begins where the words before it are
        those of the text up to there alone, and each that is learnt has a stop token, one of `stops`.

        Args:
            answers: of each text, in order.
        """
        data, ends, places, answer_ends = _packed(texts, answers)
        told, words = np.empty(len(texts), np.bool_), np.empty(len(texts), np.int64)
        spans = np.empty((len(places), 2), np.int64)
        ending = bytes(each in stops for each in self._added)
        with self._lock:
            arrays = (_at(each) for each in (told, words, spans))
            stop = ctypes.c_char_p(ending)
            count = self._library.luthier_words_cut(
                self._table, data, _at(ends), len(texts), _at(places), _at(answer_ends), stop, *arrays
            )
            if count < 0:
                raise MemoryError
            self._learn(ids_of(self._new()))
            ids = np.empty(self._library.luthier_words_length(self._table), np.int32)
            borders = np.empty(count + 1, np.int64)
            self._library.luthier_words_ids(self._table, _at(ids), _at(borders))
        learnt = np.repeat(told, np.diff(answer_ends, prepend=0)) & (places[:, 2] > 0)
        return Told(ids, borders[words], told, borders[spans[learnt] + (0, 1)])

    def forget(self) -> None:
        """Begin anew."""
        with self._lock:
            self._learnt = 0
            if self._library.luthier_words_forget(self._table):
                raise MemoryError
            self._learn(self._added_ids)

    @property
    def is_whole(self) -> bool:
        """Whether all words are learnt: an interruption may have come between."""
        return self._learnt == self.count

    def _new(self) -> list[str]:
        """The words that are not learnt yet."""
        ends = np.empty(self.count - self._learnt, np.int64)
        at = self._library.luthier_words_keys(self._table, self._learnt, _at(ends))
        data = ctypes.string_at(at, int(ends[-1])) if len(ends) else b""
        return [data[start:end].decode() for start, end in itertools.pairwise([0, *ends.tolist()])]

    def _learn(self, ids: Sequence[Sequence[int]]) -> None:
        flat = np.fromiter(itertools.chain.from_iterable(ids), np.int32)
        ends = _ends(list(map(len, ids)))
        if self._library.luthier_words_learn(self._table, self._learnt, len(ids), _at(flat), _at(ends)):
            raise MemoryError
        self._learnt += len(ids)


def of(patterns: Sequence[str], added: Mapping[str, int]) -> NativeWords | None:
    """For the expressions that cut one after the other, and contents of added tokens -> ids; None where nothing was
    compiled, or where an expression cannot be put into tables."""
    found = library()
    if found is None:
        return None
    try:
        return NativeWords(found, expressions.tables(patterns), added)
    except Unsaid:
        return None


def _packed(texts: Sequence[str], answers: Sequence[Answers]) -> tuple[bytes, Ints, Ints, Ints]:
    """The texts as bytes and where each ends; answers [A, 3] with their places in these, and where those of each text
    end."""
    parts = [text.encode() for text in texts]
    ends = _ends(list(map(len, parts)))
    places: list[tuple[int, int, bool]] = []
    counts: list[int] = []
    begin = 0
    for text, end, given in zip(texts, ends.tolist(), answers, strict=True):
        counts.append(len(given))
        if end - begin == len(text):
            places += [(begin + start, begin + bound, learnt) for start, bound, learnt in given]
        else:
            places += [
                (begin + len(text[:start].encode()), begin + len(text[:bound].encode()), learnt)
                for start, bound, learnt in given
            ]
        begin = end
    return b"".join(parts), ends, np.asarray(places, np.int64).reshape(-1, 3), _ends(counts)


def _ends(lengths: Sequence[int]) -> Ints:
    return np.cumsum(np.asarray(lengths, np.int64))


def _at(array: NDArray[Any]) -> int:
    """Where it lies in memory."""
    assert array.flags.c_contiguous
    return int(array.ctypes.data)
