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

Where no such stack fits, every layer but the top one gets `offload_input`, on a GPU whose host has room for it. That
moves the least, 8 KB a token of a layer of Llama 8B (0.3 us at 25 GB/s, beside 4.5 us of matmuls), and is not waited
for. `offload` is never chosen. What a layer keeps takes longer over PCIe than its matmuls take to be done again: the 27
KB per token of a layer of Qwen2.5-0.5B take 1.1 us at 25 GB/s, its 30 MFLOP 0.1 us at 300 TFLOP/s (Llama 8B: 94 KB, 3.8
us; 436 MFLOP, 1.5 us).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.arch.spec import DecoderSpec
from luthier.config.schema import ON_DEVICE, Policy
from luthier.holdings import Answering, Workload, held_bytes
from luthier.moments import (
    STACKED,
    Moments,
    Policies,
    answer_bytes,
    moved_bytes,
    pass_bytes,
    recomputed_flops,
    step_bytes,
    token_bytes,
)

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


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Bytes by part, and the budget they lead to.

    activations: what layers keep and work with at the moment when that is most, in a micro-batch of `micro_tokens`, the
    most that one has; head: what the moments of the head and the embedding take beyond that, where they take more;
    bytes_per_token: of the layers; budget_tokens: what a micro-batch may have, were a step as large; dense: of the
    quantised weights of so many layers (`dense_layers`), a second time as they are computed with, where memory is left
    over; teacher, reference, judges: of frozen models beside it; passes: what going through held-out rows, or asking a
    reference, takes beyond an update; answers: what writing `answer_texts` at once, and judging them, takes beyond
    both; host, moved: optimizer state, and what layers keep, that lies in the host's memory and is no part of the peak.
    """

    weights: int
    trainable: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    bytes_per_token: int
    budget_tokens: int
    micro_tokens: int
    free_bytes: int
    policies: Policies
    dense: int = 0
    dense_layers: int = 0
    teacher: int = 0
    reference: int = 0
    judges: int = 0
    host: int = 0
    moved: int = 0
    passes: int = 0
    answers: int = 0
    answer_texts: int = 0

    @property
    def peak_bytes(self) -> int:
        frozen = self.weights + self.dense + self.teacher + self.reference + self.judges
        held = frozen + self.trainable + self.gradients + self.optimizer
        return held + self.activations + self.head + self.passes + self.answers

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.free_bytes

    def to_json(self) -> dict[str, Any]:
        """The bytes and the budget; the policies and dense layers stand beside them in `plan.json`."""
        facts = {**dataclasses.asdict(self), "peak_bytes": self.peak_bytes}
        del facts["policies"], facts["dense_layers"]
        rare = ("teacher", "reference", "judges", "moved", "passes", "answers", "answer_texts")
        return {part: each for part, each in facts.items() if each or part not in rare}


def plan(
    spec: DecoderSpec,
    load: Workload,
    *,
    free_bytes: int,
    device: str,
    asked_tokens: int | None = None,
    policies: Policies | None = None,
    bounds: Bounds | None = None,
) -> MemoryPlan:
    """Choose the micro-batch budget in tokens and what layers keep, or take what is asked for (`optim.budget_tokens`,
    `optim.activations`). Of a quantised base as many layers are kept dense as what is left over then holds. As many
    answers are written at once as then fit.

    The budget is what fits into the free memory, at most `CAP_TOKENS`, and never less than the longest example; where
    even that does not fit, `fits` is False. Where a step is smaller than the budget, its bytes are what count, and
    layers keep what lets it fit.
    """
    kind, bounds = kind_of(device), bounds or Bounds()
    room, answer_texts = Room(usable(free_bytes) - held_bytes(load), kind, bounds.host_bytes), bounds.answer_texts
    if policies is None:
        wanted = _at_most(load.tokens.step, asked_tokens or ENOUGH_TOKENS)
        policies = choose(spec, load, max(wanted, load.longest_tokens), room)
    budget = max(asked_tokens or most_tokens(spec, load, policies, room, CAP_TOKENS[kind]), load.longest_tokens)
    if answer_texts is None and load.answering is not None:
        answer_texts = _answer_texts(spec, load, load.answering, room)
    made = at(spec, load, policies, budget, kind, free_bytes, answer_texts=answer_texts)
    spare_bytes = usable(free_bytes) - made.peak_bytes
    layers = dense_layers(load.layer_dense_bytes, spare_bytes, bounds.dense_layers)
    dense = sum(load.layer_dense_bytes[len(load.layer_dense_bytes) - layers :])
    return dataclasses.replace(made, dense=dense, dense_layers=layers)


class Bounds(NamedTuple):
    """What bounds a plan beside the device's memory. dense_layers: of a quantised base, at most; answer_texts: that are
    written at once, as many as that; host_bytes: that layers may keep in the host's memory, which is counted apart.
    None is any."""

    dense_layers: int | None = None
    answer_texts: int | None = None
    host_bytes: int | None = None


class Room(NamedTuple):
    """Where a micro-batch is to fit. bytes: that are left for it on a device of a kind; host_bytes: that its layers may
    keep in the host's memory, None is any."""

    bytes: int
    kind: str = "cpu"
    host_bytes: int | None = None

    def holds(self, spec: DecoderSpec, load: Workload, policies: Policies, tokens: int) -> bool:
        fits = step_bytes(spec, load, policies, tokens, self.kind).most <= self.bytes
        return fits and self.hosts(spec, load, policies, tokens)

    def hosts(self, spec: DecoderSpec, load: Workload, policies: Policies, tokens: int) -> bool:
        """Whether the host has room for what layers keep there."""
        return self.host_bytes is None or moved_bytes(spec, load, policies, tokens) <= self.host_bytes


