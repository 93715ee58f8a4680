"""What a run holds between steps, as numbers: weights, what trains and how it is kept, models beside it, answers.

What goes in: counts of parameters, tokens and texts (`luthier.workload` finds them for a recipe). What comes out: bytes
that are there whatever a micro-batch has; `luthier.moments` adds what that works with. Torch-free arithmetic.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

FLOAT32_BYTES = 4
WEIGHT_BYTES = {"float32": 4, "bfloat16_stochastic": 2, "bfloat16_kahan": 2}
STATE_BYTES = {"float32": 4, "bfloat16": 2, "8bit": 1}
"""Of a trained matrix, per weight and, for states, per slot; what else `luthier.engine.adamw` keeps is in `Trained`."""
STATE_BLOCK = 256
"""Weights that share a scale: `luthier.kernels.rounding.BLOCK`, which imports torch."""
PAGE_BYTES = 2**26
"""Optimizer state that is on the device at one time is two of these: `luthier.engine.paged.PAGE_BYTES`, likewise."""
MAX_SEQUENCES = 64
"""Texts that are written at once: `luthier.generate.MAX_SEQUENCES`, likewise."""
TILE_BYTES = 2**19
"""Of a buffer in a chain of element-wise operations on a CPU: `luthier.kernels.tiles.TILE_BYTES`."""
UPDATE_BUFFERS = 10
"""Such buffers that an update of weights or states in fewer bytes works with (`luthier.kernels.rounding`; counted)."""


class Ranks(NamedTuple):
    """Ranks of a layer's adapters; 0 where there is none."""

    q: int = 0
    k: int = 0
    v: int = 0
    o: int = 0
    gate: int = 0
    up: int = 0
    down: int = 0


@dataclasses.dataclass(frozen=True)
class Beside:
    """Frozen models beside the one that trains.

    teacher, reference, judges: their bytes; feature_bytes: the most features per token of the passes of those that are
    asked about micro-batches, before anything of them is kept; row_bytes: of what a teacher says of a scored row, which
    is; lesson_copies: arrays of the logits' size in which that is compared with the student's.
    """

    teacher: int = 0
    reference: int = 0
    judges: int = 0
    feature_bytes: int = 0
    row_bytes: int = 0
    lesson_copies: int = 0

    @property
    def num_bytes(self) -> int:
        return self.teacher + self.reference + self.judges


@dataclasses.dataclass(frozen=True)
class Answering:
    """What is written between updates, and judged.

    texts: of a round, `samples` to each prompt; text_tokens: of the longest, prompt and answer; prompt_tokens: of its
    prompt; judge_feature_bytes: the most features per token of a reward model's passes, 0 without any;
    judge_dense_bytes: what one of its quantised weights takes while a matmul needs it.
    """

    texts: int
    samples: int
    text_tokens: int
    prompt_tokens: int
    judge_feature_bytes: int = 0
    judge_dense_bytes: int = 0

    @property
    def at_once(self) -> int:
        """Texts that are written at once where memory has room for them."""
        return min(self.texts, MAX_SEQUENCES)


