"""Quantised bases: bitsandbytes' own modules under transformers and PEFT are the oracle, and nothing is held dense."""

from __future__ import annotations

import dataclasses
import gc
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import test_decoder
import tiny_models
import torch
from peft import PeftModel
from safetensors.torch import load_file
from test_decoder import assert_same, documents, flat, gradients, nll, reference_nll
from test_planner import SPEC, Live
from tiny_models import BOUND, difference, logits_of, reference_logits
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

import luthier
import luthier.proof
from luthier import holdings, planner
from luthier.arch import adapter_config, families
from luthier.arch.quantised import quantised
from luthier.batch import Batch
from luthier.config.schema import Lora, Policy, Qlora
from luthier.engine import backend
from luthier.errors import ConfigError, Interrupted, ModelError
from luthier.export import agreement, merge
from luthier.export import weights as export_weights
from luthier.models import adapters, quantize, weights
from luthier.models.decoder import Decoder

try:
    import bitsandbytes.functional as functional
except ImportError:
    pytestmark = pytest.mark.skip("bitsandbytes is not installed")

CASES = test_decoder.FAMILY_CASES
WIDE = {"hidden_size": 64, "intermediate_size": 128}
"""Rows of whole blocks: of others bitsandbytes' CPU kernel makes other values than its CUDA kernel."""
KINDS = [Qlora(rank=4), Qlora(rank=4, double_quant=False), Qlora(rank=4, base="int8")]
POLICIES: tuple[Policy, ...] = ("keep", "drop_mlp", "drop_layer")


def name_of(tune: Qlora) -> str:
    return f"{tune.base}{'-double' * (tune.base == 'nf4' and tune.double_quant)}"


@pytest.fixture(params=KINDS, ids=name_of)
def tune(request: pytest.FixtureRequest) -> Qlora:
    return request.param


def load(folder: Path, tune: Qlora, dense: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Decoder:
    """The quantised base with an adapter whose every part matters."""
    arch = families.read(folder)
    decoder = weights.load(folder, arch, dtype=dtype, device=device, quantise=tune, dense_layers=dense)
    adapters.attach(decoder, arch, tune, seed=0)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(device))
    return decoder


def theirs_of(folder: Path, tune: Qlora, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """transformers' model with bitsandbytes' modules; of int8 the same model with the values that the codes stand for,
    because their module rounds activations too."""
    if tune.base == "int8":
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        for unit in families.read(folder).units:
            weight = model.get_parameter(f"{unit.name}.weight")
            codes, scales, _ = functional.int8_vectorwise_quant(weight.data.to(torch.float16))
            weight.data = functional.int8_vectorwise_dequant(codes, scales).to(dtype)
        return model.eval()
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=tune.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=config, device_map=device)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # in evaluation mode it repacks its weight for good
    return model.eval()


