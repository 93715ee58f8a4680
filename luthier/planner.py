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
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.arch.spec import DecoderSpec, Layer
from luthier.config.schema import ON_DEVICE, Policy
from luthier.kernels.sizes import mlp_rows

FLOAT32_BYTES = 4
WEIGHT_BYTES = {"float32": 4, "bfloat16_stochastic": 2, "bfloat16_kahan": 2}
STATE_BYTES = {"float32": 4, "bfloat16": 2, "8bit": 1}
"""Of a trained matrix, per weight and, for states, per slot; what else `luthier.engine.adamw` keeps is in `Trained`."""
STATE_BLOCK = 256
"""Weights that share a scale: `luthier.kernels.rounding.BLOCK`, which imports torch."""
PAGE_BYTES = 2**26
"""Optimizer state that is on the device at one time is two of these: `luthier.engine.paged.PAGE_BYTES`, likewise."""
HEAD_CHUNK_BYTES = 256 * 2**20
"""Most logits formed at once, in the compute dtype: `luthier.kernels.head.CHUNK_BYTES`, which imports torch."""
MAX_SEQUENCES = 64
"""Texts that are written at once: `luthier.generate.MAX_SEQUENCES`, likewise."""
READ_TOKENS = {"cpu": 512, "cuda": 4096}
"""Of prompts that one round of it reads: `luthier.generate.READ_TOKENS`."""
CACHE_BLOCK = 32
"""Tokens by which a cache of keys and values grows: `luthier.models.cache.BLOCK`."""
LOGIT_COPIES = 3
"""Of what a round's texts may go on with, in float32 (`luthier.models.decoder.Decoder.extend`; counted)."""
JUDGED_TOKENS = 4096
"""Of answers that a reward model reads at once: `luthier.models.reward.BUDGET_TOKENS`."""
CALL_TOKENS = {"cpu": 24, "cuda": 256}
"""That a call of attention is worth, where it shares a prompt: `luthier.data.pack.CALL_TOKENS`."""
TRIED_PROMPTS, FAKE_TOKENS = 16, 64
"""Of the rehearsal of rewards: `luthier.scoring.trial.ROWS`, and the longest answer that it makes up."""
LESSON_COPIES = 4
"""Arrays of that size, in float32, where a teacher's whole distribution is learnt from, and one less where that is its
most likely tokens: `luthier.kernels.divergence.COPIES`."""
TILE_BYTES = 2**19
"""Of a buffer in a chain of element-wise operations on a CPU: `luthier.kernels.tiles.TILE_BYTES`."""
GPU_TILE_BYTES = 2**27
"""On a GPU, where Triton's kernels need none: `luthier.kernels.tiles.GPU_TILE_BYTES`."""
UPDATE_BUFFERS = 10
"""Such buffers that an update of weights or states in fewer bytes works with (`luthier.kernels.rounding`; counted)."""
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

STACKED: tuple[Policy, ...] = ("keep", "drop_mlp", "drop_layer")
"""What a plan chooses from."""
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
class MemoryPlan:
    """Bytes by part, and the budget they lead to.

    activations: what layers keep and work with at the full budget, at the moment when that is most; head: what the
    moments of the head and the embedding take beyond that, where they take more; bytes_per_token: of the layers;
    dense: of the quantised weights of so many layers (`dense_layers`), a second time as they are computed with, where
    memory is left over; teacher, reference, judges: of frozen models beside it; answers: what writing `answer_texts` at
    once, and judging them, takes beyond an update, which comes later; host, moved: optimizer state, and what layers
    keep, that lies in the host's memory and is no part of the peak.
    """

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
    dense: int = 0
    dense_layers: int = 0
    teacher: int = 0
    reference: int = 0
    judges: int = 0
    host: int = 0
    moved: int = 0
    answers: int = 0
    answer_texts: int = 0

    @property
    def peak_bytes(self) -> int:
        frozen = self.weights + self.dense + self.teacher + self.reference + self.judges
        held = frozen + self.trainable + self.gradients + self.optimizer
        return held + self.activations + self.head + self.answers

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.free_bytes

    def to_json(self) -> dict[str, Any]:
        """The bytes and the budget; the policies and dense layers stand beside them in `plan.json`."""
        facts = {**dataclasses.asdict(self), "peak_bytes": self.peak_bytes}
        del facts["policies"], facts["dense_layers"]
        rare = ("teacher", "reference", "judges", "moved", "answers", "answer_texts")
        return {part: each for part, each in facts.items() if each or part not in rare}


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


