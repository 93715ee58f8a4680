"""Blocks of rows to blocks of tokens: what a builder of stores does with them, in its own process or in another.

What goes in: raw rows. What comes out: a `Block`, which holds everything that is kept of them, in arrays, and can be
sent between processes. A block is the same whoever makes it, and whatever was made before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Floats, Ints
from luthier.data import laws
from luthier.data.examples import Example, Preference, Text, parts
from luthier.data.learnt import Weighted
from luthier.data.readers import Raw
from luthier.data.renderer import RowRenderer
from luthier.data.scan import Account, Kept, Table, Taker
from luthier.errors import Problem


@dataclasses.dataclass(frozen=True)
class Rendered:
    """Sequences S of some rows, T tokens in all.

    Attributes:
        ids: int32 [T]; weights: of the loss, float32 [T].
        columns: name (`luthier.data.store.COLUMNS`) -> values [S]; ends and rows count from the block's beginning.
        problems: rows that cannot be rendered, and why.
    """

    ids: NDArray[np.int32]
    weights: Floats
    columns: dict[str, NDArray[Any]]
    problems: list[Problem]


@dataclasses.dataclass(frozen=True)
class Block:
    """Attributes:
    account, table: of its rows alone.
    new: rows that are the first of a shape, as far as who made the block knows, with the keys that were new.
    rendered: None where it was not rendered: the file is at fault.
    by_words: whether words are still trusted (`luthier.data.lessons.sequences`).
    """

    account: Account
    table: Table
    new: list[tuple[Kept, set[tuple[Any, ...]]]]
    rendered: Rendered | None
    by_words: bool


@dataclasses.dataclass
class BlockMaker:
    """Makes blocks. It can be pickled where its taker can.

    Attributes:
        drop_bad_rows: rows at fault are left out; else they rule out training on the file.
        only_reads: a fault is known, so nothing is rendered any more.
    """

    taker: Taker
    renderer: RowRenderer
    drop_bad_rows: bool
    only_reads: bool = False
    _seen: set[tuple[Any, ...]] = dataclasses.field(default_factory=set)

    def make(self, rows: Sequence[Raw], skip: int = 0) -> Block:
        """skip: examples at the beginning that were rendered before.

        Raises:
            ModelError: the model has no chat template, or none that ends answers.
        """
        taken = self.taker.take(rows)
        reads = self.only_reads or at_fault(taken.account, self.drop_bad_rows)
        rendered = None if reads else _render(self.renderer, taken.kept, skip)
        new = [] if reads else self._new(taken.kept)
        return Block(taken.account, taken.table, new, rendered, self.renderer.goes_by_words)

    def _new(self, block: Sequence[Kept]) -> list[tuple[Kept, set[tuple[Any, ...]]]]:
        found: list[tuple[Kept, set[tuple[Any, ...]]]] = []
        for kept in block:
            keys = {*laws.keys(kept.example)} - self._seen
            if keys:
                self._seen |= keys
                found.append((kept, keys))
        return found


def at_fault(account: Account, drop_bad_rows: bool) -> bool:
    """Whether what was found so far rules out training on the file."""
    return bool(account.fatal or (account.excluded and not drop_bad_rows))


def _render(renderer: RowRenderer, block: Sequence[Kept], skip: int) -> Rendered:
    sequences: list[Weighted] = []
    rows: list[int] = []
    sides: list[int] = []
    problems: list[Problem] = []
    split = [parts(kept.example) for kept in block[skip:]]
    rendered = iter(renderer.train_many([part for each in split for part, _ in each]))
    for row, each in enumerate(split, skip):
        made = [(next(rendered), side) for _, side in each]
        wrong = [found for found, _ in made if isinstance(found, Problem)]
        if wrong:
            problems.append(dataclasses.replace(wrong[0], where=block[row].where))
            continue
        for found, side in made:
            assert not isinstance(found, Problem)
            sequences += found
            rows += [row] * len(found)
            sides += [side] * len(found)
    if not sequences:
        return Rendered(np.zeros(0, np.int32), np.zeros(0, np.float32), {}, problems)
    ids, weights = (np.concatenate(parts) for parts in zip(*sequences, strict=True))
    lengths = np.asarray([len(each) for each, _ in sequences], dtype=np.int64)
    texts = np.asarray([isinstance(kept.example, Text) for kept in block], dtype=np.uint8)
    margins = np.asarray([_margin(kept.example) for kept in block], dtype=np.float32)
    ends = lengths.cumsum()
    starts = ends - lengths
    assert lengths.all(), "a sequence has at least the token that ends it"
    weights[starts] = 0  # nothing precedes the first token
    columns = {
        "ends": ends,
        "computed": _computed(weights, starts, ends),
        "loss_weight": np.add.reduceat(weights, starts, dtype=np.float64),
        "rows": np.asarray(rows, dtype=np.int64),
        "texts": texts[rows],
        "sides": np.asarray(sides, dtype=np.int8),
        "margins": margins[rows],
    }
    return Rendered(ids, weights, columns, problems)


def _margin(example: Example) -> float:
    return example.margin or 0.0 if isinstance(example, Preference) else 0.0


def _computed(weights: Floats, starts: Ints, ends: Ints) -> Ints:
    """`luthier.data.store.computed_tokens` of every sequence."""
    learnt = np.flatnonzero(weights)
    if not len(learnt):
        return np.zeros(len(starts), dtype=np.int64)
    last = learnt[np.maximum(np.searchsorted(learnt, ends) - 1, 0)]
    return np.where((starts <= last) & (last < ends), last - starts, 0)