@dataclasses.dataclass(frozen=True)
class Trained:
    """What trains, and how it is kept.

    matrices: elements of each; vectors: elements of all together, kept in float32 whatever the recipe says;
    weights, states: `optim.weights` and `optim.states` of the recipe, which concern matrices;
    slots: numbers of state that the optimizer has for each weight;
    paged: whether the state lies in the host's memory;
    in_backward: whether gradients are used up in the backward pass: none is held then beyond the moment it is formed.
    """

    matrices: tuple[int, ...]
    vectors: int = 0
    weights: str = "float32"
    states: str = "float32"
    slots: int = 2
    paged: bool = False
    in_backward: bool = False

    @property
    def weight_bytes(self) -> int:
        return self.vectors * FLOAT32_BYTES + sum(self.matrices) * WEIGHT_BYTES[self.weights]

    @property
    def gradient_bytes(self) -> int:
        """In float32, whatever the weights are."""
        return 0 if self.in_backward else FLOAT32_BYTES * (self.vectors + sum(self.matrices))

    @property
    def update_bytes(self) -> int:
        """What an update within the backward pass works with on a CPU, where no torch kernel does it in place."""
        plain = not self.in_backward or self.weights == self.states == "float32"
        largest = FLOAT32_BYTES * max(self.matrices, default=0)
        return 0 if plain else UPDATE_BUFFERS * min(TILE_BYTES, largest)

    @property
    def state_bytes(self) -> int:
        """Step counters aside, which are four bytes for each tensor."""
        return self.slots * self.vectors * FLOAT32_BYTES + sum(map(self._matrix_state_bytes, self.matrices))

    @property
    def device_state_bytes(self) -> int:
        """Of that on the device: all, or two pages of `luthier.engine.paged`."""
        pages = 2 * max(PAGE_BYTES, max(map(self._matrix_state_bytes, self.matrices), default=0))
        return min(pages, self.state_bytes) if self.paged else self.state_bytes

    def _matrix_state_bytes(self, elements: int) -> int:
        scales = -(-elements // STATE_BLOCK) * FLOAT32_BYTES if self.states == "8bit" else 0
        kept = self.slots * (elements * STATE_BYTES[self.states] + scales)
        return kept + (elements * 2 if self.weights == "bfloat16_kahan" else 0)


def trained(shapes: Mapping[str, tuple[int, ...]], in_backward: bool, **kept: Any) -> Trained:
    """From the shapes of what trains (`arch.count.trained_shapes`); `kept` as in `Trained`."""
    sizes = [(math.prod(shape), len(shape)) for shape in shapes.values()]
    return Trained(
        matrices=tuple(size for size, dimensions in sizes if dimensions > 1),
        vectors=sum(size for size, dimensions in sizes if dimensions == 1),
        in_backward=in_backward,
        **kept,
    )


class InPlace(NamedTuple):
    """Weights of one layer of the base that train."""

    attention: int = 0
    mlp: int = 0


class Tokens(NamedTuple):
    """Of micro-batches. longest: of the longest example, which has to fit into one; step: of the longest examples of a
    step, so that no micro-batch has more, whatever the budget; scored: of those that carry loss, likewise; passed: of
    all that is gone through without a backward pass, held-out rows and those that a reference is asked about;
    passed_scored: of those that carry loss. None is not known."""

    longest: int
    step: int | None = None
    passed: int | None = None
    scored: int | None = None
    passed_scored: int | None = None


@dataclasses.dataclass(frozen=True)
class Workload:
    """What a run holds and keeps.

    trained: what trains;
    frozen_parameters: held in the compute dtype, `compute_bytes` each;
    first_trained_layer: lowest layer that trains anything; layers below it keep nothing for the backward pass;
    tokens: of micro-batches;
    ranks: of each layer's adapters, whose inner rows are kept; empty without adapters;
    dropout: whether masks are made for the adapters' input;
    in_place: weights of the base that train, by layer; empty where none does;
    casts: whether those are kept in another dtype than the compute dtype, so that a forward pass makes copies;
    head_parameters: of the head (or the embedding tied to it) where it trains; embedding_parameters: of the embedding;
    quantised_bytes: of frozen weights that are kept in fewer bytes, which `frozen_parameters` leaves out;
    dense_bytes: what one of them takes while a matmul needs it as it is computed with;
    log_sums: attention is a kernel of torch's, which keeps a log-sum-exp of each row and head, and its output whether
    or not somebody else does (on a GPU; `luthier.kernels.tiled` keeps neither);
    layer_dense_bytes: what the quantised weights of each layer take where they are kept dense; empty without any;
    beside: models beside it;
    logits: whether the head forms any; a reward model's does not;
    passes: how often layers are gone through before the backward pass: twice where a critic has an adapter of its own;
    answering: what a method does that learns from its own answers.
    """

    trained: Trained
    frozen_parameters: int
    first_trained_layer: int
    compute_bytes: int
    tokens: Tokens
    ranks: tuple[Ranks, ...] = ()
    dropout: bool = False
    in_place: tuple[InPlace, ...] = ()
    casts: bool = True
    head_parameters: int = 0
    embedding_parameters: int = 0
    quantised_bytes: int = 0
    dense_bytes: int = 0
    log_sums: bool = True
    layer_dense_bytes: tuple[int, ...] = ()
    beside: Beside = Beside()
    logits: bool = True
    passes: int = 1
    answering: Answering | None = None

    @property
    def longest_tokens(self) -> int:
        """What one micro-batch has to hold."""
        return self.tokens.longest


def held_bytes(load: Workload) -> int:
    """What a run holds between steps, and its gradients."""
    kept = load.trained
    frozen = load.frozen_parameters * load.compute_bytes + load.quantised_bytes
    return frozen + load.beside.num_bytes + kept.weight_bytes + kept.gradient_bytes + kept.device_state_bytes
