"""What only a CUDA device can show: `bench/gpu.sh` runs these where one is at hand, everywhere else they are skipped.

The oracle is the same as on the CPU: transformers' models on the CPU in float32.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_peak
import test_planner
import test_quantised
import tiny_models
import torch
from test_decoder import (
    ALL_LINEAR,
    FAMILY_CASES,
    STACKS,
    add_adapter,
    assert_same,
    decoder_of,
    documents,
    everything,
    flat,
    full_form,
    gradients,
    reference_nll,
    shared_prompt,
    sparse,
)
from test_kernels_attention import CASES as SEGMENTS
from test_kernels_attention import segments_of
from tiny_models import BOUND, CASES, build, config_of, difference, logits_of
from torch import Tensor
from triton_parity import CASES as CHAINS
from triton_parity import compare

import luthier
from luthier import moments, planner
from luthier.arch.families import FAMILIES
from luthier.arch.quantised import quantised
from luthier.batch import Batch
from luthier.config.schema import ON_DEVICE, Lora, OptimSection, Qlora
from luthier.engine import backend, loop, optim, paged
from luthier.engine.checkpoint import TrainState
from luthier.engine.ranks import Ranks
from luthier.errors import Interrupted
from luthier.kernels import divergence, flash, reference, select
from luthier.kernels.attention import Attend, Layout
from luthier.models import weights
from luthier.models.decoder import Decoder, DropoutKey, Want

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


@pytest.fixture(autouse=True)
def _deterministic():
    """As `Backend.apply` leaves a training process; undone afterwards."""
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    backend.choose(DEVICE, "float32").apply()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.set_num_threads(before[1])


def cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.cpu() for key, tensor in tensors.items()}


def nll(decoder: Decoder, batch: Batch, **options: Any) -> Tensor:
    coefficients = -torch.from_numpy(batch.weights["nll"]).to(decoder.device)
    total = decoder(batch, Want("linear", coefficients), **options).total
    assert total is not None
    return total


@pytest.mark.parametrize("name", CASES)
def test_loss_and_every_gradient_equal_transformers(name: str) -> None:
    model = build(name)
    decoder = decoder_of(model, name, trains=everything).to(DEVICE)
    docs = documents()
    theirs = reference_nll(model, docs)
    theirs.backward()
    ours = nll(decoder, flat(docs))
    ours.backward()
    assert difference(ours.detach().cpu(), theirs.detach()) <= BOUND
    expected = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert_same(cpu(gradients(decoder)), expected)


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_adapters_and_dropout_equal_the_cpu_s(name: str) -> None:
    """Dropout is drawn from a hash of seed, step, site and token, so both devices leave out the same features."""
    results = []
    for device in ("cpu", DEVICE):
        decoder = decoder_of(build(name), name)
        add_adapter(decoder, ranks=ALL_LINEAR, dropout=0.3)
        decoder.to(device)
        loss = nll(decoder, flat(documents()), adapter="a.b", dropout=DropoutKey(11, 4))
        loss.backward()
        results.append(cpu({"loss": loss.detach(), **gradients(decoder)}))
    assert_same(results[1], results[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_step_gives_the_same_bits(dtype: torch.dtype) -> None:
    decoder = decoder_of(build("qwen3").to(dtype), "qwen3", dtype, everything).to(DEVICE)
    results = []
    for _ in range(3):
        nll(decoder, flat(documents([40, 200, 7, 200, 65]))).backward()
        results.append(gradients(decoder))
    for other in results[1:]:
        assert all(torch.equal(other[key], results[0][key]) for key in results[0])


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_packing_and_splitting_change_nothing(name: str) -> None:
    decoder = decoder_of(build(name), name, trains=everything).to(DEVICE)
    docs = documents([3, 9, 17, 4, 17, 8, 5, 12, 9, 2, 17, 6, 11, 7, 4, 10])
    results = []
    for split in ([range(16)], np.split(np.arange(16), 4), np.split(np.arange(16), 16)):
        for part in split:
            nll(decoder, flat([docs[index] for index in part])).backward()
        results.append(gradients(decoder))
    for other in results[1:]:
        assert_same(other, results[0])


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_a_shared_prompt_equals_its_duplicates(name: str) -> None:
    decoder = decoder_of(build(name), name, trains=everything).to(DEVICE)
    random = np.random.default_rng(3)
    batch, docs = shared_prompt(random.integers(0, 48, 11), [random.integers(0, 48, n) for n in (6, 9, 1, 6)])
    results = []
    for each in (batch, flat(docs)):
        nll(decoder, each).backward()
        results.append(gradients(decoder))
    assert_same(*results)


@pytest.mark.parametrize("case", CHAINS)
def test_triton_kernels_equal_the_plain_chains(case: str) -> None:
    """The cases that `test_kernels_triton.py` runs through the interpreter, compiled."""
    chosen = select.choose(DEVICE, torch.bfloat16).to_json()
    assert chosen["blocks"]["implementation"] == "triton", chosen
    compared = compare(case, DEVICE)
    assert compared and [each for each in compared if not each.error <= each.bound] == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [None, 1, 2, 5, 64])
@pytest.mark.parametrize("name", SEGMENTS)
def test_flash_attention_equals_masked_softmax(name: str, window: int | None, dtype: torch.dtype) -> None:
    """Grouped heads, shared prompts, windows, all rows and every second: packed equals unpacked, forward and backward.
    Bound: a few roundings of half precision."""
    layout = Layout.of(segments_of(SEGMENTS[name]))
    count = int(layout.end[-1])
    seen = reference.seen(layout.start.tolist(), layout.end.tolist(), layout.parent.tolist(), window).to(DEVICE)
    torch.manual_seed(0)
    q, k, v = (torch.randn(count, heads, 16, device=DEVICE).to(dtype).requires_grad_() for heads in (4, 2, 2))
    assert select.attention("cuda", dtype, select.Heads(16))[0] == "flash", flash.refusal(dtype, 16)
    wide = [x.detach().float().requires_grad_() for x in (q, k, v)]
    expected = reference.attention(*wide, seen, scale=0.3).flatten(1)
    for rows in (None, np.arange(count % 2, count, 2)):
        chosen = None if rows is None or not len(rows) else torch.from_numpy(rows).to(DEVICE)
        asked = q if chosen is None else q[chosen]
        ours = torch.cat(Attend(layout, None if chosen is None else rows)(asked, k, v, window, 0.3, chosen))
        theirs = expected if chosen is None else expected[chosen]
        dy = torch.randn_like(theirs).to(dtype)
        made = [ours.detach(), *torch.autograd.grad(ours, (q, k, v), dy)]
        true = [theirs.detach(), *torch.autograd.grad(theirs, wide, dy.float(), retain_graph=True)]
        for one, other in zip(made, true, strict=True):
            assert float((one.float() - other).abs().max()) <= 0.02 * float(other.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FAMILY_CASES)
def test_no_bit_depends_on_what_layers_keep(name: str, dtype: torch.dtype) -> None:
    decoder = decoder_of(build(name).to(dtype), name, dtype, everything).to(DEVICE)
    results = []
    for policies in ((), *STACKS):
        loss = nll(decoder, flat(documents([40, 200, 7, 200, 65])), policies=policies)
        loss.backward()
        results.append({"loss": loss.detach(), **gradients(decoder)})
    for policies, other in zip(STACKS, results[1:], strict=True):
        assert [key for key in other if not torch.equal(other[key], results[0][key])] == [], policies


@pytest.mark.parametrize(
    ("tune", "kept", "stack"),
    [
        *itertools.product(("lora", "full"), ("float32", "bfloat16"), ("keep", "drop_mlp", "mixed")),
        *(("lora", "bfloat16", stack) for stack in ("drop_layer", "offload", "offload_input")),
        ("lora dropout", "bfloat16", "keep"),
        ("lora on top", "bfloat16", "keep"),
        ("lora and embedding", "bfloat16", "keep"),
        ("freeze", "bfloat16", "keep"),
        ("full", "compact", "keep"),
        ("full", "in backward", "drop_layer"),
    ],
)
def test_the_allocator_s_peak_is_as_planned(tune: str, kept: str, stack: str) -> None:
    """Half the tokens carry loss; wide enough that the allocator's blocks do not count."""
    dtype, settings = test_peak.KEPT[kept]
    stacks = {**test_peak.STACKS, **{each: (each, each, ON_DEVICE[each]) for each in ON_DEVICE}}
    run = test_peak.Run(
        test_peak.architecture(True, times=8), test_peak.TUNES[tune], settings, dtype, stacks[stack], "sft", DEVICE
    )
    planned, measured = run.planned(150), run.peak(150)
    assert abs(planned / measured - 1) < 0.05, (planned, measured)


