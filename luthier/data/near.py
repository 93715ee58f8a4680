"""Rows that are nearly the same.

What goes in: texts, one after the other. What comes out: pairs of rows of which at least 8 in 10 pieces are the same.
A text is taken as the set of its runs of five characters, case and white space evened out; likeness is the Jaccard
index of two such sets, estimated from one-permutation MinHash signatures (Li, Owen, Zhang 2012) whose empty bins
borrow from others (Shrivastava 2017), and pairs are found by locality-sensitive hashing. Everything is numpy over
batches of rows. Memory is bounded: 256 bytes a row, for at most `SAMPLE_ROWS` rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Ints

SIMILAR = 0.8
"""Jaccard index from which rows count as nearly the same: one word in twenty changed. Usual in the literature."""
SAMPLE_ROWS = 200_000
"""Different rows that are compared; of more, a sample."""
RUN = 5
"""Characters of a piece. Five tell English texts apart (unrelated ones share about a tenth); chosen, not tuned."""
HASHES, BANDS = 128, 21
"""A signature's hashes: their estimate of 0.8 has a standard deviation of 0.035. 21 bands of 6 miss a pair of 0.8 with
probability (1 - 0.8^6)^21 = 0.2 %, and compare a pair of 0.3 with 1.5 %."""
MOST_CHARACTERS = 20_000
"""A text's beginning that is compared; longer ones that differ only later are one text to the reader as well."""
BATCH_ROWS, BATCH_CHARACTERS = 1000, 1 << 21
FRAME_LEAST_ROWS, FRAME_SHARE = 100, 0.5
"""Pieces that stand in more than half of the first rows (of at least so many) are the form that all rows are poured
into, such as a long instruction before each question; they do not make rows alike."""
FRAME_LEFT = 8
"""A row with fewer pieces of its own is compared as a whole."""
COMMON_SHARE = 0.01
"""Pieces in more of the first rows than this do not decide which rows are in a sample: a phrase in many rows would take
all of them or none."""
_SLOTS = 1 << 20
_EMPTY = np.uint32(0xFFFFFFFF)

Hashes = NDArray[np.uint64]


def _mixed(values: Hashes) -> Hashes:
    """Every bit of the result depends on every bit given (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


_LENDERS = np.argsort(_mixed(np.arange(1, HASHES * HASHES + 1, dtype=np.uint64)).reshape(HASHES, HASHES), axis=1)
"""For each bin the order in which it asks the others when it is empty."""


def evened(text: str) -> str:
    """A text as it is compared."""
    return " ".join(text[: 2 * MOST_CHARACTERS].lower().split())[:MOST_CHARACTERS]


@dataclass(frozen=True)
class Pairs:
    """Rows that are nearly the same: `later[i]` is like `earlier[i]`.

    Attributes:
        compared: different rows that were compared. sampled: whether there were more.
    """

    earlier: Ints
    later: Ints
    compared: int
    sampled: bool


class NearIndex:
    """Signatures of the rows seen so far."""

    def __init__(self, sample_rows: int = SAMPLE_ROWS) -> None:
        self._sample_rows = sample_rows
        self._waiting: list[tuple[int, int, str]] = []
        self._waiting_characters = 0
        self._known: set[int] = set()
        self._commonness: NDArray[np.float64] | None = None
        self._bound = np.uint64(0xFFFFFFFFFFFFFFFF)
        self._sampled = False
        self._rows = np.empty(0, dtype=np.int64)
        self._contents = np.empty(0, dtype=np.uint64)
        self._draws = np.empty(0, dtype=np.uint64)
        self._signatures = np.empty((0, HASHES), dtype=np.uint16)
        self._fresh: list[tuple[Ints, Hashes, Hashes, NDArray[np.uint16]]] = []
        self._count = 0

    def add(self, row: int, content: int, text: str) -> None:
        """A row by its number. `content`: the first 64 bits of its hash; of equal rows the first is compared."""
        if content in self._known:
            return
        self._known.add(content)
        made = evened(text)
        self._waiting.append((row, content, made if len(made) >= RUN else made.ljust(RUN, "\0")))
        self._waiting_characters += len(made)
        if len(self._waiting) >= BATCH_ROWS or self._waiting_characters >= BATCH_CHARACTERS:
            self._take_in()

    def pairs(self, last: frozenset[int] = frozenset()) -> Pairs:
        """All pairs found. Rows in `last` count as later than all others, whatever their number."""
        self._take_in()
        self._settle()
        is_last = np.isin(self._rows, np.fromiter(last, dtype=np.int64, count=len(last)))
        order = np.lexsort((self._rows, is_last))
        rows, signatures = self._rows[order], self._signatures[order]
        candidates = _candidates(signatures)
        earlier, later = candidates // max(len(rows), 1), candidates % max(len(rows), 1)
        alike = np.concatenate(
            [np.empty(0, dtype=bool)]
            + [
                (signatures[earlier[at : at + 50_000]] == signatures[later[at : at + 50_000]]).mean(axis=1) >= SIMILAR
                for at in range(0, len(candidates), 50_000)
            ]
        )
        return Pairs(rows[earlier[alike]], rows[later[alike]], len(rows), self._sampled)

    # ------------------------------------------------------------------------------------------------- taking in

    def _take_in(self) -> None:
        if not self._waiting:
            return
        texts = [text for _, _, text in self._waiting]
        hashes, owners = _pieces(texts)
        if self._commonness is None:
            self._commonness = _commonness(hashes, owners, len(texts))
        common = self._commonness[(hashes & np.uint64(_SLOTS - 1)).astype(np.int64)]
        signatures = _signatures(hashes, owners, common, len(texts))
        rows = np.asarray([row for row, _, _ in self._waiting], dtype=np.int64)
        contents = np.asarray([content for _, content, _ in self._waiting], dtype=np.uint64)
        draws = _draws(hashes, owners, common, contents)
        kept = draws <= self._bound
        if not kept.all():
            self._known.difference_update(contents[~kept].tolist())
        self._fresh.append((rows[kept], contents[kept], draws[kept], signatures[kept]))
        self._count += int(kept.sum())
        self._waiting, self._waiting_characters = [], 0
        while self._count > self._sample_rows:
            self._halve()

    def _settle(self) -> None:
        """Join what came since the last time."""
        if self._fresh:
            parts = [(self._rows, self._contents, self._draws, self._signatures), *self._fresh]
            rows, contents, draws, signatures = zip(*parts, strict=True)
            self._rows, self._contents = np.concatenate(rows), np.concatenate(contents)
            self._draws, self._signatures = np.concatenate(draws), np.concatenate(signatures)
            self._fresh = []

    def _halve(self) -> None:
        """Keep about half of the rows; a pair mostly stays or goes together."""
        self._settle()
        self._sampled = True
        self._bound = self._bound >> np.uint64(1)
        kept = self._draws <= self._bound
        self._known.difference_update(self._contents[~kept].tolist())
        self._rows, self._contents = self._rows[kept], self._contents[kept]
        self._draws, self._signatures = self._draws[kept], self._signatures[kept]
        self._count = len(self._rows)


# ------------------------------------------------------------------------------------------------------ arithmetic


def _pieces(texts: Sequence[str]) -> tuple[Hashes, Ints]:
    """A hash for every piece of every text, and the text that it belongs to. No text is shorter than a piece."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    lengths = np.asarray([len(text) for text in texts], dtype=np.int64)
    owners = np.repeat(np.arange(len(texts)), lengths)
    windows = len(codes) - RUN + 1
    hashes = codes[:windows].copy()
    for place in range(1, RUN):
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes += codes[place : windows + place]
    whole = owners[:windows] == owners[RUN - 1 :]
    return _mixed(hashes[whole]), owners[:windows][whole]


