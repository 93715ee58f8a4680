"""Weights in ggml's block formats.

What goes in: a float tensor [R, C] and the name of a type. What comes out: its rows as the bytes that llama.cpp reads.
The simple formats are the `gguf` package's. Q4_K, Q5_K and Q6_K follow the search of ggml's reference (MIT licence;
`ggml-quants.c`) with tensor operations instead of loops, on the tensor's device. Where llama.cpp's own library is
installed, `native` writes the same formats and four more (`luthier.export.gguf.native`).

Shapes: R rows, C columns, S super-blocks of 256 values, B blocks of n = 32 or 16 values. Blocks stand in columns
(suffix `_nB`): sums over a block then run along memory, and what belongs to a block is a plain vector `_B`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.errors import ModelError, Problem
from luthier.export.gguf.native import KINDS as NATIVE_KINDS
from luthier.export.gguf.native import ONLY_NATIVE, Native
from luthier.export.gguf.recipe import row_bytes

Bytes = NDArray[np.uint8]

SUPER = 256
PLAIN: dict[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SIMPLE = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
SCALES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Q8_0", "Q4_0", "Q5_0", "IQ4_NL", "IQ4_XS"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
}
"""Where in a block its half-precision scale and offset stand, in bytes."""
SLAB_VALUES = 1 << 22
"""Values turned to float32 at once: 16 MiB, however large the tensor."""
CPU_SUPERS = 128
"""Super-blocks of one task on a CPU: 32,768 values keep a search's handful of tensors in a core's second-level cache,
and are the most that torch does not spread over threads of its own, which would work against those here."""
GPU_SUPERS = 1 << 14
NOTHING = 1e-15
"""Below this largest value ggml takes a block of Q6_K for zeros (GROUP_MAX_EPS)."""


def quantise(values_RC: Tensor, kind: str, *, native: Native | None = None, name: str = "") -> Bytes:
    """A tensor's rows in the format `kind`.

    Args:
        values_RC: float32, float16 or bfloat16 [rows, columns], on any device; a row is whole blocks of the kind
            (`recipe.tensor_types` sees to it).
        kind: F32, F16, BF16, one of `SIMPLE`, Q4_K, Q5_K, Q6_K; with `native` also Q2_K, Q3_K, IQ4_NL, IQ4_XS.
        native: llama.cpp's library, for every kind but the plain ones.
        name: what a message about the values calls the tensor.

    Returns:
        uint8 [rows, bytes per row].

    Raises:
        ModelError: a value is not finite, or too large for the kind's half-precision scales.
    """
    assert values_RC.ndim == 2 and values_RC.is_floating_point()
    assert native is not None or kind not in ONLY_NATIVE, kind
    _check(values_RC, kind, name)
    if not values_RC.numel():
        return np.empty((len(values_RC), row_bytes(values_RC.shape[1], kind)), dtype=np.uint8)
    rows = max(1, SLAB_VALUES // values_RC.shape[1])
    out = np.empty((len(values_RC), row_bytes(values_RC.shape[1], kind)), dtype=np.uint8)
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(values_RC), rows):
            slab_RC = values_RC[first : first + rows]
            out[first : first + rows] = _slab(slab_RC, kind, native, pool)
    if not _scales_are_finite(out, kind):
        raise ModelError(Problem("quants.too_large", field=name, values={"kind": kind}))
    return out


def _check(values_RC: Tensor, kind: str, name: str) -> None:
    if values_RC.numel():
        least, most = torch.aminmax(values_RC)  # either is NaN where any value is
        if not bool(torch.isfinite(least) & torch.isfinite(most)):
            raise ModelError(Problem("quants.not_finite", field=name, values={"kind": kind}))


def _scales_are_finite(out: Bytes, kind: str) -> bool:
    if kind == "F16":
        return _halves_are_finite(out)
    blocks = out.reshape(-1, gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1])
    return all(_halves_are_finite(blocks[:, at : at + 2]) for at in SCALES.get(kind, ()))


def _halves_are_finite(pairs: Bytes) -> bool:
    """Of half-precision numbers in bytes, low byte first: the exponent is not all ones."""
    return not bool(((pairs[..., 1::2] & 0x7C) == 0x7C).any())


def _slab(slab_RC: Tensor, kind: str, native: Native | None, pool: ThreadPoolExecutor) -> Bytes:
    if kind in PLAIN:
        return _bytes(slab_RC.to(PLAIN[kind]))
    slab_RC = slab_RC.float().contiguous()
    if native is not None and kind in NATIVE_KINDS:
        return native.quantise(slab_RC.cpu().numpy(), kind)
    if kind in SIMPLE:
        return _simple(slab_RC.cpu().numpy(), kind, pool)
    supers = slab_RC.view(-1, SUPER)
    if slab_RC.device.type == "cpu":
        made = list(pool.map(K_QUANTS[kind], torch.split(supers, CPU_SUPERS)))
    else:
        made = [K_QUANTS[kind](part).cpu() for part in torch.split(supers, GPU_SUPERS)]
    out: Bytes = torch.cat(made).numpy()
    return out.reshape(len(slab_RC), -1)


def _bytes(values_RC: Tensor) -> Bytes:
    out: Bytes = values_RC.contiguous().cpu().view(torch.uint8).numpy()
    return out


def _simple(slab_RC: NDArray[np.float32], kind: str, pool: ThreadPoolExecutor) -> Bytes:
    number = gguf.GGMLQuantizationType[kind]
    rows = max(1, (1 << 18) // slab_RC.shape[1])
    parts = [slab_RC[first : first + rows] for first in range(0, len(slab_RC), rows)]

    def made(part_RC: NDArray[np.float32]) -> Bytes:
        with np.errstate(over="ignore"):  # a scale that is too large is told of by name
            out: Bytes = gguf.quants.quantize(part_RC, number)
        return out

    return np.concatenate(list(pool.map(made, parts)))


# ------------------------------------------------------------------------------------------- Q4_K and Q5_K


def _search(x_nB: Tensor, levels: int, first: float, steps: int) -> tuple[Tensor, Tensor]:
    """Scale and offset of each block so that `scale * (0..levels) - offset` lies close to it.

    The error is weighted by |x| plus the block's root mean square. Each step divides the block's range into a tenth of
    a level more, rounds, and solves the least squares for scale and offset; the best of all is kept, and later steps
    start from the best offset so far, as in ggml.

    Args:
        x_nB: float32 values. levels: largest code. first: levels more than that in the first step. steps: number.

    Returns:
        scale_B, offset_B (>= 0, to be subtracted).
    """
    least_B, most_B = x_nB.amin(0).clamp_(max=0), x_nB.amax(0)
    flat_B = most_B <= least_B
    w_nB = (x_nB * x_nB).mean(0).sqrt_() + x_nB.abs()
    wx_nB = w_nB * x_nB
    w_B, wx_B = w_nB.sum(0), wx_nB.sum(0)
    code_nB, weighed_nB = torch.empty_like(x_nB), torch.empty_like(x_nB)

    def encode(offset_B: Tensor, more: float) -> None:
        torch.sub(x_nB, offset_B, out=code_nB)
        code_nB.mul_((levels + more) / (most_B - offset_B)).round_().clamp_(0, levels)

    def error(scale_B: Tensor, offset_B: Tensor) -> Tensor:
        torch.mul(code_nB, scale_B, out=weighed_nB)
        weighed_nB.add_(offset_B).sub_(x_nB)
        return weighed_nB.square_().mul_(w_nB).sum(0)

    encode(least_B, 0.0)
    scale_B, offset_B = 1 / (levels / (most_B - least_B)), least_B
    best_B = error(scale_B, offset_B)
    for step in range(steps + 1):
        encode(offset_B, first + 0.1 * step)
        wl_B = torch.mul(w_nB, code_nB, out=weighed_nB).sum(0)
        wll_B = weighed_nB.mul_(code_nB).sum(0)
        wxl_B = torch.mul(wx_nB, code_nB, out=weighed_nB).sum(0)
        determinant_B = w_B * wll_B - wl_B * wl_B
        slope_B = (w_B * wxl_B - wx_B * wl_B) / determinant_B
        start_B = (wll_B * wx_B - wl_B * wxl_B) / determinant_B
        # An offset can only be subtracted: where it would be added there is none, and the scale is solved alone.
        slope_B = torch.where(start_B > 0, wxl_B / wll_B, slope_B)
        start_B.clamp_(max=0)
        error_B = error(slope_B, start_B)
        better_B = (determinant_B > 0) & (error_B < best_B)
        scale_B = torch.where(better_B, slope_B, scale_B)
        offset_B = torch.where(better_B, start_B, offset_B)
        best_B = torch.where(better_B, error_B, best_B)
    return scale_B.masked_fill_(flat_B, 0), 0 - torch.where(flat_B, least_B, offset_B)  # 0 - 0, for -0 is other bytes


def _six_bits(values_S8: Tensor) -> tuple[Tensor, Tensor]:
    """Eight numbers >= 0 as a half-precision unit [S, 1] and codes 0..63 [S, 8]."""
    most_S1 = values_S8.amax(1, keepdim=True)
    codes = (values_S8 * torch.where(most_S1 > 0, 63 / most_S1, 0)).round_().clamp_(0, 63)
    return (most_S1 / 63).clamp_(min=0).half(), codes.to(torch.uint8)


def _q4_or_q5(x_SV: Tensor, bits: int) -> Tensor:
    count, levels = len(x_SV), (1 << bits) - 1
    x_nB = x_SV.view(count * 8, 32).T.contiguous()
    scale_B, offset_B = _search(x_nB, levels, *((-1.0, 20) if bits == 4 else (-0.5, 15)))
    unit_S1, scale_S8 = _six_bits(scale_B.view(count, 8))
    unit_offset_S1, offset_S8 = _six_bits(offset_B.view(count, 8))
    packed = torch.cat(
        [
            scale_S8[:, :4] | (scale_S8[:, 4:] >> 4) << 6,
            offset_S8[:, :4] | (offset_S8[:, 4:] >> 4) << 6,
            scale_S8[:, 4:] & 15 | (offset_S8[:, 4:] & 15) << 4,
        ],
        dim=1,
    )
    step_S81 = (unit_S1.float() * scale_S8).unsqueeze(2)
    shifted = x_SV.view(count, 8, 32) + (unit_offset_S1.float() * offset_S8).unsqueeze(2)
    codes = shifted.div_(step_S81).round_().clamp_(0, levels).masked_fill_(step_S81 == 0, 0).to(torch.uint8)
    low = (codes[:, 0::2] & 15 | (codes[:, 1::2] & 15) << 4).reshape(count, 128)
    parts = [unit_S1.view(torch.uint8), unit_offset_S1.view(torch.uint8), packed]
    if bits == 5:
        parts.append(_added([(codes[:, block] >> 4) << block for block in range(8)]))
    return torch.cat([*parts, low], dim=1)


def _added(parts: list[Tensor]) -> Tensor:
    """Bytes whose set bits do not overlap, in one."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole | part
    return whole


