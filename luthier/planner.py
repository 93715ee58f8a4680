"""Closed-form memory of a training run, before any weight is loaded.

What goes in: the architecture, the recipe's tuning kind, the compute dtype and the bytes that are free. What comes out:
bytes per part and the micro-batch budget in tokens. Torch-free arithmetic; the counts follow what `luthier.kernels`
keeps for the backward pass.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from luthier.arch.spec import DecoderSpec, Layer

FLOAT32_BYTES = 4
WEIGHT_BYTES = {"float32": 4, "bfloat16_stochastic": 2, "bfloat16_kahan": 2}
STATE_BYTES = {"float32": 4, "bfloat16": 2, "8bit": 1}
"""Of a trained matrix, per weight and, for states, per slot; what else `luthier.engine.adamw` keeps is in `Trained`."""
STATE_BLOCK = 256
"""Weights that share a scale: `luthier.kernels.rounding.BLOCK`, which imports torch."""
HEAD_CHUNK_BYTES = 256 * 2**20
"""Most logits formed at once, in the compute dtype: `luthier.kernels.head.CHUNK_BYTES`, which imports torch."""
USABLE = 0.8
"""Share of the free memory a plan may fill: the rest is for the allocator's slack and other processes. Chosen, not
tuned."""
CAP_TOKENS = {"cpu": 4096, "cuda": 32768}
"""Micro-batches beyond this gain nothing: matmuls of this many rows already run at full rate (CPU: `bench/`, GPU: not
studied)."""


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Bytes by part, and the budget they lead to. `activations` is at the full budget."""

    weights: int
    trainable: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    bytes_per_token: int
    budget_tokens: int
    free_bytes: int

    @property
    def peak_bytes(self) -> int:
        return self.weights + self.trainable + self.gradients + self.optimizer + self.activations + self.head

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.free_bytes

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "peak_bytes": self.peak_bytes}


