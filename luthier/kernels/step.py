"""The compiled part of generation (`step.c`): what a layer does with one new token of each sequence, beside products
with weights.

What goes in: rows on a CPU, float32 or bfloat16. What comes out: what the chains of `luthier.kernels.select` and
`luthier.kernels.attention.attend_cache` give, up to rounding, in one call instead of a dozen operations. Where nothing
was compiled `of` gives None, and layers run those.

Shape legend: B rows, one new token of each sequence; D hidden, H heads, K key/value heads, E features per head, P
blocks, F MLP width.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier import compiled
from luthier.arch.spec import Attention
from luthier.batch import Ints
from luthier.kernels import team

SOURCES = tuple(Path(__file__).with_name(name) for name in ("step.c", "numbers.h"))
PER_THREAD = 2**20
"""Features of keys that a further thread has to read for it to be worth its start, some 30 us. Chosen, not tuned."""

_ADDRESS, _NUMBER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "block": (_INT, []),
    "norm": (_INT, [_ADDRESS, _ADDRESS, _ADDRESS, _NUMBER, _NUMBER, _FLOAT, _INT]),
    "attend": team.ON_ROWS,
    "take": team.TAKE,
    "gate": (None, [_ADDRESS, _ADDRESS, _NUMBER, _NUMBER, _INT]),
}


@functools.cache
def library(folder: Path = Path(__file__).parent) -> ctypes.CDLL | None:
    """The compiled part; None where there is none, or where it was built of another source than lies beside it."""
    return compiled.library(folder, "_step", SOURCES, "luthier_step_", _FUNCTIONS)


class _Mixer(ctypes.Structure):
    _fields_ = [
        *((name, _NUMBER) for name in ("heads", "kv_heads", "width", "rotated", "interleaved", "window")),
        *((name, ctypes.c_double) for name in ("scale", "eps")),
        *((name, _ADDRESS) for name in ("q_norm", "k_norm")),
        ("half", _NUMBER),
    ]


class _Round(ctypes.Structure):
    _fields_ = [
        *((name, _ADDRESS) for name in ("places", "lengths", "table")),
        ("blocks", _NUMBER),
        *((name, _ADDRESS) for name in ("cos", "sin")),
    ]


class _Attend(ctypes.Structure):
    _fields_ = [(name, _ADDRESS) for name in ("mixer", "round", "qkv", "keys", "values", "out")]


class Round:
    """One new token of each sequence: where they are written to and what they see.

    Args:
        places_B: rows of the cache that they are written to.
        lengths_B: tokens of each sequence, the new one included.
        table_BP: the blocks of each sequence.
    """

    def __init__(self, places_B: Ints, lengths_B: Ints, table_BP: Ints) -> None:
        self.rows = len(places_B)
        self.lengths_B = lengths_B
        self._arrays = [np.ascontiguousarray(each, dtype=np.int64) for each in (places_B, lengths_B, table_BP)]
        self._told: dict[object, tuple[_Round, tuple[Tensor, ...]]] = {}

    def told(self, kind: object, angles: Callable[[], tuple[Tensor, Tensor] | None]) -> int:
        """This round with the angles of some kind, [B, E] each, made where they are not known yet."""
        if kind not in self._told:
            wide = tuple(each.to(torch.float32).contiguous() for each in angles() or ())
            addresses = [each.data_ptr() for each in wide] or [0, 0]
            made = _Round(*(_at(each) for each in self._arrays), self._arrays[2].shape[1], *addresses)
            self._told[kind] = made, wide
        return ctypes.addressof(self._told[kind][0])


class Mixer:
    """Attention of one layer.

    Args:
        eps, qk_norms: of the norms on heads, where there are any.
    """

    def __init__(self, spec: Attention, dtype: torch.dtype, eps: float, qk_norms: tuple[Tensor, Tensor] | None) -> None:
        self._norms = [wide(each) for each in qk_norms or ()]
        self._made = _Mixer(
            spec.heads,
            spec.kv_heads,
            spec.head_dim,
            0 if spec.rope is None else spec.rope.dim,
            spec.rope is not None and spec.rope.interleaved,
            spec.window or 0,
            spec.head_dim**-0.5 if spec.scale is None else spec.scale,
            eps,
            *([each.data_ptr() for each in self._norms] or [0, 0]),
            _half(dtype),
        )
        self.address = ctypes.addressof(self._made)
        self.spec = spec


class Step:
    """The functions of a dtype. Made by `of`."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self._norm, self._attend, self._gate, self._take = (
            getattr(library, f"luthier_step_{name}") for name in ("norm", "attend", "gate", "take")
        )
        self._half = _half(dtype)

    def norm(self, h_BD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        """`norm.forward`; the weight is float32."""
        x_BD = torch.empty_like(h_BD)
        rows, width = h_BD.shape
        _checked(self._norm(h_BD.data_ptr(), weight_D.data_ptr(), x_BD.data_ptr(), rows, width, eps, self._half))
        return x_BD

    def attend(self, mixer: Mixer, told: int, round_: Round, qkv: Tensor, rooms: tuple[int, int]) -> Tensor:
        """Attended values of the round's rows, [B, H * E]; keys and values are written to the cache.

        Args:
            told: `round_.told` of the layer's angles.
            qkv: projections, side by side, [B, (H + 2 K) * E], neither normed nor rotated.
            rooms: where the cache's keys and values of the layer lie.
        """
        spec, rows = mixer.spec, round_.rows
        out = qkv.new_empty((rows, spec.heads * spec.head_dim))
        job = _Attend(mixer.address, told, qkv.data_ptr(), *rooms, out.data_ptr())
        reads = int(round_.lengths_B.sum()) * spec.kv_heads * spec.head_dim
        threads = min(torch.get_num_threads(), rows, 1 + reads // PER_THREAD)
        team.by_rows(self._take, self._attend, job, rows, threads)
        return out

    def gate(self, both: Tensor) -> Tensor:
        """silu(e) * g, [B, F]; e and g lie side by side."""
        m_BF = both.new_empty((len(both), both.shape[1] // 2))
        self._gate(both.data_ptr(), m_BF.data_ptr(), *m_BF.shape, self._half)
        return m_BF


def of(dtype: torch.dtype, block: int) -> Step | None:
    """For a dtype and the cache's tokens per block; None where nothing was compiled, or for others."""
    found = library()
    if found is None or dtype not in (torch.float32, torch.bfloat16) or found.luthier_step_block() != block:
        return None
    return Step(found, dtype)


def wide(weight: Tensor) -> Tensor:
    """A norm's weight as the functions take it."""
    return weight.detach().to(torch.float32).contiguous()


def _checked(code: int) -> None:
    if code:
        raise MemoryError


def _half(dtype: torch.dtype) -> int:
    return int(dtype == torch.bfloat16)


def _at(array: NDArray[np.int64]) -> int:
    """Where it lies in memory."""
    return int(array.ctypes.data)
