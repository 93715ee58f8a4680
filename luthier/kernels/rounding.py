"""Numbers in fewer bits: bfloat16 by stochastic rounding, 8 bits block by block.

What goes in: float32 numbers in a row, and what random bits are drawn from. What comes out: the same numbers in two
bytes or one, and back. All of it is element-wise, so that long tensors can be worked on piece by piece.

Shape legend: N elements, B blocks of `BLOCK` of them (the last one may be shorter).
"""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.kernels.dropout import mix_

BLOCK = 256
"""Elements that share a scale: a large number spoils the precision of its own block only (Dettmers et al. 2022, arXiv
2110.02861, who have 2048). A scale of 4 bytes costs 1.6 % beside 256 codes."""
SIGNED, UNSIGNED = 127, 255
"""Largest codes in int8 and uint8."""


def noise(start: int, count: int, key: int, device: torch.device) -> Tensor:
    """16 random bits for each of the elements from `start` (even) on, int16 [N]: a hash of (key, place), the same on
    every device and for every way to cut a tensor into pieces."""
    assert start % 2 == 0, "two elements share a word of 32 bits"
    words = torch.arange(start // 2, (start + count + 1) // 2, device=device).to(torch.int32)
    return mix_(mix_(words).bitwise_xor_(key - (key >> 31 << 32))).view(torch.int16)[:count]


def stochastic_(values_N: Tensor, noise_N: Tensor) -> Tensor:
    """float32 to one of the two nearest bfloat16, to each with the probability that makes the mean exact (Gupta et al.
    2015, arXiv 1502.02551): random low 16 bits are added and cut off. Overwrites `values_N`."""
    bits_N = values_N.view(torch.int32).add_(noise_N).add_(1 << 15)  # noise is from -2^15 on
    return bits_N.bitwise_right_shift_(16).to(torch.int16).view(torch.bfloat16)


def blocks(count: int) -> int:
    """B of N elements."""
    return -(-count // BLOCK)


def encode_signed(values_N: Tensor) -> tuple[Tensor, Tensor]:
    """x = scale * sign(q) (q / 127)^2 with q in int8 [N] and a float32 scale, the largest |x|, per block [B].

    The square spreads the codes as moments are spread, over decades. Steps of AdamW taken from such moments differ
    from those of float32 by 0.02 to 0.03 of their norm; by 0.03 to 0.05 with the dynamic code of Dettmers et al., by
    0.06 to 0.14 with even spacing (`bench/RESULTS.md`).
    """
    ratio_BK, scale_B = _ratios(values_N)
    codes_BK = ratio_BK.abs().sqrt_().mul_(SIGNED).round_().copysign_(ratio_BK)
    return codes_BK.flatten()[: len(values_N)].to(torch.int8), scale_B


def decode_signed(codes_N: Tensor, scale_B: Tensor) -> Tensor:
    """What `encode_signed` stands for, float32 [N]."""
    codes_N = codes_N.to(torch.float32)
    return (codes_N.abs() * codes_N).mul_(_spread(scale_B, codes_N) / SIGNED**2)


def encode_unsigned(values_N: Tensor) -> tuple[Tensor, Tensor]:
    """x = scale * (q / 255)^4 with q in uint8 [N]; for second moments, so that their square roots have the spread of
    `encode_signed`. Only 0 becomes 0: a step divides by the root, and a first moment stands above it."""
    ratio_BK, scale_B = _ratios(values_N)
    codes_BK = ratio_BK.sqrt().sqrt_().mul_(UNSIGNED).round_()
    codes_BK = torch.maximum(codes_BK, ratio_BK.sign())
    return codes_BK.flatten()[: len(values_N)].to(torch.uint8), scale_B


def decode_unsigned(codes_N: Tensor, scale_B: Tensor) -> Tensor:
    """What `encode_unsigned` stands for, float32 [N]."""
    root_N = codes_N.to(torch.float32).mul_(1 / UNSIGNED).square_().square_()
    return root_N.mul_(_spread(scale_B, root_N))


def _ratios(values_N: Tensor) -> tuple[Tensor, Tensor]:
    """Values over the largest of their block, [B, BLOCK] filled up with 0, and those largest ones."""
    missing = -len(values_N) % BLOCK
    padded_N = torch.nn.functional.pad(values_N, (0, missing)) if missing else values_N
    values_BK = padded_N.view(-1, BLOCK)
    scale_B = values_BK.abs().amax(1)
    return values_BK / scale_B.clamp_min(torch.finfo(torch.float32).tiny)[:, None], scale_B


def _spread(scale_B: Tensor, like_N: Tensor) -> Tensor:
    """Each block's scale for each of its elements."""
    return scale_B.repeat_interleave(BLOCK)[: len(like_N)]
