"""Examples to flat micro-batches.

What goes in: token sequences and the number of tokens a micro-batch may hold. What comes out: micro-batches without
padding whose union is exactly the sequences. Tokens behind the last learnt one, and that one itself, are left out:
nothing that is learnt looks at them, so they would be computed for nothing.

Shape legend: N flat tokens of a micro-batch, M scored rows, Q sequences.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import overload

import numpy as np

from luthier.batch import TERM, Batch, Ints, Rendered, Segments
from luthier.data.sequences import Sequences
from luthier.data.store import computed_tokens


def microbatches(examples: Sequence[Rendered], budget_tokens: int) -> tuple[Batch, ...]:
    """Split examples into micro-batches of at most `budget_tokens` tokens; a longer example gets one of its own.

    The split depends on the lengths and their order only. Sequences of equal length stand side by side, longest first.
    """
    lengths = np.asarray([computed_tokens(example.weights) for example in examples], dtype=np.int64)
    return tuple(assemble([examples[index] for index in group]) for group in groups(lengths, budget_tokens))


class Batches(Sequence[Batch]):
    """Micro-batches of a whole store, made when asked for, again and again: validation."""

    def __init__(self, store: Sequences, budget_tokens: int) -> None:
        self._store = store
        self._groups = groups(store.computed, budget_tokens)

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Batch, ...]: ...
    def __getitem__(self, index: int | slice) -> Batch | tuple[Batch, ...]:
        if isinstance(index, slice):
            return tuple(self[each] for each in range(*index.indices(len(self))))
        return assemble([self._store[uid] for uid in self._groups[index]])


def batches(store: Sequences, budget_tokens: int) -> Batches:
    """The whole store once, in micro-batches of at most `budget_tokens` tokens."""
    return Batches(store, budget_tokens)


def groups(lengths: Ints, budget_tokens: int) -> list[list[int]]:
    """Indexes of the sequences of each micro-batch: first-fit decreasing, one micro-batch after the other.

    Each group takes the longest sequence left, then again and again the longest that still fits, as many of one length
    as fit. First-fit decreasing needs at most 11/9 of the fewest possible groups plus 6/9 (Dosa 2007).
    """
    order = np.argsort(-lengths, kind="stable")
    waiting: dict[int, list[int]] = {}
    for index in order[::-1]:
        waiting.setdefault(int(lengths[index]), []).append(int(index))
    # Ascending lengths; the indexes of one length lie last first, so that pop() keeps their order.
    left = sorted(waiting)
    made: list[list[int]] = []
    while left:
        group: list[int] = []
        room = max(budget_tokens, left[-1])
        while (place := bisect.bisect_right(left, room) - 1) >= 0:
            length = left[place]
            of_length = waiting[length]
            taken = min(len(of_length), room // length) if length else len(of_length)
            group += [of_length.pop() for _ in range(taken)]
            room -= taken * length
            if not of_length:
                del left[place]
            if room <= 0:
                break
        made.append(group)
    return made


def assemble(examples: Sequence[Rendered]) -> Batch:
    """One micro-batch of the examples, in the order given."""
    count = len(examples)
    lengths = np.asarray([computed_tokens(example.weights) for example in examples], dtype=np.int64)
    assert count and lengths.all(), "every sequence needs a learnt token"
    end = np.cumsum(lengths)
    start = end - lengths
    owner = np.repeat(np.arange(count, dtype=np.int64), lengths)
    positions = np.arange(int(end[-1]), dtype=np.int64) - start[owner]
    weights = np.concatenate([e.weights[1 : n + 1] for e, n in zip(examples, lengths, strict=True)])
    following = np.concatenate([e.ids[1 : n + 1] for e, n in zip(examples, lengths, strict=True)])
    rows = np.flatnonzero(weights).astype(np.int64)
    each = np.arange(count, dtype=np.int64)
    return Batch(
        ids=np.concatenate([e.ids[:n] for e, n in zip(examples, lengths, strict=True)]).astype(np.int64),
        positions=positions,
        prev=np.where(positions == 0, -1, np.arange(len(positions)) - 1).astype(np.int64),
        uid=np.asarray([example.uid for example in examples], dtype=np.int64)[owner],
        segments=Segments(
            start=start,
            end=end,
            parent=np.full(count, -1, dtype=np.int64),
            owner=each,
            group=each,
            adapter=np.zeros(count, dtype=np.int64),
        ),
        rows=rows,
        targets=following[rows].astype(np.int64),
        row_owner=owner[rows],
        weights={TERM: weights[rows].astype(np.float32)},
        per_owner={},
    )
