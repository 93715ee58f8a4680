"""Rows that are nearly the same.

What goes in: texts, one after the other. What comes out: pairs of rows of which at least 8 in 10 pieces are the same.
A text is taken as the set of its runs of five characters, case and white space evened out; likeness is the Jaccard
index of two such sets, estimated from one-permutation MinHash signatures (Li, Owen, Zhang 2012) whose empty bins
borrow from others (Shrivastava 2017), and pairs are found by locality-sensitive hashing. Everything is numpy over
batches of rows. Memory is bounded: 256 bytes a row, for at most `SAMPLE_ROWS` rows, and the texts of `FRAME_ROWS`.

Stretches that many rows share, such as one long instruction before each question, do not make rows alike. Which these
are is known only at the end, from rows all over the data; where there are any, every row is looked at a second time
(`settled`). What is found depends on the set of rows alone, not on their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

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
BATCH_ROWS, BATCH_CHARACTERS = 1000, 1 << 16
"""Rows and characters taken in at once: arrays that fit the cache of a core take half the time of large ones."""
DRAW_RUN = 2 * RUN
"""Characters of what decides which rows are in a sample. A single piece stands in too many rows: one with a small hash
would take all of them or none."""
FRAME_RUN = 4 * RUN
"""Characters of a stretch that is looked for in many rows: longer than phrases that are common by themselves."""
FRAME_ROWS = 1000
"""Rows that common stretches are learnt from: those of the smallest content hashes, which come from all over the data.
A share of 5 % is then known to within 0.7 % (standard deviation)."""
FRAME_LEAST_ROWS, FRAME_SHARE = 50, 0.05
"""A stretch in more rows than both of these is part of a form that rows are poured into; chosen, not tuned. Lower, and
a group of near duplicates would be taken for a form; higher, and the form of one source among many would be missed."""
FRAME_LEFT, FRAME_LEFT_SHARE = 8, 0.05
"""A row with fewer pieces of its own than either (the share is of all its pieces) is compared as a whole: it is a copy
with a word changed, and what many copies share only looks like a form. Chosen, not tuned."""
_SLOTS = 1 << 22
_LEARNT_AT_ONCE = 100
"""Texts: at most two million characters."""
_EMPTY = np.uint32(0xFFFFFFFF)
_NO_RUN = np.uint64(0xFFFFFFFFFFFFFFFF)

Hashes = NDArray[np.uint64]
Mask = NDArray[np.bool_]


def mixed(values: Hashes) -> Hashes:
    """Every bit of the result depends on every bit given (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


_LENDERS = np.argsort(mixed(np.arange(1, HASHES * HASHES + 1, dtype=np.uint64)).reshape(HASHES, HASHES), axis=1)
"""For each bin the order in which it asks the others when it is empty."""


def content_of(content_hash: bytes) -> int:
    """What rows are compared by: the first 64 bits of their hash."""
    return int.from_bytes(content_hash[:8], "little")


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

    def only(self, chosen: Mask) -> Pairs:
        """Some of the pairs."""
        return replace(self, earlier=self.earlier[chosen], later=self.later[chosen])

    def joined(self, rows: int) -> Pairs:
        """Pairs that join the same of `rows` rows, at most one for each: with the first that it is like."""
        first = families(self, rows)
        later = np.flatnonzero(first != np.arange(rows))
        return replace(self, earlier=first[later], later=later)


class NearIndex:
    """Signatures of the rows seen so far.

    Args:
        sample_rows: different rows that are compared.
        frame: the stretches that do not make rows alike, see `_frame`; None where they are not known yet.
        gives_up: of more than `sample_rows` different rows none is compared, instead of a sample.
    """

    def __init__(self, sample_rows: int = SAMPLE_ROWS, frame: Mask | None = None, *, gives_up: bool = False) -> None:
        self._sample_rows = sample_rows
        self._frame = frame
        self._gives_up = gives_up
        self._spread = _Spread()
        self._bound = _NO_RUN
        self._sampled = False
        self._clear()

    def _clear(self) -> None:
        """Forget every row."""
        self._waiting: list[tuple[int, int, str]] = []
        self._waiting_characters = 0
        self._known: set[int] = set()
        self._rows = np.empty(0, dtype=np.int64)
        self._contents = np.empty(0, dtype=np.uint64)
        self._draws = np.empty(0, dtype=np.uint64)
        self._signatures = np.empty((0, HASHES), dtype=np.uint16)
        self._fresh: list[tuple[Ints, Hashes, Hashes, NDArray[np.uint16]]] = []
        self._count = 0

    @property
    def _given_up(self) -> bool:
        return self._gives_up and self._sampled

    def add(self, row: int, content: int, text: str) -> None:
        """A row by its number. `content`: the first 64 bits of its hash; of equal rows the first is compared."""
        if self._given_up or content in self._known:
            return
        self._known.add(content)
        made = evened(text)
        made = made if len(made) >= RUN else made.ljust(RUN, "\0")
        if self._frame is None:
            self._spread.add(content, made)
        self._waiting.append((row, content, made))
        self._waiting_characters += len(made)
        if len(self._waiting) >= BATCH_ROWS or self._waiting_characters >= BATCH_CHARACTERS:
            self._take_in()

    def second(self) -> NearIndex | None:
        """An empty index that knows which stretches many rows share, for every row to be added to again; None where
        this one needs no second look."""
        self._take_in()
        if self._frame is not None or self._given_up:
            return None
        frame = _frame(self._spread.texts())
        return NearIndex(self._sample_rows, frame, gives_up=self._gives_up) if frame.any() else None

    def pairs(self, last: frozenset[int] = frozenset()) -> Pairs:
        """All pairs found. Rows in `last` count as later than all others, whatever their number."""
        self._take_in()
        self._settle()
        is_last = np.isin(self._rows, np.fromiter(last, dtype=np.int64, count=len(last)))
        order = np.lexsort((self._contents, is_last))
        rows, signatures, is_last = self._rows[order], self._signatures[order], is_last[order]
        candidates = _candidates(signatures)
        one, other = candidates // max(len(rows), 1), candidates % max(len(rows), 1)
        alike = np.concatenate(
            [np.empty(0, dtype=bool)]
            + [
                (signatures[one[at : at + 50_000]] == signatures[other[at : at + 50_000]]).mean(axis=1) >= SIMILAR
                for at in range(0, len(candidates), 50_000)
            ]
        )
        one, other = one[alike], other[alike]
        turned = (is_last[one] == is_last[other]) & (rows[one] > rows[other])
        earlier, later = np.where(turned, other, one), np.where(turned, one, other)
        return Pairs(rows[earlier], rows[later], len(rows), self._sampled)

    # ------------------------------------------------------------------------------------------------- taking in

    def _take_in(self) -> None:
        if not self._waiting:
            return
        texts = [text for _, _, text in self._waiting]
        hashes, owners, runs = _pieces(texts, self._frame)
        signatures = _signatures(hashes, owners, len(texts))
        rows = np.asarray([row for row, _, _ in self._waiting], dtype=np.int64)
        contents = np.asarray([content for _, content, _ in self._waiting], dtype=np.uint64)
        draws = _draws(runs, owners, contents)
        kept = draws <= self._bound
        if not kept.all():
            self._known.difference_update(contents[~kept].tolist())
        self._fresh.append((rows[kept], contents[kept], draws[kept], signatures[kept]))
        self._count += int(kept.sum())
        self._waiting, self._waiting_characters = [], 0
        while self._count > self._sample_rows:
            self._halve()
            if self._gives_up:
                self._clear()

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


def settled(index: NearIndex, contents: Iterable[int], again: Iterable[str]) -> NearIndex:
    """The index after the last row: as it is, or one that every row was added to a second time because many share a
    stretch.

    Args:
        contents: of all rows, from row 0 on, as they were added.
        again: their texts once more; gone through only where a second look is needed.
    """
    second = index.second()
    if second is None:
        return index
    for row, (content, text) in enumerate(zip(contents, again, strict=True)):
        second.add(row, content, text)
    return second


def families(pairs: Pairs, rows: int) -> Ints:
    """For each of `rows` rows the first row that it is like, directly or by way of others; itself where it is like
    none."""
    found = np.arange(rows)
    while True:
        first = np.minimum(found[pairs.earlier], found[pairs.later])
        joined = found.copy()
        for side in (pairs.earlier, pairs.later):
            np.minimum.at(joined, found[side], first)
        joined = joined[joined]
        if np.array_equal(joined, found):
            return found
        found = joined


# ------------------------------------------------------------------------------------------------------ arithmetic


def _pieces(texts: Sequence[str], frame: Mask | None) -> tuple[Hashes, Ints, Hashes]:
    """A hash for every piece that texts are compared by, the text that it belongs to, and a hash for the longer run
    that begins with it, `_NO_RUN` where none does. No text is shorter than a piece."""
    codes, owners = _codes(texts)
    short = _short_runs(codes)
    longer = _doubled(short, RUN)
    whole = _within(owners, RUN)
    runs = np.full(len(short), _NO_RUN)
    runs[: len(longer)] = np.where(_within(owners, DRAW_RUN), longer, _NO_RUN)
    if frame is not None:
        shared = frame[_slots(_doubled(longer, DRAW_RUN))] & _within(owners, FRAME_RUN)
        starts = owners[: len(short)][whole]
        whole[whole] = _own(starts, _covered(shared, len(short))[whole], len(texts))
    return mixed(short[whole]), owners[: len(short)][whole], runs[whole]


def _within(owners: Ints, length: int) -> Mask:
    """Whether the run of `length` characters that begins at each character lies in one text."""
    inside: Mask = owners[: max(len(owners) - length + 1, 0)] == owners[length - 1 :]
    return inside


def _covered(shared: Mask, pieces: int) -> Mask:
    """For each piece whether it lies in a stretch that many rows share. shared: whether one begins at its place."""
    begun = np.zeros(pieces + 1, dtype=np.int64)
    np.cumsum(shared, out=begun[1 : len(shared) + 1])
    begun[len(shared) + 1 :] = begun[len(shared)]
    return begun[1:] > begun[np.maximum(np.arange(pieces) - (FRAME_RUN - RUN), 0)]


def _codes(texts: Sequence[str]) -> tuple[Hashes, Ints]:
    """The characters of all texts, one after the other, and the text that each belongs to."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    return codes, np.repeat(np.arange(len(texts)), np.asarray([len(text) for text in texts], dtype=np.int64))


def _short_runs(codes: Hashes) -> Hashes:
    """A hash of every run of RUN characters, which still has to be mixed."""
    windows = max(len(codes) - RUN + 1, 0)
    hashes = codes[:windows].copy()
    for place in range(1, RUN):
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes += codes[place : windows + place]
    return hashes


def _doubled(hashes: Hashes, length: int) -> Hashes:
    """Hashes of runs twice as long as those given, of `length` characters."""
    return hashes[:-length] * np.uint64(0xD1B54A32D192ED03) + hashes[length:]


def _slots(hashes: Hashes) -> Ints:
    """A slot stands for all stretches whose hash ends alike."""
    return (mixed(hashes) & np.uint64(_SLOTS - 1)).astype(np.int64)


class _Spread:
    """The texts of the rows with the smallest contents: a sample that does not depend on the order of rows."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._bound = 1 << 64

    def add(self, content: int, text: str) -> None:
        if content < self._bound:
            self._texts[content] = text
            if len(self._texts) > 2 * FRAME_ROWS:
                kept = sorted(self._texts)[:FRAME_ROWS]
                self._texts = {each: self._texts[each] for each in kept}
                self._bound = kept[-1]

    def texts(self) -> list[str]:
        return [self._texts[content] for content in sorted(self._texts)[:FRAME_ROWS]]


def _frame(texts: Sequence[str]) -> Mask:
    """Which slots hold stretches that many of the texts share, bool [_SLOTS]."""
    counts = np.zeros(_SLOTS, dtype=np.int32)
    if len(texts) <= FRAME_LEAST_ROWS:
        return counts > 0
    long = [text for text in texts if len(text) >= FRAME_RUN]
    for at in range(0, len(long), _LEARNT_AT_ONCE):
        codes, owners = _codes(long[at : at + _LEARNT_AT_ONCE])
        inside = _within(owners, FRAME_RUN)
        slots = _slots(_doubled(_doubled(_short_runs(codes), RUN), DRAW_RUN))[inside]
        once = np.unique(owners[: len(inside)][inside] * _SLOTS + slots) % _SLOTS
        np.add.at(counts, once, 1)
    return counts > max(FRAME_LEAST_ROWS, FRAME_SHARE * len(texts))


def _own(owners: Ints, framed: Mask, rows: int) -> Mask:
    """The pieces by which rows are compared: those of their own, where there are enough of them."""
    own, pieces = np.bincount(owners[~framed], minlength=rows), np.bincount(owners, minlength=rows)
    bare: Mask = own < np.maximum(FRAME_LEFT, FRAME_LEFT_SHARE * pieces)
    return ~framed | bare[owners]


def _signatures(hashes: Hashes, owners: Ints, rows: int) -> NDArray[np.uint16]:
    """Signatures [rows, HASHES]."""
    flat = np.full(rows * HASHES, _EMPTY, dtype=np.uint32)
    bins = owners * HASHES + ((hashes >> np.uint64(24)) & np.uint64(HASHES - 1)).astype(np.int64)
    np.minimum.at(flat, bins, (hashes >> np.uint64(33)).astype(np.uint32))
    table = flat.reshape(rows, HASHES)
    _fill(table)
    return table.astype(np.uint16)


def _draws(runs: Hashes, owners: Ints, contents: Hashes) -> Hashes:
    """A number per row that samples are drawn by: the smallest hash of its runs, which rows that are alike mostly
    share; of a row that is shorter, a hash of the whole."""
    starts = np.flatnonzero(np.append(True, owners[1:] != owners[:-1]))
    smallest = np.minimum.reduceat(runs, starts)
    return mixed(np.where(smallest < _NO_RUN, smallest, contents))


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
            keys = mixed(keys + signatures[:, column] + np.uint64(1))
        order = np.argsort(keys, kind="stable")
        same = keys[order][1:] == keys[order][:-1]
        starts = np.concatenate([[0], np.where(same, 0, np.arange(1, rows))]) if rows else np.empty(0, dtype=np.int64)
        first = order[np.maximum.accumulate(starts)]
        later = order[1:][same]
        pairs = np.concatenate([first[1:][same] * rows + later, order[:-1][same] * rows + later])
        found = np.union1d(found, pairs)
    return found
