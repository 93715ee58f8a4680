"""Hidden states above the frozen bottom of a model, kept from one epoch to the next.

What goes in: micro-batches. What comes out: what enters the lowest layer that trains, for each of their tokens. Each
sequence goes through the bottom by itself, whatever it is packed with, so the value depends on the sequence alone: it
has the same bits whether it is computed now, was kept earlier in the run, or by another run. Rows that several
sequences share are those of the sequence that the stretch is counted to.

Shape legend: N flat tokens of a micro-batch, T tokens of a sequence, D hidden.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from luthier.batch import Batch, Ints
from luthier.data.bottoms import Bottoms, Rows
from luthier.kernels.host import to_device
from luthier.models.decoder import Below, Decoder


class Bottom:
    """The layers below `layers`, none of which trains or draws anything at random.

    Args:
        kept: rows of the compute dtype.
    """

    def __init__(self, decoder: Decoder, layers: int, kept: Bottoms) -> None:
        self._decoder, self._layers, self._kept = decoder, layers, kept

    def __call__(self, batch: Batch) -> Below:
        """What enters the first layer above, in the batch's order."""
        dtype, segments = self._decoder.compute_dtype, batch.segments
        filled = np.empty((batch.num_tokens, self._decoder.spec.d * dtype.itemsize), dtype=np.uint8)
        for owner in np.unique(segments.owner):
            own = np.flatnonzero(segments.owner == owner)
            rows = self._rows(sequence(batch, int(own[-1])))  # a segment comes behind those that it follows
            for segment in own:
                start, end = int(segments.start[segment]), int(segments.end[segment])
                first = int(batch.positions[start])
                filled[start:end] = rows[first : first + end - start]
        return Below(self._layers, to_device(filled, self._decoder.device).view(dtype))

    def close(self) -> None:
        """Publish what is not on disk yet."""
        self._kept.close()

    def _rows(self, ids: Ints) -> Rows:
        found = self._kept.get(ids)
        if found is None:
            found = _bytes(self._decoder, ids, self._layers)
            self._kept.put(ids, found)
        return found


def _bytes(decoder: Decoder, ids: Ints, layers: int) -> Rows:
    """[T, bytes]: no arithmetic, bits as they are."""
    h_TD = decoder.below(ids, layers).cpu().contiguous()
    made: NDArray[Any] = h_TD.view(torch.uint8).numpy()
    return made


def sequence(batch: Batch, segment: int) -> Ints:
    """Token ids from the beginning of a sequence to the end of the segment that it ends in."""
    parts: list[Ints] = []
    while segment >= 0:
        parts.append(batch.ids[int(batch.segments.start[segment]) : int(batch.segments.end[segment])])
        segment = int(batch.segments.parent[segment])
    return np.concatenate(parts[::-1])
