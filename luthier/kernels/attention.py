"""Attention over the segments of a flat batch: no padding, no N x N mask, nothing computed across documents.

What goes in: segments (host integers), then queries, keys and values of all tokens. What comes out: the attended
values in the same rows. `Layout` decides on the host, once per micro-batch, which rows go into which call of
`scaled_dot_product_attention`; segments of equal length are laid side by side so that one call serves them all. A
segment with a parent sees its ancestors' keys without copying their queries. A segment longer than a sliding window is
cut into blocks of queries that each see only the keys their window reaches. Where only some rows ask, their queries go
in blocks too, each of one segment and up to the key of its last query.

Shape legend: N flat tokens, U rows that ask (N unless chosen), S segments, H heads, K key/value heads, E features per
head, B sequences, T cached tokens.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from luthier.batch import Ints, Segments
from luthier.kernels import flash, select, swept, tiled
from luthier.kernels.tiled import Parts

MIN_WINDOW_BLOCK = 128
"""Fewest queries of a block under a sliding window: smaller calls are mostly overhead. Chosen, not tuned."""

CHOSEN_BLOCK = 256
"""Most chosen rows of one call: each of them is laid beside all keys of the block's last, half a block of them for
nothing. Chosen, not tuned."""

MOST_LISTED = 8
"""Keys that the lists of chosen rows may hold, over all keys there are: scattered rows would each have a list of their
own. Chosen, not tuned."""

Rows = tuple[int, int]


@dataclass(frozen=True)
class Call:
    """One call of attention.

    queries: rows start:end of those that ask. count: equal segments side by side in them. keys: row ranges, joined in
    this order; the last `end - start` rows of a path are the queries' own. offset: keys before the first query. window:
    as in the spec, None where it reaches every key. chosen: the queries are of some rows only; a row's own place among
    the keys is then its number plus `offset`.
    """

    queries: Rows
    keys: tuple[Rows, ...]
    count: int = 1
    offset: int = 0
    window: int | None = None
    chosen: bool = False

    @property
    def masked(self) -> bool:
        return self.chosen or self.offset > 0 or self.window is not None


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

    def chosen_calls(self, rows_U: Ints, window: int | None) -> list[Call]:
        """The calls that attend some rows, ascending and each once; queries are counted among those rows."""
        calls: list[Call] = []
        bounds = np.searchsorted(rows_U, [*self.start, self.end[-1]]).tolist()
        for segment, (begin, stop) in enumerate(pairwise(bounds)):
            path = self._path(segment)
            before = sum(end - start for start, end in path[:-1]) - path[-1][0]
            for first in range(begin, stop, CHOSEN_BLOCK):
                last = min(first + CHOSEN_BLOCK, stop)
                highest = int(rows_U[last - 1]) + before
                lowest = 0 if window is None else max(int(rows_U[first]) + before - window + 1, 0)
                keys = _clip(path, lowest, highest + 1)
                reached = None if window is None or highest < window else window
                calls.append(Call((first, last), keys, offset=before - lowest, window=reached, chosen=True))
        return calls

    def runs(self, window: int | None, rows_U: Ints | None = None) -> flash.Runs:
        """The same rows, or only those chosen, as runs of `luthier.kernels.flash`."""
        lengths: list[int] = []
        lists: list[Ints] = []
        for segment in range(len(self.start)):
            path = self._path(segment)
            start, end = path[-1]
            own = np.arange(start, end) if rows_U is None else rows_U[slice(*np.searchsorted(rows_U, (start, end)))]
            before = sum(stop - first for first, stop in path[:-1]) - start
            for run in np.split(own, np.flatnonzero(np.diff(own) != 1) + 1) if len(own) else ():
                lowest = 0 if window is None else max(int(run[0]) + before - window + 1, 0)
                keys = _clip(path, lowest, int(run[-1]) + before + 1)
                lengths.append(len(run))
                lists.append(np.concatenate([np.arange(*rows) for rows in keys]))
        rows = np.concatenate(lists)
        bounds_q, bounds_k = (np.cumsum([0, *each]) for each in (lengths, [len(keys) for keys in lists]))
        return flash.Runs(bounds_q, bounds_k, None if np.array_equal(rows, np.arange(self.end[-1])) else rows)

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


class _Plan:
    """Calls, and the row ranges into which keys and values are split for them."""

    def __init__(self, calls: list[Call], pieces: list[Rows]) -> None:
        self.calls = calls
        self.pieces = pieces
        self.starts = [start for start, _ in pieces]


class Attend:
    """Attention for the layers of one forward pass. Masks and call lists are made once and shared by all layers.

    Args:
        chosen_U: rows of the layout that ask where only some do, ascending and each once.
    """

    def __init__(self, layout: Layout, chosen_U: Ints | None = None) -> None:
        self._layout = layout
        self._chosen_U = chosen_U
        self._plans: dict[tuple[int | None, bool], _Plan] = {}
        self._runs: dict[tuple[int | None, bool], flash.DeviceRuns | None] = {}
        self._families: dict[bool, swept.Families | None] = {}
        self._masks: dict[tuple[int, int, int, int | None], Tensor] = {}

    def __call__(
        self,
        q_UHE: Tensor,
        k_NKE: Tensor,
        v_NKE: Tensor,
        window: int | None = None,
        scale: float | None = None,
        chosen_U: Tensor | None = None,
        softcap: float | None = None,
    ) -> tuple[Tensor, ...]:
        """Attended values of all rows that ask, in pieces [n, H * E] that follow one another: joining them here would
        keep them twice, because attention keeps its own outputs. Rows behind those of the layout are filler: zeros.

        Args:
            window: keys a query may see, itself included; None is all before it.
            scale: multiplier of q.k; None is 1/sqrt(E).
            chosen_U: on the device, the rows that ask where only some do; those that this object was made with.
            softcap: scores are cap * tanh(scores / cap). No kernel of torch's does that: tiles do, on any device.
        """
        kernel = _kernel(q_UHE, softcap)
        if kernel == "flash" and (runs := self._runs_of(window, chosen_U is not None, q_UHE.device)):
            return (flash.attend(q_UHE, k_NKE, v_NKE, runs, flash.How(window, scale)).flatten(1),)
        if kernel == "swept" and (families := self._families_of(chosen_U is not None)):
            how = swept.How(window, q_UHE.shape[-1] ** -0.5 if scale is None else scale)
            return (swept.attend(q_UHE, k_NKE, v_NKE, families, how).flatten(1),)
        plan = self._plan(window, chosen_U is not None)
        # split, because its backward pass joins once; slices would each write a zero-padded gradient of all N rows
        q = _split(q_UHE, [call.queries for call in plan.calls])
        k, v = (_split(x, plan.pieces) for x in (k_NKE, v_NKE))
        outputs = []
        for index, call in enumerate(plan.calls):
            keys, values = (self._keys(call, plan, pieces) for pieces in (k, v))
            outputs.append(self._one(call, q[index], (keys, values), tiled.How(scale, softcap), chosen_U))
        if len(q) > len(plan.calls):
            outputs.append(torch.zeros_like(q[-1], requires_grad=False).flatten(1))
        return tuple(outputs)

    def _runs_of(self, window: int | None, chosen: bool, device: torch.device) -> flash.DeviceRuns | None:
        """None where chosen rows are so scattered that their lists would hold too many keys."""
        key = (window, chosen)
        if key not in self._runs:
            runs = self._layout.runs(window, self._chosen_U if chosen else None)
            most = MOST_LISTED * int(self._layout.end[-1])
            self._runs[key] = None if chosen and runs.bounds_k[-1] > most else runs.on(device)
        return self._runs[key]

    def _families_of(self, chosen: bool) -> swept.Families | None:
        if chosen not in self._families:
            layout = self._layout
            asked = self._chosen_U if chosen else None
            self._families[chosen] = swept.Families.of(layout.start, layout.end, layout.parent, asked)
        return self._families[chosen]

    def _plan(self, window: int | None, chosen: bool) -> _Plan:
        key = (window, chosen)
        if key not in self._plans:
            if chosen:
                assert self._chosen_U is not None, "no rows were chosen"
                segments = zip(self._layout.start.tolist(), self._layout.end.tolist(), strict=True)
                self._plans[key] = _Plan(self._layout.chosen_calls(self._chosen_U, window), list(segments))
            else:
                calls = self._layout.calls(window)
                self._plans[key] = _Plan(calls, [call.queries for call in calls])
        return self._plans[key]

    def _keys(self, call: Call, plan: _Plan, pieces: tuple[Tensor, ...]) -> list[Tensor]:
        """Of the call's rows, in as many parts as they lie in."""
        parts = []
        for start, end in call.keys:
            piece = bisect.bisect_right(plan.starts, start) - 1
            while start < end:
                base, stop = plan.pieces[piece]
                part = pieces[piece]
                whole = start == base and end >= stop
                parts.append(part if whole else part[start - base : min(end, stop) - base])
                start, piece = min(end, stop), piece + 1
        return parts

    def _one(self, call: Call, q: Tensor, seen: tuple[Parts, Parts], how: tiled.How, chosen_U: Tensor | None) -> Tensor:
        def stacked(x: Tensor) -> Tensor:
            return x.view(call.count, -1, *x.shape[1:]).transpose(1, 2)

        q, (keys, values), scale = stacked(q), ([stacked(part) for part in parts] for parts in seen), how.scale
        if _kernel(q, how.softcap) in ("swept", "tiled"):
            places = tiled.Seen(_places(call, q, chosen_U), call.window)
            out = tiled.attend(q, keys, values, places, how)
        elif chosen_U is not None or len(keys) > 1:
            rows = torch.arange(q.shape[-2], device=q.device) if chosen_U is None else chosen_U[slice(*call.queries)]
            asked = _Seen(rows[:, None], call.offset, call.window)
            out = cast(Tensor, _MaskedAgain.apply(q, asked, scale, *keys, *values))  # type: ignore[no-untyped-call]
        else:
            mask = self._mask(call, q.shape[-2], keys[0].shape[-2], q.device) if call.masked else None
            out = _sdpa(q, keys[0], values[0], mask, causal=mask is None, scale=scale)
        return out.transpose(1, 2).flatten(2).flatten(0, 1)

    def _mask(self, call: Call, queries: int, keys: int, device: torch.device) -> Tensor:
        key = (queries, keys, call.offset, call.window)
        if key not in self._masks:
            self._masks[key] = _seen(*key, device)
        return self._masks[key]


