"""Which rows are held out for validation.

What goes in: the content hash of every row, the share wanted, the seed, and which rows are nearly the same. What comes
out: the rows held out, a pure function of the set of rows and the seed: their order does not matter. Rows that are
equal, and rows that are nearly the same, stay together, so that no row that is validated is also trained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Ints
from luthier.data.near import Pairs, families, mixed

AUTO_SHARE = 0.05
AUTO_MOST = 500
"""More rows cost time at each validation and hardly sharpen the mean loss; chosen, not tuned."""
AUTO_LEAST_ROWS = 100
"""Below, 5 % are fewer than five rows, whose mean loss tells nothing."""


PARTED_BELOW = 0.5
"""Where groups of near duplicates are so large that less than half of what is wanted could be held out, they are parted
between the two sides; chosen, not tuned."""

Hashes = NDArray[np.void]


@dataclass(frozen=True)
class Groups:
    """Rows in groups, numbered in the order of their smallest content hash.

    Attributes:
        hashes: that hash, [g]; sizes: rows of each group, int64 [g].
        of_row: the group of every row, int64 [n]; firsts: the first row of each group, int64 [g].
    """

    hashes: Hashes
    sizes: Ints
    of_row: Ints
    firsts: Ints

    @classmethod
    def equal(cls, hashes: Hashes) -> Groups:
        """Groups of equal rows."""
        different, firsts, of_row, sizes = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
        return cls(different, sizes, of_row, firsts)

    def joined(self, pairs: Pairs) -> Groups:
        """Larger groups, of all rows that are alike directly or by way of others."""
        edges = replace(pairs, earlier=self.of_row[pairs.earlier], later=self.of_row[pairs.later])
        kept, of_group = np.unique(families(edges, len(self.hashes)), return_inverse=True)
        sizes = np.bincount(of_group, self.sizes, len(kept)).astype(np.int64)
        firsts = np.full(len(kept), len(self.of_row))
        np.minimum.at(firsts, of_group, self.firsts)
        return Groups(self.hashes[kept], sizes, of_group[self.of_row], firsts)


@dataclass(frozen=True)
class Split:
    """Attributes:
    held_out: which rows are for validation, bool [n].
    wanted: how many were asked for.
    copies: how many of them are further copies of a held-out row, kept out of training with it.
    parted: whether near duplicates stand on both sides, because their groups are too large to be held out.
    """

    held_out: NDArray[np.bool_]
    wanted: int
    copies: int = 0
    parted: bool = False


def wanted_rows(share: Literal["auto"] | float, rows: int) -> int:
    """How many rows to hold out of so many."""
    if share == "auto":
        return min(AUTO_MOST, round(AUTO_SHARE * rows)) if rows >= AUTO_LEAST_ROWS else 0
    return max(1, round(share * rows)) if share > 0 and rows > 1 else 0


def hold_out(equal: Groups, pairs: Pairs | None, wanted: int, seed: int) -> Split:
    """Choose rows: groups in the order of a keyed hash, each as a whole, as long as it fits.

    One group is always left for training.

    Args:
        equal: groups of equal rows.
        pairs: rows that are nearly the same; None where that was not looked for.
    """
    if not wanted or not len(equal.of_row):
        return Split(np.zeros(len(equal.of_row), dtype=np.bool_), wanted)
    together = equal if pairs is None or not len(pairs.later) else equal.joined(pairs)
    held_out, parted = _chosen(together, wanted, seed), False
    if together is not equal and held_out.sum() < PARTED_BELOW * wanted:
        held_out, parted = _chosen(equal, wanted, seed), True
    copies = int(held_out.sum()) - len(np.unique(equal.of_row[held_out]))
    return Split(held_out, wanted, copies, parted)


def _chosen(groups: Groups, wanted: int, seed: int) -> NDArray[np.bool_]:
    """The rows of the groups that are held out, bool [n]."""
    chosen = np.zeros(len(groups.sizes), dtype=np.bool_)
    left = wanted
    order = np.argsort(_keyed(groups.hashes, seed), kind="stable")[:-1]
    for group, size in zip(order.tolist(), groups.sizes[order].tolist(), strict=True):
        if size <= left:
            chosen[group] = True
            left -= size
            if not left:
                break
    return chosen[groups.of_row]


def _keyed(hashes: Hashes, seed: int) -> NDArray[np.uint64]:
    """A number per content hash that another seed changes. The hashes are BLAKE2's, as good as random, so mixing them
    with the seed is enough."""
    first, second = np.ascontiguousarray(hashes).view("<u8").reshape(-1, 2).T
    return mixed(mixed(first + mixed(np.asarray([seed], dtype=np.uint64) + np.uint64(1))) ^ second)
