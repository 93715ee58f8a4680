"""The element-wise chains on a CPU, compiled (`chains.c`): one pass over memory for each where plain operations make up
to a dozen, tile by tile.

What goes in and comes out: as in `norm`, `rotary`, `gated` and `softmax`, whose signatures these have; rounded once.
What the compiled part does not do, weights of norms that train and gates other than SiLU, those do.

Shape legend: N rows, D features, H heads, E features per head, F MLP width, C rows of logits, V vocabulary.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier import compiled
from luthier.arch.spec import Rope
from luthier.kernels import gated as plain_gates
from luthier.kernels import norm as plain_norms
from luthier.kernels import team

SOURCES = tuple(Path(__file__).with_name(name) for name in ("chains.c", "numbers.h"))
PER_THREAD = 2**16
"""Numbers that a further thread has to work on for it to be worth its start, some 30 us. Chosen, not tuned."""
DTYPES = (torch.float32, torch.bfloat16)

_ADDRESS, _NUMBER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_FIELDS: dict[str, dict[Any, str]] = {
    "norm": {_ADDRESS: "x weight y rstd", _NUMBER: "width", _FLOAT: "eps", _INT: "known half"},
    "norm_backward": {_ADDRESS: "x rstd weight dy residual dx", _NUMBER: "width", _INT: "half"},
    "rotate": {_ADDRESS: "x cos sin out", _NUMBER: "row head heads width rotated", _INT: "interleaved backwards half"},
    "gate": {_ADDRESS: "e g m", _INT: "half"},
    "gate_backward": {_ADDRESS: "dm e g dg", _INT: "half"},
    "softmax": {_ADDRESS: "logits targets coefficients logp entropy", _NUMBER: "row width", _INT: "half"},
}
"""What each takes, as in `chains.c`."""
_JOBS = {
    name: type(
        name,
        (ctypes.Structure,),
        {"_fields_": [(each, kind) for kind, names in fields.items() for each in names.split()]},
    )
    for name, fields in _FIELDS.items()
}
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {"take": team.TAKE, **dict.fromkeys(_FIELDS, team.ON_ROWS)}


@functools.cache
def library(folder: Path = Path(__file__).parent) -> ctypes.CDLL | None:
    """The compiled part; None where there is none, or where it was built of another source than lies beside it."""
    return compiled.library(folder, "_chains", SOURCES, "luthier_chains_", _FUNCTIONS)


def reciprocal_rms(x_ND: Tensor, eps: float) -> Tensor:
    x_ND = x_ND.contiguous()
    rstd_N1 = _one_per_row(x_ND)
    _norm(x_ND, None, None, rstd_N1, eps)
    return rstd_N1


def norm(x_ND: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    x_ND = x_ND.contiguous()
    y_ND, rstd_N1 = torch.empty_like(x_ND), _one_per_row(x_ND)
    _norm(x_ND, weight_D, y_ND, rstd_N1, eps)
    return y_ND, rstd_N1


def normalise(x_ND: Tensor, rstd_N1: Tensor, weight_D: Tensor) -> Tensor:
    x_ND = x_ND.contiguous()
    y_ND = torch.empty_like(x_ND)
    _norm(x_ND, weight_D, y_ND, rstd_N1.contiguous(), None)
    return y_ND


def _norm(x_ND: Tensor, weight_D: Tensor | None, y_ND: Tensor | None, rstd_N1: Tensor, eps: float | None) -> None:
    weight_D = None if weight_D is None else weight_D.to(torch.float32).contiguous()
    width = x_ND.shape[-1]
    given = (_at(x_ND), _at(weight_D), _at(y_ND), _at(rstd_N1), width, eps or 0.0, eps is None, _half(x_ND))
    _do("norm", given, rstd_N1.numel(), width)


def norm_backward(
    x_ND: Tensor,
    rstd_N1: Tensor,
    weight_D: Tensor,
    dy_ND: Tensor,
    need_dweight: bool,
    residual_ND: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    if need_dweight:  # a sum over rows, which threads do not share out
        return plain_norms.backward(x_ND, rstd_N1, weight_D, dy_ND, need_dweight, residual_ND)
    x_ND, rstd_N1, dy_ND = x_ND.contiguous(), rstd_N1.contiguous(), dy_ND.to(x_ND.dtype).contiguous()
    weight_D = weight_D.to(torch.float32).contiguous()
    residual_ND = None if residual_ND is None else residual_ND.to(x_ND.dtype).contiguous()
    dx_ND = torch.empty_like(x_ND)
    tensors, width = (x_ND, rstd_N1, weight_D, dy_ND, residual_ND, dx_ND), x_ND.shape[-1]
    _do("norm_backward", (*map(_at, tensors), width, _half(x_ND)), rstd_N1.numel(), width)
    return dx_ND, None


def rotate_all(
    heads: Sequence[Tensor], cos_NE: Tensor, sin_NE: Tensor, rope: Rope, adjoint: bool = False
) -> tuple[Tensor, ...]:
    made = []
    for x_NHE in heads:
        x_NHE = x_NHE if x_NHE.stride(-1) == 1 else x_NHE.contiguous()
        rows, count, width = x_NHE.shape
        cos, sin = (each.to(x_NHE.dtype).contiguous() for each in (cos_NE, sin_NE))
        out = torch.empty(x_NHE.shape, dtype=x_NHE.dtype)
        sizes = (x_NHE.stride(0), x_NHE.stride(1), count, width, rope.dim // 2 * 2)
        given = (*map(_at, (x_NHE, cos, sin, out)), *sizes, rope.interleaved, adjoint, _half(x_NHE))
        _do("rotate", given, rows, count * width)
        made.append(out)
    return tuple(made)


def gated(e_NF: Tensor, g_NF: Tensor, act: str) -> Tensor:
    if act != "silu":
        return plain_gates.forward(e_NF, g_NF, act)
    e_NF, g_NF = e_NF.contiguous(), g_NF.contiguous()
    m_NF = torch.empty_like(e_NF)
    _do("gate", (*map(_at, (e_NF, g_NF, m_NF)), _half(e_NF)), e_NF.numel(), 1)
    return m_NF


def gated_again(e_NF: Tensor, g_NF: Tensor, act: str, need_product: bool) -> tuple[Tensor | None, Tensor | None]:
    """The compiled backward pass forms the activation itself."""
    if act != "silu":
        return plain_gates.again(e_NF, g_NF, act, need_product)
    return None, gated(e_NF, g_NF, act) if need_product else None


def gated_backward(dm_NF: Tensor, e_NF: Tensor, g_NF: Tensor, a_NF: Tensor | None, act: str) -> tuple[Tensor, Tensor]:
    if act != "silu":
        return plain_gates.backward(dm_NF, e_NF, g_NF, a_NF, act)
    dm_NF, e_NF, g_NF = dm_NF.contiguous(), e_NF.contiguous(), g_NF.contiguous()
    dg_NF = torch.empty_like(dm_NF)
    _do("gate_backward", (*map(_at, (dm_NF, e_NF, g_NF, dg_NF)), _half(e_NF)), e_NF.numel(), 1)
    return dm_NF, dg_NF


def softmax_(
    logits_CV: Tensor, targets_C: Tensor, coefficients_C: Tensor | None, logp_C: Tensor, entropy_C: Tensor | None
) -> None:
    coefficients_C = None if coefficients_C is None else coefficients_C.to(torch.float32).contiguous()
    targets_C = targets_C.contiguous()
    wide = (logp_C, entropy_C)
    assert logits_CV.stride(1) == 1 and all(each is None or each.dtype == torch.float32 for each in wide)
    made = [None if each is None else each if each.is_contiguous() else each.contiguous() for each in wide]
    tensors, width = (logits_CV, targets_C, coefficients_C, *made), logits_CV.shape[1]
    _do("softmax", (*map(_at, tensors), logits_CV.stride(0), width, _half(logits_CV)), len(logits_CV), width)
    for asked, filled in zip(wide, made, strict=True):
        if asked is not None and filled is not None and asked is not filled:
            asked.copy_(filled)


def _do(name: str, given: Sequence[Any], rows: int, width: int) -> None:
    """One compiled function over all rows, by as many threads as torch uses where there is enough to do.

    Raises:
        MemoryError: there is none for a row.
    """
    found = library()
    assert found is not None
    threads = min(torch.get_num_threads(), rows, 1 + rows * width // PER_THREAD)
    does = getattr(found, f"luthier_chains_{name}")
    team.by_rows(found.luthier_chains_take, does, _JOBS[name](*given), rows, threads)


def _one_per_row(x_ND: Tensor) -> Tensor:
    return torch.empty((*x_ND.shape[:-1], 1), dtype=torch.float32)


def _at(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _half(x: Tensor) -> int:
    return int(x.dtype == torch.bfloat16)
