"""Rotary position embedding: frequencies of each kind, tables for given positions, and the rotation.

What goes in: a `Rope` and integer positions; then queries or keys. What comes out: cosine and sine per token, computed
in float32 and cast to the compute dtype as transformers does; then rotated heads.

Shape legend: N flat tokens, H heads, E features per head, F rotated pairs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from luthier.arch.spec import Rope

Scaling = dict[str, float]


def tables(rope: Rope, positions_N: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine of every feature of a head, each [N, E]: the sine is negative for the first of a pair;
    features that are not rotated have cosine 1 and sine 0."""
    angle_NF = positions_N.to(torch.float32)[:, None] * _frequencies(rope, positions_N.device)
    amplitude = dict(rope.scaling).get("attention_factor", 1.0)
    cos_NF, sin_NF = (angle_NF.cos() * amplitude).to(dtype), (angle_NF.sin() * amplitude).to(dtype)
    return _spread(cos_NF, cos_NF, rope, head_dim, 1.0), _spread(-sin_NF, sin_NF, rope, head_dim, 0.0)


def rotate(x_NHE: Tensor, cos_NE: Tensor, sin_NE: Tensor, rope: Rope, adjoint: bool = False) -> Tensor:
    """Rotated copy of x: x * cos + (x with the two of each pair swapped) * sin. `adjoint` is the backward pass. Whole
    heads are worked on at once, because loops over half heads are short: half as fast at 32 features (CPU, bf16)."""
    cos_N1E, sin_N1E = cos_NE[:, None], sin_NE[:, None]
    if adjoint:
        return _swap(x_NHE * sin_N1E, rope).addcmul_(x_NHE, cos_N1E)
    return _swap(x_NHE, rope).mul_(sin_N1E).addcmul_(x_NHE, cos_N1E)


def rotate_all(
    heads: Sequence[Tensor], cos_NE: Tensor, sin_NE: Tensor, rope: Rope, adjoint: bool = False
) -> tuple[Tensor, ...]:
    """`rotate` for tensors whose rows have the same angles: queries and keys."""
    return tuple(rotate(x_NHE, cos_NE, sin_NE, rope, adjoint) for x_NHE in heads)


def _swap(x_NHE: Tensor, rope: Rope) -> Tensor:
    """A copy in which the two features of each pair have changed places."""
    pairs = rope.dim // 2
    first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    if rope.interleaved:
        swapped = x_NHE[..., : 2 * pairs].reshape(*x_NHE.shape[:-1], pairs, 2).flip(-1).flatten(-2)
        return torch.cat((swapped, x_NHE[..., 2 * pairs :]), -1)
    return torch.cat((x_NHE[..., second], x_NHE[..., first], x_NHE[..., 2 * pairs :]), -1)


def _spread(first_NF: Tensor, second_NF: Tensor, rope: Rope, head_dim: int, rest: float) -> Tensor:
    """Values of the first and second features of each pair where the features lie, `rest` for those beyond."""
    joined = torch.stack((first_NF, second_NF), -1 if rope.interleaved else -2).flatten(-2)
    return torch.nn.functional.pad(joined, (0, head_dim - rope.dim), value=rest)


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
