"""The plan's bytes: by hand for one small model, and against what a pass really keeps."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import weakref
from typing import get_args

import numpy as np
import pytest
import test_decoder
import tiny_models
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from luthier import holdings, moments, planner
from luthier import workload as workloads
from luthier.arch import count, families
from luthier.arch.spec import Attention, DecoderSpec, Layer, Mlp, Rope
from luthier.batch import Rendered
from luthier.config.schema import Full, Lora, OptimSection, Policy
from luthier.data import pack
from luthier.holdings import Ranks, Tokens, Workload
from luthier.kernels import head, rounding, sizes, tiles
from luthier.models import adapters, weights
from luthier.models.decoder import Want

LAYER = Layer(Attention(heads=4, kv_heads=2, head_dim=8, rope=Rope("default", 1e4, 8)), Mlp(width=48))
SPEC = DecoderSpec("llama", vocab=100, d=32, layers=(LAYER,) * 3, tied=False, norm_eps=1e-6, max_positions=256)
LOAD = Workload(
    trained=holdings.Trained((600, 300), vectors=100),
    frozen_parameters=5000,
    first_trained_layer=0,
    compute_bytes=2,
    tokens=Tokens(64),
)
GIB = 2**30


RANKS = Ranks(q=1, k=2, v=3, o=4, gate=5, up=6, down=7)


def plan(free=GIB, device="cpu", asked=None, policies=None, **load):
    changed = dataclasses.replace(LOAD, **load)
    return planner.plan(SPEC, changed, free_bytes=free, device=device, asked_tokens=asked, policies=policies)


def layer_bytes(policy="keep", spec=SPEC, load=LOAD):
    return moments.layer_bytes(spec, load, 0, policy)


# --------------------------------------------------------------------------------------------------------- by hand


def test_the_bytes_of_a_layer_by_hand():
    # residual stream twice, q and output of 4 heads of 8, k and v of 2 heads of 8, gate and up of 48; two reciprocal
    # RMS and four log-sum-exps in float32
    assert layer_bytes() == 2 * (2 * 32 + 2 * 32 + 2 * 16 + 2 * 48) + 4 * (2 + 4)
    normed = dataclasses.replace(LAYER, mixer=dataclasses.replace(LAYER.mixer, qk_norm="head"))
    spec = dataclasses.replace(SPEC, layers=(normed,))
    assert layer_bytes(spec=spec) == layer_bytes() + 2 * (32 + 16) + 4 * (4 + 2)
    assert layer_bytes(load=dataclasses.replace(LOAD, ranks=(RANKS,))) == layer_bytes() + 2 * 28
    tiled, without_o = dataclasses.replace(LOAD, log_sums=False), RANKS._replace(o=0)
    assert layer_bytes(load=tiled) == layer_bytes() - 4 * 4
    assert layer_bytes(load=dataclasses.replace(tiled, ranks=(without_o,))) == layer_bytes() - 4 * 4 + 2 * (24 - 32)


def test_the_bytes_of_a_layer_by_policy():
    load = dataclasses.replace(LOAD, ranks=(RANKS,))
    assert layer_bytes("drop_mlp", load=load) == layer_bytes(load=load) - 2 * (2 * 48 + 5 + 6 + 7)
    assert layer_bytes("drop_layer", load=load) == 2 * 32
    assert layer_bytes("offload", load=load) == 0


def test_the_bytes_of_a_last_layer_by_hand():
    """Keys and values of all tokens, everything behind them of the scored rows."""
    load = dataclasses.replace(LOAD, ranks=(RANKS,))
    of_tokens = 2 * (32 + 2 * 16 + 2 + 3) + 4
    of_rows = 2 * (32 + 2 * 32 + 1 + 4) + 4 * (1 + 4)
    assert moments.last_layer_bytes(SPEC, load, 0, "keep") == (of_tokens, of_rows + 2 * (2 * 48 + 5 + 6 + 7))
    assert moments.last_layer_bytes(SPEC, load, 0, "drop_mlp") == (of_tokens, of_rows)
    assert moments.last_layer_bytes(SPEC, load, 0, "drop_layer") == (2 * 32, 0)


def test_the_flops_that_are_done_again_by_hand():
    """Multiply-adds times two: gate and up; q, o, k and v, and scores and values over 10 keys."""
    flops = {policy: moments.recomputed_flops(LAYER, SPEC, policy, 10) for policy in get_args(Policy)}
    widened = 2 * 32 * 48 * 2
    projected, attended = 2 * 32 * (32 + 32 + 16 + 16), 2 * 2 * 32 * 10
    assert flops == {
        "keep": 0,
        "drop_mlp": widened,
        "drop_layer": widened + projected + attended,
        "offload": 0,
        "offload_input": widened + projected + attended,
    }


def test_the_bytes_of_a_run_by_hand():
    ranks = (Ranks(o=3), Ranks(down=2), Ranks(q=5))
    made = plan(asked=128, ranks=ranks)
    # In the backward pass of an MLP: two buffers of its width, the gradient that enters, its input and two more of the
    # residual stream's width; three of that in float32 for the norm.
    per_token = 3 * layer_bytes() + 2 * (10 + 2 * 8 + 2 * 48 + 4 * 32)
    assert made.bytes_per_token == per_token and made.policies == ("keep",) * 3
    assert (made.weights, made.trainable, made.gradients, made.optimizer) == (10_000, 4000, 4000, 8000)
    assert made.activations == 128 * (per_token + 3 * 4 * 32)
    # The head: four times the hidden states, logits, and their softmax in float32; of that, what goes beyond.
    assert made.head == 128 * (4 * 2 * 32 + 2 * 100 + 4 * 100) - 128 * (2 * (2 * 48 + 4 * 32) + 3 * 4 * 32)
    assert made.peak_bytes == 26_000 + made.activations + made.head
    assert made.to_json()["peak_bytes"] == made.peak_bytes and made.to_json()["budget_tokens"] == 128
    assert "policies" not in made.to_json(), "they stand beside the memory in plan.json"


@pytest.mark.parametrize(
    ("policies", "moment", "held"),
    [
        # layer whose backward pass holds most; what every layer keeps then, what comes back to that one
        (("keep",) * 3, 2, "kkk"),
        (("drop_mlp",) * 3, 2, "mmk"),
        (("drop_layer",) * 3, 2, "iik"),
        (("drop_layer", "drop_mlp", "keep"), 2, "imk"),
        (("keep", "keep", "drop_layer"), 2, "kkk"),  # nothing is gained on top
        (("keep", "drop_layer", "drop_layer"), 2, "kik"),
        (("offload", "offload", "keep"), 1, "kk"),  # the middle one's is back, the lowest one's on its way
        (("offload",) * 3, 2, "kk"),
    ],
)
def test_the_moment_when_most_is_held(policies, moment, held):
    size = {"k": layer_bytes(), "m": layer_bytes("drop_mlp"), "i": layer_bytes("drop_layer")}
    working = 2 * (2 * 8 + 2 * 48 + 4 * 32)
    assert moments.token_bytes(SPEC, LOAD, policies) == sum(size[each] for each in held) + working, moment


def test_the_bytes_of_what_trains_by_hand():
    shapes = {
        "model.embed_tokens.weight": (100, 8),
        "model.layers.0.self_attn.q_proj.weight": (8, 8),
        "model.layers.0.self_attn.q_proj.bias": (8,),
        "model.layers.0.mlp.up_proj.weight": (30, 30),
        "model.layers.0.mlp.down_proj.weight": (30, 30),
    }

    def made(in_backward=False, **kept):
        found = holdings.trained(shapes, in_backward, **kept)
        return found.weight_bytes, found.gradient_bytes, found.state_bytes

    matrices, vectors = 800 + 64 + 2 * 900, 8
    every = 4 * (matrices + vectors)
    assert made() == (every, every, 2 * every)
    assert made(slots=0) == (every, every, 0)
    half = 2 * matrices + 4 * vectors
    assert made(weights="bfloat16_stochastic") == (half, every, 2 * every)
    assert made(weights="bfloat16_kahan", states="bfloat16") == (half, every, 2 * half + 2 * matrices)
    scales = 4 + 1 + 4 + 4  # blocks of 256
    assert made(states="8bit") == (every, every, 2 * (matrices + 4 * scales + 4 * vectors))
    assert made(in_backward=True) == (every, 0, 2 * every), "none is held"
    assert holdings.STATE_BLOCK == rounding.BLOCK


def test_layers_below_the_lowest_trained_one_keep_nothing():
    assert plan().bytes_per_token - plan(first_trained_layer=2).bytes_per_token == 2 * layer_bytes()


def work(policies=("keep",) * 3, tokens=64, spec=SPEC, scored=None, kind="cpu", **load):
    return moments.step_bytes(spec, dataclasses.replace(LOAD, **load), policies, tokens, kind, scored)


def test_weights_that_train_have_a_copy_in_the_compute_dtype_unless_that_is_their_own():
    """Kept from the forward pass on, but for layers that are run again; and their gradients, as they are formed."""
    some = (holdings.InPlace(100, 300),) * 3
    grown = work(in_place=some).layers - work().layers
    assert grown == 3 * 400 * 2 + 300 * 2
    assert work(in_place=some, casts=False).layers - work().layers == 300 * 2
    assert work(in_place=some, compute_bytes=4).layers - work(compute_bytes=4).layers == 300 * 4
    dropped = ("drop_layer",) * 3
    assert work(dropped, in_place=some).layers - work(dropped).layers == 400 * 2 + 300 * 2, "one layer's at a time"


def test_the_top_layer_works_with_scored_rows_and_the_lowest_ones_pass():
    fewer = work(scored=8)
    of_tokens, of_rows = moments.last_layer_bytes(SPEC, LOAD, 2, "keep")
    below = 2 * layer_bytes() * 64 + 16 * 2 * 64
    # The middle layer's backward pass holds no top layer, the top one's few rows of it.
    middle = below + 64 * (2 * (2 * 48 + 4 * 32) + 3 * 4 * 32)
    top = below + 64 * of_tokens + 8 * of_rows + 8 * (2 * (2 * 48 + 4 * 32) + 3 * 4 * 32)
    assert fewer.layers == max(middle, top)
    passing = 64 * 2 * (3 * 32 + 2 * 32 + 2 * 16 + 3 * 48 + 2 * 8)
    assert work(scored=1, first_trained_layer=2).layers == passing


def test_the_bytes_of_attention_s_backward_pass_by_hand():
    """Of a layer that is run again, on a GPU and on a CPU: its input, the gradient that entered it and the one that
    bypasses attention; then queries, keys, values, their gradients, the gradient of what attention made and, on a GPU,
    that itself with its sums and the queries' gradient in float32; or two gradients of the layer's input, in float32 by
    tiles, and the gradients of queries, keys and values, those of the first two also as they were before rotary."""
    load = dataclasses.replace(LOAD, ranks=(Ranks(q=1, k=2, v=3),) * 3)
    held = 2 * (3 * 32 + 6)
    qkv = 32 + 2 * 16
    on_cpu = held + 2 * (qkv + 32 + 16 + 2 * 32) + 3 * 4 * 32
    on_gpu = held + 2 * (2 * qkv + 32) + 32 * (2 + 4) + 4 * 4

    def held_of(kind, log_sums, again=True):
        changed = dataclasses.replace(load, log_sums=log_sums)
        return moments._attention_bytes(SPEC, changed, 1, (100, 100), kind, again, True)

    assert held_of("cpu", False) == 100 * on_cpu == held_of("cuda", False)
    assert held_of("cuda", True) == 100 * max(on_cpu, on_gpu)
    assert held_of("cpu", False, again=False) == 100 * (on_cpu - 2 * 32)


def test_the_head_works_on_chunks_and_a_trained_one_forms_its_gradient():
    wide = dataclasses.replace(SPEC, vocab=200_000)
    rows = 10**6
    chunks = -(-rows // (moments.HEAD_CHUNK_BYTES // 400_000))
    chunk = -(-rows // chunks) * 200_000
    states = 32 * 2
    tile = -(-4 * chunk // -(-4 * chunk // holdings.TILE_BYTES))
    assert moments.head_bytes(wide, LOAD, rows, "cpu") == (4 * rows * states + 2 * chunk + 2 * tile, 3 * rows * states)
    tile = -(-4 * chunk // -(-4 * chunk // moments.GPU_TILE_BYTES))
    assert moments.head_bytes(wide, LOAD, rows, "cuda")[0] == 4 * rows * states + 2 * chunk + 2 * tile
    exact = dataclasses.replace(LOAD, compute_bytes=4)
    assert moments.head_bytes(wide, exact, 10, "cuda")[0] == 5 * 10 * 128 + 10 * 200_000 * 4, "the same memory"
    trained = dataclasses.replace(LOAD, head_parameters=6400)
    forward, backward = moments.head_bytes(wide, trained, 10, "cpu")
    assert forward == moments.head_bytes(wide, LOAD, 10, "cpu")[0] + 6400 * (4 + 2)
    assert backward == 3 * 10 * states + 2 * 6400 * 4
    assert moments.HEAD_CHUNK_BYTES == head.CHUNK_BYTES and holdings.TILE_BYTES == tiles.TILE_BYTES
    assert moments.GPU_TILE_BYTES == tiles.GPU_TILE_BYTES


def test_the_gradient_of_a_tied_embedding_waits_for_both_of_its_uses():
    tied = dataclasses.replace(SPEC, tied=True)
    trains = {"head_parameters": 3200, "embedding_parameters": 3200}
    assert work(spec=tied, **trains).layers - work(spec=tied).layers == 3200 * 4
    assert work(**trains).layers == work().layers
    # The gradient in float32, and what enters it, in two dtypes; the rotary tables.
    assert work(embedding_parameters=10**6).head == 10**6 * 4 + 64 * (32 * (2 + 4) + 16 * 2)


# --------------------------------------------------------------------------------------------------------- budget


def test_the_budget_is_what_the_free_memory_holds():
    need = plan(asked=2000).peak_bytes
    made = plan(free=-(-need * 10 // 8))
    assert made.budget_tokens == 2000 and made.fits
    assert made.peak_bytes <= planner.USABLE * made.free_bytes < plan(asked=2001).peak_bytes
    assert plan(free=2 * made.free_bytes).budget_tokens > 2000


@pytest.mark.parametrize(("device", "cap"), [("cpu", 4096), ("cuda", 32768), ("cuda:1", 32768)])
def test_the_budget_has_a_cap(device, cap):
    assert plan(free=1000 * GIB, device=device).budget_tokens == cap


def test_the_longest_row_always_goes_in_whole():
    assert plan(free=1000 * GIB, tokens=Tokens(5000)).budget_tokens == 5000
    assert plan(asked=16).budget_tokens == 64
    starved = plan(free=1_000_000, tokens=Tokens(3000))
    assert starved.budget_tokens == 3000 and not starved.fits and starved.peak_bytes > starved.free_bytes


def test_a_budget_that_is_asked_for_is_taken():
    assert plan(asked=77).budget_tokens == 77
    assert plan(asked=10_000).budget_tokens == 10_000


def test_it_fits_to_the_byte():
    keep = ("keep",) * 3
    need = plan(asked=64, free=GIB, policies=keep).peak_bytes
    assert plan(asked=64, free=need, policies=keep).fits and not plan(asked=64, free=need - 1, policies=keep).fits


# ------------------------------------------------------------------------------------------------------- policies


def test_layers_keep_everything_where_that_fits():
    assert plan().policies == plan(free=1000 * GIB).policies == ("keep",) * 3


def test_the_stack_computes_least_again_of_all_that_fit():
    """Against all 27 stacks of three policies, those that are not ordered from below included."""
    load = dataclasses.replace(LOAD, ranks=(RANKS,) * 3, tokens=Tokens(20))

    def flops(stack):
        return sum(moments.recomputed_flops(LAYER, SPEC, policy, 10) for policy in stack)

    def held(stack):
        return moments.step_bytes(SPEC, load, stack, 1000, "cpu").most

    stacks = list(itertools.product(("keep", "drop_mlp", "drop_layer"), repeat=3))
    sizes = sorted(set(map(held, stacks)))
    chosen = set()
    for limit in sizes:
        stack = planner.choose(SPEC, load, 1000, planner.Room(limit))
        assert held(stack) <= limit
        best = min(flops(each) for each in stacks if held(each) <= limit)
        assert flops(stack) == best, limit
        chosen.add(stack)
    assert len(chosen) > 3
    least = planner.choose(SPEC, load, 1000, planner.Room(sizes[0]))
    assert planner.choose(SPEC, load, 1000, planner.Room(0)) == least, "where nothing fits"


def test_layers_that_keep_nothing_are_left_alone():
    load = dataclasses.replace(LOAD, first_trained_layer=1)
    assert planner.choose(SPEC, load, 64, planner.Room(0))[0] == "keep"


def test_long_rows_make_attention_dear():
    """A whole layer frees 2 * (64 + 32 + 32) + 24 + 256 = 536 bytes for 14336 FLOPs and 128 per key; two MLPs free 512
    for 16384."""
    spec = dataclasses.replace(SPEC, layers=(dataclasses.replace(LAYER, ffn=Mlp(width=64)),) * 3)
    limit = moments.step_bytes(spec, LOAD, ("drop_mlp", "drop_mlp", "keep"), 1000, "cpu").most

    room = planner.Room(limit)

    def chosen(longest_tokens):
        return planner.choose(spec, dataclasses.replace(LOAD, tokens=Tokens(longest_tokens)), 1000, room)

    assert chosen(2 * 15) == ("drop_layer", "keep", "keep")
    assert chosen(2 * 17) == ("drop_mlp", "drop_mlp", "keep")


def test_the_budget_comes_before_what_is_kept():
    """Less memory: first fewer tokens down to ENOUGH_TOKENS, then less is kept, then fewer tokens again."""
    enough, least = planner.ENOUGH_TOKENS, planner.choose(SPEC, LOAD, 64, planner.Room(0))

    def need(policies, tokens):
        return plan(asked=tokens, policies=policies, free=1000 * GIB).peak_bytes

    def with_need(need_bytes, **given):
        return plan(free=round(need_bytes / planner.USABLE) + 1, **given)

    keep = ("keep",) * 3
    roomy = with_need(need(keep, 3 * enough // 2))
    assert roomy.policies == keep and enough < roomy.budget_tokens < 2 * enough
    tight = with_need(need(keep, 9 * enough // 10))
    assert tight.policies != keep and enough <= tight.budget_tokens < 1.3 * enough
    tighter = with_need(need(least, enough // 2))
    assert tighter.policies == least and 64 < tighter.budget_tokens < enough
    asked = with_need(need(keep, 3 * enough // 2), asked=2 * enough)
    assert asked.policies != keep and asked.budget_tokens == 2 * enough and asked.fits
    assert with_need(need(keep, 9 * enough // 10), policies=keep).budget_tokens < enough


def test_offload_is_never_chosen_and_spares_the_top_layer():
    for limit in range(0, 3000, 50):
        chosen = {*planner.choose(SPEC, LOAD, 64, planner.Room(64 * limit, "cuda"))}
        assert "offload" not in chosen
    assert planner.uniform(SPEC, "offload") == ("offload", "offload", "keep")
    assert planner.uniform(SPEC, "drop_layer") == ("drop_layer",) * 3


def test_inputs_are_moved_to_the_host_where_nothing_else_fits():
    """On a GPU, where the host has room for them: 64 bytes a token of a layer, of all but the top one."""
    moved, least = planner.least(SPEC, LOAD, "cuda")[::-1]
    assert moved == ("offload_input", "offload_input", "drop_layer") and "offload_input" not in least
    holds = {each: moments.step_bytes(SPEC, LOAD, each, 1000, "cuda").most for each in (moved, least)}
    assert holds[moved] < holds[least]

    def chosen(room, **given):
        return planner.choose(SPEC, LOAD, 1000, planner.Room(room, **given))

    assert chosen(holds[least], kind="cuda") == least
    assert chosen(holds[least] - 1, kind="cuda") == moved == chosen(0, kind="cuda")
    assert chosen(0, kind="cuda", host_bytes=2 * 64 * 1000) == moved
    assert chosen(0, kind="cuda", host_bytes=2 * 64 * 1000 - 1) == chosen(0, kind="cpu") == least
    assert moments.moved_bytes(SPEC, LOAD, moved, 1000) == 2 * 64 * 1000
    assert moments.moved_bytes(SPEC, LOAD, ("offload", "offload", "keep"), 1000) == 2 * 1000 * layer_bytes()
    # At its peak the middle layer has its own input back, and that of the lowest on its way.
    lower = planner.uniform(SPEC, "drop_layer")
    assert moments.token_bytes(SPEC, LOAD, lower) - moments.token_bytes(SPEC, LOAD, moved) == 64 * (3 - 2)
    frozen = dataclasses.replace(LOAD, first_trained_layer=1)
    assert planner.choose(SPEC, frozen, 1000, planner.Room(0, "cuda")) == ("keep", "offload_input", "drop_layer")
    assert moments.moved_bytes(SPEC, frozen, ("keep", "offload_input", "drop_layer"), 1000) == 64 * 1000


def test_a_micro_batch_is_no_larger_than_the_host_has_room_for():
    moved = ("offload_input", "offload_input", "drop_layer")
    room = planner.Room(10**9, "cuda", host_bytes=2 * 64 * 500)
    assert planner.most_tokens(SPEC, LOAD, moved, room, 4000) == 500
    free = round((holdings.held_bytes(LOAD) + moments.step_bytes(SPEC, LOAD, moved, 900, "cuda").most) / planner.USABLE)
    given = {"free_bytes": free + 1, "device": "cuda"}
    made = planner.plan(SPEC, LOAD, **given, bounds=planner.Bounds(host_bytes=2 * 64 * 500))
    assert made.policies == planner.least(SPEC, LOAD, "cpu")[0] and made.moved == 0, "where it has too little"
    made = planner.plan(SPEC, LOAD, **given, bounds=planner.Bounds(host_bytes=2 * 64 * planner.ENOUGH_TOKENS))
    assert made.policies == moved and made.budget_tokens == 900 and made.moved == 2 * 64 * 900
    assert made.to_json()["moved"] == made.moved
    assert made.peak_bytes == planner.at(SPEC, LOAD, moved, 900, "cuda", free).peak_bytes < free


def test_an_mlp_that_works_on_some_rows_at_a_time(monkeypatch):
    """4096 tokens in parts of 2048: gate, up, and the three buffers of their backward pass are there for one of them
    alone; the gradient that leaves the MLP is there for all."""

    wide = dataclasses.replace(SPEC, layers=(dataclasses.replace(LAYER, ffn=Mlp(width=256)),) * 3)

    def layers():
        stacks = [("keep",) * 3, ("drop_mlp",) * 3]
        return [moments.step_bytes(wide, LOAD, each, 4096, "cpu").layers for each in stacks]

    before = layers()
    monkeypatch.setattr(sizes, "MLP_BYTES", 2048 * 2 * 256)
    norm = 3 * (moments._tile_bytes(4096 * 32, "cpu") - moments._tile_bytes(2048 * 32, "cpu"))
    working = 2 * (2048 * (2 * 256 + 3 * 32) - 4096 * 32) + norm
    formed = 2048 * 2 * 2 * 256
    assert [a - b for a, b in zip(before, layers(), strict=True)] == [working, working + formed]


def test_a_stack_in_words():
    assert planner.in_words(("drop_layer", "drop_mlp", "drop_mlp", "keep")) == "drop_layer x 1, drop_mlp x 2, keep x 1"


def test_planning_loads_no_torch():
    names = {
        name
        for module in (holdings, moments, planner)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    }
    allowed = {"luthier.arch.spec", "luthier.config.schema", "luthier.kernels.sizes"}
    allowed |= {"luthier.holdings", "luthier.moments"}
    allowed |= {"__future__", "collections.abc", "dataclasses", "itertools", "math", "typing", "numpy", "numpy.typing"}
    assert names == allowed


# ------------------------------------------------------------------------------------- what a pass really keeps


@dataclasses.dataclass(eq=False)
class Held:
    """A tensor that autograd holds; the object lives as long as that is so."""

    tensor: torch.Tensor


def held_memory(decoder, tokens: int, adapter: str | None, scored_rows: int = 1, policies=()):
    """Address of each distinct memory that autograd holds at the end of a forward pass over one row of `tokens`
    computed tokens, of which the last are scored, and a tensor in it; the scores, by which it is held."""
    rng = np.random.default_rng(0)
    scored = np.zeros(tokens + 1, dtype=np.float32)
    scored[-scored_rows:] = 1.0
    ids = rng.integers(0, decoder.spec.vocab, tokens + 1).astype(np.int32)
    (batch,) = pack.microbatches([Rendered(0, ids, scored)], 10**6)
    assert batch.num_tokens == tokens and len(batch.rows) == scored_rows
    all_held: weakref.WeakSet[Held] = weakref.WeakSet()

    def keep(tensor: torch.Tensor) -> Held:
        held = Held(tensor.detach())  # with its graph, an output that is kept would hold itself
        all_held.add(held)
        return held

    coefficients = torch.from_numpy(-batch.weights["nll"]).to(decoder.device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda held: held.tensor):
        scores = decoder(batch, Want("linear", coefficients=coefficients), adapter=adapter, policies=policies)
    assert scores.total is not None
    return {held.tensor.untyped_storage().data_ptr(): held.tensor for held in all_held}, scores


def kept_bytes(decoder, tokens: int, adapter: str | None, scored_rows: int = 1, policies=()) -> int:
    held, _ = held_memory(decoder, tokens, adapter, scored_rows, policies)
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


def build(tiny_model, family, layers, dtype, tune, device="cpu"):
    arch = families.read(tiny_model(family, num_hidden_layers=layers))
    trained = frozenset() if isinstance(tune, Lora) else count.trained_tensors(arch, tune)
    decoder = weights.random(arch, 0, dtype=dtype, device=device, trainable=trained.__contains__)
    if isinstance(tune, Lora):
        adapters.attach(decoder, arch, tune, name="default", seed=0)
    return arch, decoder


def workload(arch, tune, dtype, device="cpu"):
    return workloads.workload(OptimSection(), arch, tune, Tokens(64), dtype.itemsize, device)


@pytest.mark.parametrize("policy", ["keep", "drop_mlp", "drop_layer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "phi3", "olmo2", "granite"])
@pytest.mark.parametrize("tune", [Lora(rank=4), Lora(rank=4, targets=("q_proj", "v_proj")), Full()])
def test_layers_keep_what_is_planned_to_the_byte(tiny_model, family, dtype, tune, policy):
    """Differences of two lengths, and of two numbers of scored rows, leave out weights."""
    if family == "phi3" and isinstance(tune, Lora) and tune.targets != "all-linear":
        tune = Lora(rank=4, targets=("qkv_proj",))  # its q, k and v are one module
    arch, decoder = build(tiny_model, family, 3, dtype, tune)
    adapter = "default" if isinstance(tune, Lora) else None
    load, policies = workload(arch, tune, dtype), (policy,) * 3
    short, long, more = (
        kept_bytes(decoder, tokens, adapter, rows, policies) for tokens, rows in ((32, 1), (96, 1), (96, 33))
    )
    of_tokens, of_rows = moments.last_layer_bytes(arch.spec, load, 2, policy)
    tables = 2 * arch.spec.layers[0].mixer.head_dim * dtype.itemsize if policy != "drop_layer" else 0
    ids = 8 if isinstance(tune, Full) else 0  # for a trained embedding
    assert long - short == 64 * (2 * moments.layer_bytes(arch.spec, load, 0, policy) + of_tokens + tables + ids)
    # Per scored row besides: its number in the last layer, unless that is run again, and among its rows; the final
    # norm's input and reciprocal RMS; the gradient that the head has formed.
    numbers = 8 if policy == "drop_layer" else 16
    assert more - long == 32 * (of_rows + numbers + 2 * arch.spec.d * dtype.itemsize + 4)


@pytest.mark.parametrize("policy", ["keep", "drop_mlp", "drop_layer"])
def test_every_layer_keeps_by_its_own_policy(tiny_model, policy):
    tune, dtype = Lora(rank=4), torch.bfloat16
    arch, decoder = build(tiny_model, "qwen3", 3, dtype, tune)
    load = workload(arch, tune, dtype)
    policies = ("drop_layer", policy, "keep")
    grown = kept_bytes(decoder, 96, "default", 1, policies) - kept_bytes(decoder, 32, "default", 1, policies)
    lower = sum(moments.layer_bytes(arch.spec, load, index, policies[index]) for index in (0, 1))
    of_tokens, _ = moments.last_layer_bytes(arch.spec, load, 2, "keep")
    assert grown == 64 * (lower + of_tokens + 2 * arch.spec.layers[0].mixer.head_dim * 2)


def test_frozen_layers_below_keep_nothing(tiny_model):
    tune = Lora(rank=4, layers=(1, 2))
    arch, decoder = build(tiny_model, "llama", 3, torch.float32, tune)
    assert count.first_trained_layer(arch, tune) == 1
    load = workload(arch, tune, torch.float32)
    for policy in ("keep", "drop_layer"):
        policies = (policy, policy, "keep")
        grown = kept_bytes(decoder, 96, "default", 1, policies) - kept_bytes(decoder, 32, "default", 1, policies)
        of_tokens, _ = moments.last_layer_bytes(arch.spec, load, 2, "keep")
        assert grown == 64 * (moments.layer_bytes(arch.spec, load, 1, policy) + of_tokens + 2 * 8 * 4)


class Live(TorchDispatchMode):
    """The most bytes of tensors that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and (key := tensor.untyped_storage()._cdata) not in self._sizes:
                self._sizes[key] = tensor.untyped_storage().nbytes()
                self._now += self._sizes[key]
                self.peak = max(self.peak, self._now)
                weakref.finalize(tensor.untyped_storage(), self._freed, key)
        return made

    def _freed(self, key: int) -> None:
        self._now -= self._sizes.pop(key)