# ------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_every_gradient_equal_theirs(
    case: str, tune: Qlora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the adapter that is saved is one for PEFT on the quantised base."""
    base, saved = tmp_path / "base", tmp_path / "adapter"
    monkeypatch.setattr(tiny_models, "TINY", {**tiny_models.TINY, **WIDE})
    if tune.base == "nf4" and "head_dim" in tiny_models.CASES[case]:
        # Four heads of 16: the rows of o_proj are whole blocks too.
        monkeypatch.setitem(tiny_models.CASES, case, {**tiny_models.CASES[case], "head_dim": 16})
    tiny_models.save(case, base)
    decoder = load(base, tune)
    adapters.save_adapter(decoder, saved, tune, str(base))
    theirs = PeftModel.from_pretrained(theirs_of(base, tune), saved, is_trainable=True).eval()
    assert difference(logits_of(decoder, "default"), reference_logits(theirs)) <= BOUND
    docs = documents()
    expected, loss = reference_nll(theirs, docs), nll(decoder, flat(docs), adapter="default")
    assert difference(loss.detach(), expected.detach()) <= BOUND
    expected.backward()
    loss.backward()
    wanted = {key: p.grad for key, p in theirs.named_parameters() if p.requires_grad}
    ours = {
        re.sub(r"(.*)\.deltas\.@default\.([AB])$", r"base_model.model.\1.lora_\2.default.weight", key): gradient
        for key, gradient in gradients(decoder).items()
    }
    assert len(ours) == 2 * len(decoder.units)
    assert_same(ours, wanted)


def test_the_base_differs_from_the_dense_one_by_its_rounding(tune: Qlora, tmp_path: Path) -> None:
    """By hand: int8 is at most half a step of a row's largest weight off, and float16's rounding; nf4 at most half the
    widest gap of its codes (0.152 of a block's largest, between -1 and -0.696), and what the rounding of scales adds.
    """
    tiny_models.save("llama", tmp_path / "base")
    arch = families.read(tmp_path / "base")
    dense = weights.load(tmp_path / "base", arch, dtype=torch.float32)
    decoder = weights.load(tmp_path / "base", arch, dtype=torch.float32, quantise=tune)
    for name, unit in decoder.units.items():
        plain = dense.units[name].weight.detach()
        assert unit.frozen is not None and unit.weight.is_meta
        error = (unit.frozen.dense(torch.float32) - plain).abs()
        largest = plain.abs().amax(1, keepdim=True) if tune.base == "int8" else plain.abs().max()
        share = 0.5 / 127 + 2**-10 if tune.base == "int8" else 0.16
        assert error.max() > 0 and bool((error <= share * largest).all()), name
    assert torch.equal(decoder.get_parameter("lm_head.weight"), dense.get_parameter("lm_head.weight"))
    assert torch.equal(
        decoder.get_parameter("model.embed_tokens.weight"), dense.get_parameter("model.embed_tokens.weight")
    )


def test_codes_are_of_the_files_values_whatever_is_computed_in(tune: Qlora, tmp_path: Path) -> None:
    tiny_models.save("llama", tmp_path / "base")
    arch = families.read(tmp_path / "base")
    one, other = (
        weights.load(tmp_path / "base", arch, dtype=dtype, quantise=tune) for dtype in (torch.float32, torch.bfloat16)
    )
    assert [name for name, _ in one.named_buffers()] == [name for name, _ in other.named_buffers()] != []
    for (name, a), (_, b) in zip(one.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(a, b), name


def test_quantising_in_pieces_changes_no_bit(monkeypatch: pytest.MonkeyPatch, tune: Qlora) -> None:
    weight = torch.randn(300, 192)
    whole = quantize.quantised(weight, tune)
    monkeypatch.setattr(quantize, "PIECE", 64 * 7)
    pieces = quantize.quantised(weight, tune)
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), pieces.buffers(), strict=True))
    assert torch.equal(whole.dense(torch.bfloat16), pieces.dense(torch.bfloat16))
    if tune.base == "nf4":
        assert weight.shape[1] % 64 == 0
        codes, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=tune.double_quant)
        assert torch.equal(whole.dense(torch.float32), functional.dequantize_4bit(codes, state))


@pytest.mark.parametrize("shape", [(32, 32), (33, 50), (48, 96), (10, 70), (64, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_run_on_from_row_to_row(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Against the definition: code of each weight times the scale of its 64. bitsandbytes' CPU kernel has it otherwise
    where a row is no whole number of blocks, though its own quantisation has not."""
    weight = torch.randn(shape)
    frozen = quantize.quantised(weight, Qlora(double_quant=False))
    codes, state = functional.quantize_4bit(weight, quant_type="nf4")
    pairs = torch.stack([codes.flatten() >> 4, codes.flatten() & 15], 1).flatten()[: weight.numel()].long()
    scales = state.absmax.repeat_interleave(64)[: weight.numel()]
    expected = (functional.get_4bit_type("nf4", device="cpu")[pairs] * scales).view(shape)
    assert torch.equal(frozen.dense(dtype), expected.to(dtype))


# ------------------------------------------------------------------------------------------ nothing depends on it


def results(decoder: Decoder, batch: Batch, **options: Any) -> dict[str, torch.Tensor]:
    loss = nll(decoder, batch, adapter="default", **options)
    loss.backward()
    return {"loss": loss.detach(), **gradients(decoder)}


def test_neither_dense_layers_nor_policies_change_a_bit(tune: Qlora, tmp_path: Path) -> None:
    tiny_models.save("qwen3", tmp_path / "base")
    batch = flat(documents())
    expected = results(load(tmp_path / "base", tune), batch)
    for dense in (0, 1, 3):
        decoder = load(tmp_path / "base", tune, dense)
        kept = [unit.layer for unit in decoder.arch.units if decoder.units[unit.name].frozen.kept is not None]
        assert set(kept) == set(range(3 - dense, 3))
        for policy in POLICIES:
            found = results(decoder, batch, policies=(policy,) * 3)
            assert all(torch.equal(found[key], value) for key, value in expected.items()), (dense, policy)


def test_an_evaluation_between_steps_changes_nothing(tune: Qlora, tmp_path: Path) -> None:
    """Where bitsandbytes' own module repacks its weight for good."""
    tiny_models.save("llama", tmp_path / "base")
    decoder, batch = load(tmp_path / "base", tune, dtype=torch.bfloat16), flat(documents())
    before = results(decoder, batch)
    decoder.eval()
    with torch.no_grad():
        nll(decoder, batch, adapter="default")
        logits_of(decoder, "default")
    decoder.train()
    after = results(decoder, batch)
    assert all(torch.equal(before[key], after[key]) for key in before)


# ------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("policy", POLICIES)
def test_one_weight_at_a_time_is_dense(
    tune: Qlora, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while autograd waits between the passes: what it keeps holds no weight."""
    tiny_models.save("llama", tmp_path / "base")
    decoder = load(tmp_path / "base", tune)
    made: list[weakref.ref[torch.UntypedStorage]] = []
    alive: list[int] = []
    kind = quantize.Int8 if tune.base == "int8" else quantize.Nf4
    original = kind._made

    def watched(self: Any, dtype: torch.dtype) -> torch.Tensor:
        dense = original(self, dtype)
        alive.append(sum(ref() is not None for ref in made))
        made.append(weakref.ref(dense))
        return dense

    monkeypatch.setattr(kind, "_made", watched)
    loss = nll(decoder, flat(documents()), adapter="default", policies=(policy,) * 3)
    forward = len(alive)
    assert forward == len(decoder.units)
    assert not any(ref() is not None for ref in made)
    loss.backward()
    again = {"keep": 0, "drop_mlp": 2, "drop_layer": 6}[policy]  # never down, whose output nobody reads again
    # The lowest layer's q, k and v are read once: nothing below them trains.
    assert len(alive) == 2 * forward + 3 * again - 3
    assert not any(alive)


def test_the_dense_model_is_never_there_while_loading(tune: Qlora, tmp_path: Path) -> None:
    """Files of one tensor or a few; at the peak, what is held so far and the work on one weight."""
    config = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**{**tiny_models.config_of("llama"), **config}), dtype=torch.float32
    )
    model.save_pretrained(tmp_path / "base", max_shard_size="600KB")
    del model
    gc.collect()
    arch = families.read(tmp_path / "base")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 6
    with Live() as live:
        decoder = weights.load(tmp_path / "base", arch, dtype=torch.float32, quantise=tune)
    kept = quantised(arch, tune)
    dense = 4 * arch.num_parameters
    held = kept.total + 4 * (arch.num_parameters - kept.parameters)
    assert quantize.held_bytes(decoder) == kept.total
    peak = live.peak - 4 * kept.parameters  # what has a shape and no memory
    assert held < peak < held + 48 * kept.largest < 0.8 * dense


@pytest.mark.parametrize("case", ["llama", "llama_biased", "qwen2_tied", "qwen3", "mistral_window"])
def test_planned_bytes_are_the_bytes_held(case: str, tune: Qlora, tmp_path: Path) -> None:
    tiny_models.save(case, tmp_path / "base")
    arch = families.read(tmp_path / "base")
    decoder = weights.load(tmp_path / "base", arch, dtype=torch.bfloat16, quantise=tune)
    planned = quantised(arch, tune)
    assert quantize.held_bytes(decoder) == planned.total
    for name, size in planned.units.items():
        frozen = decoder.units[name.removesuffix(".weight")].frozen
        assert isinstance(frozen, quantize.Quantised)
        assert sum(buffer.nbytes for buffer in frozen.buffers()) == size
    plain = sum(p.nbytes for p in decoder.parameters() if not p.is_meta)
    assert plain == 2 * (arch.num_parameters - planned.parameters)


def test_bytes_by_hand() -> None:
    """100 x 48 weights: 2400 bytes of codes, 75 blocks of 64, one block of 256 scales and the offset."""
    weight = torch.randn(100, 48)
    sizes = [
        sum(buffer.nbytes for buffer in quantize.quantised(weight, each).buffers())
        for each in (Qlora(), Qlora(double_quant=False), Qlora(base="int8"))
    ]
    assert sizes == [2400 + 75 + 4 + 4, 2400 + 75 * 4, 4800 + 100 * 4]


def test_spare_memory_keeps_layers_dense_from_the_top() -> None:
    assert planner.dense_layers((10, 20, 30), 29) == 0
    assert planner.dense_layers((10, 20, 30), 30) == 1
    assert planner.dense_layers((10, 20, 30), 59) == 2
    assert planner.dense_layers((10, 20, 30), 60) == 3
    assert planner.dense_layers((10, 20, 30), 1000, most=1) == 1
    assert planner.dense_layers((), 1000) == 0


# ------------------------------------------------------------------------------------------------------- refusals


def test_values_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    model = tiny_models.build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = 1e5
    model.save_pretrained(tmp_path / "base")
    arch = families.read(tmp_path / "base")
    for tune, dtype in ((Qlora(), torch.float16), (Qlora(base="int8"), torch.float32)):
        with pytest.raises(ModelError) as error:
            weights.load(tmp_path / "base", arch, dtype=dtype, quantise=tune)
        (problem,) = error.value.problems
        assert problem.id == "models.overflow" and problem.values["names"] == "model.layers.1.mlp.up_proj.weight"
    weights.load(tmp_path / "base", arch, dtype=torch.bfloat16, quantise=Qlora())


def test_without_bitsandbytes_the_message_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        quantize.require()


def test_further_training_keeps_the_quantised_base(tmp_path: Path) -> None:
    tiny_models.save("llama", tmp_path / "base")
    first = Qlora(rank=3, targets=("q_proj",))
    arch = families.read(tmp_path / "base")
    decoder = weights.load(tmp_path / "base", arch, dtype=torch.float32)
    adapters.attach(decoder, arch, first)
    adapters.save_adapter(decoder, tmp_path / "adapter", first, "base")
    asked = Qlora.model_validate({"from": str(tmp_path / "adapter"), "base": "int8", "dropout": 0.2})
    settled = adapter_config.settle(asked, arch)
    assert isinstance(settled, Qlora) and isinstance(settled, Lora)
    assert (settled.base, settled.rank, settled.targets, settled.dropout) == ("int8", 3, ("q_proj",), 0.2)


def test_a_plan_of_a_quantised_base() -> None:
    load = holdings.Workload(
        trained=holdings.Trained((1000,)),
        frozen_parameters=100,
        first_trained_layer=0,
        compute_bytes=2,
        tokens=holdings.Tokens(64),
        quantised_bytes=777,
        dense_bytes=50,
        layer_dense_bytes=(4000, 4000, 4000),
    )
    roomy = planner.plan(SPEC, load, free_bytes=2**30, device="cpu", asked_tokens=64)
    assert (roomy.weights, roomy.dense, roomy.dense_layers) == (200 + 777, 12000, 3)
    bare = dataclasses.replace(load, layer_dense_bytes=())
    without = planner.plan(SPEC, bare, free_bytes=2**30, device="cpu", asked_tokens=64)
    assert roomy.peak_bytes == without.peak_bytes + 12000 and without.dense_layers == 0
    assert "dense_layers" not in roomy.to_json() and roomy.to_json()["dense"] == 12000
    tight = int((without.peak_bytes + 8000) / planner.USABLE) + 1
    assert planner.plan(SPEC, load, free_bytes=tight, device="cpu", asked_tokens=64).dense_layers == 2
    slim = planner.plan(SPEC, dataclasses.replace(load, dense_bytes=0), free_bytes=2**30, device="cpu", asked_tokens=64)
    assert roomy.peak_bytes == slim.peak_bytes + 50


# ------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture
def recipe(tiny_model: Any, write_rows: Any, runs_dir: Path, tune: Qlora) -> dict[str, Any]:
    """Ten steps in float32 on a base whose rows are whole blocks."""
    words = ["amber", "birch", "cedar", "delta", "ember", "flint", "grove"]
    rows = [{"instruction": f"Say {words[i % 7]} {i}", "output": " ".join(words[: 1 + i % 7])} for i in range(40)]
    quantisation = {"base": tune.base} | ({"double_quant": tune.double_quant} if tune.base == "nf4" else {})
    return {
        "model": {"path": str(tiny_model("llama", **WIDE)), "dtype": "float32"},
        "data": {"train": str(write_rows("rows.json", rows)), "max_tokens": 256},
        "tune": {"kind": "qlora", "rank": 4, "dropout": 0.1, **quantisation},
        "optim": {"lr": 1e-2, "epochs": 1, "batch": 4},
        "run": {"name": "first", "device": "cpu", "dir": str(runs_dir), "save_every": 2},
    }


def final_state(run: luthier.Run) -> dict[str, torch.Tensor]:
    folder = max((run.path / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    return {**load_file(folder / "trainable.safetensors"), **load_file(folder / "optim.safetensors")}


def _merged_in_float32(run: Path) -> merge.Merged:
    """In bfloat16, which the proof chooses on CPUs that have it, both checks tell of its rounding alone: 5.8e-5 nats
    here, where int8's rounding of the base is 8.5e-7."""
    choose = backend.choose
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "choose", lambda device, _: choose(device, "float32"))
        return merge.merge(run, device="cpu")


def _told_kl(evidence: str) -> float:
    found = re.search(r"mean KL (\S+) nats", evidence)
    assert found is not None, evidence
    return float(found[1])


@pytest.mark.usefixtures("no_fresh_process")
def test_a_whole_run_its_resume_its_receipt_and_its_chat(
    recipe: dict[str, Any], tune: Qlora, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = luthier.train(recipe)
    steps = [event.data["loss"] for event in run.events if event.kind == "step"]
    assert steps[-1] < steps[0] - 0.2
    checks = {check.name: check.status for check in run.receipt.checks}
    assert checks["base_untouched"] == checks["adapter_reload"] == checks["effect"] == "pass"
    page = (run.path / "receipt.md").read_text(encoding="utf-8")
    named = {"nf4-double": "nf4 with double quantisation", "nf4": "base kept in nf4", "int8": "base kept in int8"}
    assert f"QLoRA, rank 4, base kept in {tune.base}" in page and named[name_of(tune)] in page
    assert "bitsandbytes" in page

    # The plan: what is frozen to the byte, and as many layers dense as there are, because memory is free.
    plan = run.folder.read_json("plan.json")
    session = luthier.open_session(run.path)
    frozen = sum(p.nbytes for p in session.decoder.parameters() if not p.is_meta and not p.requires_grad)
    adapter = sum(p.nbytes for unit in session.decoder.units.values() for p in unit.deltas.parameters())
    assert plan["memory"]["weights"] == frozen - adapter + quantize.held_bytes(session.decoder)
    layers = len(session.decoder.spec.layers)
    units = [unit.frozen for unit in session.decoder.units.values()]
    assert all(isinstance(unit, quantize.Quantised) for unit in units)
    assert (plan["dense_layers"], plan["memory"]["dense"]) == (layers, sum(unit.kept.nbytes for unit in units))

    # Chat, and PEFT on the base that their own modules quantise, say what the trained model says.
    theirs = PeftModel.from_pretrained(theirs_of(Path(recipe["model"]["path"]), tune), run.path / "adapter").eval()
    assert difference(logits_of(session.decoder, session.adapter), reference_logits(theirs)) <= BOUND
    dense = weights.load(Path(recipe["model"]["path"]), session.decoder.arch, dtype=torch.float32)
    adapters.load_adapter(dense, dense.arch, run.path / "adapter", "default")
    assert difference(logits_of(dense, "default"), logits_of(session.decoder, session.adapter)) > 100 * BOUND

    # Merged into the base as it lies there: exactly the adapter's sum, and near to what was trained.
    source = export_weights.open_source([(run.path, 1.0)])
    beside = agreement.trained_beside(source)
    assert beside is not None and (beside.base, beside.double_quant) == (tune.base, tune.double_quant)
    trained = agreement.reference(source, "cpu", "float32", [[3, 5, 8, 2]], beside)
    assert difference(torch.from_numpy(trained.tuned_BV), reference_logits(theirs, [3, 5, 8, 2])[-1:]) <= BOUND
    merged = _merged_in_float32(run.path)
    found = {check.name: check for check in merged.receipt.checks}
    assert found["agreement"].status == "pass"
    assert tune.base in found["agreement_as_trained"].text
    # KL in nats: the rounding of the base is 8.5e-7 of int8 and 2e-4 of nf4, that of the merge 1e-13.
    exact, as_trained = (_told_kl(found[name].evidence) for name in ("agreement", "agreement_as_trained"))
    assert exact < 1e-10 and as_trained > 1e-7

    # Broken off, and gone on with less memory: the same bits.
    def stop(event: Any) -> None:
        if (event.kind, event.step) == ("step", 5):
            raise KeyboardInterrupt

    recipe["run"]["name"] = "broken"
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        luthier.train(recipe, on_event=stop)
    original = planner.dense_layers
    monkeypatch.setattr(planner, "dense_layers", lambda *given: min(1, original(*given)))
    resumed = luthier.train(recipe)
    assert [event.data["changes"] for event in resumed.events if event.kind == "revised"] == [
        [["plan.dense_layers", layers, 1]]
    ]
    assert resumed.folder.read_json("plan.json")["dense_layers"] == 1
    expected, found = final_state(run), final_state(resumed)
    assert expected.keys() == found.keys() and all(torch.equal(expected[key], found[key]) for key in expected)
