"""Bytes of a frozen base that is kept in 4 or 8 bits, to the byte of what is held.

What goes in: an architecture and the tuning section. What comes out: which tensors are quantised, the bytes of each,
and what they take together. From `config.json` alone, before any weight is there. Torch-free.

nf4: half a byte per weight; a scale for each 64 of them, float32, or under double quantisation one byte with a float32
scale for each 256 of those and one float32 offset per tensor (Dettmers et al. 2023, arXiv 2305.14314: 0.127 bit per
weight in place of 0.5). int8: a byte per weight and a float32 scale per row. What the codes mean is one table for all
tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from luthier.arch.spec import Architecture, Unit
from luthier.config.schema import Qlora

BLOCK = 64
"""Weights of nf4 that share a scale."""
SCALE_BLOCK = 256
"""Scales that share a scale, under double quantisation."""
PIECE = 2**22
"""Weights quantised, or int8 weights read, at once: working memory of some 100 MB. A multiple of any block, so that the
result does not depend on it."""
FLOAT32_BYTES = 4
NF4_CODES = 16
SCALE_CODES = 256


@dataclass(frozen=True)
class Quantised:
    """units: bytes of each quantised tensor, by its checkpoint name; tables: of what codes mean, held once;
    parameters: weights that the units have; layer_parameters: the same by layer; largest: of the largest unit;
    rowwise: whether scales are of rows."""

    units: Mapping[str, int]
    tables: int
    parameters: int
    layer_parameters: tuple[int, ...]
    largest: int
    rowwise: bool

    @property
    def total(self) -> int:
        return sum(self.units.values()) + self.tables

    def working_bytes(self, compute_bytes: int) -> int:
        """What the largest of them takes while a matmul needs it, of nf4 with its scales in float32, of int8 with a
        piece of it in float32."""
        dense = self.largest * compute_bytes
        if self.rowwise:
            return dense + FLOAT32_BYTES * min(self.largest, PIECE)
        return dense + FLOAT32_BYTES * -(-self.largest // BLOCK)


def quantised(arch: Architecture, tune: Qlora) -> Quantised:
    """The weight of every linear module inside the layers is quantised, whether it gets an adapter or not. Embedding,
    norms, biases and the head stay as they are, as with transformers and PEFT: the head's errors would go straight into
    the probabilities, and norms and biases are next to nothing."""
    layers = [0] * len(arch.spec.layers)
    for unit in arch.units:
        layers[unit.layer] += _size(unit)
    units = {f"{unit.name}.weight": tensor_bytes(unit, tune) for unit in arch.units}
    codes = 0 if tune.base == "int8" else NF4_CODES + SCALE_CODES * tune.double_quant
    largest = max(map(_size, arch.units), default=0)
    return Quantised(units, codes * FLOAT32_BYTES, sum(layers), tuple(layers), largest, tune.base == "int8")


def tensor_bytes(unit: Unit, tune: Qlora) -> int:
    """Bytes of one quantised weight, its scales among them."""
    size = _size(unit)
    if tune.base == "int8":
        return size + unit.out_features * FLOAT32_BYTES
    codes, scales = -(-size // 2), -(-size // BLOCK)
    if not tune.double_quant:
        return codes + scales * FLOAT32_BYTES
    return codes + scales + (-(-scales // SCALE_BLOCK) + 1) * FLOAT32_BYTES


def _size(unit: Unit) -> int:
    return math.prod((unit.out_features, unit.in_features))
