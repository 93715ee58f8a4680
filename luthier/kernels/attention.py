"""Attention over the segments of a flat batch: no padding, no N x N mask, nothing computed across documents.

What goes in: segments (host integers), then queries, keys and values of all tokens. What comes out: the attended
values in the same rows. `Layout` decides on the host, once per micro-batch, which rows go into which call of
`scaled_dot_product_attention`; segments of equal length are laid side by side so that one call serves them all. A
segment with a parent sees its ancestors' keys without copying their queries. A segment longer than a sliding window is
cut into blocks of queries that each see only the keys their window reaches.

Shape legend: N flat tokens, S segments, H heads, K key/value heads, E features per head, B sequences, T cached tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from luthier.batch import Ints, Segments

MIN_WINDOW_BLOCK = 128
"""Fewest queries of a block under a sliding window: smaller calls are mostly overhead. Chosen, not tuned."""

WIDE_BACKWARD_BELOW = 192
"""Rows below which torch's CPU kernel works on 32 queries at a time. In half precision its backward pass then spends
most of its time in the overhead of tiny matmuls; in float32 it is 2.8 times as fast (measured: 64 segments of 128, 8
heads of 32; and 16 of 64, 14 heads of 64). From here up it gains nothing."""

Rows = tuple[int, int]


@dataclass(frozen=True)
class Call:
    """One call of attention.

    queries: rows start:end. count: equal segments side by side in them. keys: row ranges, joined in this order; the
    last `end - start` rows of a path are the queries' own. offset: keys before the first query. window: as in the spec,
    None where it reaches every key.
    """

    queries: Rows
    keys: tuple[Rows, ...]
    count: int = 1
    offset: int = 0
    window: int | None = None

    @property
    def masked(self) -> bool:
        return self.offset > 0 or self.window is not None


@dataclass(frozen=True)
class Layout:
    """Where the rows of a batch lie during a forward pass.

    order: row of the batch that lies at each place, int64 [N]; None where nothing moves.
    start, end, parent: segments in the new order.
    """

    order: Ints | None
    start: Ints
    end: Ints
    parent: Ints

    @staticmethod
    def of(segments: Segments) -> Layout:
        """Parentless segments first, shortest first, so that those of equal length are neighbours."""
        lengths = segments.end - segments.start
        has_parent = segments.parent >= 0
        moved = np.lexsort((np.where(has_parent, 0, lengths), has_parent))  # stable: children stay behind parents
        if np.array_equal(moved, np.arange(len(segments))):
            return Layout(None, segments.start, segments.end, segments.parent)
        place = np.empty_like(moved)
        place[moved] = np.arange(len(moved))
        end = np.cumsum(lengths[moved])
        order = np.concatenate([np.arange(segments.start[s], segments.end[s]) for s in moved])
        parent = segments.parent[moved]
        return Layout(order, end - lengths[moved], end, np.where(parent >= 0, place[parent], -1))

    def place(self, array: Ints) -> Ints:
        """A per-token array of the batch in the layout's order."""
        return array if self.order is None else array[self.order]

    def rows(self, rows: Ints) -> Ints:
        """Where rows of the batch lie."""
        if self.order is None:
            return rows
        inverse: NDArray[np.int64] = np.empty_like(self.order)
        inverse[self.order] = np.arange(len(self.order))
        return inverse[rows]

    def calls(self, window: int | None) -> list[Call]:
        """The calls that attend every row once, in row order, under a window."""
        calls: list[Call] = []
        for segment in range(len(self.start)):
            for call in self._segment_calls(segment, window):
                if calls and _side_by_side(calls[-1], call):
                    first = calls[-1]
                    rows = (first.queries[0], call.queries[1])
                    calls[-1] = Call(rows, (rows,), first.count + 1)
                else:
                    calls.append(call)
        return calls

    def _segment_calls(self, segment: int, window: int | None) -> list[Call]:
        path = self._path(segment)
        own_start, own_end = path[-1]
        before = sum(end - start for start, end in path[:-1])
        length = own_end - own_start
        if window is None or before + length <= window:
            return [Call((own_start, own_end), tuple(path), offset=before)]
        calls = []
        block = max(MIN_WINDOW_BLOCK, window // 2)  # half a window of queries reads 1.5 windows of keys
        for first in range(0, length, block):
            last = min(first + block, length)
            lowest = max(before + first - window + 1, 0)
            keys = _clip(path, lowest, before + last)
            reached = None if before + last <= window else window
            queries = (own_start + first, own_start + last)
            calls.append(Call(queries, keys, offset=before + first - lowest, window=reached))
        return calls

    def _path(self, segment: int) -> list[Rows]:
        """Row ranges of the ancestors, eldest first, and of the segment itself."""
        path: list[Rows] = []
        while segment >= 0:
            path.append((int(self.start[segment]), int(self.end[segment])))
            segment = int(self.parent[segment])
        return path[::-1]


class Attend:
    """Attention for the layers of one forward pass. Masks and call lists are made once and shared by all layers."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._plans: dict[int | None, list[Call]] = {}
        self._masks: dict[tuple[int, int, int, int | None], Tensor] = {}

    def __call__(
        self, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, window: int | None = None, scale: float | None = None
    ) -> tuple[Tensor, ...]:
        """Attended values of all rows, in pieces [n, H * E] that follow one another: joining them here would keep
        them twice, because attention keeps its own outputs.

        Args:
            window: keys a query may see, itself included; None is all before it.
            scale: multiplier of q.k; None is 1/sqrt(E).
        """
        if window not in self._plans:
            self._plans[window] = self._layout.calls(window)
        calls = self._plans[window]
        sizes = [call.queries[1] - call.queries[0] for call in calls]
        # split, because its backward pass joins once; slices would each write a zero-padded gradient of all N rows
        q, k, v = (torch.split(x, sizes) if len(sizes) > 1 else (x,) for x in (q_NHE, k_NKE, v_NKE))
        outputs = []
        for index, call in enumerate(calls):
            keys, values = (self._keys(call, calls, index, pieces) for pieces in (k, v))
            outputs.append(self._one(call, q[index], keys, values, scale))
        return tuple(outputs)

    def _keys(self, call: Call, calls: list[Call], index: int, pieces: tuple[Tensor, ...]) -> Tensor:
        if call.keys == (call.queries,):
            return pieces[index]
        starts = [each.queries[0] for each in calls]
        parts = []
        for start, end in call.keys:
            piece = int(np.searchsorted(starts, start, side="right")) - 1
            while start < end:
                base, stop = calls[piece].queries
                part = pieces[piece]
                whole = start == base and end >= stop
                parts.append(part if whole else part[start - base : min(end, stop) - base])
                start, piece = min(end, stop), piece + 1
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _one(self, call: Call, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        q, k, v = (x.view(call.count, -1, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        mask = self._mask(call, q.shape[-2], k.shape[-2], q.device) if call.masked else None
        out = _sdpa(q, k, v, mask, causal=mask is None, scale=scale)
        return out.transpose(1, 2).flatten(2).flatten(0, 1)

    def _mask(self, call: Call, queries: int, keys: int, device: torch.device) -> Tensor:
        key = (queries, keys, call.offset, call.window)
        if key not in self._masks:
            self._masks[key] = _seen(*key, device)
        return self._masks[key]


def attend_last(q_NHE: Tensor, k_TKE: Tensor, v_TKE: Tensor, window: int | None, scale: float | None) -> Tensor:
    """Attention of the last N tokens of one sequence over all of its T tokens, [N, H * E]."""
    queries, keys = len(q_NHE), len(k_TKE)
    q, k, v = (x.transpose(0, 1)[None] for x in (q_NHE, k_TKE, v_TKE))
    out = _sdpa(q, k, v, _seen(queries, keys, keys - queries, window, q.device), causal=False, scale=scale)
    return out[0].transpose(0, 1).flatten(1)


def attend_cache(
    q_BHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, lengths_B: Tensor, window: int | None, scale: float | None
) -> Tensor:
    """Attention of one new token per sequence over its cache, [B, H * E].

    Args:
        lengths_B: cached tokens of each sequence, the new one included.
    """
    place_T = torch.arange(k_BTKE.shape[1], device=q_BHE.device)
    seen_BT = place_T < lengths_B[:, None]
    if window is not None:
        seen_BT &= place_T >= lengths_B[:, None] - window
    k, v = k_BTKE.transpose(1, 2), v_BTKE.transpose(1, 2)
    out = _sdpa(q_BHE[:, :, None], k, v, seen_BT[:, None, None], causal=False, scale=scale)
    return out[:, :, 0].flatten(1)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    """[G, H, T, E]. Grouped heads go in as they are: torch's CPU kernel takes them (measured 5 to 25 % faster than
    repeated keys)."""
    half = q.dtype in (torch.bfloat16, torch.float16)
    tracked = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if causal and half and tracked and q.device.type == "cpu" and q.shape[2] < WIDE_BACKWARD_BELOW:
        return cast(Tensor, _WideBackward.apply(q, k, v, scale))  # type: ignore[no-untyped-call]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


class _WideBackward(torch.autograd.Function):
    """Causal attention of short segments on CPU: torch's kernel, with its backward pass in float32."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        out, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True, scale=scale)
        ctx.save_for_backward(q, k, v, out, log_sums)
        ctx.scale = scale
        return cast(Tensor, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        *half, log_sums = ctx.saved_tensors
        q, k, v, out = (x.float() for x in half)
        dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            dout.float(), q, k, v, out, log_sums, 0.0, True, scale=ctx.scale
        )
        dtype = half[0].dtype
        return dq.to(dtype), dk.to(dtype), dv.to(dtype), None


def _seen(queries: int, keys: int, offset: int, window: int | None, device: torch.device) -> Tensor:
    """Which keys each query sees, bool [queries, keys]; `offset` keys lie before the first query's own."""
    place = torch.arange(offset, offset + queries, device=device)[:, None]
    other = torch.arange(keys, device=device)
    seen = other <= place
    return seen if window is None else seen & (other > place - window)


def _side_by_side(first: Call, second: Call) -> bool:
    """Whether two calls are plain causal attention over neighbouring segments of equal length."""
    if any(call.masked or call.keys != (call.queries,) for call in (first, second)):
        return False
    (start, end), (next_start, next_end) = first.queries, second.queries
    return end == next_start and (end - start) == first.count * (next_end - next_start)


def _clip(path: list[Rows], low: int, high: int) -> tuple[Rows, ...]:
    """The part low:high of the path's rows laid end to end."""
    kept, passed = [], 0
    for start, end in path:
        first, last = max(low - passed, 0), min(high - passed, end - start)
        if first < last:
            kept.append((start + first, start + last))
        passed += end - start
    return tuple(kept)
