"""Closed-form memory of a training run, before any weight is loaded.

What goes in: the architecture, the recipe's tuning kind, the compute dtype and the bytes that are free. What comes out:
bytes per part, the micro-batch budget in tokens, and what each layer keeps for the backward pass. Torch-free
arithmetic; the counts follow what `luthier.kernels` keeps.

**Which layers keep less.** Most is held when the backward pass of the top layer begins. What a layer forms again lies
beside what the layers below it keep, so that the top layer frees nothing, and a lower one never less than one above it.
Layers therefore keep less from the lowest trained one up: `drop_layer` below, `drop_mlp` above it, `keep` on top. Of
all such stacks the plan takes the one that computes least again and still holds `ENOUGH_TOKENS`. Which of the two
policies is the cheaper per byte depends on the model and on the length of its rows: dropping gate and up costs 4 D F
FLOPs for 2 F numbers, which is 2 D per number; the rest of a layer costs 4 D (Q + K) and attention for about 2 Q + 2 K
+ D numbers, between 1.3 D and 2 D where rows are short and more where they are long.

`offload` is never chosen. What a layer keeps takes longer over PCIe than its matmuls take to be done again: the 27 KB
per token of a layer of Qwen2.5-0.5B take 1.1 us at 25 GB/s, its 30 MFLOP 0.1 us at 300 TFLOP/s (Llama 8B: 94 KB, 3.8
us; 436 MFLOP, 1.5 us).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from luthier.arch.spec import DecoderSpec, Layer
from luthier.config.schema import Policy

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
ENOUGH_TOKENS = 1024
"""Micro-batches from here up do not win back what recomputing costs, a sixth to a third more arithmetic: a matmul of
220 rows runs at 60 % of the rate of one of 880 (`luthier.kernels.head.CHUNK_BYTES`); above that there is little left to
gain. GPU: not studied."""

Policies = tuple[Policy, ...]
"""What each layer keeps, from the lowest up."""


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
    policies: Policies

    @property
    def peak_bytes(self) -> int:
        return self.weights + self.trainable + self.gradients + self.optimizer + self.activations + self.head

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.free_bytes

    def to_json(self) -> dict[str, Any]:
        """The bytes and the budget; the policies stand beside them in `plan.json`."""
        facts = {**dataclasses.asdict(self), "peak_bytes": self.peak_bytes}
        del facts["policies"]
        return facts


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

    The gradients of a layer come out of its backward pass together where all of it is computed again; those of its
    attention or MLP, otherwise. The larger is counted, whatever layers keep.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    together: dict[str, int] = {}
    for name, elements in sizes.items():
        part = ".".join(name.split(".")[:3])  # model.layers.0, or a tensor outside the layers
        together[part] = together.get(part, 0) + elements
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
    ranks: of each layer's adapters, whose inner rows are kept; empty without adapters;
    cast_parameters: trained weights of the base itself that are not kept in the compute dtype, so that a forward pass
    makes copies of them (they are counted under every policy, though under drop_layer those of one layer at a time are
    there);
    head_parameters: of the head (or the embedding tied to it) where it trains;
    log_sums: attention is a kernel of torch's, which keeps a log-sum-exp of each row and head, and its output whether
    or not somebody else does (on a GPU; `luthier.kernels.tiled` keeps neither).
    """

    trained: Trained
    frozen_parameters: int
    first_trained_layer: int
    compute_bytes: int
    longest_tokens: int
    ranks: tuple[Ranks, ...] = ()
    cast_parameters: int = 0
    head_parameters: int = 0
    log_sums: bool = True