def peak_bytes(decoder, tokens: int, policies) -> int:
    """Of a forward and backward pass over one row whose every token is learnt."""
    row = Rendered(0, np.zeros(tokens + 1, np.int32), np.ones(tokens + 1, np.float32))
    (batch,) = pack.microbatches([row], 10**6)
    coefficients = torch.from_numpy(-batch.weights["nll"])
    with Live() as live:
        scores = decoder(batch, Want("linear", coefficients=coefficients), adapter="default", policies=policies)
        assert scores.total is not None
        scores.total.backward()
        del scores
    decoder.zero_grad()
    return live.peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_peak_moves_with_the_policy_as_planned(family, dtype, monkeypatch):
    """Per token, to 8 bytes (row numbers). What the head holds besides is the same under every policy; its vocabulary
    is so small that the peak is in the layers, and the MLP so wide, as in real models, that it is there."""
    monkeypatch.setitem(tiny_models.TINY, "intermediate_size", 96)
    monkeypatch.setattr("luthier.kernels.tiled.TILE_BYTES", 2**15)  # of that size whatever the number of tokens
    decoder = test_decoder.decoder_of(tiny_models.build(family).to(dtype), family, dtype)
    tune = Lora(rank=4)
    adapters.attach(decoder, decoder.arch, tune, name="default", seed=0)
    load = workload(decoder.arch, tune, dtype)
    stacks = [("keep",) * 3, ("drop_mlp",) * 3, ("drop_layer",) * 3, ("drop_layer", "drop_mlp", "keep")]
    measured, planned = [], []
    for stack in stacks:
        peak_bytes(decoder, 192, stack)  # numbers of tokens that need no filler
        measured.append((peak_bytes(decoder, 384, stack) - peak_bytes(decoder, 192, stack)) / 192)
        planned.append(moments.token_bytes(decoder.spec, load, stack))
    for stack, real, said in zip(stacks, measured, planned, strict=True):
        assert abs((measured[0] - real) - (planned[0] - said)) <= 8, stack


@pytest.mark.parametrize(("dtype", "copied"), [(torch.float32, False), (torch.bfloat16, True)])
def test_trained_weights_are_kept_as_copies_in_the_compute_dtype(tiny_model, dtype, copied):
    _, decoder = build(tiny_model, "llama", 2, dtype, Full())
    own = {parameter.untyped_storage().data_ptr() for parameter in decoder.parameters()}
    held, _ = held_memory(decoder, 5, None)
    shapes = {tuple(each.shape) for pointer, each in held.items() if pointer not in own}
    assert {tuple(unit.weight.shape) in shapes for unit in decoder.units.values()} == {copied}
