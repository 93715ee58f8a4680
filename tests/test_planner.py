"""The plan's bytes: by hand for one small model, and against what a pass really keeps."""

from __future__ import annotations

import ast
import dataclasses
import inspect

import numpy as np
import pytest
import torch

from luthier import planner
from luthier.arch import count, families
from luthier.arch.spec import Attention, DecoderSpec, Layer, Mlp, Rope
from luthier.batch import Rendered
from luthier.config.schema import Full, Lora
from luthier.data import pack
from luthier.kernels import head, rounding
from luthier.models import adapters, weights
from luthier.models.decoder import Want
from luthier.planner import Workload

LAYER = Layer(Attention(heads=4, kv_heads=2, head_dim=8, rope=Rope("default", 1e4, 8)), Mlp(width=48))
SPEC = DecoderSpec("llama", vocab=100, d=32, layers=(LAYER,) * 3, tied=False, norm_eps=1e-6, max_positions=256)
LOAD = Workload(
    trained=planner.Trained((600, 300), vectors=100),
    frozen_parameters=5000,
    first_trained_layer=0,
    compute_bytes=2,
    longest_tokens=64,
)
GIB = 2**30


def plan(free=GIB, device="cpu", asked=None, **load):
    return planner.plan(SPEC, dataclasses.replace(LOAD, **load), free_bytes=free, device=device, asked_tokens=asked)


# --------------------------------------------------------------------------------------------------------- by hand


def test_the_bytes_of_a_layer_by_hand():
    # residual stream twice, q and output of 4 heads of 8, k and v of 2 heads of 8, gate and up of 48; two reciprocal
    # RMS and four log-sum-exps in float32
    assert planner.layer_bytes(LAYER, SPEC, 2) == 2 * (2 * 32 + 2 * 32 + 2 * 16 + 2 * 48) + 4 * (2 + 4)
    normed = dataclasses.replace(LAYER, mixer=dataclasses.replace(LAYER.mixer, qk_norm=True))
    assert planner.layer_bytes(normed, SPEC, 2) == planner.layer_bytes(LAYER, SPEC, 2) + 2 * (32 + 16) + 4 * (4 + 2)


def test_the_bytes_of_a_run_by_hand():
    made = plan(asked=128, inner_features=10)
    per_token = 3 * planner.layer_bytes(LAYER, SPEC, 2) + 2 * (10 + 2 * 8 + 3 * 48 + 3 * 32)
    assert made.bytes_per_token == per_token
    assert (made.weights, made.trainable, made.gradients, made.optimizer) == (10_000, 4000, 4000, 8000)
    assert made.activations == 128 * per_token
    assert made.head == planner.CAP_TOKENS["cpu"] * 100 * 2
    assert made.peak_bytes == 26_000 + 128 * per_token + made.head
    assert made.to_json()["peak_bytes"] == made.peak_bytes and made.to_json()["budget_tokens"] == 128


def test_the_bytes_of_what_trains_by_hand():
    shapes = {
        "model.embed_tokens.weight": (100, 8),
        "model.layers.0.self_attn.q_proj.weight": (8, 8),
        "model.layers.0.self_attn.q_proj.bias": (8,),
        "model.layers.0.mlp.up_proj.weight": (30, 30),
        "model.layers.0.mlp.down_proj.weight": (30, 30),
    }

    def made(in_backward=False, **kept):
        found = planner.trained(shapes, in_backward, **kept)
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
    assert made(in_backward=True) == (every, 4 * 1800, 2 * every), "gate, up and down come out together"
    assert planner.STATE_BLOCK == rounding.BLOCK


def test_layers_below_the_lowest_trained_one_keep_nothing():
    assert plan().bytes_per_token - plan(first_trained_layer=2).bytes_per_token == 2 * planner.layer_bytes(
        LAYER, SPEC, 2
    )


def test_weights_that_train_have_a_copy_in_the_compute_dtype_unless_that_is_their_own():
    assert plan(cast_parameters=1000).weights == plan().weights + 2000
    assert plan(compute_bytes=4, cast_parameters=1000).weights == plan(compute_bytes=4).weights


def test_the_head_works_on_chunks_and_a_trained_one_forms_its_gradient():
    wide = dataclasses.replace(SPEC, vocab=200_000)
    assert planner.head_bytes(wide, LOAD, 10**6, "cpu") == planner.HEAD_CHUNK_BYTES
    assert planner.head_bytes(wide, LOAD, 10**6, "cuda") == 3 * planner.HEAD_CHUNK_BYTES
    assert planner.head_bytes(wide, LOAD, 10, "cpu") == 10 * 200_000 * 2
    trained = dataclasses.replace(LOAD, head_parameters=6400)
    assert planner.head_bytes(wide, trained, 10, "cpu") == 10 * 200_000 * 2 + 2 * 6400 * 4
    assert planner.HEAD_CHUNK_BYTES == head.CHUNK_BYTES


# --------------------------------------------------------------------------------------------------------- budget


def test_the_budget_is_what_the_free_memory_holds():
    fixed = plan().peak_bytes - plan().activations
    per_token = plan().bytes_per_token
    made = plan(free=round((fixed + 1000.5 * per_token) / planner.USABLE))
    assert made.budget_tokens == 1000 and made.fits
    assert made.peak_bytes <= planner.USABLE * made.free_bytes < made.peak_bytes + per_token
    assert plan(free=2 * made.free_bytes).budget_tokens > 1000


