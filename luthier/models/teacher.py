"""A teacher: a frozen model beside the one that trains, and what it says of the scored rows.

What goes in: micro-batches. What comes out: the teacher's hidden states of the scored rows, for its whole distribution;
or its k most likely tokens with their log-probabilities. These are kept on disk, sequence by sequence, so that no epoch
and no later run computes them again; each sequence goes through the teacher by itself, so that a value depends on the
sequence alone. The teacher is loaded when it is first needed: where all is kept, never.

Shape legend: M scored rows, K most likely tokens, B outcomes: K and the tail.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from luthier.batch import Batch, Ints
from luthier.data.bottoms import Bottoms, Rows
from luthier.kernels import divergence
from luthier.kernels.divergence import Top, Whole
from luthier.kernels.host import to_device
from luthier.models.bottom import sequence
from luthier.models.decoder import Decoder


def row_bytes(top_k: int) -> int:
    """Of a scored row on disk: K ids and B log-probabilities."""
    return 4 * (2 * top_k + 1)


class Teacher:
    """Args:
    load: the teacher's decoder and the adapter that applies, if any.
    top_k: None for the whole distribution.
    width: tokens that teacher and student both have.
    kept: rows of `row_bytes(top_k)`.
    """

    def __init__(
        self,
        load: Callable[[], tuple[Decoder, str | None]],
        device: torch.device | str,
        top_k: int | None = None,
        temperature: float = 1.0,
        width: int = 0,
        kept: Bottoms | None = None,
    ) -> None:
        self._load, self._device = load, device
        self._top_k = None if top_k is None else min(top_k, width)
        self._temperature, self._width, self._kept = temperature, width, kept

    @cached_property
    def _model(self) -> tuple[Decoder, str | None]:
        return self._load()

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Whole | Top:
        """What it says of the batch's scored rows."""
        if self._top_k is not None:
            return self._top(batch, self._top_k)
        decoder, adapter = self._model
        hidden_ND = decoder.hidden(batch, adapter=adapter)
        return Whole(hidden_ND[to_device(batch.rows, decoder.device)], decoder.head_weight(adapter))

    def close(self) -> None:
        """Publish what is not on disk yet."""
        if self._kept is not None:
            self._kept.close()

    def _top(self, batch: Batch, top_k: int) -> Top:
        filled = np.empty((len(batch.rows), row_bytes(top_k)), dtype=np.uint8)
        segment_M = np.searchsorted(batch.segments.start, batch.rows, side="right") - 1
        for owner in np.unique(batch.row_owner):
            scored = np.flatnonzero(batch.row_owner == owner)
            own = np.flatnonzero(batch.segments.owner == owner)
            last = max(int(segment_M[scored].max()), int(own.max(initial=0)))
            places = batch.positions[batch.rows[scored]]
            filled[scored] = self._rows(sequence(batch, last), places, top_k)
        ids_MK = np.ascontiguousarray(filled[:, : 4 * top_k]).view(np.int32).astype(np.int64)
        logp_MB = np.ascontiguousarray(filled[:, 4 * top_k :]).view(np.float32)
        return Top(to_device(ids_MK, torch.device(self._device)), to_device(logp_MB, torch.device(self._device)))

    def _rows(self, ids: Ints, places: Ints, top_k: int) -> Rows:
        ids = ids[: int(places.max()) + 1]
        key = np.concatenate([ids, [-1], places])
        found = self._kept.get(key, len(places)) if self._kept is not None else None
        if found is None:
            found = self._computed(ids, places, top_k)
            if self._kept is not None:
                self._kept.put(key, found, len(places))
        return found

    def _computed(self, ids: Ints, places: Ints, top_k: int) -> Rows:
        decoder, adapter = self._model
        hidden_MD = decoder.read(ids, places, adapter)
        top = divergence.most_likely(hidden_MD, decoder.head_weight(adapter), top_k, self._temperature, self._width)
        parts: list[NDArray[Any]] = [
            top.ids_MK.cpu().numpy().astype(np.int32).view(np.uint8),
            top.logp_MB.cpu().numpy().astype(np.float32).view(np.uint8),
        ]
        return np.concatenate(parts, 1)