# ------------------------------------------------------------------------------------------- Q6_K


def _search_signed(x_nB: Tensor) -> Tensor:
    """Scale of each block so that `scale * (-32..31)` lies close to it, the error weighted by x squared.

    The largest value is given the code -32, then up to nine tenths of a level less or more; the best is kept.
    """
    high_B, low_B = x_nB.amax(0), x_nB.amin(0)
    index_B = x_nB.abs().argmax(0)
    largest_B = x_nB.gather(0, index_B[None])[0]
    nothing_B = torch.maximum(high_B, -low_B) < NOTHING
    w_nB = x_nB * x_nB
    wx_nB = w_nB * x_nB
    code_nB, weighed_nB = torch.empty_like(x_nB), torch.empty_like(x_nB)
    scale_B = torch.zeros_like(largest_B)
    best_B = torch.full_like(largest_B, -1)
    for tenths in (0, *range(-9, 0), *range(1, 10)):
        torch.mul(x_nB, -(32 + 0.1 * tenths) / largest_B, out=code_nB).round_().clamp_(-32, 31)
        wxl_B = torch.mul(wx_nB, code_nB, out=weighed_nB).sum(0)
        wll_B = torch.mul(w_nB, code_nB, out=weighed_nB).mul_(code_nB).sum(0)
        better_B = (wll_B > 0) & (wxl_B * wxl_B > best_B * wll_B)
        slope_B = wxl_B / wll_B
        scale_B = torch.where(better_B, slope_B, scale_B)
        best_B = torch.where(better_B, slope_B * wxl_B, best_B)
    return scale_B.masked_fill_(nothing_B, 0)