def _kernel(q: Tensor, softcap: float | None) -> select.Attends:
    return select.attention(q.device.type, q.dtype, select.Heads(q.shape[-1], softcap is not None))[0]


def _split(x: Tensor, ranges: Sequence[Rows]) -> tuple[Tensor, ...]:
    """The rows of each range; filler behind the last, where there is any, comes as one more piece."""
    filler = [len(x) - ranges[-1][1]] if len(x) > ranges[-1][1] else []
    return torch.split(x, [end - start for start, end in ranges] + filler) if len(ranges) > 1 or filler else (x,)


def attend_last(
    q_NHE: Tensor,
    k_TKE: Tensor,
    v_TKE: Tensor,
    window: int | None,
    scale: float | None,
    softcap: float | None = None,
) -> Tensor:
    """Attention of the last N tokens of one sequence over all of its T tokens, [N, H * E]."""
    queries, keys = len(q_NHE), len(k_TKE)
    q, k, v = (x.transpose(0, 1)[None] for x in (q_NHE, k_TKE, v_TKE))
    out = _masked(q, k, v, _seen(queries, keys, keys - queries, window, q.device), scale, softcap)
    return out[0].transpose(0, 1).flatten(1)


def attend_cache(
    q_BHE: Tensor,
    k_BTKE: Tensor,
    v_BTKE: Tensor,
    lengths_B: Tensor,
    window: int | None,
    scale: float | None,
    softcap: float | None = None,
) -> Tensor:
    """Attention of one new token per sequence over its cache, [B, H * E].

    Args:
        lengths_B: cached tokens of each sequence, the new one included.
    """
    place_T = torch.arange(k_BTKE.shape[1], device=q_BHE.device)
    seen_BT = place_T < lengths_B[:, None]
    if window is not None:
        seen_BT &= place_T >= lengths_B[:, None] - window
    # The queries that share a key/value head go in as rows of one: six to eighteen times less work on a CPU than a head
    # each with one row (bf16, 8 sequences of 192 tokens; 9 over 3, 14 over 2 and 32 over 8 heads).
    batch, heads, width = q_BHE.shape
    q = q_BHE.view(batch, k_BTKE.shape[2], -1, width)
    mask = seen_BT[:, None, None].expand(-1, 1, q.shape[2], -1)
    k, v = k_BTKE.transpose(1, 2), v_BTKE.transpose(1, 2)
    out = _masked(q, k, v, mask, scale, softcap)
    return out.reshape(batch, heads * width)


