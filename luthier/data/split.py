"""Which rows are held out for validation.

What goes in: the content hash of every row, the share wanted and the seed. What comes out: the rows held out, a pure
function of the set of rows and the seed: their order does not matter, and equal rows stay together, so that no row
that is validated is also trained.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

AUTO_SHARE = 0.05
AUTO_MOST = 500
"""More rows cost time at each validation and hardly sharpen the mean loss; chosen, not tuned."""
AUTO_LEAST_ROWS = 100
"""Below, 5 % are fewer than five rows, whose mean loss tells nothing."""


@dataclass(frozen=True)
class Split:
    """Attributes:
    held_out: which rows are for validation, bool [n].
    wanted: how many were asked for.
    copies: how many of them are further copies of a held-out row, kept out of training with it.
    """

    held_out: NDArray[np.bool_]
    wanted: int
    copies: int


def wanted_rows(share: Literal["auto"] | float, rows: int) -> int:
    """How many rows to hold out of so many."""
    if share == "auto":
        return min(AUTO_MOST, round(AUTO_SHARE * rows)) if rows >= AUTO_LEAST_ROWS else 0
    return max(1, round(share * rows)) if share > 0 and rows > 1 else 0


def hold_out(hashes: NDArray[np.void], wanted: int, seed: int) -> Split:
    """Choose rows: groups of equal rows in the order of a keyed hash, each as a whole, as long as it fits.

    One group is always left for training.

    Args:
        hashes: content hashes of all rows, [n].
    """
    if not wanted or not len(hashes):
        return Split(np.zeros(len(hashes), dtype=np.bool_), wanted, 0)
    groups, group_of, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    key = seed.to_bytes(8, "little")
    keyed = (hashlib.blake2b(each.tobytes(), digest_size=8, key=key).digest() for each in groups)
    order = np.argsort(np.fromiter((int.from_bytes(each) for each in keyed), np.uint64, len(groups)), kind="stable")
    chosen, rows = [], 0
    for group in order[:-1]:
        if rows == wanted:
            break
        if sizes[group] <= wanted - rows:
            chosen.append(group)
            rows += int(sizes[group])
    return Split(np.isin(group_of, chosen), wanted, rows - len(chosen))
