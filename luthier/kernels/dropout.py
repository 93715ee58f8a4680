"""Dropout without stored masks: a mask is a pure function of what it is drawn for.

What goes in: seed, optimizer step, site (one per input of a group of projections) and, per token, a number that stands
for it and the tokens before it. What comes out: which features are dropped; the same however the step is split, packed,
shared or resumed, and the same on every device, because only 32-bit integer arithmetic is used.

Each example's masks are drawn as independently over its tokens, features and steps as a stream would draw them; two
examples of one step that begin alike draw alike as long as they are alike.

Shape legend: N flat tokens, I features, W words of two features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from luthier.kernels.reference import mix
from luthier.kernels.tiles import tiles

LEVELS = 1 << 16
"""One 32-bit hash serves two features with 16 bits each, which halves the arithmetic; p is rounded to 1/65536."""


@dataclass(frozen=True)
class DropoutKey:
    """What, besides the token, masks are drawn from: the run's seed and the optimizer step."""

    seed: int
    step: int


@dataclass(frozen=True)
class Dropout:
    """The mask of one site for the tokens of a micro-batch.

    token_N: hash of each token's key, int32 [N], from `token_hashes`. site_key: hash of (seed, step, site).
    threshold: how many of the 65536 values of a feature's 16 bits drop it.
    """

    token_N: Tensor
    site_key: int
    threshold: int

    @property
    def survivor_scale(self) -> float:
        """1 / (1 - p), by which the survivors are scaled."""
        return LEVELS / (LEVELS - self.threshold)

    def at(self, rows: Tensor | slice) -> Dropout:
        """The same for some of the tokens."""
        return replace(self, token_N=self.token_N[rows])

    def mask(self, width: int) -> Tensor:
        """True where a feature is dropped, bool [N, width]."""
        device, words = self.token_N.device, (width + 1) // 2
        feature_W = mix_(torch.arange(words, dtype=torch.int32, device=device))
        row_N1 = mix_(self.token_N ^ _signed(self.site_key))[:, None]
        mask_NI = torch.empty((len(row_N1), width), dtype=torch.bool, device=device)
        for rows in tiles(len(row_N1), 4 * words, device):
            bits = mix_(row_N1[rows] + feature_W).view(torch.int16)[:, :width]
            torch.lt(bits, self.threshold - LEVELS // 2, out=mask_NI[rows])
        return mask_NI


def token_hashes(key_N: Tensor) -> Tensor:
    """Hash of each token's key (`Batch.key`), int32 [N]; once per micro-batch, shared by all sites."""
    return mix_(mix_(_low_word(key_N)).bitwise_xor_(_low_word(key_N >> 32)))


def site(token_N: Tensor, key: DropoutKey, number: int, p: float) -> Dropout | None:
    """The dropout of one site; None where p is 0.

    Args:
        token_N: from `token_hashes`.
        number: number of the site, the same for all projections that read one input.
        p: share of features dropped, 0 <= p < 1.
    """
    assert 0 <= p < 1, p
    threshold = min(round(p * LEVELS), LEVELS - 1)
    if threshold == 0:
        return None
    seeded = mix(mix(key.seed & 0xFFFFFFFF) ^ (key.step & 0xFFFFFFFF))
    return Dropout(token_N, mix(seeded ^ number), threshold)


def mix_(x: Tensor) -> Tensor:
    """`reference.mix` on int32 in place. Products wrap; the sign bits that an arithmetic shift brings in are masked."""
    scratch = torch.empty_like(x)

    def fold(bits: int) -> None:
        torch.bitwise_right_shift(x, bits, out=scratch)
        x.bitwise_xor_(scratch.bitwise_and_((1 << (32 - bits)) - 1))

    fold(16)
    x.mul_(0x7FEB352D)
    fold(15)
    x.mul_(_signed(0x846CA68B))
    fold(16)
    return x


def _low_word(x: Tensor) -> Tensor:
    """The low 32 bits of int64 as a fresh int32 tensor."""
    return x.contiguous().view(torch.int32)[::2].clone()


def _signed(word: int) -> int:
    """A 32-bit pattern as the signed number that int32 holds."""
    return word - (word >> 31 << 32)
