"""The sequences that a run learns from, or is validated on.

What goes in: the token stores of its files, the rows chosen of each, and the recipe's bound on their length. What comes
out: sequences by number, their lengths and weights as arrays, the row of the data file that each came from, and an
account of what did not fit. Nothing is copied: tokens stay in the stores.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Floats, Ints, Rendered
from luthier.data.check import Rows
from luthier.data.scan import Excluded
from luthier.data.store import TokenStore, computed_tokens
from luthier.errors import DataError, Problem
from luthier.text import say

NAMED = 10
"""Rows named in a message."""
PERCENTILES = (50, 90, 99, 100)

Policy = Literal["stop", "drop", "truncate"]


@dataclasses.dataclass(frozen=True)
class TooLong:
    """Rows longer than `data.max_tokens`.

    Attributes:
        rows, total: how many of how many; longest: in tokens; over: tokens beyond the bound, all together.
        percentiles: percent -> length of rows, too long or not.
        first: (place, length) of the first of them.
    """

    max_tokens: int
    rows: int
    total: int
    longest: int
    over: int
    percentiles: dict[int, int]
    first: tuple[tuple[str, int], ...]

    def lines(self) -> list[str]:
        """The table for people."""
        lengths = ", ".join(f"{percent} %: {length}" for percent, length in self.percentiles.items())
        named = ", ".join(f"{place} ({length})" for place, length in self.first)
        more = f", … (+{self.rows - len(self.first)})" if self.rows > len(self.first) else ""
        return [say("tokens.lengths", lengths=lengths), say("tokens.first_long", named=named + more)]


class _Pieces(NamedTuple):
    """Parts of a store's sequences, ascending: which sequence, and its tokens from start to end in the store."""

    sequence: Ints
    start: Ints
    end: Ints
    computed: Ints
    loss_weight: Floats