@dataclasses.dataclass(frozen=True)
class Workload:
    """What a run holds and keeps.

    trained: what trains;
    frozen_parameters: held in the compute dtype, `compute_bytes` each;
    first_trained_layer: lowest layer that trains anything; layers below it keep nothing for the backward pass;
    longest_tokens: the longest example, which has to fit into one micro-batch;
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
    longest_tokens: int
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
    even that does not fit, `fits` is False.
    """
    kind, bounds = kind_of(device), bounds or Bounds()
    room, answer_texts = Room(usable(free_bytes) - held_bytes(load), kind, bounds.host_bytes), bounds.answer_texts
    if policies is None:
        policies = choose(spec, load, max(asked_tokens or ENOUGH_TOKENS, load.longest_tokens), room)
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
    """The bytes of a micro-batch, and of what comes between updates.

    Args:
        scored: rows that carry loss; None is all.
        answer_texts: that are written at once; None is all of a round.
    """
    kept, work = load.trained, step_bytes(spec, load, policies, tokens, kind, scored)
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
        moved=moved_bytes(spec, load, policies, tokens),
        activations=work.layers,
        head=max(work.head - work.layers, 0),
        bytes_per_token=token_bytes(spec, load, policies),
        budget_tokens=tokens,
        free_bytes=free_bytes,
        policies=policies,
        teacher=load.beside.teacher,
        reference=load.beside.reference,
        judges=load.beside.judges,
        answers=max(answers - work.most, 0),
        answer_texts=texts,
    )


