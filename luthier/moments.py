"""What a micro-batch works with, moment by moment, and what writing and judging answers does between updates.

What goes in: the architecture, what a run holds (`luthier.holdings`), what each layer keeps, and how many tokens there
are. What comes out: bytes, at the moments when they are most. Torch-free arithmetic; the counts follow what
`luthier.kernels` keeps, forms again and lets go. `luthier.planner` chooses by them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.arch.spec import DecoderSpec, Layer
from luthier.config.schema import ON_DEVICE, Policy
from luthier.holdings import FLOAT32_BYTES, TILE_BYTES, Answering, InPlace, Ranks, Workload
from luthier.kernels.sizes import mlp_rows

HEAD_CHUNK_BYTES = 256 * 2**20
"""Most logits formed at once, in the compute dtype: `luthier.kernels.head.CHUNK_BYTES`, which imports torch."""
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
GPU_TILE_BYTES = 2**27
"""On a GPU, where Triton's kernels need none: `luthier.kernels.tiles.GPU_TILE_BYTES`."""
STACKED: tuple[Policy, ...] = ("keep", "drop_mlp", "drop_layer")
"""What a plan chooses from."""
Policies = tuple[Policy, ...]
"""What each layer keeps, from the lowest up."""


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
    recast = bool(load.in_place) and _casts(load)
    return kind == "cuda" or not spec.plain or recast or load.quantised_bytes > 0


def moved_bytes(spec: DecoderSpec, load: Workload, policies: Policies, tokens: int) -> int:
    """What layers keep in the host's memory."""
    trained = list(enumerate(policies))[load.first_trained_layer :]
    return tokens * sum(layer_bytes(spec, load, at, ON_DEVICE[each]) for at, each in trained if each in ON_DEVICE)


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

    A layer's backward pass, when that of its MLP or of its attention is under way: what the layers up to it keep, what
    it forms again, and what the block works with (`_mlp_working_bytes`, `_attention_bytes`). The forward pass of a
    layer below all that trains, which keeps nothing but has everything at hand. The head: what all layers keep, a chunk
    of logits, and, where it trains, its gradient. The embedding's gradient, which is formed in float32.
    """
    return Moments(spec, load, tokens, kind, scored).of(policies)


def pass_bytes(spec: DecoderSpec, load: Workload, tokens: int, scored: int, kind: str) -> Work:
    """A pass that keeps nothing: the largest layer, and the head's hidden states and logits; of what trains a copy in
    the compute dtype."""
    size, beside = load.compute_bytes, load.beside
    layers = max(
        _passing_bytes(spec, load, layer, tokens) + _copied_bytes(load, index)
        for index, layer in enumerate(spec.layers)
    )
    shared = tokens * angle_bytes(spec, size) + scored * beside.row_bytes + load.dense_bytes
    features, copied = 2 * scored * spec.d * size, load.head_parameters * size * _casts(load)
    head = features + sum(_logit_bytes(spec, load, scored, kind)) + copied
    return Work(max(layers, tokens * beside.feature_bytes) + shared, head + shared)


class Moments:
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
        self._passing = max((_passing_bytes(spec, load, layer, tokens) for layer in below), default=0)
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


def _passing_bytes(spec: DecoderSpec, load: Workload, layer: Layer, tokens: int) -> int:
    """Of a forward pass that keeps nothing."""
    rows = mlp_rows(tokens, layer.ffn.width, load.compute_bytes)
    features = tokens * _passing_features(spec, layer) - (tokens - rows) * 3 * layer.ffn.width
    return features * load.compute_bytes


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
    return load.compute_bytes + FLOAT32_BYTES * _casts(load)


def _casts(load: Workload) -> bool:
    """Whether what trains is kept in float32 and computed with in another dtype."""
    return load.casts and load.compute_bytes < FLOAT32_BYTES


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
    if _casts(load) and not again:
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
    if not load.in_place or not _casts(load):
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
    logits, wide = _logit_bytes(spec, load, rows, kind)
    forward = 4 * features + logits + max(wide, load.head_parameters * size)
    forward += load.head_parameters * (FLOAT32_BYTES + _casts(load) * size)
    return forward, 3 * features + 2 * load.head_parameters * FLOAT32_BYTES


def _logit_bytes(spec: DecoderSpec, load: Workload, rows: int, kind: str) -> tuple[int, int]:
    """Of a chunk's logits, and what is there beside them."""
    size = load.compute_bytes
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
        lesson_rows = -(-rows // max(-(-rows // most), 1))
        return 0, load.beside.lesson_copies * lesson_rows * row_bytes
    return logits, wide


def head_rows(spec: DecoderSpec, rows: int, compute_bytes: int) -> int:
    """Rows of logits that the head forms at once: chunks of nearly equal size."""
    most = max(HEAD_CHUNK_BYTES // (spec.vocab * compute_bytes), 1)
    return -(-rows // max(-(-rows // most), 1))
