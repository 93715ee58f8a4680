"""Sums over the sequences of a micro-batch, and over the two sides of its pairs.

What goes in: a number per scored row, and the batch that says whose row each is. What comes out: a number per sequence,
or per pair and side. Every sum is formed in an order of its own that depends on the batch alone, so that a GPU gives
the same bits each time.

Shape legend: M scored rows, Q sequences, G groups.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from luthier.batch import SIDE, TERM, Batch, Floats
from luthier.kernels.host import to_device


class Sides(NamedTuple):
    """Of each group the sum over the answers that are wanted, and over those that are not; [G] each."""

    chosen: Tensor
    rejected: Tensor


def over_rows(values_M: Tensor, batch: Batch) -> Tensor:
    """The weighted sum of each sequence's rows, [Q]; 0 for one without."""
    weights_M = to_device(batch.weights[TERM], values_M.device).to(values_M.dtype)
    order = np.argsort(batch.row_owner, kind="stable")
    lengths = np.bincount(batch.row_owner, minlength=len(batch.uid)).astype(np.int64)
    weighted_M = (values_M * weights_M)[to_device(order, values_M.device)]
    return _segment_sums(weighted_M, lengths)


def row_weights(batch: Batch) -> Floats:
    """What each sequence's weights add up to: its learnt tokens, where each weighs 1. float32 [Q]."""
    return np.bincount(batch.row_owner, batch.weights[TERM], len(batch.uid)).astype(np.float32)


def over_sides(values_Q: Tensor, batch: Batch) -> Sides:
    """The sums of each group by side; 0 for a side that has no sequence here."""
    assert batch.group is not None
    side, groups = batch.per_owner[SIDE], int(batch.group.max()) + 1
    places = 2 * batch.group + (side < 0)
    order = np.argsort(places, kind="stable")
    lengths = np.bincount(places, minlength=2 * groups).astype(np.int64)
    sums = _segment_sums(values_Q[to_device(order, values_Q.device)], lengths).view(groups, 2)
    return Sides(sums[:, 0], sums[:, 1])


def _segment_sums(values: Tensor, lengths: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Tensor:
    return torch.segment_reduce(values, "sum", lengths=to_device(lengths, values.device), axis=0, initial=0)
