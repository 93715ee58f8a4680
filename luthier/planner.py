"""Closed-form memory of a training run, before any weight is loaded.

What goes in: the architecture, the recipe's tuning kind, the compute dtype and the bytes that are free. What comes out:
bytes per part and the micro-batch budget in tokens. Torch-free arithmetic; the counts follow what `luthier.kernels`
keeps for the backward pass.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from luthier.arch.spec import DecoderSpec, Layer

FLOAT32_BYTES = 4
HEAD_CHUNK_BYTES = 64 * 2**20
"""Upper bound of the logits formed at once in the head (`luthier.kernels.head`); two such buffers live together."""
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
class Workload:
    """What a run holds and keeps.

    trainable_parameters: master weights in fp32, with an fp32 gradient and `optimizer_slots` fp32 states each;
    frozen_parameters: held in the compute dtype, `compute_bytes` each;
    first_trained_layer: lowest layer that trains anything; layers below it keep nothing for the backward pass;
    longest_tokens: the longest example, which has to fit into one micro-batch.
    """

    trainable_parameters: int
    frozen_parameters: int
    first_trained_layer: int
    compute_bytes: int
    optimizer_slots: int
    longest_tokens: int


def plan(
    spec: DecoderSpec, load: Workload, *, free_bytes: int, device: str, asked_tokens: int | None = None
) -> MemoryPlan:
    """Choose the micro-batch budget in tokens, or take the one that is asked for (`optim.budget_tokens`).

    The budget is what fits into the free memory, at most `CAP_TOKENS`, and never less than the longest example; where
    even that does not fit, `fits` is False.
    """
    per_token = sum(layer_bytes(layer, spec, load.compute_bytes) for layer in spec.layers[load.first_trained_layer :])
    per_token += 4 * spec.d * load.compute_bytes  # residual stream into and out of the head, and their gradients
    weights = load.frozen_parameters * load.compute_bytes
    trained = load.trainable_parameters * FLOAT32_BYTES
    head = 2 * HEAD_CHUNK_BYTES
    room = max(int(free_bytes * USABLE) - weights - trained * (2 + load.optimizer_slots) - head, 0) // per_token
    cap = CAP_TOKENS["cuda" if device.startswith("cuda") else "cpu"]
    budget = max(asked_tokens or min(room, cap), load.longest_tokens)
    return MemoryPlan(
        weights=weights,
        trainable=trained,
        gradients=trained,
        optimizer=trained * load.optimizer_slots,
        activations=per_token * budget,
        head=head,
        bytes_per_token=per_token,
        budget_tokens=budget,
        free_bytes=free_bytes,
    )


def layer_bytes(layer: Layer, spec: DecoderSpec, compute_bytes: int) -> int:
    """Bytes per token that a layer keeps for the backward pass: the residual stream before attention and before the
    MLP (2 d), q, k, v and the attention output, the log-sum-exp of each head, gate and up."""
    mixer, width = layer.mixer, layer.ffn.width
    query, key = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    kept = 2 * spec.d + 2 * query + 2 * key + 2 * width
    if mixer.qk_norm:
        kept += query + key  # before their norm
    return kept * compute_bytes + mixer.heads * FLOAT32_BYTES