@dataclasses.dataclass(frozen=True)
class Trained:
    """What trains, and how it is kept.

    matrices: elements of each; vectors: elements of all together, kept in float32 whatever the recipe says;
    weights, states: `optim.weights` and `optim.states` of the recipe, which concern matrices;
    slots: numbers of state that the optimizer has for each weight;
    at_once: gradients that live at one time where they are used up in the backward pass; None holds all of them.
    """

    matrices: tuple[int, ...]
    vectors: int = 0
    weights: str = "float32"
    states: str = "float32"
    slots: int = 2
    at_once: int | None = None

    @property
    def weight_bytes(self) -> int:
        return self.vectors * FLOAT32_BYTES + sum(self.matrices) * WEIGHT_BYTES[self.weights]

    @property
    def gradient_bytes(self) -> int:
        """In float32, whatever the weights are."""
        return FLOAT32_BYTES * (self.vectors + sum(self.matrices) if self.at_once is None else self.at_once)

    @property
    def state_bytes(self) -> int:
        """Step counters aside, which are four bytes for each tensor."""
        per_weight, scales = STATE_BYTES[self.states], 0
        if self.states == "8bit":
            scales = sum(-(-elements // STATE_BLOCK) for elements in self.matrices) * FLOAT32_BYTES
        kept = self.slots * (self.vectors * FLOAT32_BYTES + sum(self.matrices) * per_weight + scales)
        return kept + (sum(self.matrices) * 2 if self.weights == "bfloat16_kahan" else 0)


def trained(shapes: Mapping[str, tuple[int, ...]], in_backward: bool, **kept: Any) -> Trained:
    """From the shapes of what trains (`arch.count.trained_shapes`); `kept` as in `Trained`.

    The gradients of one module (a layer's attention or MLP, a norm, embedding, head) come out of one piece of the
    backward pass together.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    together: dict[str, int] = {}
    for name, elements in sizes.items():
        module = ".".join(name.split(".")[:4])
        together[module] = together.get(module, 0) + elements
    return Trained(
        matrices=tuple(sizes[name] for name, shape in shapes.items() if len(shape) > 1),
        vectors=sum(sizes[name] for name, shape in shapes.items() if len(shape) == 1),
        at_once=max(together.values(), default=0) if in_backward else None,
        **kept,
    )


@dataclasses.dataclass(frozen=True)
class Workload:
    """What a run holds and keeps.

    trained: what trains;
    frozen_parameters: held in the compute dtype, `compute_bytes` each;
    first_trained_layer: lowest layer that trains anything; layers below it keep nothing for the backward pass;
    longest_tokens: the longest example, which has to fit into one micro-batch;
    inner_features: sum of the ranks of all adapters, whose inner rows are kept;
    cast_parameters: trained weights of the base itself that are not kept in the compute dtype, so that a forward pass
    makes copies of them;
    head_parameters: of the head (or the embedding tied to it) where it trains.
    """

    trained: Trained
    frozen_parameters: int
    first_trained_layer: int
    compute_bytes: int
    longest_tokens: int
    inner_features: int = 0
    cast_parameters: int = 0
    head_parameters: int = 0


def plan(
    spec: DecoderSpec, load: Workload, *, free_bytes: int, device: str, asked_tokens: int | None = None
) -> MemoryPlan:
    """Choose the micro-batch budget in tokens, or take the one that is asked for (`optim.budget_tokens`).

    The budget is what fits into the free memory, at most `CAP_TOKENS`, and never less than the longest example; where
    even that does not fit, `fits` is False.
    """
    kind = "cuda" if device.startswith("cuda") else "cpu"
    cap = max(CAP_TOKENS[kind], asked_tokens or 0, load.longest_tokens)
    per_token = token_bytes(spec, load)
    weights = load.frozen_parameters * load.compute_bytes
    if load.compute_bytes < FLOAT32_BYTES:
        weights += load.cast_parameters * load.compute_bytes
    kept = load.trained
    held = weights + kept.weight_bytes + kept.gradient_bytes + kept.state_bytes
    head = head_bytes(spec, load, rows=cap, kind=kind)
    room = max(int(free_bytes * USABLE) - held - head, 0) // per_token
    budget = max(asked_tokens or min(room, CAP_TOKENS[kind]), load.longest_tokens)
    return MemoryPlan(
        weights=weights,
        trainable=kept.weight_bytes,
        gradients=kept.gradient_bytes,
        optimizer=kept.state_bytes,
        activations=per_token * budget,
        head=head,
        bytes_per_token=per_token,
        budget_tokens=budget,
        free_bytes=free_bytes,
    )


def token_bytes(spec: DecoderSpec, load: Workload) -> int:
    """Bytes per token at the moment most is held: when the backward pass of the last layer's MLP begins.

    What every trained layer keeps, the adapters' inner rows, the rotary tables (shared by the layers), and what that
    MLP works with: three buffers of its width, and the gradients that enter and leave it.
    """
    layers = spec.layers[load.first_trained_layer :]
    ropes = {(layer.mixer.rope, layer.mixer.head_dim) for layer in spec.layers if layer.mixer.rope is not None}
    working = max((3 * layer.ffn.width for layer in spec.layers), default=0) + 3 * spec.d
    shared = load.inner_features + sum(2 * head_dim for _, head_dim in ropes) + working
    return sum(layer_bytes(layer, spec, load.compute_bytes) for layer in layers) + shared * load.compute_bytes


def layer_bytes(layer: Layer, spec: DecoderSpec, compute_bytes: int) -> int:
    """Bytes per token that a layer keeps for the backward pass, adapters aside: the residual stream before attention
    and before the MLP (2 d), q, k, v and the attention output, gate and up; in float32 the reciprocal RMS of each norm
    and the log-sum-exp of each head."""
    mixer, width = layer.mixer, layer.ffn.width
    query, key = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    kept = 2 * spec.d + 2 * query + 2 * key + 2 * width
    scalars = 2 + mixer.heads
    if mixer.qk_norm:
        kept += query + key  # before their norm
        scalars += mixer.heads + mixer.kv_heads
    return kept * compute_bytes + scalars * FLOAT32_BYTES


def head_bytes(spec: DecoderSpec, load: Workload, rows: int, kind: str) -> int:
    """Bytes of the head's work on up to `rows` scored rows: a chunk of logits, on a GPU also its softmax in float32; a
    trained head's gradient as it is formed, and scaled, beside the one it is added to."""
    chunk = min(HEAD_CHUNK_BYTES, rows * spec.vocab * load.compute_bytes)
    wide = chunk // load.compute_bytes * FLOAT32_BYTES if kind == "cuda" else 0
    return chunk + wide + 2 * load.head_parameters * FLOAT32_BYTES
