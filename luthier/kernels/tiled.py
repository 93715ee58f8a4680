"""Attention on a CPU, in tiles of queries, out of plain matmuls and a softmax.

What goes in: queries, keys and values, and the place of each query among the keys. What comes out: attended values; in
the backward pass the gradients, for which nothing is kept but what went in: probabilities are formed again. Keys that
no query of a tile may see are left out, so that causal attention costs little more than half of a square.

Scores, probabilities and sums are float32 or wider. Where the compute dtype is bfloat16, the factors of every product
are rounded to it and the product is not, which is what the processor's own instruction does.

Shape legend: G sequences of equal length, H heads, K key/value heads, Q queries, T keys, E features per head; B pairs
of sequence and key/value head, R queries that share them (those of H / K heads).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from luthier.kernels.norm import wide
from luthier.kernels.tiles import chunks

QUERIES = 128
"""Most queries of a tile. Measured at 70 to 1024 rows: with 64 or 256 up to a fifth slower."""
TILE_BYTES = 2**22
"""Of one tile of scores; the backward pass has two. Measured: with 2 or 16 MiB up to a fifth slower (L2 of 1 MiB)."""


Parts = Sequence[Tensor]
"""Keys or values that lie in several places, to be laid together along their tokens."""


class Seen(NamedTuple):
    """Which keys each query sees: those up to its own place among them, and at most the last `window` of these.

    place_Q: int64, ascending.
    """

    place_Q: Tensor
    window: int | None = None


class How(NamedTuple):
    """scale: multiplier of q.k, None is 1/sqrt(E); softcap: scores are cap * tanh(scores / cap)."""

    scale: float | None = None
    softcap: float | None = None

    def factor(self, q: Tensor) -> float:
        return q.shape[-1] ** -0.5 if self.scale is None else self.scale


def attend(q_GHQE: Tensor, keys: Parts, values: Parts, seen: Seen, how: How) -> Tensor:
    """Attended values, [G, H, Q, E], laid out in memory as [G, Q, H, E]; differentiable.

    Args:
        keys, values: [G, K, T, E] in one or more parts.
    """
    return cast(Tensor, _Tiled.apply(q_GHQE, seen, how, *keys, *values))  # type: ignore[no-untyped-call]


def joined(parts: Parts) -> tuple[Tensor, Tensor]:
    """Keys and values, each in one piece; the first half of the parts are keys."""
    half = len(parts) // 2
    k, v = (torch.cat(list(each), dim=-2) if half > 1 else each[0] for each in (parts[:half], parts[half:]))
    return k, v


def parted(dk: Tensor, dv: Tensor, parts: Parts) -> list[Tensor]:
    """Their gradients by part."""
    lengths = [part.shape[-2] for part in parts[: len(parts) // 2]]
    return [*torch.split(dk, lengths, dim=-2), *torch.split(dv, lengths, dim=-2)]


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, seen: Seen, how: How, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(q, *parts)  # laid together they would be kept once more for each that sees them
        ctx.seen, ctx.how = seen, how
        k, v = joined(parts)
        out = _tokens_first(q)
        with _factors_rounded(q.dtype):
            keys, values = _widened(k), _widened(v)
            for tile in _tiles(q, k, seen, buffers=1):
                p_BRT = tile.probabilities(tile.rows(q), keys, how)
                tile.put(out, torch.bmm(p_BRT, tile.shared(values)))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, *parts = ctx.saved_tensors
        k, v = joined(parts)
        how, dq = ctx.how, _tokens_first(q)
        with _factors_rounded(q.dtype):
            keys, values = _widened(k), _widened(v)
            dkeys, dvalues = torch.zeros_like(keys), torch.zeros_like(values)
            for tile in _tiles(q, k, ctx.seen, buffers=2 if how.softcap is None else 3):
                q_BRE, dout_BRE = tile.rows(q), tile.rows(dout)
                slope_BRT = None if how.softcap is None else tile.buffer(2)
                p_BRT = tile.probabilities(q_BRE, keys, how, slope_BRT)
                tile.shared(dvalues).baddbmm_(p_BRT.mT, dout_BRE)
                dp_BRT = torch.bmm(dout_BRE, tile.shared(values).mT, out=tile.buffer(1))
                ds_BRT = torch.ops.aten._softmax_backward_data.out(dp_BRT, p_BRT, -1, p_BRT.dtype, grad_input=dp_BRT)
                if slope_BRT is not None:
                    ds_BRT.mul_(slope_BRT)
                tile.shared(dkeys).baddbmm_(ds_BRT.mT, q_BRE, alpha=how.factor(q))
                tile.put(dq, torch.baddbmm(q_BRE, ds_BRT, tile.shared(keys), beta=0, alpha=how.factor(q)))
        return (dq, None, None, *parted(_narrowed(dkeys, k), _narrowed(dvalues, v), parts))


class _Tile(NamedTuple):
    """Some queries of some sequences, the keys that any of them sees, and scratch memory that all tiles share."""

    sequences: slice
    queries: slice
    keys: slice
    seen: Seen
    kv_heads: int
    buffers: tuple[Tensor, ...]

    def shared(self, x_GKTE: Tensor) -> Tensor:
        """Keys or values, [B, T, E]: a view."""
        return x_GKTE[self.sequences, :, self.keys].flatten(0, 1)

    def rows(self, x_GHQE: Tensor) -> Tensor:
        """Queries, [B, R, E] in `wide`."""
        x_GHQE = x_GHQE[self.sequences, :, self.queries]
        return x_GHQE.to(wide(x_GHQE.dtype)).reshape(len(x_GHQE) * self.kv_heads, -1, x_GHQE.shape[-1])

    def put(self, whole_GHQE: Tensor, x_BRE: Tensor) -> None:
        """Write queries where they belong."""
        part = whole_GHQE[self.sequences, :, self.queries]
        part.copy_(x_BRE.view(part.shape))

    def buffer(self, index: int) -> Tensor:
        """Scratch memory, [B, R, T]."""
        count, keys = self.sequences.stop - self.sequences.start, self.keys.stop - self.keys.start
        heads_of_all = self.buffers[index].shape[1]
        rows = heads_of_all // self.kv_heads * (self.queries.stop - self.queries.start)
        return self.buffers[index].view(-1)[: count * self.kv_heads * rows * keys].view(-1, rows, keys)

    def probabilities(self, q_BRE: Tensor, keys_GKTE: Tensor, how: How, slope_BRT: Tensor | None = None) -> Tensor:
        """[B, R, T], in the first buffer; into `slope_BRT` how much of a score's change the cap lets through."""
        p_BRT = self.buffer(0)
        torch.baddbmm(p_BRT, q_BRE, self.shared(keys_GKTE).mT, beta=0, alpha=how.factor(q_BRE), out=p_BRT)
        if how.softcap is not None:
            p_BRT.div_(how.softcap).tanh_()
            if slope_BRT is not None:
                torch.mul(p_BRT, p_BRT, out=slope_BRT).neg_().add_(1)
            p_BRT.mul_(how.softcap)
        self._hide(p_BRT)
        return torch.softmax(p_BRT, -1, out=p_BRT)

    def _hide(self, scores_BRT: Tensor) -> None:
        """Take away the keys that lie before some queries of the tile, and those that some windows do not reach."""
        place_Q1 = self.seen.place_Q[self.queries, None]
        scores_BHQT = scores_BRT.view(len(scores_BRT), -1, len(place_Q1), scores_BRT.shape[-1])
        ahead = int(place_Q1[0]) + 1
        if ahead < self.keys.stop:
            hidden_QT = torch.arange(ahead, self.keys.stop, device=place_Q1.device) > place_Q1
            scores_BHQT[..., ahead - self.keys.start :].masked_fill_(hidden_QT, -torch.inf)
        if self.seen.window is None:
            return
        reached = int(place_Q1[-1]) - self.seen.window + 1
        if reached > self.keys.start:
            before_T = torch.arange(self.keys.start, reached, device=place_Q1.device)
            hidden_QT = before_T <= place_Q1 - self.seen.window
            scores_BHQT[..., : reached - self.keys.start].masked_fill_(hidden_QT, -torch.inf)