@pytest.mark.parametrize(("device", "cap"), [("cpu", 4096), ("cuda", 32768), ("cuda:1", 32768)])
def test_the_budget_has_a_cap(device, cap):
    assert plan(free=1000 * GIB, device=device).budget_tokens == cap


def test_the_longest_row_always_goes_in_whole():
    assert plan(free=1000 * GIB, longest_tokens=5000).budget_tokens == 5000
    assert plan(asked=16).budget_tokens == 64
    starved = plan(free=1_000_000, longest_tokens=3000)
    assert starved.budget_tokens == 3000 and not starved.fits and starved.peak_bytes > starved.free_bytes


def test_a_budget_that_is_asked_for_is_taken():
    assert plan(asked=77).budget_tokens == 77
    assert plan(asked=10_000).budget_tokens == 10_000


def test_it_fits_to_the_byte():
    need = plan(asked=64, free=GIB).peak_bytes
    assert plan(asked=64, free=need).fits and not plan(asked=64, free=need - 1).fits


def test_planning_loads_no_torch():
    names = {
        name
        for node in ast.walk(ast.parse(inspect.getsource(planner)))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    }
    assert names == {"__future__", "collections.abc", "dataclasses", "math", "typing", "luthier.arch.spec"}


# ------------------------------------------------------------------------------------- what a pass really keeps


def held_memory(decoder, tokens: int, adapter: str | None) -> dict[int, torch.Tensor]:
    """Address of each distinct memory that autograd holds at the end of a forward pass over one row of `tokens`
    computed tokens, and a tensor in it. Only the last token is scored, so that the head's share stays the same."""
    rng = np.random.default_rng(0)
    scored = np.zeros(tokens + 1, dtype=np.float32)
    scored[-1] = 1.0
    ids = rng.integers(0, decoder.spec.vocab, tokens + 1).astype(np.int32)
    (batch,) = pack.microbatches([Rendered(0, ids, scored)], 10**6)
    assert batch.num_tokens == tokens
    held: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    coefficients = torch.from_numpy(-batch.weights["nll"])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scores = decoder(batch, Want("linear", coefficients=coefficients), adapter=adapter)
    assert scores.total is not None
    return held


def kept_bytes(decoder, tokens: int, adapter: str | None) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in held_memory(decoder, tokens, adapter).values())


def build(tiny_model, family, layers, dtype, tune):
    arch = families.read(tiny_model(family, num_hidden_layers=layers))
    trained = frozenset() if isinstance(tune, Lora) else count.trained_tensors(arch, tune)
    decoder = weights.random(arch, 0, dtype=dtype, device="cpu", trainable=trained.__contains__)
    if isinstance(tune, Lora):
        adapters.attach(decoder, arch, tune, name="default", seed=0)
    return arch, decoder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tune", [Lora(rank=4), Lora(rank=4, dropout=0.1), Full()])
def test_a_layer_keeps_what_is_planned_to_the_byte(tiny_model, family, dtype, tune):
    """The difference of two lengths leaves out weights; the difference of two depths, everything but one layer."""
    short, long = 32, 96
    per_token = {}
    for layers in (2, 3):
        arch, decoder = build(tiny_model, family, layers, dtype, tune)
        adapter = "default" if isinstance(tune, Lora) else None
        grown = kept_bytes(decoder, long, adapter) - kept_bytes(decoder, short, adapter)
        assert grown % (long - short) == 0
        per_token[layers] = grown // (long - short)
    inner = sum(rank for _, rank, _ in count.select_units(arch, tune)) // 3 if isinstance(tune, Lora) else 0
    planned = planner.layer_bytes(arch.spec.layers[0], arch.spec, dtype.itemsize) + inner * dtype.itemsize
    assert per_token[3] - per_token[2] == planned
    # The rest does not grow with the depth: rotary tables, and for a trained embedding the ids.
    tables = 2 * arch.spec.layers[0].mixer.head_dim * dtype.itemsize
    ids = 8 if isinstance(tune, Full) else 0
    assert per_token[2] == 2 * planned + tables + ids


def test_frozen_layers_below_keep_nothing(tiny_model):
    tune = Lora(rank=4, layers=(2,))
    arch, decoder = build(tiny_model, "llama", 3, torch.float32, tune)
    assert count.first_trained_layer(arch, tune) == 2
    grown = kept_bytes(decoder, 96, "default") - kept_bytes(decoder, 32, "default")
    layer = planner.layer_bytes(arch.spec.layers[2], arch.spec, 4) + 7 * 4 * 4
    assert grown // 64 == layer + 2 * 8 * 4


@pytest.mark.parametrize(("dtype", "copied"), [(torch.float32, False), (torch.bfloat16, True)])
def test_trained_weights_are_kept_as_copies_in_the_compute_dtype(tiny_model, dtype, copied):
    _, decoder = build(tiny_model, "llama", 2, dtype, Full())
    own = {parameter.untyped_storage().data_ptr() for parameter in decoder.parameters()}
    shapes = {tuple(each.shape) for pointer, each in held_memory(decoder, 5, None).items() if pointer not in own}
    assert {tuple(unit.weight.shape) in shapes for unit in decoder.units.values()} == {copied}