def _places(call: Call, q: Tensor, chosen_U: Tensor | None) -> Tensor:
    """Of each query of a call, its place among the keys."""
    if chosen_U is None:
        return torch.arange(call.offset, call.offset + q.shape[-2], device=q.device)
    return chosen_U[slice(*call.queries)] + call.offset


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    """[G, H, T, E]. Grouped heads go in as they are: torch's CPU kernel takes them (measured 5 to 25 % faster than
    repeated keys)."""
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def _masked(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float | None, softcap: float | None) -> Tensor:
    """[G, H, T, E] over the keys that are seen, bool; capped scores, cap * tanh(scores / cap), are in float32."""
    if softcap is None:
        return _sdpa(q, k, v, seen, causal=False, scale=scale)
    groups, dtype = q.shape[1] // k.shape[1], torch.promote_types(q.dtype, torch.float32)
    wide_q, wide_k, wide_v = (x.to(dtype) for x in (q, k, v))
    k_GHTE, v_GHTE = (x.repeat_interleave(groups, 1) for x in (wide_k, wide_v))
    scores = wide_q @ k_GHTE.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = softcap * torch.tanh(scores / softcap)
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v_GHTE).to(q.dtype)


class _Seen(NamedTuple):
    """Which keys chosen rows see: a row's place among them is its number plus `offset`."""

    row_Q1: Tensor
    offset: int
    window: int | None

    def mask(self, k: Tensor) -> Tensor:
        """0 where a query sees a key, -inf elsewhere, [queries, keys] in the dtype of the keys."""
        seen = _sees(self.row_Q1 + self.offset, k.shape[-2], self.window)
        return torch.zeros(seen.shape, dtype=k.dtype, device=k.device).masked_fill_(~seen, -torch.inf)