def plan(
    spec: DecoderSpec,
    load: Workload,
    *,
    free_bytes: int,
    device: str,
    asked_tokens: int | None = None,
    policies: Policies | None = None,
) -> MemoryPlan:
    """Choose the micro-batch budget in tokens and what layers keep, or take what is asked for (`optim.budget_tokens`,
    `optim.activations`).

    The budget is what fits into the free memory, at most `CAP_TOKENS`, and never less than the longest example; where
    even that does not fit, `fits` is False.
    """
    kind = "cuda" if device.startswith("cuda") else "cpu"
    cap = max(CAP_TOKENS[kind], asked_tokens or 0, load.longest_tokens)
    weights = load.frozen_parameters * load.compute_bytes
    if load.compute_bytes < FLOAT32_BYTES:
        weights += load.cast_parameters * load.compute_bytes
    kept = load.trained
    held = weights + kept.weight_bytes + kept.gradient_bytes + kept.state_bytes
    head = head_bytes(spec, load, rows=cap, kind=kind)
    room_bytes = max(int(free_bytes * USABLE) - held - head, 0)
    if policies is None:
        wanted = max(asked_tokens or ENOUGH_TOKENS, load.longest_tokens)
        policies = choose(spec, load, room_bytes // wanted)
    per_token = token_bytes(spec, load, policies)
    budget = max(asked_tokens or min(room_bytes // per_token, CAP_TOKENS[kind]), load.longest_tokens)
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
        policies=policies,
    )


def uniform(spec: DecoderSpec, policy: Policy) -> Policies:
    """One policy for all layers. The top layer is not offloaded: its backward pass is the first thing that follows."""
    below: Policies = (policy,) * (len(spec.layers) - 1)
    return (*below, "keep" if policy == "offload" else policy)


def in_words(policies: Sequence[str]) -> str:
    """`drop_layer x 3, keep x 21`, from the lowest layer up."""
    return ", ".join(f"{policy} x {len(list(layers))}" for policy, layers in itertools.groupby(policies))


def choose(spec: DecoderSpec, load: Workload, token_limit_bytes: int) -> Policies:
    """Of the stacks that hold at most so many bytes per token, the one that computes least again; where none does, the
    one that holds least."""
    count, first = len(spec.layers), load.first_trained_layer
    stacks = [_stack(first, low, high, count) for low in range(first, count + 1) for high in range(low, count + 1)]
    keys = load.longest_tokens // 2  # that a query sees on average, at most
    costs = {
        policy: [recomputed_flops(layer, spec, policy, keys) for layer in spec.layers]
        for policy in ("keep", "drop_mlp", "drop_layer")
    }

    def flops(stack: Policies) -> int:
        return sum(costs[policy][index] for index, policy in enumerate(stack))

    for stack in sorted(stacks, key=flops):
        if token_bytes(spec, load, stack) <= token_limit_bytes:
            return stack
    return min(stacks, key=lambda stack: (token_bytes(spec, load, stack), flops(stack)))


def _stack(first: int, low: int, high: int, count: int) -> Policies:
    """`drop_layer` from `first` on, `drop_mlp` from `low` on, `keep` from `high` on; below `first` nothing is kept."""

    def policy(index: int) -> Policy:
        if index < first or index >= high:
            return "keep"
        return "drop_layer" if index < low else "drop_mlp"

    return tuple(policy(index) for index in range(count))


def token_bytes(spec: DecoderSpec, load: Workload, policies: Policies) -> int:
    """Bytes per token at the moment most is held, when the backward pass of some layer's MLP begins: what the layers up
    to it keep, what it forms again, the rotary tables (shared by the layers), and what the MLP works with: three
    buffers of its width, and the gradients that enter and leave it. As if every row were scored; a last layer of fewer
    rows holds less (`last_layer_bytes`)."""
    ropes = {(layer.mixer.rope, layer.mixer.head_dim) for layer in spec.layers if layer.mixer.rope is not None}
    working = max((3 * layer.ffn.width for layer in spec.layers), default=0) + 3 * spec.d
    shared = sum(2 * head_dim for _, head_dim in ropes) + working
    held = most = 0
    for index in range(load.first_trained_layer, len(spec.layers)):
        held += layer_bytes(spec, load, index, policies[index])
        most = max(most, held + _formed_again_bytes(spec, load, index, policies))
    return most + shared * load.compute_bytes


def layer_bytes(spec: DecoderSpec, load: Workload, index: int, policy: Policy) -> int:
    """Bytes per token that a layer keeps for the backward pass."""
    per_token, per_row = last_layer_bytes(spec, load, index, policy)
    return per_token + per_row


def last_layer_bytes(spec: DecoderSpec, load: Workload, index: int, policy: Policy) -> tuple[int, int]:
    """The same for a layer of which only the scored rows are computed beyond keys and values: bytes per token, and
    bytes per scored row besides.

    keep: per token the residual stream before attention (d), k and v; per row q, the attention output, the residual
    stream before the MLP (d), gate and up; the adapters' inner rows; in float32 the reciprocal RMS of each norm and,
    where there is one, the log-sum-exp of each head; under q/k norm q and k before it. drop_mlp: of the MLP its input
    and its reciprocal RMS alone. drop_layer: the residual stream before attention alone. offload: nothing on the
    device.
    """
    if policy == "offload":
        return 0, 0
    if policy == "drop_layer":
        return spec.d * load.compute_bytes, 0
    layer, ranks = spec.layers[index], load.ranks[index] if load.ranks else Ranks()
    mixer, width = layer.mixer, layer.ffn.width
    query, key = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    of_tokens, of_rows = spec.d + 2 * key + ranks.k + ranks.v, 2 * query + spec.d + ranks.q + ranks.o
    if load.ranks and not ranks.o and not load.log_sums:
        of_rows -= query  # nobody reads the attention output again
    token_scalars, row_scalars = 1, 1 + mixer.heads * load.log_sums
    if mixer.qk_norm:
        of_tokens, token_scalars = of_tokens + key, token_scalars + mixer.kv_heads
        of_rows, row_scalars = of_rows + query, row_scalars + mixer.heads
    if policy == "keep":
        of_rows += 2 * width + ranks.gate + ranks.up + ranks.down
    size = load.compute_bytes
    return of_tokens * size + token_scalars * FLOAT32_BYTES, of_rows * size + row_scalars * FLOAT32_BYTES


def _formed_again_bytes(spec: DecoderSpec, load: Workload, index: int, policies: Policies) -> int:
    """Bytes per token that come back for the backward pass of a layer, beside what it keeps: all that `keep` would have
    kept; under `offload` also what is on its way for the layer below."""
    whole = layer_bytes(spec, load, index, "keep") - layer_bytes(spec, load, index, policies[index])
    if policies[index] == "offload" and index > load.first_trained_layer and policies[index - 1] == "offload":
        whole += layer_bytes(spec, load, index - 1, "keep")
    return whole


def recomputed_flops(layer: Layer, spec: DecoderSpec, policy: Policy, keys: int) -> int:
    """FLOPs per token that a layer's backward pass does again, adapters aside: gate and up; for `drop_layer` also q, k,
    v, o and attention over so many keys, though never down, whose output nobody reads again."""
    if policy in ("keep", "offload"):
        return 0
    mixer = layer.mixer
    query, key = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    again = 4 * spec.d * layer.ffn.width
    if policy == "drop_layer":
        again += 4 * spec.d * (query + key) + 4 * query * keys
    return again


def head_bytes(spec: DecoderSpec, load: Workload, rows: int, kind: str) -> int:
    """Bytes of the head's work on up to `rows` scored rows: a chunk of logits, on a GPU also its softmax in float32; a
    trained head's gradient as it is formed, and scaled, beside the one it is added to."""
    chunk = min(HEAD_CHUNK_BYTES, rows * spec.vocab * load.compute_bytes)
    wide = chunk // load.compute_bytes * FLOAT32_BYTES if kind == "cuda" else 0
    return chunk + wide + 2 * load.head_parameters * FLOAT32_BYTES
