"""FLOPs of a micro-batch, exactly as the decoder and the fused blocks do them.

What goes in: the architecture, the tuning kind, the rows of a micro-batch, and what each layer keeps. What comes out:
multiply-adds times two, forward and backward, by part. Attention is counted as it has to be done, each query with the
keys it may see; what a kernel does beyond that (whole tiles, the scores formed again) is its own business. Element-wise
work is left out: it costs bytes, not FLOPs. Torch-free.

Shape legend: N tokens that enter the model, M scored rows, I inputs and O outputs of a linear module, R adapter rank.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from luthier.arch import count
from luthier.arch.count import ORDER, AnyTune
from luthier.arch.spec import EMBEDDING, HEAD, Architecture, Attention, Part, Unit
from luthier.config.schema import ON_DEVICE, Lora, Policy

MULTIPLY_ADD = 2
BACKWARD_ATTENTION = 2.5
"""Products of the backward pass over those of the forward pass: scores again, and the gradients of probabilities,
values, queries and keys (Dao et al. 2022, arXiv 2205.14135)."""


@dataclass(frozen=True)
class Rows:
    """A micro-batch.

    Attributes:
        lengths: tokens of each segment that enter the model.
        scored: rows that carry loss; one that leads to several tokens counts for each.
        last: rows of the top layer that are computed beyond their keys and values; None is all.
        before: tokens that each segment follows, and sees, in segments of their own; empty: none.
        known: so many of the lowest layers are not computed, because what they make of the rows is at hand.
    """

    lengths: Sequence[int]
    scored: int
    last: int | None = None
    before: Sequence[int] = ()
    known: int = 0

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True)
class Flops:
    """By part. linear: base weights of the layers; adapters; attention; head; again: what is computed a second time
    because it was not kept, attention left out, which `attention` holds with what it does again."""

    linear: int
    adapters: int
    attention: int
    head: int
    again: int = 0

    @property
    def total(self) -> int:
        return self.linear + self.adapters + self.attention + self.head + self.again


def step(arch: Architecture, tune: AnyTune, rows: Rows, policies: Sequence[Policy] = ()) -> Flops:
    """Forward and backward pass of one micro-batch.

    Args:
        policies: what each layer keeps, from the lowest up; empty: everything.

    Raises:
        ModelError: the tuning kind asks for modules or layers that the model does not have.
    """
    ranks = {unit.name: rank for unit, rank, _ in count.select_units(arch, tune)} if isinstance(tune, Lora) else {}
    trained = count.trained_tensors(arch, tune)
    lowest = count.lowest_trained(arch, tune)
    everything: Policy = "keep"
    keeps = [ON_DEVICE.get(each, each) for each in policies] or [everything] * len(arch.spec.layers)
    linear = adapters = attention = again = 0
    for unit in arch.units:
        goes_on = (unit.layer, ORDER[unit.parts[0].role]) > lowest
        products, rank = 1 + goes_on + (f"{unit.name}.weight" in trained), ranks.get(unit.name, 0)
        normed = arch.spec.layers[unit.layer].norms.after_mlp is not None
        for part in unit.parts:  # each is a projection of its own, with an adapter whose A they share
            n = _rows_of(unit, part, arch, rows) if unit.layer >= rows.known else 0
            linear += MULTIPLY_ADD * n * unit.in_features * part.rows * products
            # A and B: forward, their own gradients, and the gradients passed on: to the inner rows, and to the input.
            adapters += MULTIPLY_ADD * n * rank * ((2 + goes_on) * unit.in_features + 3 * part.rows)
            if unit.layer >= lowest[0]:
                again += MULTIPLY_ADD * n * _again(unit.in_features, part, rank, keeps[unit.layer], normed)
    top = len(arch.spec.layers) - 1
    for index, layer in list(enumerate(arch.spec.layers))[rows.known :]:
        share = 1.0 if rows.last is None or index < top else rows.last / max(rows.tokens, 1)
        before = rows.before or [0] * len(rows.lengths)
        once = share * sum(map(functools.partial(attention_flops, layer.mixer), rows.lengths, before))
        passes = 1 + (BACKWARD_ATTENTION if (index, ORDER["o"]) > lowest else 0)
        attention += round(once * (passes + (keeps[index] == "drop_layer" and index >= lowest[0])))
    head_trains = (EMBEDDING if arch.spec.tied else HEAD) + ".weight" in trained
    head = MULTIPLY_ADD * rows.scored * arch.spec.d * arch.spec.vocab * (2 + head_trains)
    return Flops(linear, adapters, attention, head, again)


def attention_flops(mixer: Attention, length: int, before: int = 0) -> int:
    """Scores and weighted values of one segment that follows so many tokens: each query with the keys that it may
    see."""
    pairs = _pairs(mixer, before + length) - _pairs(mixer, before)
    return 2 * MULTIPLY_ADD * pairs * mixer.heads * mixer.head_dim


def _pairs(mixer: Attention, length: int) -> int:
    """Queries with each key they see, of a segment that follows nothing."""
    window = length if mixer.window is None else min(mixer.window, length)
    return window * (window + 1) // 2 + (length - window) * window


def _again(inputs: int, part: Part, rank: int, policy: Policy, normed: bool) -> int:
    """Multiply-adds per row that a projection does a second time in the backward pass of its layer: all of its forward
    pass; of `down`, whose output nobody reads again unless it is normed, the adapter's inner rows alone."""
    if policy == "keep" or (policy == "drop_mlp" and part.role not in ("gate", "up", "down")):
        return 0
    inner = rank * inputs
    unread = part.role == "down" and (policy == "drop_mlp" or not normed)
    return inner if unread else inputs * part.rows + inner + rank * part.rows


def _rows_of(unit: Unit, part: Part, arch: Architecture, rows: Rows) -> int:
    top = unit.layer == len(arch.spec.layers) - 1
    return rows.tokens if rows.last is None or not top or part.role in "kv" else rows.last