class _MaskedAgain(torch.autograd.Function):
    """Attention of chosen queries, or over keys in several parts, by whichever kernel torch takes. The mask is as large
    as all scores, and the parts are there already, so neither is kept: the backward pass runs it all again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, seen: _Seen, scale: float | None, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(q, *parts)
        ctx.seen, ctx.scale = seen, scale
        k, v = tiled.joined(parts)
        return _sdpa(q, k, v, seen.mask(k), causal=False, scale=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, *parts = ctx.saved_tensors
        with torch.enable_grad():
            q, k, v = (x.detach().requires_grad_() for x in (q, *tiled.joined(parts)))
            out = _sdpa(q, k, v, ctx.seen.mask(k), causal=False, scale=ctx.scale)
        dq, dk, dv = torch.autograd.grad(out, (q, k, v), dout)
        return (dq, None, None, *tiled.parted(dk, dv, parts))


def _seen(queries: int, keys: int, offset: int, window: int | None, device: torch.device) -> Tensor:
    """Which keys each query sees, bool [queries, keys]; `offset` keys lie before the first query's own."""
    return _sees(torch.arange(offset, offset + queries, device=device)[:, None], keys, window)


def _sees(place_Q1: Tensor, keys: int, window: int | None) -> Tensor:
    """The same for queries at any places among the keys."""
    other = torch.arange(keys, device=place_Q1.device)
    seen = other <= place_Q1
    return seen if window is None else seen & (other > place_Q1 - window)


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