def _q6(x_SV: Tensor) -> Tensor:
    count = len(x_SV)
    scale_SG = _search_signed(x_SV.view(count * 16, 16).T.contiguous()).view(count, 16)
    largest_S1 = scale_SG.gather(1, scale_SG.abs().argmax(1, keepdim=True))
    nothing_S1 = largest_S1.abs() < NOTHING
    inverse_S1 = (-128 / largest_S1).masked_fill_(nothing_S1, 0)
    unit_S1 = (1 / inverse_S1).masked_fill_(nothing_S1, 0).half()
    scales = (inverse_S1 * scale_SG).round_().clamp_(max=127).to(torch.int8)
    step = (unit_S1.float() * scales).unsqueeze(2)
    codes = (x_SV.view(count, 16, 16) / step).round_().clamp_(-32, 31).masked_fill_(step == 0, 0).add_(32)
    # A super-block of zeros is all zero bytes.
    codes = codes.masked_fill_(nothing_S1.unsqueeze(2), 0).to(torch.uint8).view(count, 2, 4, 32)
    a, b, c, d = codes.unbind(2)
    low = torch.cat([a & 15 | (c & 15) << 4, b & 15 | (d & 15) << 4], dim=2).view(count, 128)
    high = _added([a >> 4, (b >> 4) << 2, (c >> 4) << 4, (d >> 4) << 6]).view(count, 64)
    return torch.cat([low, high, scales.view(torch.uint8), unit_S1.view(torch.uint8)], dim=1)


K_QUANTS: dict[str, Callable[[Tensor], Any]] = {
    "Q4_K": lambda x_SV: _q4_or_q5(x_SV, 4),
    "Q5_K": lambda x_SV: _q4_or_q5(x_SV, 5),
    "Q6_K": _q6,
}
"""float32 [S, 256] -> uint8 [S, bytes]."""
