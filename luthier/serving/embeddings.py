"""Texts to vectors: the mean of the final hidden states, of length 1.

Shape legend: N tokens of all texts, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from luthier.batch import Batch, Segments
from luthier.models.decoder import Decoder


@torch.no_grad()
def mean_hidden(decoder: Decoder, texts: Sequence[Sequence[int]], adapter: str | None) -> list[list[float]]:
    """One vector per text, none of which is empty. Each text attends to itself alone."""
    lengths = np.array([len(ids) for ids in texts], dtype=np.int64)
    end, owner = np.cumsum(lengths), np.arange(len(texts))
    none, zeros = np.zeros(0, dtype=np.int64), np.zeros(len(texts), dtype=np.int64)
    positions = np.concatenate([np.arange(length) for length in lengths])
    rows = np.arange(int(end[-1]))
    batch = Batch(
        ids=np.concatenate([np.asarray(ids, dtype=np.int64) for ids in texts]),
        positions=positions,
        prev=np.where(positions == 0, -1, rows - 1),
        key=rows,
        segments=Segments(end - lengths, end, np.full(len(texts), -1, dtype=np.int64), owner, owner, zeros),
        rows=none,
        targets=none,
        row_owner=none,
        weights={},
        per_owner={},
        uid=owner,
    )
    hidden_ND = decoder.hidden(batch, adapter=adapter).float()
    means = [part_TD.mean(0) for part_TD in torch.split(hidden_ND, lengths.tolist())]
    return [(mean_D / mean_D.norm().clamp_min(1e-12)).cpu().tolist() for mean_D in means]
