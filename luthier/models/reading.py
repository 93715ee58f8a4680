"""Attention of sequences that are being generated, over what is cached of them.

What goes in: parts, the next tokens of some sequences, laid end to end in one pass. What comes out: the attended values
of their rows.

Shape legend: N rows of the pass, B sequences that get one token, P blocks, T cached tokens, H heads, K key/value heads,
E features per head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from luthier.arch.spec import Attention
from luthier.batch import Ints
from luthier.kernels.attention import Attend, Layout, attend_cache, attend_last
from luthier.kernels.host import to_device as _to_device
from luthier.models.cache import BLOCK, Cache, Place


class Part(NamedTuple):
    """Tokens that follow in one sequence.

    Attributes:
        ids: none empty.
        place: where the sequence lies, with room reserved for them.
        adapter: what it goes through.
        wanted: whether the logits of what follows are.
    """

    ids: Sequence[int]
    place: Place
    adapter: str | None = None
    wanted: bool = True


class Reading:
    """How the rows of a pass that extends sequences attend to what is cached: whole new sequences as in training,
    single tokens side by side, the rest one by one."""

    def __init__(
        self,
        parts: Sequence[Part],
        before: Sequence[int],
        starts: Ints,
        ends: Ints,
        cache: Cache,
        device: torch.device,
    ) -> None:
        self._cache, self._num_rows = cache, int(ends[-1])
        spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
        fresh = [at for at, part in enumerate(parts) if len(part.ids) > 1 and not before[at]]
        single = [at for at, part in enumerate(parts) if len(part.ids) == 1]
        rest = [at for at, part in enumerate(parts) if len(part.ids) > 1 and before[at]]
        self._fresh = None
        if fresh:
            lengths = np.array([spans[at][1] - spans[at][0] for at in fresh], dtype=np.int64)
            stops = np.cumsum(lengths)
            rows = np.concatenate([np.arange(*spans[at]) for at in fresh])
            self._fresh = (
                self._rows(rows, device),
                Attend(Layout(None, stops - lengths, stops, np.full(len(fresh), -1))),
            )
        self._singles = []
        for group in _alike(single, [len(part.place.blocks) for part in parts]):
            places = [parts[at].place for at in group]
            lengths = np.array([before[at] + 1 for at in group], dtype=np.int64)
            table_BP = cache.table(places, -(-int(lengths.max()) // BLOCK))
            rows = np.array([spans[at][0] for at in group], dtype=np.int64)
            self._singles.append((self._rows(rows, device), table_BP, _to_device(lengths, device)))
        self._rest = [
            (slice(*spans[at]), cache.table([parts[at].place], len(parts[at].place.blocks)), before[at]) for at in rest
        ]

    def _rows(self, rows: Ints, device: torch.device) -> Tensor | None:
        """None for all of them."""
        return None if len(rows) == self._num_rows else _to_device(rows, device)

    def attend(self, index: int, q: Tensor, k: Tensor, v: Tensor, mixer: Attention) -> Tensor:
        """Attended values, [N, H * E]."""
        out: Tensor | None = None

        def place(rows: Tensor | slice | None, values: Tensor) -> Tensor:
            if rows is None:
                return values
            whole = q.new_empty(len(q), values.shape[1]) if out is None else out
            whole[rows] = values
            return whole

        if self._fresh is not None:
            rows, attend = self._fresh
            chosen = (q, k, v) if rows is None else (q[rows], k[rows], v[rows])
            out = place(rows, torch.cat(attend(*chosen, mixer.window, mixer.scale, softcap=mixer.softcap)))
        keys, values = self._cache.keys[index], self._cache.values[index]
        shape = (mixer.window, mixer.scale, mixer.softcap)
        for rows, table_BP, lengths_B in self._singles:
            k_BTKE, v_BTKE = (self._cache.gathered(room, table_BP) for room in (keys, values))
            asked = q if rows is None else q[rows]
            out = place(rows, attend_cache(asked, k_BTKE, v_BTKE, lengths_B, *shape))
        for part, table_BP, known in self._rest:
            total = known + part.stop - part.start
            k_TKE, v_TKE = (self._cache.gathered(room, table_BP)[0, :total] for room in (keys, values))
            out = place(part, attend_last(q[part], k_TKE, v_TKE, *shape))
        assert out is not None, "a pass has rows"
        return out


def _alike(chosen: Sequence[int], blocks: Sequence[int]) -> list[list[int]]:
    """Those whose numbers of blocks lie within a factor of two, together: shorter ones are filled up to the longest."""
    groups: dict[int, list[int]] = {}
    for at in chosen:
        groups.setdefault(blocks[at].bit_length(), []).append(at)
    return list(groups.values())