class Sequences:
    """Token sequences, by uid 0..n-1; made by `choose`.

    Attributes:
        lengths: tokens, int64 [n]; computed: tokens that enter the model, int64 [n].
        loss_weight: sum of the weights, float32 [n]; sources: index of the data source, int32 [n].
        sides: int8 [n], margins: float32 [n], as in `luthier.batch.Rendered`; judged: whether anybody judged.
        firsts: of each example the uid of its first sequence, ascending; the others follow it. An example is a row
            where answers are judged (the two of a pair, say), else a sequence.
        num_rows: rows of the data files that the sequences come from (a long text makes several sequences).
        excluded: rows left out, with the reason; truncated: how many sequences of rows that are kept were cut;
            one that lost all there was to learn is none any more.
        too_long: table of the sequences beyond the bound; None where there are none.
    """

    def __init__(
        self, rows: Rows, stores: Sequence[TokenStore], max_tokens: int, policy: Policy, *, ends: bool = False
    ) -> None:
        """ends: what is looked at is not what answers are predicted from, but the last learnt token of each side, which
        then enters the model as well: it is scored, alone, for a target that means nothing. Of a conversation that was
        unrolled that token is in the last sequence; the others are not needed."""
        self._stores = tuple(stores)
        self._ends = ends
        self._paths = [file.path for file in rows.files]
        self._tables = [file.table for file in rows.files]
        self._excluded: list[Excluded] = []
        self.truncated = 0
        self.too_long = self._table_of_lengths(rows, max_tokens)
        if self.too_long is not None and policy == "stop":
            values = {**dataclasses.asdict(self.too_long), "table": "\n    ".join(self.too_long.lines())}
            raise DataError(Problem("tokens.too_long", "", "data.max_tokens", str(max_tokens), values))
        pieces = [self._cut(file, chosen, max_tokens, policy) for file, chosen in enumerate(rows.chosen)]
        if ends:
            pieces = [_last_of_each_side(store, each) for store, each in zip(self._stores, pieces, strict=True)]
        self._file = np.repeat(np.arange(len(pieces), dtype=np.int32), [len(each.sequence) for each in pieces])
        joined = [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
        self._sequence, self._start, self._end, self.computed, self.loss_weight = joined
        if ends:
            self.computed, self.loss_weight = self.computed + 1, np.ones_like(self.loss_weight)
        self.lengths: Ints = self._end - self._start
        self.sides, self.margins = (
            np.concatenate([getattr(s, name)[piece.sequence] for s, piece in zip(self._stores, pieces, strict=True)])
            for name in ("sides", "margins")
        )
        self.judged = bool(self.sides.any())
        self._rows = np.concatenate([s.rows[p.sequence] for s, p in zip(self._stores, pieces, strict=True)])
        self.firsts: Ints = np.arange(len(self.lengths))
        if self.judged:
            follows = (np.diff(self._file) == 0) & (np.diff(self._rows) == 0)
            self.firsts = np.flatnonzero(np.concatenate([[True], ~follows]))
        self.sources: NDArray[np.int32] = np.asarray([f.source_index for f in rows.files], dtype=np.int32)[self._file]
        if not len(self.lengths):
            raise DataError(Problem("tokens.empty", values={"rows": len(rows), "excluded": len(self._excluded)}))
        self.num_rows = sum(
            int(_marked(store.rows[piece.sequence], len(table)).sum())
            for store, table, piece in zip(self._stores, self._tables, pieces, strict=True)
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def members(self, first: int) -> range:
        """The sequences of the example that begins with one."""
        after = int(np.searchsorted(self.firsts, first, side="right"))
        return range(first, int(self.firsts[after]) if after < len(self.firsts) else len(self))

    def first_of(self, uid: int) -> int:
        """The first sequence of the example that a sequence belongs to."""
        return int(self.firsts[np.searchsorted(self.firsts, uid, side="right") - 1])

    def fingerprint(self) -> str:
        """SHA-256 over which tokens these are and what is learnt of them."""
        parts: list[Any] = [store.key for store in self._stores]
        parts += [
            hashlib.sha256(np.ascontiguousarray(each).tobytes()).hexdigest()
            for each in (self._file, self._start, self._end, self.computed, self.loss_weight, self.sides)
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @functools.cached_property
    def conversations(self) -> Ints | None:
        """A number for each sequence, the same for those of one conversation that was unrolled; None where there is no
        such, or where rows are judged. Pieces of one text are sequences of their own: they have nothing in common."""
        if self.judged:
            return None
        rows = np.concatenate(
            [np.zeros(0, dtype=np.int64)]
            + [
                np.where(store.texts[pieces], -1, store.rows[pieces])
                for file, store in enumerate(self._stores)
                for pieces in (self._sequence[self._file == file],)
            ]
        )
        follows = (np.diff(self._file) == 0) & (np.diff(rows) == 0) & (rows[1:] >= 0)
        if not follows.any():
            return None
        return np.cumsum(np.concatenate([[0], ~follows])).astype(np.int64)

    @property
    def excluded(self) -> tuple[Excluded, ...]:
        return tuple(self._excluded)

    @functools.cached_property
    def learnt(self) -> Ints:
        """How many tokens of each are learnt, at most, int64 [n]: no more than of the whole that it was cut from."""
        found = np.ones(len(self), dtype=np.int64)
        for file, store in enumerate(() if self._ends else self._stores):
            own = self._file == file
            found[own] = np.minimum(store.learnt[self._sequence[own]], self.computed[own])
        return found

    @property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())

    def __getitem__(self, uid: int) -> Rendered:
        if not 0 <= uid < len(self):
            raise IndexError(uid)
        store, start, end = self._stores[self._file[uid]], int(self._start[uid]), int(self._end[uid])
        ids, weights = store.ids(start, end), store.weights(start, end)
        weights[0] = 0  # the first token of a piece is predicted from nothing
        if self._ends:
            last = int(self.computed[uid])
            ids, weights = np.append(ids[:last], np.int32(0)), np.zeros(last + 1, dtype=np.float32)
            weights[last] = 1
        if not self.judged:
            return Rendered(uid, ids, weights)
        return Rendered(uid, ids, weights, self.first_of(uid), int(self.sides[uid]), float(self.margins[uid]))

    def locate(self, uid: int) -> str:
        """`file:row` of a sequence."""
        return self._where(int(self._file[uid]), int(self._sequence[uid]))

    # ------------------------------------------------------------------------------------------------- choosing

    def _where(self, file: int, sequence: int) -> str:
        return self._tables[file].where(self._paths[file], int(self._stores[file].rows[sequence]))

    def _of_rows(self, file: int, chosen: Ints) -> Ints:
        """The sequences that come from the chosen rows."""
        store = self._stores[file]
        return np.flatnonzero(_marked(chosen, len(self._tables[file]))[store.rows])

    def _table_of_lengths(self, rows: Rows, max_tokens: int) -> TooLong | None:
        """Over everything but plain texts, which may be cut anywhere."""
        lengths: list[Ints] = []
        first: list[tuple[str, int]] = []
        for file, chosen in enumerate(rows.chosen):
            store = self._stores[file]
            sequences = self._of_rows(file, chosen)
            sequences = sequences[~store.texts[sequences].astype(np.bool_)]
            _, firsts = np.unique(store.rows[sequences], return_index=True)
            # A row that gave several sequences is as long as the longest.
            own = np.maximum.reduceat((store.ends - store.starts)[sequences], firsts) if len(firsts) else sequences
            lengths.append(own)
            for place in np.flatnonzero(own > max_tokens)[: NAMED - len(first)]:
                first.append((self._where(file, int(sequences[firsts[place]])), int(own[place])))
        every = np.concatenate(lengths)
        long = every[every > max_tokens]
        if not len(long):
            return None
        # The upper of two neighbours, so that every number is the length of a row.
        measured = np.percentile(every, PERCENTILES, method="higher")
        return TooLong(
            max_tokens=max_tokens,
            rows=len(long),
            total=len(every),
            longest=int(long.max()),
            over=int(long.sum()) - max_tokens * len(long),
            percentiles={percent: int(length) for percent, length in zip(PERCENTILES, measured, strict=True)},
            first=tuple(first),
        )

    def _cut(self, file: int, chosen: Ints, max_tokens: int, policy: Policy) -> _Pieces:
        """The chosen rows of one file, in pieces that keep to the bound."""
        store, all_rows = self._stores[file], len(self._tables[file])
        sequences = self._of_rows(file, chosen)
        starts, ends = store.starts[sequences], np.array(store.ends[sequences])
        lengths = ends - starts
        computed = store.computed[sequences].astype(np.int64)
        loss_weight = np.asarray(store.loss_weight[sequences])
        texts = store.texts[sequences].astype(np.bool_)
        long = lengths > max_tokens
        kept = loss_weight > 0
        rows = store.rows[sequences]
        left: list[tuple[NDArray[np.bool_], str]] = [(~kept, "tokens.nothing_learnt")]
        cut = kept & long & ~texts
        if policy == "drop":
            left.append((cut, "tokens.too_long_dropped"))
            kept = kept & ~_marked(rows[cut], all_rows)[rows]  # a row is dropped whole
        else:
            for place in np.flatnonzero(cut):
                ends[place] = starts[place] + max_tokens
                weights = store.weights(int(starts[place]), int(ends[place]))
                computed[place], loss_weight[place] = computed_tokens(weights), weights.sum(dtype=np.float64)
            lost = cut & (loss_weight <= 0)
            left.append((lost, "tokens.answer_cut_off"))
            kept = kept & ~lost
            judged = store.sides[sequences] != 0
            kept = kept & ~(judged & _marked(rows[lost], all_rows)[rows])  # half a pair is none
            self.truncated += int((cut & _marked(rows[kept], all_rows)[rows]).sum())
        # A row that gave several sequences is left out, once, where none of them is kept.
        gone = ~_marked(rows[kept], all_rows)[rows]
        named: set[int] = set()
        for mask, id in left:
            places = np.flatnonzero(mask & gone)
            for place in places[np.unique(rows[places], return_index=True)[1]]:
                if int(rows[place]) in named:
                    continue
                named.add(int(rows[place]))
                values = {"tokens": int(lengths[place]), "max_tokens": max_tokens}
                number = int(self._tables[file].numbers[rows[place]])
                where = self._where(file, int(sequences[place]))
                self._excluded.append(Excluded(self._paths[file], number, where, id, say(id, **values)))
        pieces = _Pieces(sequences[kept], starts[kept], ends[kept], computed[kept], loss_weight[kept])
        return _chunked(store, pieces, (long & texts)[kept], max_tokens)


def _last_of_each_side(store: TokenStore, pieces: _Pieces) -> _Pieces:
    rows, sides = store.rows[pieces.sequence], store.sides[pieces.sequence]
    followed = np.append((np.diff(rows) == 0) & (np.diff(sides) == 0), False)
    return _Pieces(*(each[~followed] for each in pieces))


def _marked(rows: Ints, count: int) -> NDArray[np.bool_]:
    """Which of `count` rows are among `rows`, bool [count]."""
    found = np.zeros(count, dtype=np.bool_)
    found[rows] = True
    return found


def _chunked(store: TokenStore, whole: _Pieces, long: NDArray[np.bool_], max_tokens: int) -> _Pieces:
    """Long texts in several pieces each, the rest as it is."""
    if not long.any():
        return whole
    rows: list[tuple[int, int, int, int]] = []
    loss_weights: list[float] = []
    for place in np.flatnonzero(long):
        sequence, start, end = (int(each[place]) for each in whole[:3])
        for first, last in chunks(end - start, max_tokens):
            weights = store.weights(start + first, start + last)
            weights[0] = 0
            rows.append((sequence, start + first, start + last, computed_tokens(weights)))
            loss_weights.append(float(weights.sum(dtype=np.float64)))
    sequence, start, end, computed = np.asarray(rows, dtype=np.int64).T
    made = _Pieces(sequence, start, end, computed, np.asarray(loss_weights, dtype=np.float32))
    order = np.argsort(np.concatenate([whole.sequence[~long], sequence]), kind="stable")

    def both(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([old[~long], new])[order]

    return _Pieces(
        both(whole.sequence, made.sequence),
        both(whole.start, made.start),
        both(whole.end, made.end),
        both(whole.computed, made.computed),
        both(whole.loss_weight, made.loss_weight),
    )


def chunks(length: int, most: int) -> list[tuple[int, int]]:
    """Half-open pieces of at most `most` tokens. A piece's first token is predicted from nothing, so a last piece of
    one token would teach nothing: the piece before gives it one of its own."""
    starts = list(range(0, length, most))
    if len(starts) > 1 and length - starts[-1] == 1:
        starts[-1] -= 1
    return list(zip(starts, [*starts[1:], length], strict=True))
