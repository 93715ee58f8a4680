"""Which rows are held out for validation.

What goes in: the content hash of every row, the share wanted and the seed. What comes out: the rows held out, a pure
function of the set of rows and the seed: their order does not matter, and equal rows stay together, so that no row
that is validated is also trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

AUTO_SHARE = 0.05
AUTO_MOST = 500
"""More rows cost time at each validation and hardly sharpen the mean loss; chosen, not tuned."""
AUTO_LEAST_ROWS = 100
"""Below, 5 % are fewer than five rows, whose mean loss tells nothing."""


@dataclass(frozen=True)
class Split:
    """Attributes:
    held_out: indices of the rows for validation.
    wanted: how many were asked for.
    copies: how many of them are further copies of a held-out row, kept out of training with it.
    """

    held_out: frozenset[int]
    wanted: int
    copies: int


def wanted_rows(share: Literal["auto"] | float, rows: int) -> int:
    """How many rows to hold out of so many."""
    if share == "auto":
        return min(AUTO_MOST, round(AUTO_SHARE * rows)) if rows >= AUTO_LEAST_ROWS else 0
    return max(1, round(share * rows)) if share > 0 and rows > 1 else 0


def hold_out(hashes: Sequence[bytes], wanted: int, seed: int) -> Split:
    """Choose rows: groups of equal rows in the order of a keyed hash, each as a whole, as long as it fits.

    One group is always left for training.
    """
    groups: dict[bytes, list[int]] = {}
    if wanted:
        for index, each in enumerate(hashes):
            groups.setdefault(each, []).append(index)
    key = seed.to_bytes(8, "little")
    order = sorted(groups, key=lambda each: hashlib.blake2b(each, digest_size=16, key=key).digest())
    chosen: list[int] = []
    taken = 0
    for each in order[: max(0, len(order) - 1)]:
        if len(groups[each]) <= wanted - len(chosen):
            chosen += groups[each]
            taken += 1
    return Split(frozenset(chosen), wanted, len(chosen) - taken)