def answer_bytes(spec: DecoderSpec, load: Workload, what: Answering, texts: int, kind: str) -> int:
    """What writing so many texts at once works with, or judging all of a round, whichever is more.

    A cache of keys and values that holds all of them to their ends, and a round beside it: of reading prompts, each
    once, and of its last block what no other answer to it can share; of the logits that the next tokens are chosen by;
    or, where attention reads the cache in torch, of what it gathers of a layer's. Judging the answers that rewards are
    rehearsed with takes less than it holds by the gradients and states that training has yet to make.
    """
    size, length = load.compute_bytes, -(-what.text_tokens // CACHE_BLOCK) * CACHE_BLOCK
    keys = [2 * layer.mixer.kv_heads * layer.mixer.head_dim * size for layer in spec.layers]
    cache = texts * length * sum(keys)
    gathered = texts * length * max(keys) if _gathers(spec, load, kind) else 0
    prompts, rest = min(texts, what.texts // what.samples), min(CACHE_BLOCK, what.prompt_tokens)
    read = min(READ_TOKENS[kind] + texts, max(prompts * what.prompt_tokens, texts * rest))
    reading = read * (feature_bytes(spec, size) + angle_bytes(spec, size))
    choosing = max(gathered, LOGIT_COPIES * texts * spec.vocab * FLOAT32_BYTES)
    judged, tried = (
        max(min(JUDGED_TOKENS, each), what.text_tokens) * what.judge_feature_bytes + what.judge_dense_bytes
        for each in (_judged_tokens(what, kind), _tried_tokens(what, kind))
    )
    later = load.trained.gradient_bytes + load.trained.device_state_bytes
    return max(cache + max(reading, choosing), judged, tried - later)


def _judged_tokens(what: Answering, kind: str) -> int:
    """Of a round: a prompt once for all answers to it, where that is worth it."""
    prompts, answers = what.texts // what.samples, what.texts * (what.text_tokens - what.prompt_tokens)
    return _prompt_copies(what, what.samples, kind) * prompts * what.prompt_tokens + answers


def _tried_tokens(what: Answering, kind: str) -> int:
    """Of five answers to each of a few prompts: one of the data's, the prompt itself, and made up ones."""
    answers = what.text_tokens + FAKE_TOKENS
    return TRIED_PROMPTS * (_prompt_copies(what, 5, kind) * what.prompt_tokens + answers)


def _prompt_copies(what: Answering, answers: int, kind: str) -> int:
    """How often a prompt is there for so many answers to it: once where it saves more than the calls of attention that
    it costs (`luthier.data.prefix`)."""
    worth = what.prompt_tokens * (answers - 1) >= CALL_TOKENS[kind] * (answers + 1)
    return 1 if worth else answers


def _gathers(spec: DecoderSpec, load: Workload, kind: str) -> bool:
    """Whether `luthier.models.quick`, whose attention reads the cache where it lies, does not serve a model."""
    recast = bool(load.in_place) and load.casts and load.compute_bytes < FLOAT32_BYTES
    return kind == "cuda" or not spec.plain or recast or load.quantised_bytes > 0


def _answer_texts(spec: DecoderSpec, load: Workload, what: Answering, room: Room) -> int:
    """The most that fits; one, where none does."""
    return max(largest(lambda texts: answer_bytes(spec, load, what, texts, room.kind) <= room.bytes, what.at_once), 1)


def held_bytes(load: Workload) -> int:
    """What a run holds between steps, and its gradients."""
    kept = load.trained
    frozen = load.frozen_parameters * load.compute_bytes + load.quantised_bytes
    return frozen + load.beside.num_bytes + kept.weight_bytes + kept.gradient_bytes + kept.device_state_bytes


def most_tokens(spec: DecoderSpec, load: Workload, policies: Policies, room: Room, cap: int) -> int:
    """The most tokens of a micro-batch whose work fits, at most `cap`; 0 where none does."""
    return largest(lambda tokens: room.holds(spec, load, policies, tokens), cap)


def moved_bytes(spec: DecoderSpec, load: Workload, policies: Policies, tokens: int) -> int:
    """What layers keep in the host's memory."""
    trained = list(enumerate(policies))[load.first_trained_layer :]
    return tokens * sum(layer_bytes(spec, load, at, ON_DEVICE[each]) for at, each in trained if each in ON_DEVICE)


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
    held = _Moments(spec, load, tokens, room.kind, None).most_of(chosen)
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


class Work(NamedTuple):
    """Bytes of a micro-batch beside what a run holds anyway, at the moments when they are most: in the layers, and in
    head and embedding."""

    layers: int
    head: int

    @property
    def most(self) -> int:
        return max(self)


def token_bytes(spec: DecoderSpec, load: Workload, policies: Policies) -> int:
    """Bytes per token at the moment when layers hold most, every row scored."""
    one, two = (step_bytes(spec, load, policies, tokens, "cpu").layers for tokens in (4096, 8192))
    return -(-(two - one) // 4096)


def step_bytes(
    spec: DecoderSpec, load: Workload, policies: Policies, tokens: int, kind: str, scored: int | None = None
) -> Work:
    """The moments that may be the largest, each with what it holds:

    A layer's backward pass, when that of its MLP is under way: what the layers up to it keep, what it forms again, and
    what the MLP works with (`_working_bytes`). The forward pass of a layer below all that trains, which keeps nothing
    but has everything at hand. The head: what all layers keep, a chunk of logits, and, where it trains, its gradient.
    The embedding's gradient, which is formed in float32.
    """
    return _Moments(spec, load, tokens, kind, scored).of(policies)


class _Moments:
    """The moments of a micro-batch, whatever layers keep."""

    def __init__(self, spec: DecoderSpec, load: Workload, tokens: int, kind: str, scored: int | None) -> None:
        self._spec, self._load, self._tokens, self._kind = spec, load, tokens, kind
        self._rows = tokens if scored is None else min(scored, tokens)
        self._known: dict[tuple[Any, ...], tuple[int, int]] = {}
        size = load.compute_bytes
        self._shared = tokens * angle_bytes(spec, size) + load.dense_bytes
        self._shared += self._rows * load.beside.row_bytes
        # A tied matrix gets its gradient from both of its uses at once, so that the first waits for the second.
        self._waiting = load.head_parameters * FLOAT32_BYTES if spec.tied and load.embedding_parameters else 0
        below = spec.layers[: load.first_trained_layer]
        self._passing = max((self._passing_bytes(layer) for layer in below), default=0)
        self._passing = max(self._passing, tokens * load.beside.feature_bytes)
        self._head = self._head_bytes()
        self._embedding = 0
        if load.embedding_parameters:
            entering = self._waiting + tokens * spec.d * (size + FLOAT32_BYTES)
            update = load.trained.update_bytes
            self._embedding = load.embedding_parameters * FLOAT32_BYTES + max(entering, update)

    def of(self, policies: Policies) -> Work:
        held = most = 0
        first = self._load.first_trained_layer
        for index in range(first, len(policies)):
            own, at_once = self._layer(index, policies[index])
            if index > first and policies[index] == policies[index - 1] and policies[index] in ON_DEVICE:
                at_once += self._layer(index - 1, ON_DEVICE[policies[index]])[0]  # on its way for the layer below
            most = max(most, held + at_once)
            held += own
        return self._work(held, most + self._earlier(held))

    def most_of(self, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """The largest moment of each stack, a row of numbers of `STACKED`; in floats, which hold any bytes exactly."""
        count, first = len(self._spec.layers), self._load.first_trained_layer
        none = (0, 0)
        layers = [
            [self._layer(index, policy) if index >= first else none for index in range(count)] for policy in STACKED
        ]
        own, at_once = np.array(layers, dtype=np.float64).transpose(2, 0, 1)[:, chosen, np.arange(count)]
        held = own.cumsum(1)
        most = np.where(np.arange(count) >= first, held - own + at_once, 0).max(1) + self._earlier(held[:, -1])
        most = np.maximum(most, self._passing)
        largest: NDArray[np.float64] = np.maximum(most, np.maximum(held[:, -1] + self._head, self._embedding))
        return largest + self._shared

    def _earlier(self, held: Any) -> Any:
        """What passes before the last one keep: their layers, and what leaves the head for its rows: hidden states and
        the gradients of their log-probabilities."""
        features = 2 * self._rows * self._spec.d * self._load.compute_bytes
        return (self._load.passes - 1) * (held + features)

    def _work(self, held: int, most: int) -> Work:
        ends = max(held + self._head, self._embedding)
        return Work(max(most, self._passing) + self._shared, ends + self._shared)

    def _layer(self, index: int, policy: Policy) -> tuple[int, int]:
        """What a layer keeps, and the most that its backward pass holds, that included; layers that are alike share an
        answer."""
        load, top = self._load, index == len(self._spec.layers) - 1
        ranks = load.ranks[index] if load.ranks else None
        lowest = index == load.first_trained_layer
        key = (self._spec.layers[index], ranks, load.in_place[index] if load.in_place else None, top, lowest, policy)
        if key not in self._known:
            rows = self._rows if top else self._tokens
            # What is as wide as the MLP is kept, or formed again for so many rows at once.
            again = ON_DEVICE.get(policy, policy) == "drop_layer"
            kept = ON_DEVICE.get(policy, policy) == "keep" or self._spec.layers[index].norms.after_mlp is not None
            formed = rows if kept else _mlp_rows(self._spec, load, index, rows)
            of_mlp = self._kept(index, "drop_mlp") + formed * _mlp_bytes(self._spec, load, index)
            of_mlp += _mlp_working_bytes(self._spec, load, index, rows, self._kind)
            passes_on = not lowest or load.embedding_parameters > 0
            counts = (self._tokens, rows)
            of_attention = _attention_bytes(self._spec, load, index, counts, self._kind, again, passes_on)
            self._known[key] = self._kept(index, policy), max(of_mlp, of_attention) + self._waiting
        return self._known[key]

    def _passing_bytes(self, layer: Layer) -> int:
        """Of a forward pass that keeps nothing."""
        spec, size = self._spec, self._load.compute_bytes
        rows = mlp_rows(self._tokens, layer.ffn.width, size)
        features = self._tokens * _passing_features(spec, layer) - (self._tokens - rows) * 3 * layer.ffn.width
        return features * size

    def _kept(self, index: int, policy: Policy) -> int:
        per_token, per_row = last_layer_bytes(self._spec, self._load, index, policy)
        copies = 0 if ON_DEVICE.get(policy, policy) == "drop_layer" else _copied_bytes(self._load, index)
        rows = self._rows if index == len(self._spec.layers) - 1 else self._tokens
        return self._tokens * per_token + rows * per_row + copies

    def _head_bytes(self) -> int:
        """The most of the head's moments beside what all layers keep, the update of its weight among them."""
        load = self._load
        moments = [*head_bytes(self._spec, load, self._rows, self._kind)]
        if load.head_parameters and not self._waiting:
            features = 2 * self._rows * self._spec.d * load.compute_bytes
            moments.append(features + load.head_parameters * FLOAT32_BYTES + load.trained.update_bytes)
        return max(moments)


def _mlp_rows(spec: DecoderSpec, load: Workload, index: int, rows: int) -> int:
    return mlp_rows(rows, spec.layers[index].ffn.width, load.compute_bytes)


def _mlp_bytes(spec: DecoderSpec, load: Workload, index: int) -> int:
    """Of a row, what an MLP keeps beside its input: gate, up, and the adapters' inner rows."""
    ranks = load.ranks[index] if load.ranks else Ranks()
    return (2 * spec.layers[index].ffn.width + ranks.gate + ranks.up + ranks.down) * load.compute_bytes


def _mlp_working_bytes(spec: DecoderSpec, load: Workload, index: int, rows: int, kind: str) -> int:
    """What the backward pass of an MLP works with beside what was kept, at the largest of these moments: three buffers
    of its width and the gradient that enters it; two of them, that gradient, its input, its gradient and the residual
    stream's, with three buffers in float32 for the norm and the gradients of the weights; those gradients in two
    dtypes. Where it works on some rows at a time, the gradient that leaves it is there for all of them, and its
    weights' are summed in float32."""
    width, size = spec.layers[index].ffn.width, load.compute_bytes
    formed = load.in_place[index].mlp if load.in_place else 0
    part = mlp_rows(rows, width, size)
    norm = 3 * _tile_bytes(part * spec.d, kind)
    # Under dropout a mask of a byte per number, and what passes through it.
    wide, narrow = (load.dropout * part * features * (size + 1) for features in (width, spec.d))
    summed = (part < rows) * (rows * spec.d * size + formed * FLOAT32_BYTES)
    return max(
        (part * 3 * width + rows * spec.d) * size + formed * size // 3 + wide + summed,
        (part * (2 * width + 3 * spec.d) + rows * spec.d) * size + norm + formed * size + narrow + summed,
        rows * 2 * spec.d * size + formed * _formed_bytes(load),
    )


def _formed_bytes(load: Workload) -> int:
    """Of a gradient while it is formed: in the compute dtype, and beside it as it is summed up."""
    return load.compute_bytes + FLOAT32_BYTES * (load.casts and load.compute_bytes < FLOAT32_BYTES)


def _attention_bytes(
    spec: DecoderSpec, load: Workload, index: int, counts: tuple[int, int], kind: str, again: bool, passes_on: bool
) -> int:
    """What there is of a layer in the backward pass of its attention, the MLP's being done, at the larger of two
    moments. Queries, keys, values and their gradients, and that of what attention made of them (on a GPU that itself
    too, and gradients of queries in float32); or those gradients before and after rotary, the gradients of the normed
    input and of the layer's, with three buffers in float32. The layer's input lies there all the time, and so does the
    gradient that bypasses attention.

    Args:
        counts: tokens, and the rows whose queries are computed.
        again: whether the layer is run again: the gradient that entered it and those of the MLP's weights then wait
            for the end.
        passes_on: whether what lies below wants a gradient.
    """
    layer, size = spec.layers[index], load.compute_bytes
    mixer, d, (tokens, rows) = layer.mixer, spec.d, counts
    formed, ranks = load.in_place[index] if load.in_place else InPlace(), load.ranks[index] if load.ranks else Ranks()
    query, key = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    inner = tokens * (ranks.k + ranks.v) + rows * ranks.q
    before = (rows * query + tokens * key) * (mixer.qk_norm is not None)
    held = (tokens * d + rows * d + inner + before) * size
    held += tokens * d * size * (passes_on and rows < tokens)  # the gradient of all rows, most of it zeros
    if load.casts and size < FLOAT32_BYTES and not again:
        held += formed.attention * size
    if again:
        held += rows * d * size + formed.mlp * (FLOAT32_BYTES if load.casts else size)
    qkv = rows * query + 2 * tokens * key
    attended = rows * (query * (size + FLOAT32_BYTES) + mixer.heads * FLOAT32_BYTES) * load.log_sums
    attending = (2 * qkv + rows * query) * size + attended
    turned = (rows * query + tokens * key) * (mixer.rope is not None or mixer.qk_norm is not None)
    norm = 3 * _tile_bytes(tokens * d, kind) * (layer.norms.before_attention is not None)
    # Under dropout the normed input with its gradient, what is added to that, and a mask.
    narrow = max(2 * tokens * d * size + norm, load.dropout * tokens * d * (3 * size + 1))
    if not passes_on:
        narrow = tokens * d * (size + load.dropout * (size + 1))
    return held + max(attending, (qkv + turned) * size + narrow + formed.attention * _formed_bytes(load))


def _tile_bytes(numbers: int, kind: str) -> int:
    """A buffer in float32 for so many numbers, of which a chain works on a tile at once."""
    total = numbers * FLOAT32_BYTES
    return -(-total // max(-(-total // (GPU_TILE_BYTES if kind == "cuda" else TILE_BYTES)), 1))


def feature_bytes(spec: DecoderSpec, compute_bytes: int) -> int:
    """Most bytes per token in a pass through these layers that keeps nothing."""
    return max(_passing_features(spec, layer) for layer in spec.layers) * compute_bytes


def angle_bytes(spec: DecoderSpec, compute_bytes: int) -> int:
    """Per token, of the angles by which queries and keys are turned, which layers share: a sine and a cosine for each
    number of a head, once for each kind of rotary embedding."""
    ropes = {(layer.mixer.rope, layer.mixer.head_dim) for layer in spec.layers if layer.mixer.rope is not None}
    return sum(2 * head_dim for _, head_dim in ropes) * compute_bytes


def _passing_features(spec: DecoderSpec, layer: Layer) -> int:
    """Numbers per token in a forward pass that keeps nothing: the residual stream three times, q, k, v and what
    attention made of them, and three buffers of the MLP's width."""
    query, key = layer.mixer.heads * layer.mixer.head_dim, layer.mixer.kv_heads * layer.mixer.head_dim
    normed = 2 * spec.d * (layer.norms.after_attention is not None)
    return 3 * spec.d + 2 * query + 2 * key + 3 * layer.ffn.width + normed


def _copied_bytes(load: Workload, index: int) -> int:
    """Trained weights of a layer in the compute dtype, which are kept from its forward to its backward pass."""
    if not load.in_place or not load.casts or load.compute_bytes == FLOAT32_BYTES:
        return 0
    return sum(load.in_place[index]) * load.compute_bytes


def layer_bytes(spec: DecoderSpec, load: Workload, index: int, policy: Policy) -> int:
    """Bytes per token that a layer keeps for the backward pass."""
    per_token, per_row = last_layer_bytes(spec, load, index, policy)
    return per_token + per_row


def last_layer_bytes(spec: DecoderSpec, load: Workload, index: int, policy: Policy) -> tuple[int, int]:
    """The same for a layer of which only the scored rows are computed beyond keys and values: bytes per token, and
    bytes per scored row besides.

    keep: per token the residual stream before attention (d), k and v; per row q, the attention output, the residual
    stream before the MLP (d), gate and up; the adapters' inner rows; in float32 the reciprocal RMS of each norm and,
    where there is one, the log-sum-exp of each head; under q/k norm q and k before it; under a norm behind
    attention or MLP what that made. drop_mlp: of the MLP its input and its reciprocal RMS alone. drop_layer: the
    residual stream before attention alone. offload, offload_input: nothing on the device.
    """
    if policy in ON_DEVICE:
        return 0, 0
    if policy == "drop_layer":
        return spec.d * load.compute_bytes, 0
    layer, ranks = spec.layers[index], load.ranks[index] if load.ranks else Ranks()
    mixer, width = layer.mixer, layer.ffn.width
    query, key = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    of_tokens, of_rows = spec.d + 2 * key + ranks.k + ranks.v, 2 * query + spec.d + ranks.q + ranks.o
    if load.ranks and not ranks.o and not load.log_sums:
        of_rows -= query  # nobody reads the attention output again
    norms = layer.norms
    token_scalars = int(norms.before_attention is not None)
    row_scalars = (norms.before_mlp is not None) + mixer.heads * load.log_sums
    if mixer.qk_norm:
        each = mixer.qk_norm == "head"
        of_tokens, token_scalars = of_tokens + key, token_scalars + (mixer.kv_heads if each else 1)
        of_rows, row_scalars = of_rows + query, row_scalars + (mixer.heads if each else 1)
    behind = sum(norm is not None for norm in (norms.after_attention, norms.after_mlp))
    of_rows, row_scalars = of_rows + behind * spec.d, row_scalars + behind
    if policy == "keep":
        of_rows += 2 * width + ranks.gate + ranks.up + ranks.down
    size = load.compute_bytes
    return of_tokens * size + token_scalars * FLOAT32_BYTES, of_rows * size + row_scalars * FLOAT32_BYTES


def recomputed_flops(layer: Layer, spec: DecoderSpec, policy: Policy, keys: int) -> int:
    """FLOPs per token that a layer's backward pass does again, adapters aside: gate and up; for `drop_layer` and
    `offload_input` also q, k, v, o and attention over so many keys, and down only where a norm reads its output
    again."""
    kept = ON_DEVICE.get(policy, policy)
    if kept == "keep":
        return 0
    mixer = layer.mixer
    query, key = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    again = 4 * spec.d * layer.ffn.width
    if kept == "drop_layer":
        again += 4 * spec.d * (query + key) + 4 * query * keys
        again += 2 * spec.d * layer.ffn.width * (layer.norms.after_mlp is not None)
    return again


def head_bytes(spec: DecoderSpec, load: Workload, rows: int, kind: str) -> tuple[int, int]:
    """Bytes of the head's forward and backward pass over so many scored rows: the hidden states, before and after the
    final norm, and their gradient; a chunk of logits, with tiles of its softmax in float32 or the gradient that comes
    of it; of a head that trains a copy in the compute dtype and its gradient, which is scaled in the backward pass.
    Beside a teacher, what compares the two in place of logits and softmax."""
    size, features = load.compute_bytes, rows * spec.d * load.compute_bytes
    of_chunk = head_rows(spec, rows, size) if load.logits else 0
    chunk = of_chunk * spec.vocab
    # One tile is made before the last is let go; where logits are in float32 a tile is the same memory.
    wide = 0 if size == FLOAT32_BYTES else min(2 * _tile_bytes(chunk, kind), chunk * FLOAT32_BYTES)
    wide = max(wide, of_chunk * spec.d * size)
    capped = 2 * chunk * size * (spec.logit_softcap is not None)  # the cap's slope, and the square on the way to it
    logits = chunk * size + capped
    if load.beside.lesson_copies:
        row_bytes = spec.vocab * FLOAT32_BYTES
        most = max(HEAD_CHUNK_BYTES // (LESSON_COPIES * row_bytes), 1)
        lesson_rows = -(-rows // -(-rows // most))
        logits, wide = 0, load.beside.lesson_copies * lesson_rows * row_bytes
    forward = 4 * features + logits + max(wide, load.head_parameters * size)
    copied = load.casts and size < FLOAT32_BYTES
    forward += load.head_parameters * (FLOAT32_BYTES + copied * size)
    return forward, 3 * features + 2 * load.head_parameters * FLOAT32_BYTES


def head_rows(spec: DecoderSpec, rows: int, compute_bytes: int) -> int:
    """Rows of logits that the head forms at once: chunks of nearly equal size."""
    most = max(HEAD_CHUNK_BYTES // (spec.vocab * compute_bytes), 1)
    return -(-rows // max(-(-rows // most), 1))