def usable(free_bytes: int) -> int:
    """What a plan may fill of the free memory."""
    return int(free_bytes * USABLE)


def kind_of(device: str) -> str:
    """`cuda` or `cpu`."""
    return "cuda" if device.startswith("cuda") else "cpu"


def at(
    spec: DecoderSpec,
    load: Workload,
    policies: Policies,
    tokens: int,
    kind: str,
    free_bytes: int,
    scored: int | None = None,
    answer_texts: int | None = None,
) -> MemoryPlan:
    """The bytes of a micro-batch, as far as a step fills it, and of what comes between updates: passes over held-out
    rows, which may have more of them, and answers.

    Args:
        scored: rows that carry loss; None is as many as may be.
        answer_texts: that are written at once; None is all of a round.
    """
    kept, micro = load.trained, _at_most(load.tokens.step, tokens)
    work = step_bytes(spec, load, policies, micro, kind, _scored(load, micro) if scored is None else scored)
    passed = _at_most(load.tokens.passed, tokens)
    going_through = pass_bytes(spec, load, passed, _at_most(load.tokens.passed_scored, passed), kind).most
    answers = texts = 0
    if load.answering is not None:
        texts = answer_texts or load.answering.at_once
        answers = answer_bytes(spec, load, load.answering, texts, kind)
    return MemoryPlan(
        weights=load.frozen_parameters * load.compute_bytes + load.quantised_bytes,
        trainable=kept.weight_bytes,
        gradients=kept.gradient_bytes,
        optimizer=kept.device_state_bytes,
        host=kept.state_bytes if kept.paged else 0,
        moved=moved_bytes(spec, load, policies, micro),
        activations=work.layers,
        head=max(work.head - work.layers, 0),
        bytes_per_token=token_bytes(spec, load, policies),
        budget_tokens=tokens,
        micro_tokens=micro,
        free_bytes=free_bytes,
        policies=policies,
        teacher=load.beside.teacher,
        reference=load.beside.reference,
        judges=load.beside.judges,
        passes=max(going_through - work.most, 0),
        answers=max(answers - max(work.most, going_through), 0),
        answer_texts=texts,
    )


def _scored(load: Workload, tokens: int) -> int:
    """The most rows that carry loss. Where a step is cut, the rehearsal learns the last row throughout."""
    cut = load.longest_tokens if load.tokens.step is not None and tokens < load.tokens.step else 0
    return tokens if load.tokens.scored is None else min(load.tokens.scored + cut, tokens)


def _at_most(bound: int | None, tokens: int) -> int:
    return tokens if bound is None else min(bound, tokens)


def _answer_texts(spec: DecoderSpec, load: Workload, what: Answering, room: Room) -> int:
    """The most that fits; one, where none does."""
    return max(largest(lambda texts: answer_bytes(spec, load, what, texts, room.kind) <= room.bytes, what.at_once), 1)


