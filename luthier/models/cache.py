"""Keys and values of the sequences that are being generated, in blocks that sequences can share.

What goes in: how many tokens there is room for. What comes out: a `Place` for each sequence, a list of blocks that
grows as it is written to, so that no room is kept for tokens that may never come (Kwon et al. 2023, arXiv 2309.06180).
Full blocks are known by what they hold: a sequence that begins as another one did, under the same adapter, is given its
blocks instead of computing them again, also after the other has ended, until the room is needed.

Shape legend: P blocks, K key/value heads, E features per head.
"""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from luthier.arch.spec import DecoderSpec
from luthier.batch import Ints

BLOCK = 32
"""Tokens of a block: beginnings are shared by whole blocks, and a sequence wastes half of one. Chosen, not tuned."""


class Sized(Protocol):
    """What a cache has to know of its model."""

    compute_dtype: torch.dtype

    @property
    def spec(self) -> DecoderSpec: ...

    @property
    def device(self) -> torch.device: ...


@dataclass
class Place:
    """Where one sequence lies. length: tokens that are there; shared: how many of them were found, not computed."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0
    shared: int = 0
    digests: list[bytes] = field(default_factory=list)
    """Of the full blocks that are known, from the first on."""

    def rows(self, first: int, last: int) -> list[int]:
        """Rows of the rooms that hold tokens first:last."""
        return [self.blocks[at // BLOCK] * BLOCK + at % BLOCK for at in range(first, last)]


class Cache:
    """Rooms for keys and values, one of each for every layer: [P * BLOCK, K, E].

    Args:
        model: gives shapes, dtype and device.
        tokens: room, rounded up to whole blocks.
    """

    def __init__(self, model: Sized, tokens: int) -> None:
        self.num_blocks = -(-tokens // BLOCK)

        def rooms() -> list[Tensor]:
            return [
                torch.empty(
                    (self.num_blocks * BLOCK, layer.mixer.kv_heads, layer.mixer.head_dim),
                    dtype=model.compute_dtype,
                    device=model.device,
                )
                for layer in model.spec.layers
            ]

        self.keys, self.values = rooms(), rooms()
        self._known: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Known blocks that nobody uses, longest unused first."""
        self.clear()

    def clear(self) -> None:
        """Hold nothing, as at first, in the same rooms. Places that were given are void."""
        self._clean = 0
        self._use(0)
        self._users = [0] * self.num_blocks
        self._free = list(range(self.num_blocks))[::-1]
        for held in (self._known, self._digest_of, self._idle):
            held.clear()

    @property
    def tokens(self) -> int:
        """Room in all."""
        return self.num_blocks * BLOCK

    @property
    def used_tokens(self) -> int:
        """Room that sequences hold."""
        return self.tokens - self.free_tokens

    @property
    def free_tokens(self) -> int:
        """Room that can be had, including beginnings that nobody uses."""
        return (len(self._free) + len(self._idle)) * BLOCK

    def begin(self, ids: Sequence[int] = (), adapter: str | None = None) -> Place:
        """A place for a sequence, with as much of its beginning as is known; one token at least is left to compute."""
        place = Place()
        for digest in _digests(ids, adapter, (len(ids) - 1) // BLOCK if len(ids) else 0):
            block = self._known.get(digest)
            if block is None:
                break
            self._take(block)
            place.blocks.append(block)
            place.digests.append(digest)
        place.length = place.shared = len(place.blocks) * BLOCK
        return place

    def reserve(self, place: Place, tokens: int) -> bool:
        """Room for so many more tokens; False, and nothing changed, where there is none."""
        wanted = -(-(place.length + tokens) // BLOCK) - len(place.blocks)
        if wanted > len(self._free) + len(self._idle):
            return False
        for _ in range(wanted):
            if not self._free:
                oldest, _ = self._idle.popitem(last=False)
                self._forget(oldest)
                self._free.append(oldest)
            block = self._free.pop()
            self._use(block)
            self._users[block] = 1
            place.blocks.append(block)
        return True

    def learn(self, place: Place, ids: Sequence[int], adapter: str | None) -> None:
        """Let others find the full blocks of a place. ids: all tokens that are there."""
        full = place.length // BLOCK
        if full == len(place.digests):
            return
        for digest in _digests(ids, adapter, full, place.digests):
            block = place.blocks[len(place.digests)]
            place.digests.append(digest)
            if digest not in self._known:
                self._known[digest] = block
                self._digest_of[block] = digest

    def release(self, place: Place) -> None:
        """Give a place's room back; what is known of it stays to be found until the room is needed."""
        for block in reversed(place.blocks):
            self._users[block] -= 1
            if self._users[block]:
                continue
            if block in self._digest_of:
                self._idle[block] = None
            else:
                self._free.append(block)
        place.blocks, place.digests, place.length = [], [], 0

    def forget(self) -> None:
        """Let no beginning be found any more: the weights that made them have changed."""
        for block in list(self._digest_of):
            self._forget(block)
        self._free += self._idle
        self._idle.clear()

    @functools.cached_property
    def addresses(self) -> list[tuple[int, int]]:
        """Where the rooms of each layer's keys and values lie in memory."""
        return [(keys.data_ptr(), values.data_ptr()) for keys, values in zip(self.keys, self.values, strict=True)]

    def listed(self, places: Sequence[Place], blocks: int) -> Ints:
        """The blocks of some places, [places, blocks]; block 0 behind those that a place has."""
        table = np.zeros((len(places), blocks), dtype=np.int64)
        for row, place in zip(table, places, strict=True):
            few = place.blocks[:blocks]
            row[: len(few)] = few
        return table

    def table(self, places: Sequence[Place], blocks: int) -> Tensor:
        """The same on the cache's device."""
        return torch.from_numpy(self.listed(places, blocks)).to(self.keys[0].device)

    def gathered(self, room: Tensor, table_BP: Tensor) -> Tensor:
        """Rows of the blocks of a table side by side, [B, P * BLOCK, K, E]."""
        blocks = room.view(self.num_blocks, -1).index_select(0, table_BP.flatten())
        return blocks.view(len(table_BP), -1, *room.shape[1:])

    def _use(self, block: int) -> None:
        """Fill all blocks up to this one with zeros at the first use, because attention weighs unused places with 0,
        and 0 * nan is nan; what is never used costs no memory."""
        for room in (*self.keys, *self.values) if block >= self._clean else ():
            room[self._clean * BLOCK : (block + 1) * BLOCK].zero_()
        self._clean = max(self._clean, block + 1)

    def _take(self, block: int) -> None:
        self._users[block] += 1
        self._idle.pop(block, None)

    def _forget(self, block: int) -> None:
        self._known.pop(self._digest_of.pop(block), None)


def _digests(ids: Sequence[int], adapter: str | None, blocks: int, known: Sequence[bytes] = ()) -> list[bytes]:
    """What the first blocks of a sequence are known by, those after the `known` ones: each stands for its own tokens
    and all before them."""
    before = known[-1] if known else repr(adapter).encode()
    found = []
    for at in range(len(known), blocks):
        piece = np.asarray(ids[at * BLOCK : (at + 1) * BLOCK], dtype=np.int64)
        before = hashlib.blake2b(before + piece.tobytes(), digest_size=16).digest()
        found.append(before)
    return found


def bytes_per_token(spec: DecoderSpec, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers."""
    return sum(2 * layer.mixer.kv_heads * layer.mixer.head_dim for layer in spec.layers) * dtype.itemsize