@pytest.mark.parametrize("policy", ["keep", "drop_mlp", "drop_layer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_layers_keep_what_is_planned(tiny_model, family: str, dtype: torch.dtype, policy: str) -> None:
    """The log-sums of attention's kernels among it; per token, so that weights and lists of segments do not count."""
    tune = Lora(rank=4)
    arch, decoder = test_planner.build(tiny_model, family, 3, dtype, tune, DEVICE)
    load, policies = test_planner.workload(arch, tune, dtype, DEVICE), (policy,) * 3
    short, long = (test_planner.kept_bytes(decoder, tokens, "default", 1, policies) for tokens in (128, 640))
    of_tokens, _ = moments.last_layer_bytes(arch.spec, load, 2, policy)
    tables = 2 * arch.spec.layers[0].mixer.head_dim * dtype.itemsize if policy != "drop_layer" else 0
    planned = 2 * moments.layer_bytes(arch.spec, load, 0, policy) + of_tokens + tables
    assert (long - short) / 512 == pytest.approx(planned, rel=0.01)


def test_offloaded_layers_leave_the_device() -> None:
    """Peaks of the allocator, by policy: 24 layers that differ from the tiny ones in number and width."""
    fields = {**config_of("llama"), "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 24}
    decoder = weights.random(FAMILIES["llama"](fields, "config.json"), 0, dtype=torch.bfloat16, device=DEVICE)
    add_adapter(decoder, ranks=ALL_LINEAR)
    decoder.to(DEVICE)
    batch, peaks = flat(documents([4096])), {}
    for policy in ("keep", "drop_mlp", "drop_layer", "offload", "offload_input"):
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            nll(decoder, batch, adapter="a.b", policies=planner.uniform(decoder.spec, policy)).backward()
            decoder.zero_grad(set_to_none=True)
            peaks[policy] = torch.cuda.max_memory_allocated() - before
    print(peaks)
    assert peaks["drop_layer"] < peaks["drop_mlp"] < peaks["keep"] and peaks["offload"] < peaks["drop_mlp"]
    assert peaks["offload_input"] < peaks["drop_layer"] - 20 * 2 * 4096 * 256, "of 24 inputs two are there at once"


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_a_last_layer_of_scored_rows_equals_a_whole_one(name: str) -> None:
    decoder = decoder_of(build(name), name, trains=everything).to(DEVICE)
    docs = sparse(documents([300, 9, 700, 9, 30]))
    results = []
    for device in (DEVICE, "cpu"):
        decoder.to(device)
        loss = nll(decoder, flat(docs)) if device == DEVICE else full_form(decoder, flat(docs))
        loss.backward()
        results.append(cpu({"loss": loss.detach(), **gradients(decoder)}))
    assert_same(*results)


def test_the_head_modes_agree() -> None:
    decoder = decoder_of(build("llama"), "llama", trains=lambda key: "lm_head" not in key).to(DEVICE)
    batch = flat(documents())
    weights = torch.linspace(-1, 1, len(batch.rows), device=DEVICE)
    results = []
    for mode in ("linear", "recompute", "unit"):
        scores = decoder(batch, Want(mode, weights if mode == "linear" else None))
        loss = scores.total if mode == "linear" else (weights * scores.logp).sum()
        loss.backward()
        results.append(gradients(decoder))
    for other in results[1:]:
        assert_same(other, results[0])


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_cached_generation_equals_the_cpu_s(name: str) -> None:
    decoder = decoder_of(build(name), name)
    expected = logits_of(decoder)
    assert difference(logits_of(decoder.to(DEVICE)).cpu(), expected) <= BOUND


def recipe_of(model: Any, rows: Any, runs: Any, dtype: str) -> dict[str, Any]:
    return {
        "model": {"path": str(model), "dtype": dtype},
        "data": {"train": str(rows), "validation": 0.1, "max_tokens": 128},
        "tune": {"kind": "lora", "rank": 4, "dropout": 0.05},
        "optim": {"lr": 5e-3, "steps": 30, "batch": 4},
        "run": {"name": "straight", "device": "cuda", "dir": str(runs), "save_every": 10},
    }


@pytest.fixture
def rows(write_rows):
    made = [{"instruction": f"Count to {i}", "output": " ".join(map(str, range(i % 9 + 1)))} for i in range(60)]
    return write_rows("rows.jsonl", made)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_whole_run_learns_resumes_to_the_same_bits_and_passes_its_checks(dtype, tiny_model, rows, runs_dir):
    recipe = recipe_of(tiny_model("qwen2"), rows, runs_dir, dtype)
    straight = luthier.train(recipe)
    losses = [event.data["loss"] for event in straight.events if event.kind == "step"]
    assert losses[-1] < losses[0]
    assert not [check for check in straight.receipt.checks if check.status == "fail"]
    assert isinstance(straight.chat("Count to 3", max_tokens=8), str)

    recipe["run"]["name"] = "stopped"

    def stop(event: Any) -> None:
        if event.kind == "step" and event.step == 14:
            luthier.Run(runs_dir / "stopped").folder.request_stop()

    with pytest.raises(Interrupted):
        luthier.train(recipe, on_event=stop)
    resumed = luthier.train(recipe)
    for file in ("trainable.safetensors", "optim.safetensors"):
        one, other = ((run.path / "checkpoints" / "step-30" / file).read_bytes() for run in (straight, resumed))
        assert one == other, file
    plan = json.loads((straight.path / "plan.json").read_text())
    print(dtype, "planned", plan["memory"]["peak_bytes"], "measured", losses[0], "->", losses[-1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_host_waits_for_nothing_between_steps_that_are_logged(dtype, tiny_model, rows, runs_dir, monkeypatch):
    """torch raises where a step waits for the device; the first ones compile and fill caches."""
    take = loop._train_step

    def strict(job: Any, step: Any, state: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error" if step.index >= 3 else "default")
        try:
            return take(job, step, state)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop, "_train_step", strict)
    recipe = recipe_of(tiny_model("qwen2"), rows, runs_dir, dtype)
    recipe["run"]["log_every"] = 10
    run = luthier.train(recipe)
    assert [event.step for event in run.events if event.kind == "step"] == [10, 20, 30]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_frozen_layers_make_is_kept_with_the_same_bits(dtype, tiny_model, rows, runs_dir, monkeypatch, tmp_path):
    """Cold, warm, and within rounding of the run that computes everything each time."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    recipe = recipe_of(tiny_model("qwen2", num_hidden_layers=4), rows, runs_dir, dtype)
    recipe["tune"] = {"kind": "lora", "rank": 4, "layers": [2, 3]}
    losses = []
    for name in ("cold", "warm", "off"):
        if name == "off":
            monkeypatch.setenv("LUTHIER_CACHE_GB", "0")
        recipe["run"]["name"] = name
        run = luthier.train(recipe)
        assert run.folder.read_json("plan.json").get("bottom_layers", 0) == (0 if name == "off" else 2)
        losses.append([event.data["loss"] for event in run.events if event.kind == "step"])
    assert losses[0] == losses[1]
    assert losses[0] == pytest.approx(losses[2], rel=1e-4 if dtype == "float32" else 2e-2)


def test_a_spoilt_step_is_left_out_on_the_device(tiny_model, rows, runs_dir, monkeypatch):
    """Step 13 is not finite: it is named where step 20 is logged, and no weight of the run is spoilt."""
    objective = loop._objective
    monkeypatch.setattr(
        loop, "_objective", lambda *given: objective(*given) * (float("nan") if given[1].index == 12 else 1)
    )
    recipe = recipe_of(tiny_model("qwen2"), rows, runs_dir, "float32")
    recipe["run"].update(log_every=10, save_every=30)
    recipe["data"].pop("validation")
    run = luthier.train(recipe)
    assert [event.step for event in run.events if event.kind == "fault"] == [13]
    assert all(np.isfinite(event.data["loss"]) for event in run.events if event.kind == "step")


def test_an_fp16_overflow_halves_the_scale_and_does_the_step_again(tiny_model, rows, runs_dir):
    """A scale no fp16 gradient can bear at first: it comes down until the step goes through, and no step is lost."""
    run = luthier.train(recipe_of(tiny_model("qwen2"), rows, runs_dir, "float16"))
    scales = [event.data["loss_scale"] for event in run.events if event.kind == "step"]
    assert len(scales) == 30 and not [event for event in run.events if event.kind == "fault"]
    assert all(0 < scale <= TrainState().loss_scale for scale in scales)


QUANTISED = [Qlora(rank=4), Qlora(rank=4, base="int8")]


@pytest.mark.parametrize("tune", QUANTISED, ids=lambda tune: tune.base)
def test_a_quantised_base_equals_the_cpu_s_and_bitsandbytes_own(tune: Qlora, tmp_path: Path, monkeypatch) -> None:
    """Codes are equal but where a weight lies between two; on the same codes float32 agrees to the bound, and in
    bfloat16 what their modules make of the same base is as near as two orders of summation are."""
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(tiny_models, "TINY", {**tiny_models.TINY, **test_quantised.WIDE})
    tiny_models.save("llama", tmp_path / "base")
    here, there = (test_quantised.load(tmp_path / "base", tune, device=device) for device in (DEVICE, "cpu"))
    for (name, one), (_, other) in zip(here.named_buffers(), there.named_buffers(), strict=True):
        assert float((one.cpu() != other).float().mean()) < 0.01, name
    for name, unit in here.units.items():
        for key, buffer in unit.frozen.named_buffers():
            getattr(there.units[name].frozen, key).copy_(buffer.cpu())
    batch = flat(documents())
    losses = [nll(decoder, batch, adapter="default") for decoder in (here, there)]
    for loss in losses:
        loss.backward()
    assert difference(losses[0].detach().cpu(), losses[1].detach()) <= BOUND
    assert_same(cpu(gradients(here)), gradients(there))
    half = test_quantised.load(tmp_path / "base", tune, device=DEVICE, dtype=torch.bfloat16)
    test_quantised.adapters.save_adapter(half, tmp_path / "adapter", tune, "base")
    model = test_quantised.theirs_of(tmp_path / "base", tune, torch.bfloat16, DEVICE).to(DEVICE)
    theirs = test_quantised.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    tokens = torch.tensor([tiny_models.TOKENS], device=DEVICE)
    expected = theirs(input_ids=tokens, use_cache=False).logits[0].float()
    assert difference(logits_of(half, "default"), expected) <= 0.05


@pytest.mark.parametrize("tune", QUANTISED, ids=lambda tune: tune.base)
def test_a_quantised_base_takes_the_memory_that_is_planned_and_dense_layers_change_no_bit(
    tune: Qlora, tmp_path: Path
) -> None:
    """One layer's worth of large matrices, bfloat16: the peak of loading and of a step stays below the dense base."""
    pytest.importorskip("bitsandbytes")
    shape = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 4}
    config = test_quantised.AutoConfig.for_model(**{**config_of("llama"), **shape})
    test_quantised.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    decoder = test_quantised.load(tmp_path / "base", tune, device=DEVICE, dtype=torch.bfloat16)
    kept, batch = quantised(decoder.arch, tune), flat(documents())
    results = []
    for dense in (decoder, test_quantised.load(tmp_path / "base", tune, 2, device=DEVICE, dtype=torch.bfloat16)):
        loss = nll(dense, batch, adapter="default")
        loss.backward()
        results.append({"loss": loss.detach(), **gradients(dense)})
        if dense is decoder:
            peak = torch.cuda.max_memory_allocated() - before
            print(tune.base, "held", kept.total, "peak", peak, "dense", 2 * kept.parameters)
            assert kept.total < peak < 2 * kept.parameters
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


@pytest.mark.parametrize("activations", ["auto", "keep"])
def test_memory_that_runs_out_on_the_device_is_mended_before_the_first_step(activations, tiny_model, rows, runs_dir):
    """torch's allocator is given less than the plan takes: layers keep less, or micro-batches are split."""
    model = tiny_model("llama", hidden_size=512, intermediate_size=2048, num_hidden_layers=8)
    recipe = recipe_of(model, rows, runs_dir, "float32")
    recipe["optim"] |= {"batch": 48, "steps": 3, "activations": activations}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    luthier.train(recipe)
    taken = torch.cuda.max_memory_allocated() - start
    torch.cuda.empty_cache()
    most = torch.cuda.memory_reserved() + taken * 3 // 4
    recipe["run"]["name"] = "short"
    torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(0).total_memory)
    try:
        run = luthier.train(recipe)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    revised = [event.data for event in run.events if event.kind == "revised"]
    assert revised and all(each["reason"] == "memory" for each in revised)
    field = "plan.activations" if activations == "auto" else "plan.budget_tokens"
    assert revised[0]["changes"][0][0] == field
    found = luthier.reproduce(run.path)
    assert found["same"] and not found["revised"]


@pytest.mark.parametrize("states", ["float32", "bfloat16", "8bit"])
@pytest.mark.parametrize("weights", ["float32", "bfloat16_stochastic", "bfloat16_kahan"])
def test_the_optimizer_step_equals_the_cpu_s(weights: str, states: str) -> None:
    """AdamW and clipping over two steps on both devices, from the same gradients; random bits are the same too."""
    results = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        dtype = torch.float32 if weights == "float32" else torch.bfloat16
        weight = torch.nn.Parameter(torch.randn(64, 32).to(dtype).to(device))
        weight.grad_dtype = torch.float32
        made = optim.build([("w", weight)], OptimSection(weights=weights, states=states), 1e-2)
        for step in range(2):
            weight.grad = torch.linspace(-1, 1, weight.numel(), device=device).view_as(weight) * (step + 1)
            optim.clip([weight], 1.0)
            made.step()
        results.append(weight.detach().cpu().float())
    if weights == "float32":
        assert_same({"w": results[1]}, {"w": results[0]})
    else:  # float32 differs in its last bit, which now and then decides how a weight is rounded
        different = results[1] != results[0]
        assert float(different.float().mean()) < 0.01
        assert float((results[1] - results[0]).abs().max()) <= 2**-6


@pytest.mark.parametrize("states", ["float32", "bfloat16", "8bit"])
@pytest.mark.parametrize("page_bytes", [1, 2**20], ids=("a parameter each", "some"))
def test_a_paged_optimizer_gives_the_bits_of_another_and_leaves_the_device(
    states: str, page_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paged, "PAGE_BYTES", page_bytes)
    results, held = [], []
    for how in (False, True):
        torch.manual_seed(0)
        named = [(str(each), torch.nn.Parameter(torch.randn(300, 1000, device=DEVICE))) for each in range(8)]
        made = optim.build(named, OptimSection(states=states, paged=how), 1e-2)
        before = torch.cuda.memory_allocated()
        optim.allocate(made)
        for step in range(5):
            for place, (_, weight) in enumerate(named):
                weight.grad = torch.linspace(-1, 1, weight.numel(), device=DEVICE).view_as(weight) * (step + place - 3)
            made.step()
        made.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        held.append(torch.cuda.memory_allocated() - before)
        results.append({name: each.clone() for name, each in optim.state_tensors(made, named).items()})
        results[-1].update({name: each.detach() for name, each in named})
    plain, ours = ({name: each.cpu() for name, each in result.items()} for result in results)
    assert plain.keys() == ours.keys() and all(torch.equal(plain[name], ours[name]) for name in plain)
    assert held[1] < 2**16 < held[0], "step counters alone stay"


def test_a_group_of_one_over_nccl_changes_nothing(monkeypatch):
    """What several GPUs do, on the one there is: connect, add gradients on the device, agree on the host."""
    for name, value in zip(backend.PLACE, ("0", "1", "0", "1", "127.0.0.1", "0"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(backend, "placed", lambda: backend.Place(0, 1, 0, 1))
    group = backend.Group(DEVICE)
    alone = Ranks(group)
    parameters = [torch.nn.Parameter(torch.ones(n, device=DEVICE)) for n in (3, 5, 7)]
    for parameter in parameters[:2]:
        parameter.grad = torch.rand_like(parameter)
    before = [parameter.grad.clone() for parameter in parameters[:2]]
    alone.sum_gradients(parameters)
    assert all(torch.equal(p.grad, g) for p, g in zip(parameters, before, strict=False)) and parameters[2].grad is None
    assert alone.total(torch.tensor(2.5, device=DEVICE)).item() == 2.5
    assert (alone.agreed(0.1, 2.0), alone.orders(15, False), alone.told("x"), alone.gather(1)) == (
        (0.1, 2.0),
        (15, False),
        "x",
        [1],
    )
    alone.wait()
    group.leave()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_make_the_run_of_one(tiny_model, rows, runs_dir):
    losses = []
    for devices in (1, 2):
        recipe = recipe_of(tiny_model("qwen2"), rows, runs_dir, "float32")
        recipe["run"] |= {"name": f"by-{devices}", "devices": devices}
        recipe["optim"] |= {"kind": "sgd", "lr": 0.05}
        run = luthier.train(recipe)
        losses.append([event.data["loss"] for event in run.events if event.kind == "step"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("k", [None, 8])
def test_the_divergence_from_a_teacher_equals_the_cpu_s(reverse: bool, k: int | None) -> None:
    draw = torch.Generator().manual_seed(0)
    x, weight, tx, tweight = (
        torch.randn(*shape, generator=draw) for shape in ((33, 16), (500, 16), (33, 24), (500, 24))
    )
    targets, how = torch.randint(0, 500, (33,), generator=draw), divergence.How(reverse, 2.0, 0.5)
    found = []
    for device in ("cpu", DEVICE):
        student = [each.to(device).requires_grad_() for each in (x, weight)]
        teacher: divergence.Whole | divergence.Top = divergence.Whole(tx.to(device), tweight.to(device))
        if k is not None:
            teacher = divergence.most_likely(tx.to(device), tweight.to(device), k, how.temperature, 500)
        made = divergence.distil(*student, targets.to(device), torch.ones(33, device=device), teacher, how)
        found.append([made.total, *torch.autograd.grad(made.total, student)])
    for on_cpu, on_gpu in zip(*found, strict=True):
        assert difference(on_gpu.detach().cpu(), on_cpu.detach()) < BOUND