def most_tokens(spec: DecoderSpec, load: Workload, policies: Policies, room: Room, cap: int) -> int:
    """The most tokens of a micro-batch whose work fits, at most `cap`; 0 where none does."""
    return largest(lambda tokens: room.holds(spec, load, policies, tokens), cap)


def largest(fits: Callable[[int], bool], cap: int) -> int:
    """The largest number from 1 to `cap` that fits, where each below one that fits does too; 0 where none does."""
    low, high = 0, cap
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def dense_layers(layer_bytes: Sequence[int], spare_bytes: int, most: int | None = None) -> int:
    """How many layers of a quantised base, from the top down, so many bytes hold dense. From the top, because what lies
    below the lowest trained layer is read once per micro-batch, and what lies above it twice."""
    sums = itertools.accumulate(reversed(layer_bytes))
    fitting = sum(total <= spare_bytes for total in sums)
    return fitting if most is None else min(fitting, most)


def uniform(spec: DecoderSpec, policy: Policy) -> Policies:
    """One policy for all layers. The top layer is not offloaded: its backward pass is the first thing that follows."""
    below: Policies = (policy,) * (len(spec.layers) - 1)
    return (*below, ON_DEVICE.get(policy, policy))


def possible(policies: Policies, kind: str) -> Policies:
    """On a CPU there is no other memory to keep anything in."""
    return tuple(ON_DEVICE.get(policy, policy) for policy in policies) if kind == "cpu" else policies


def in_words(policies: Sequence[str]) -> str:
    """`drop_layer x 3, keep x 21`, from the lowest layer up."""
    return ", ".join(f"{policy} x {len(list(layers))}" for policy, layers in itertools.groupby(policies))


def choose(spec: DecoderSpec, load: Workload, tokens: int, room: Room) -> Policies:
    """Of the stacks whose micro-batch of so many tokens fits, the one that computes least again; where none does, the
    one that holds least, on a GPU in the host's memory where that has room."""
    count, first = len(spec.layers), load.first_trained_layer
    chosen = _stacks(first, count)
    keys = load.longest_tokens // 2  # that a query sees on average, at most
    costs = np.array(
        [[recomputed_flops(layer, spec, policy, keys) for layer in spec.layers] for policy in STACKED], dtype=np.float64
    )
    flops = costs[chosen, np.arange(count)].sum(1)
    held = Moments(spec, load, tokens, room.kind, None).most_of(chosen)
    fitting = np.flatnonzero(held <= room.bytes)
    if not len(fitting) and room.kind == "cuda":
        moved = _moved(spec, load)
        less = step_bytes(spec, load, moved, tokens, room.kind).most < held.min()
        if less and room.hosts(spec, load, moved, tokens):
            return moved
    best = int(fitting[np.argmin(flops[fitting])]) if len(fitting) else int(np.lexsort((flops, held))[0])
    return tuple(STACKED[policy] for policy in chosen[best])


def least(spec: DecoderSpec, load: Workload, kind: str) -> list[Policies]:
    """What holds least: on the device alone, and where there is one beside it, with the host's memory."""
    alone = choose(spec, load, ENOUGH_TOKENS, Room(0))
    return [alone, _moved(spec, load)] if kind == "cuda" else [alone]


def _moved(spec: DecoderSpec, load: Workload) -> Policies:
    """Inputs of all layers that keep anything in the host's memory, but for the top one."""
    first, moved = load.first_trained_layer, uniform(spec, "offload_input")
    return tuple("keep" if index < first else policy for index, policy in enumerate(moved))


def _stacks(first: int, count: int) -> NDArray[np.int64]:
    """Places in `STACKED`, a stack per row: a model of 126 layers has eight thousand. `drop_layer` from `first` on,
    `drop_mlp` from `low` on, `keep` from `high` on; below `first` nothing is kept."""
    pairs = [(low, high) for low in range(first, count + 1) for high in range(low, count + 1)]
    low, high = np.array(pairs).T[:, :, None]
    layers = np.arange(count)
    keep, drop_mlp, drop_layer = (STACKED.index(policy) for policy in ("keep", "drop_mlp", "drop_layer"))
    return np.where((layers < first) | (layers >= high), keep, np.where(layers < low, drop_layer, drop_mlp))