def _commonness(hashes: Hashes, owners: Ints, rows: int) -> NDArray[np.float64]:
    """The share of the first rows that have a piece, by slot. A slot stands for all pieces whose hash ends alike: one
    in a thousand of a row's own pieces is taken for another, the same in every row."""
    if rows < FRAME_LEAST_ROWS:
        return np.zeros(_SLOTS)
    slots = (hashes & np.uint64(_SLOTS - 1)).astype(np.int64)
    pairs = np.sort(owners * _SLOTS + slots)
    once = pairs[np.append(True, pairs[1:] != pairs[:-1])] % _SLOTS
    return np.bincount(once, minlength=_SLOTS) / rows


def _signatures(hashes: Hashes, owners: Ints, common: NDArray[np.float64], rows: int) -> NDArray[np.uint16]:
    """Signatures [rows, HASHES]."""
    frame = common > FRAME_SHARE
    if frame.any():
        bare = np.bincount(owners[~frame], minlength=rows) < FRAME_LEFT
        used = ~frame | bare[owners]
        hashes, owners = hashes[used], owners[used]
    flat = np.full(rows * HASHES, _EMPTY, dtype=np.uint32)
    bins = owners * HASHES + ((hashes >> np.uint64(24)) & np.uint64(HASHES - 1)).astype(np.int64)
    np.minimum.at(flat, bins, (hashes >> np.uint64(33)).astype(np.uint32))
    table = flat.reshape(rows, HASHES)
    _fill(table)
    return table.astype(np.uint16)


def _draws(hashes: Hashes, owners: Ints, common: NDArray[np.float64], contents: Hashes) -> Hashes:
    """A number per row that samples are drawn by: its smallest piece hash, which rows that are alike mostly share; of
    rows without a piece that is not common, a hash of the whole."""
    starts = np.flatnonzero(np.append(True, owners[1:] != owners[:-1]))
    top = np.uint64(1 << 63)
    ranks = (hashes >> np.uint64(1)) | np.where(common > COMMON_SHARE, top, np.uint64(0))
    smallest = np.minimum.reduceat(ranks, starts)
    return _mixed(np.where(smallest < top, smallest, contents))


def _fill(table: NDArray[np.uint32]) -> None:
    """Every empty bin takes the value of the first that has one, in its own order of asking."""
    given = table.copy()
    row, bin = np.nonzero(table == _EMPTY)
    turn = 0
    while len(row):
        lent = given[row, _LENDERS[bin, turn]]
        table[row, bin] = lent
        row, bin = row[lent == _EMPTY], bin[lent == _EMPTY]
        turn += 1


def _candidates(signatures: NDArray[np.uint16]) -> Ints:
    """earlier * rows + later of the pairs that agree in a whole band: each row with the first and with the last before
    it, so that a thousand rows alike make two thousand pairs and not half a million."""
    rows, width = len(signatures), HASHES // BANDS
    found = np.empty(0, dtype=np.int64)
    for band in range(BANDS):
        keys = np.zeros(rows, dtype=np.uint64)
        for column in range(band * width, (band + 1) * width):
            keys = _mixed(keys + signatures[:, column] + np.uint64(1))
        order = np.argsort(keys, kind="stable")
        same = keys[order][1:] == keys[order][:-1]
        starts = np.concatenate([[0], np.where(same, 0, np.arange(1, rows))]) if rows else np.empty(0, dtype=np.int64)
        first = order[np.maximum.accumulate(starts)]
        later = order[1:][same]
        pairs = np.concatenate([first[1:][same] * rows + later, order[:-1][same] * rows + later])
        found = np.union1d(found, pairs)
    return found
