"""Rotary position embedding: frequencies of each kind, tables for given positions, and the rotation.

What goes in: a `Rope` and integer positions; then queries or keys. What comes out: cosine and sine per token and pair,
computed in float32 and cast to the compute dtype as transformers does; then rotated heads.

Shape legend: N flat tokens, H heads, E features per head, F pairs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from luthier.arch.spec import Rope

Scaling = dict[str, float]


def tables(rope: Rope, positions_N: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each [N, F]: one angle per pair, since both halves turn by the same."""
    angle_NF = positions_N.to(torch.float32)[:, None] * _frequencies(rope, positions_N.device)
    amplitude = dict(rope.scaling).get("attention_factor", 1.0)
    return (angle_NF.cos() * amplitude).to(dtype), (angle_NF.sin() * amplitude).to(dtype)


def rotate(x_NHE: Tensor, cos_NF: Tensor, sin_NF: Tensor, interleaved: bool, adjoint: bool = False) -> Tensor:
    """Rotated copy of x; features beyond the 2 F rotated ones pass through. `adjoint` is the backward
    pass."""
    pairs = cos_NF.shape[-1]
    cos_N1F, sin_N1F = cos_NF[:, None], sin_NF[:, None]
    y_NHE = (
        x_NHE.clone(memory_format=torch.contiguous_format)
        if 2 * pairs < x_NHE.shape[-1]
        else torch.empty_like(x_NHE, memory_format=torch.contiguous_format)
    )
    first, second = _pair(x_NHE, pairs, interleaved)
    out_first, out_second = _pair(y_NHE, pairs, interleaved)
    sign = -1.0 if adjoint else 1.0
    torch.mul(first, cos_N1F, out=out_first).addcmul_(second, sin_N1F, value=-sign)
    torch.mul(second, cos_N1F, out=out_second).addcmul_(first, sin_N1F, value=sign)
    return y_NHE


def _pair(x_NHE: Tensor, pairs: int, interleaved: bool) -> tuple[Tensor, Tensor]:
    if interleaved:
        return x_NHE[..., 0 : 2 * pairs : 2], x_NHE[..., 1 : 2 * pairs : 2]
    return x_NHE[..., :pairs], x_NHE[..., pairs : 2 * pairs]


@functools.lru_cache(maxsize=32)
def _frequencies(rope: Rope, device: torch.device) -> Tensor:
    """Radians per position of each pair, float32 [F]."""
    exponent_F = torch.arange(0, rope.dim, 2, dtype=torch.int64).to(torch.float32) / rope.dim
    base_F = 1.0 / (rope.theta**exponent_F)
    return KINDS[rope.kind](base_F, rope, dict(rope.scaling)).to(device)


def _default(base_F: Tensor, rope: Rope, scaling: Scaling) -> Tensor:
    return base_F


def _linear(base_F: Tensor, rope: Rope, scaling: Scaling) -> Tensor:
    """Position interpolation (Chen et al. 2023, arXiv 2306.15595)."""
    return base_F / scaling["factor"]


def _llama3(base_F: Tensor, rope: Rope, scaling: Scaling) -> Tensor:
    """Llama 3.1: long wavelengths slow down by `factor`, short ones stay, those between are blended linearly."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns_F = scaling["original_max_position_embeddings"] * base_F / (2 * math.pi)
    stay_F = ((turns_F - low) / (high - low)).clamp(0, 1)
    return (1 - stay_F) * base_F / scaling["factor"] + stay_F * base_F


def _yarn(base_F: Tensor, rope: Rope, scaling: Scaling) -> Tensor:
    """YaRN (Peng et al. 2023, arXiv 2309.00071), "NTK-by-parts": blend by the turns a pair makes within the original
    length."""

    def pair_with(turns: float) -> float:
        length = scaling["original_max_position_embeddings"]
        return rope.dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair_with(scaling["beta_fast"]), pair_with(scaling["beta_slow"])
    if scaling["truncate"]:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    span = high - low or 0.001  # the published code's guard against an empty ramp
    slow_F = ((torch.arange(len(base_F), dtype=torch.float32) - low) / span).clamp(0, 1)
    return slow_F * base_F / scaling["factor"] + (1 - slow_F) * base_F


KINDS: dict[str, Callable[[Tensor, Rope, Scaling], Tensor]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
