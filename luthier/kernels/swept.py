"""Attention on a CPU in compiled tiles (`attend.c`): all segments of a batch in one call, and nothing kept for the
backward pass but what went in.

What goes in: queries, keys and values of all rows, float32 or bfloat16, and the families of segments. What comes out:
what `luthier.kernels.tiled` gives, up to rounding: sums and probabilities are float32 and rounded nowhere, keys that a
query may not see are left out a few rows at a time, and segments of any length share the threads. Where nothing was
compiled, and for what it does not do (`refusal`), tiles of plain matmuls do it.

Shape legend: N flat tokens, U rows that ask, S segments, H heads, K key/value heads, E features per head.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from luthier import compiled
from luthier.batch import Ints
from luthier.kernels import team

SOURCES = tuple(Path(__file__).with_name(name) for name in ("attend.c", "numbers.h"))
DEEPEST = 64
"""Ancestors of a segment, itself included; `attend.c` has the same."""

_ADDRESS, _NUMBER, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "lanes": (_INT, []),
    "floats": (_NUMBER, [_NUMBER, _NUMBER, _INT]),
    "forward": team.TAKE,
    "backward": team.TAKE,
}


@functools.cache
def library(folder: Path = Path(__file__).parent) -> ctypes.CDLL | None:
    """The compiled part; None where there is none, or where it was built of another source than lies beside it."""
    return compiled.library(folder, "_attend", SOURCES, "luthier_attend_", _FUNCTIONS)


def refusal(dtype: torch.dtype, width: int) -> str | None:
    """Why heads of a width are not attended here on a CPU; None where they are."""
    if (found := library()) is None:
        return "nothing was compiled"
    if dtype not in (torch.float32, torch.bfloat16):
        return "compiled tiles take float32 and bfloat16 only"
    whole = width % found.luthier_attend_lanes() == 0
    return None if whole else f"compiled tiles do not take heads of {width} features"


@dataclass(frozen=True)
class Families:
    """Segments by what they see, a family (a root and all that descend from it) after another, parents before children.

    Attributes:
        start, end: rows of each segment, int64 [S].
        parent: its place in this order, -1 for none.
        at: where its rows begin among those of its family.
        first, last: the queries that are its own.
        asked: the row of each query, ascending; None where every row asks.
        bounds: the first segment of each family, and S.
    """

    start: Ints
    end: Ints
    parent: Ints
    at: Ints
    first: Ints
    last: Ints
    asked: Ints | None
    bounds: Ints

    @staticmethod
    def of(start: Ints, end: Ints, parent: Ints, asked: Ints | None = None) -> Families | None:
        """Of a layout, whose parents stand before their children; None where some have too many ancestors."""
        root, depth = np.arange(len(start)), np.ones(len(start), dtype=np.int64)
        for segment in np.flatnonzero(parent >= 0):
            root[segment], depth[segment] = root[parent[segment]], depth[parent[segment]] + 1
        if depth.max() > DEEPEST:
            return None
        order = np.argsort(root, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        start, end, parent, root = start[order], end[order], parent[order], root[order]
        bounds = np.concatenate([np.flatnonzero(np.diff(root, prepend=-1)), [len(root)]])
        ends = np.cumsum(end - start)
        at = ends - (end - start)
        at -= np.repeat(at[bounds[:-1]], np.diff(bounds))
        first, last = (start, end) if asked is None else (np.searchsorted(asked, each) for each in (start, end))
        return Families(start, end, np.where(parent >= 0, place[parent], -1), at, first, last, asked, bounds)

    @functools.cached_property
    def arrays(self) -> list[Ints | None]:
        """As `attend.c` reads them."""
        given = (getattr(self, name) for name in _ARRAYS)
        return [None if each is None else np.ascontiguousarray(each, dtype=np.int64) for each in given]

    @property
    def rows(self) -> Ints:
        """Of each family."""
        return cast(Ints, np.add.reduceat(self.end - self.start, self.bounds[:-1]))

    @functools.cached_property
    def costs(self) -> Ints:
        """Of each family about as many as scores."""
        asked = (self.last - self.first) * (self.at + self.end - self.start)
        return cast(Ints, np.add.reduceat(asked, self.bounds[:-1]))


class How(NamedTuple):
    """window: keys that a query may see, itself included; None is all before it. scale: multiplier of q.k."""

    window: int | None
    scale: float


def attend(q_UHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, families: Families, how: How) -> Tensor:
    """Attended values, [U, H, E]; differentiable. Rows behind those of the families are filler: zeros."""
    return cast(Tensor, _Swept.apply(q_UHE, k_NKE, v_NKE, families, how))  # type: ignore[no-untyped-call]


class _Swept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, families: Families, how: How) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.families, ctx.how = families, how
        out = _filled(q, int(families.last.max()))
        _run(families, how, (q, k, v), None, (out,))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        families = ctx.families
        dq, dk, dv = _filled(q, int(families.last.max())), *(_filled(each, int(families.end.max())) for each in (k, v))
        _run(families, ctx.how, (q, k, v), dout, (dq, dk, dv))
        return dq, dk, dv, None, None


def _filled(like: Tensor, rows: int) -> Tensor:
    """As large as this, packed; zeros behind so many rows."""
    made = torch.empty_like(like, memory_format=torch.contiguous_format)
    made[rows:] = 0
    return made


_ARRAYS = ("start", "end", "parent", "at", "first", "last", "asked", "bounds")


class _View(ctypes.Structure):
    _fields_ = [("rows", _ADDRESS), ("row", _NUMBER), ("head", _NUMBER)]

    @staticmethod
    def of(x: Tensor) -> _View:
        return _View(x.data_ptr(), x.stride(0), x.stride(1))


class _Job(ctypes.Structure):
    _fields_ = [
        *((name, _NUMBER) for name in ("heads", "kv_heads", "width", "half", "window")),
        ("scale", ctypes.c_double),
        *((name, _View) for name in ("q", "k", "v", "dout")),
        *((name, _ADDRESS) for name in ("out", "dk", "dv")),
        *((name, _ADDRESS) for name in (*_ARRAYS, "unit")),
        *((name, _NUMBER) for name in ("units", "next", "threads", "floats")),
        ("memory", _ADDRESS),
    ]


def _run(
    families: Families, how: How, given: tuple[Tensor, Tensor, Tensor], dout: Tensor | None, made: tuple[Tensor, ...]
) -> None:
    """One unit for each family and key/value head, the dearest first, by as many threads as torch uses."""
    found = library()
    assert found is not None
    views = [
        each if each.stride(-1) == 1 else each.contiguous() for each in (*given, *([] if dout is None else [dout]))
    ]
    q, k, *_ = views
    (_, heads, width), kv_heads = q.shape, k.shape[1]
    units = np.argsort(-np.repeat(families.costs, kv_heads), kind="stable").astype(np.int64)
    addresses = [None if each is None else each.ctypes.data for each in families.arrays]
    threads = min(torch.get_num_threads(), len(units))
    floats = found.luthier_attend_floats(int(families.rows.max()), width, int(dout is not None))
    memory = torch.empty(threads, floats, dtype=torch.float32)
    job = _Job(
        *(heads, kv_heads, width, int(q.dtype == torch.bfloat16), how.window or 0, how.scale),
        *(_View.of(each) for each in views),
        *([] if dout is not None else [_View()]),
        *(each.data_ptr() for each in made),
        *([None] * (3 - len(made))),
        *(*addresses, units.ctypes.data),
        *(len(units), 0, 0, floats),
        memory.data_ptr(),
    )
    team.together(found.luthier_attend_forward if dout is None else found.luthier_attend_backward, job, threads)