def _tiles(q_GHQE: Tensor, k_GKTE: Tensor, seen: Seen, buffers: int) -> Iterator[_Tile]:
    """Tiles whose scores fit `TILE_BYTES`, at least one query each."""
    count, heads, queries, _ = q_GHQE.shape
    kv_heads, keys = k_GKTE.shape[1:3]
    dtype = wide(q_GHQE.dtype)
    row_bytes = heads * keys * dtype.itemsize
    of_queries = list(chunks(queries, row_bytes, min(TILE_BYTES, QUERIES * row_bytes)))
    most_queries = max(each.stop - each.start for each in of_queries)
    of_sequences = list(chunks(count, row_bytes * most_queries, TILE_BYTES))
    most_sequences = max(each.stop - each.start for each in of_sequences)
    size = (most_sequences, heads, most_queries, keys)
    scratch = tuple(torch.empty(size, dtype=dtype, device=q_GHQE.device) for _ in range(buffers))
    for sequences in of_sequences:
        for rows in of_queries:
            first, last = int(seen.place_Q[rows.start]), int(seen.place_Q[rows.stop - 1])
            lowest = 0 if seen.window is None else max(first - seen.window + 1, 0)
            yield _Tile(sequences, rows, slice(lowest, last + 1), seen, kv_heads, scratch)


def _widened(x_GKTE: Tensor) -> Tensor:
    """In one piece, so that sequences and heads can be taken together without a copy."""
    return x_GKTE.to(wide(x_GKTE.dtype)).contiguous()


def _narrowed(wide_GKTE: Tensor, like_GKTE: Tensor) -> Tensor:
    return _tokens_first(like_GKTE).copy_(wide_GKTE)


def _tokens_first(x_GHQE: Tensor) -> Tensor:
    """An empty tensor of this shape, laid out as [G, Q, H, E], as projections are."""
    return torch.empty_like(x_GHQE.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)


@contextmanager
def _factors_rounded(dtype: torch.dtype) -> Iterator[None]:
    """Products of float32 matrices take bfloat16 factors, where that is the compute dtype and the processor has
    instructions for it."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16" if dtype == torch.bfloat16 else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before
