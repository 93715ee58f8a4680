"""Adapters, held against PEFT: the same modules, the same numbers, in both directions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import BOUND, CASES, build, difference, logits_of, reference_logits, save
from transformers import AutoModelForCausalLM

from luthier.arch import adapter_config, families
from luthier.arch.count import count, select_units
from luthier.config.schema import Full, Lora
from luthier.errors import ModelError
from luthier.export.weights import merged
from luthier.models import adapters, shards, weights
from luthier.models.decoder import Decoder
from luthier.session import Base

DOTTED = "qwen1.5-v0.1"


def load(folder: Path, **options: Any) -> Decoder:
    return weights.load(folder, families.read(folder), **{"dtype": torch.float32, **options})


def shake(decoder: Decoder, name: str) -> None:
    """Give every trainable part of an adapter values that matter."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def as_peft(base: Path, adapter: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter).eval()


def problem_ids(error: pytest.ExceptionInfo[ModelError]) -> list[str]:
    assert str(error.value)
    return [problem.id.removeprefix("models.") for problem in error.value.problems]


def write_merged(base: Path, adapter: Path, folder: Path, **options: Any) -> None:
    """Base and adapter as one checkpoint."""
    source = merged(Base(str(base), base, None, None, families.read(base)), [(adapter, 1.0)])
    folder.mkdir()
    tensors = ((name, source.tensor(name)) for name in source.names)
    weights.write_files(folder, tensors, source.arch, base, source.dtypes, **options)


SETTINGS: dict[str, tuple[str, Lora]] = {
    "plain": ("llama", Lora(rank=4)),
    "biased": ("llama_biased", Lora(rank=4, alpha=3.5)),
    "window": ("mistral_window", Lora(rank=2, targets=("q_proj", "mlp.down_proj"))),
    "rslora": ("qwen2", Lora(rank=4, rslora=True)),
    "patterns": (
        "qwen2",
        Lora(
            rank=4,
            targets=("q_proj", "v_proj", "up_proj"),
            rank_pattern={r"layers\.1\..*q_proj": 7, "q_proj": 2},
            alpha_pattern={"v_proj": 1.0, r"model\.layers\.0\.mlp\.up_proj": 30.0},
        ),
    ),
    "patterns_rslora": ("qwen3", Lora(rank=4, rslora=True, rank_pattern={"o_proj": 9})),
    "layers": ("llama_tied", Lora(rank=4, layers=(0, 2))),
    "full_names": (
        "llama",
        Lora(rank=4, targets=("model.layers.1.mlp.up_proj", "layers.2.self_attn.q_proj"), layers=(1, 2)),
    ),
    "scaled embedding": ("gemma", Lora(rank=4, modules_to_save=("embed_tokens",))),
    "capped": ("gemma2", Lora(rank=4, modules_to_save=("pre_feedforward_layernorm",))),
    "two ropes": ("gemma3", Lora(rank=4, modules_to_save=("q_norm", "norm"))),
    "fused": ("phi3", Lora(rank=4)),
    "fused, some": ("phi3_window", Lora(rank=4, targets=("qkv_proj", "down_proj"), rank_pattern={"qkv_proj": 3})),
    "norms behind": ("olmo2", Lora(rank=4, modules_to_save=("k_norm", "post_attention_layernorm"))),
    "factors": ("granite", Lora(rank=4, modules_to_save=("lm_head",))),
    "saved": ("qwen3", Lora(rank=4, modules_to_save=("embed_tokens", "lm_head"))),
    "saved_head": ("qwen2", Lora(rank=4, targets=("q_proj",), modules_to_save=("lm_head",))),
    "saved_tied": ("qwen3_biased", Lora(rank=4, modules_to_save=("embed_tokens",))),
    "saved_norms": ("qwen3", Lora(rank=4, modules_to_save=("norm", "q_norm", "model.layers.1.input_layernorm"))),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_peft_and_a_merged_model_say_what_the_adapter_says(case: str, tmp_path: Path) -> None:
    """Attach, change, save: PEFT on the adapter folder, transformers on the merged folder, and Luthier on the reloaded
    adapter all give the same logits; without the adapter the base's bits are untouched."""
    name, lora = SETTINGS[case]
    base = tmp_path / "base"
    save(name, base)
    arch, decoder = families.read(base), load(base)
    before = logits_of(decoder)
    adapters.attach(decoder, arch, lora, name=DOTTED, seed=3)
    assert torch.equal(logits_of(decoder, DOTTED), before), "B is zero"
    trained = sum(each.numel() for each in decoder.parameters() if each.requires_grad)
    assert trained == count(arch, lora).trainable
    shake(decoder, DOTTED)
    tuned = logits_of(decoder, DOTTED)
    assert difference(tuned, before) > 1e-2
    assert torch.equal(logits_of(decoder, None), before)

    adapters.save_adapter(decoder, tmp_path / "adapter", lora, str(base), DOTTED)
    assert sorted(each.name for each in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert difference(reference_logits(as_peft(base, tmp_path / "adapter")), tuned) <= BOUND

    again = load(base)
    settings = adapters.load_adapter(again, arch, tmp_path / "adapter", "a")
    assert torch.equal(logits_of(again, "a"), tuned) and torch.equal(logits_of(again), before)
    assert select_units(arch, settings) == select_units(arch, lora)
    assert not any(each.requires_grad for each in again.parameters())
    adapters.save_adapter(again, tmp_path / "again", settings, str(base), "a")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "adapter" / file).read_bytes()

    write_merged(base, tmp_path / "adapter", tmp_path / "merged", max_shard_bytes=20_000)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert difference(reference_logits(whole), tuned) <= BOUND
    assert difference(logits_of(load(tmp_path / "merged")), tuned) <= BOUND
    assert torch.equal(logits_of(decoder, None), before) and torch.equal(logits_of(decoder, DOTTED), tuned)


PEFT_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"target_modules": ["q_proj", "v_proj"]}),
    "all_linear": ("qwen3", {"target_modules": "all-linear", "r": 3, "lora_alpha": 5}),
    "rslora": ("qwen2", {"target_modules": ["gate_proj"], "use_rslora": True}),
    "fused": ("phi3", {"target_modules": "all-linear"}),
    "behind": ("olmo2", {"target_modules": ["q_proj", "down_proj"], "modules_to_save": ["q_norm"]}),
    "regex": ("llama", {"target_modules": r".*layers\.[02]\.mlp\.(up|down)_proj"}),
    "exclude": ("llama", {"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["layers.1.mlp.up_proj"]}),
    "exclude_regex": ("llama", {"target_modules": ["q_proj", "up_proj"], "exclude_modules": r".*1.*q_proj"}),
    "layers": ("qwen2", {"target_modules": ["q_proj", "o_proj"], "layers_to_transform": [1]}),
    "one_layer": ("qwen2", {"target_modules": ["q_proj"], "layers_to_transform": 2, "layers_pattern": "layers"}),
    "full_name_beside_layers": (
        "llama",
        {"target_modules": ["k_proj", "model.layers.2.mlp.up_proj"], "layers_to_transform": [0]},
    ),
    "patterns": (
        "llama",
        {
            "target_modules": ["q_proj", "k_proj", "up_proj"],
            "rank_pattern": {"k_proj": 5, r"layers\.\d\.self_attn\.q_proj": 2, "v_proj": 3},
            "alpha_pattern": {"self_attn.k_proj": 2, "up_proj": 7.5},
        },
    ),
    "gaussian": ("llama", {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"}),
    "orthogonal": ("llama", {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal"}),
    "saved": ("qwen2", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    "saved_norms": ("qwen3", {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
    "saved_tied": (
        "qwen2_tied",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
}


def made_by_peft(name: str, folder: Path, settings: dict[str, Any], adapter: str = "default") -> Any:
    """A PEFT model with every trainable value moved, saved below `folder`."""
    save(name, folder / "base")
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    config = LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, **settings})
    peft_model = get_peft_model(model, config, adapter_name=adapter).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    peft_model.save_pretrained(folder / "adapter")
    return peft_model


@pytest.mark.parametrize("case", PEFT_CONFIGS)
def test_adapters_made_by_peft_are_read_as_peft_reads_them(case: str, tmp_path: Path) -> None:
    name, settings = PEFT_CONFIGS[case]
    theirs = reference_logits(made_by_peft(name, tmp_path, settings))
    decoder = load(tmp_path / "base")
    base = logits_of(decoder)
    lora = adapters.load_adapter(decoder, families.read(tmp_path / "base"), tmp_path / "adapter", DOTTED)
    assert difference(logits_of(decoder, DOTTED), theirs) <= BOUND
    assert torch.equal(logits_of(decoder), base) and difference(base, theirs) > 1e-2
    adapters.save_adapter(decoder, tmp_path / "ours", lora, str(tmp_path / "base"), DOTTED)
    assert difference(reference_logits(as_peft(tmp_path / "base", tmp_path / "ours")), theirs) <= BOUND


def test_settings_come_in_canonical_form(tmp_path: Path) -> None:
    save("llama", tmp_path / "base")
    arch = families.read(tmp_path / "base")

    def settings(**changes: Any) -> Lora:
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        content = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ["v_proj", "q_proj"], **changes}
        (folder / "adapter_config.json").write_text(json.dumps(content))
        return adapter_config.read_settings(folder, arch)

    assert settings() == Lora(rank=4, alpha=6.0, targets=("q_proj", "v_proj"))
    assert settings(layers_to_transform=[2, 0]).layers == (0, 2)
    assert settings(layers_to_transform=[0, 1, 2]).layers is None
    assert settings(lora_dropout=0.1, use_rslora=True) == Lora(
        rank=4, alpha=6.0, targets=("q_proj", "v_proj"), dropout=0.1, rslora=True
    )
    assert settings(target_modules=["layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"]).targets == (
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    )
    assert settings(rank_pattern={"q_proj": 2, "o_proj": 9}).rank_pattern == {"q_proj": 2}
    recipe = Lora.model_validate({"from": str(tmp_path / "adapter"), "dropout": 0.25, "rank": 99})
    assert adapter_config.settle(recipe, arch) == settings(rank_pattern={"q_proj": 2}).model_copy(
        update={"dropout": 0.25, "from_": str(tmp_path / "adapter")}
    )
    assert adapter_config.settle(Full(), arch) == Full() and adapter_config.settle(Lora(), arch) == Lora()
    run = tmp_path / "run"
    shutil.copytree(tmp_path / "adapter", run / "adapter")
    assert adapter_config.adapter_folder(run) == run / "adapter"


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"peft_type": "LOHA"}, "adapter_type", "peft_type"),
    ({"peft_type": None}, "adapter_type", "peft_type"),
    ({"task_type": "SEQ_CLS"}, "adapter_task", "task_type"),
    ({"use_dora": True}, "adapter_dora", "use_dora"),
    ({"bias": "all"}, "adapter_feature", "bias"),
    ({"lora_bias": True}, "adapter_feature", "lora_bias"),
    ({"trainable_token_indices": [9, 3]}, "adapter_tokens", "trainable_token_indices"),
    ({"layer_replication": [[0, 2]]}, "adapter_feature", "layer_replication"),
    ({"something_of_2027": {"a": 1}}, "adapter_feature", "something_of_2027"),
    ({"init_lora_weights": "pissa"}, "adapter_init", "init_lora_weights"),
    ({"init_lora_weights": "olora"}, "adapter_init", "init_lora_weights"),
    ({"r": 0}, "adapter_value", "r"),
    ({"r": 2.5}, "adapter_value", "r"),
    ({"lora_alpha": "x"}, "adapter_value", "lora_alpha"),
    ({"lora_dropout": 1.0}, "adapter_value", "lora_dropout"),
    ({"target_modules": [1]}, "adapter_value", "target_modules"),
    ({"rank_pattern": {"q_proj": 1.5}}, "adapter_value", "rank_pattern.q_proj"),
    ({"rank_pattern": {"(": 2}}, "adapter_pattern", ""),
    ({"target_modules": "("}, "adapter_pattern", ""),
    ({"target_modules": ["c_attn"]}, "adapter_selects_nothing", "target_modules"),
    ({"target_modules": None}, "adapter_selects_nothing", "target_modules"),
    ({"target_modules": ["q_proj", "lm_head"]}, "adapter_target", "target_modules"),
    ({"target_modules": ["q_proj", "embed_tokens"]}, "adapter_target", "target_modules"),
    ({"modules_to_save": ["mlp"]}, "adapter_saves", "modules_to_save"),
    ({"modules_to_save": ["o_proj"]}, "adapter_saves", "modules_to_save"),
    ({"modules_to_save": ["embed_tokens"]}, "adapter_unties", "modules_to_save"),
    ({"modules_to_save": ["lm_head"]}, "adapter_unties", "modules_to_save"),
]


@pytest.mark.parametrize(("change", "wanted", "field"), REFUSED)
def test_what_is_not_supported_is_refused_by_name(
    change: dict[str, Any], wanted: str, field: str, tmp_path: Path
) -> None:
    arch = families.FAMILIES["llama"](build("llama_tied").config.to_dict(), "config.json")
    content = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ["q_proj"], **change}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError) as error:
        adapter_config.read_settings(tmp_path, arch)
    assert problem_ids(error) == [wanted]
    assert error.value.problems[0].field == field


def test_an_initialisation_that_changes_the_base_really_does(tmp_path: Path) -> None:
    """Why PiSSA is refused: its A and B on the original base do not say what was trained. (If this fails, PEFT has
    changed, and such adapters can be read.)"""
    settings = {"target_modules": ["q_proj"], "init_lora_weights": "pissa"}
    theirs = reference_logits(made_by_peft("llama", tmp_path, settings))
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "init_lora_weights": True}))
    decoder = load(tmp_path / "base")
    adapters.load_adapter(decoder, families.read(tmp_path / "base"), tmp_path / "adapter")
    assert difference(logits_of(decoder, "default"), theirs) > 1e-3


def change_file(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / adapters.WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, folder / adapters.WEIGHTS_FILE)


def test_keys_are_matched_strictly(tmp_path: Path) -> None:
    made_by_peft("llama", tmp_path, {"target_modules": ["q_proj"]})
    arch, decoder = families.read(tmp_path / "base"), load(tmp_path / "base")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

    def refused(change: Callable[[dict[str, torch.Tensor]], Any]) -> list[str]:
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "adapter", folder)
        change_file(folder, change)
        with pytest.raises(ModelError) as error:
            adapters.load_adapter(decoder, arch, folder)
        return problem_ids(error)

    assert refused(lambda t: t.pop(key)) == ["adapter_missing_tensors"]
    assert refused(lambda t: t.update({"extra": torch.ones(1)})) == ["adapter_unexpected_tensors"]
    assert refused(lambda t: t.update({key: torch.ones(5, 32)})) == ["adapter_wrong_shapes"]
    renamed = refused(lambda t: t.update({key.replace("base_model.model.", ""): t.pop(key)}))
    assert renamed == ["adapter_missing_tensors", "adapter_unexpected_tensors"]
    assert not [name for name, _ in decoder.named_parameters() if "deltas" in name], "a refused file leaves no trace"


def test_files_that_are_no_adapter(tmp_path: Path) -> None:
    made_by_peft("llama", tmp_path, {"target_modules": ["q_proj"]})
    arch, decoder = families.read(tmp_path / "base"), load(tmp_path / "base")

    def refused(folder: Path) -> list[str]:
        with pytest.raises(ModelError) as error:
            adapters.load_adapter(decoder, arch, folder)
        return problem_ids(error)

    folder = tmp_path / "adapter"
    file = folder / adapters.WEIGHTS_FILE
    whole = file.read_bytes()
    assert refused(tmp_path / "base") == ["no_adapter"]
    file.write_bytes(whole[:-8])
    assert refused(folder) == ["damaged"]
    file.unlink()
    assert refused(folder) == ["adapter_no_weights"]
    (folder / "adapter_model.bin").write_bytes(b"")
    assert refused(folder) == ["adapter_only_bin"]
    (folder / "adapter_config.json").write_text("{]")
    assert refused(folder) == ["bad_config"]
    with pytest.raises(ModelError) as error:
        families.read(folder)
    assert problem_ids(error) == ["is_adapter"]


def test_a_shared_embedding_trained_apart_is_refused(tmp_path: Path) -> None:
    name, lora = SETTINGS["saved_tied"]
    save(name, tmp_path / "base")
    arch, decoder = families.read(tmp_path / "base"), load(tmp_path / "base")
    adapters.attach(decoder, arch, lora)
    adapters.save_adapter(decoder, tmp_path / "adapter", lora, "base")
    change_file(tmp_path / "adapter", lambda t: t["base_model.model.lm_head.weight"].add_(1))
    with pytest.raises(ModelError) as error:
        adapters.load_adapter(load(tmp_path / "base"), arch, tmp_path / "adapter")
    assert problem_ids(error) == ["adapter_halves_differ"]


def test_a_fresh_adapter_is_drawn_like_pefts_and_by_name(tmp_path: Path) -> None:
    save("llama", tmp_path)
    arch = families.read(tmp_path)

    def fresh(lora: Lora, seed: int) -> dict[str, torch.Tensor]:
        decoder = load(tmp_path)
        adapters.attach(decoder, arch, lora, seed=seed)
        return {name: p.detach() for name, p in decoder.named_parameters() if p.requires_grad}

    one, again, other = fresh(Lora(rank=64), 1), fresh(Lora(rank=64), 1), fresh(Lora(rank=64), 2)
    some = fresh(Lora(rank=64, targets=("up_proj",), layers=(2,)), 1)
    assert len(some) == 2
    for name, value in one.items():
        assert value.dtype == torch.float32 and torch.equal(value, again[name])
        assert name not in some or torch.equal(value, some[name])
        if name.endswith(".B"):
            assert not value.any()
        else:
            assert not torch.equal(value, other[name])
            bound = value.shape[1] ** -0.5
            assert 0.99 * bound < float(value.abs().max()) <= bound
            assert abs(float(value.std()) / (bound / 3**0.5) - 1) < 0.05
    model = get_peft_model(build("llama"), LoraConfig(r=64, target_modules=["up_proj"]))
    theirs = model.base_model.model.model.layers[0].mlp.up_proj.lora_A["default"].weight.detach()
    assert abs(float(theirs.std()) / float(one["model.layers.0.mlp.up_proj.deltas.@default.A"].std()) - 1) < 0.05


def test_adapters_live_side_by_side(tmp_path: Path) -> None:
    made_by_peft("qwen2", tmp_path, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]})
    arch, decoder = families.read(tmp_path / "base"), load(tmp_path / "base")
    base = logits_of(decoder)
    adapters.load_adapter(decoder, arch, tmp_path / "adapter", DOTTED)
    first = logits_of(decoder, DOTTED)
    adapters.attach(decoder, arch, Lora(rank=2), name="new", seed=0)
    assert torch.equal(logits_of(decoder, "new"), base)
    assert torch.equal(logits_of(decoder, DOTTED), first)
    assert {name.split(".")[-2] for name, p in decoder.named_parameters() if p.requires_grad} == {"@new"}
    with pytest.raises(ModelError) as error:
        adapters.load_adapter(decoder, arch, tmp_path / "adapter", DOTTED)
    assert problem_ids(error) == ["adapter_loaded_twice"]


def test_training_further(tmp_path: Path) -> None:
    """What trains is the adapter, whole, with the dropout of the new recipe."""
    peft_model = made_by_peft("qwen2", tmp_path, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]})
    arch, decoder = families.read(tmp_path / "base"), load(tmp_path / "base", dtype=torch.bfloat16)
    lora = adapters.load_adapter(decoder, arch, tmp_path / "adapter", trainable=True, dropout=0.25)
    trained = {name: p for name, p in decoder.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == peft_model.get_nb_trainable_parameters()[0]
    assert all(p.dtype == torch.float32 for p in trained.values())
    assert lora.dropout == 0.25 == decoder.units["model.layers.0.self_attn.q_proj"].dropout("default")
    assert count(arch, lora).trainable == peft_model.get_nb_trainable_parameters()[0]


def test_merging_half_precision_rounds_once(tmp_path: Path) -> None:
    """bfloat16 base: the sum is formed in float32 and rounded once."""
    save("llama", tmp_path / "base")
    arch, decoder = families.read(tmp_path / "base"), load(tmp_path / "base", dtype=torch.bfloat16)
    weights.save_model(decoder, tmp_path / "base", tmp_path / "half", torch.bfloat16)
    adapters.attach(decoder, arch, Lora(rank=4, targets=("q_proj",)))
    shake(decoder, "default")
    lora = Lora(rank=4, targets=("q_proj",))
    adapters.save_adapter(decoder, tmp_path / "adapter", lora, "-")
    write_merged(tmp_path / "half", tmp_path / "adapter", tmp_path / "merged")
    written = load_file(tmp_path / "merged" / shards.SINGLE)
    assert list(written) and {value.dtype for value in written.values()} == {torch.bfloat16}
    unit = decoder.units["model.layers.1.self_attn.q_proj"]
    delta = unit.deltas["default"]
    exact = unit.weight.float() + delta.scale * (delta.B @ delta.A)
    assert torch.equal(written["model.layers.1.self_attn.q_proj.weight"], exact.to(torch.bfloat16))
    assert torch.equal(written["model.layers.1.mlp.up_proj.weight"], decoder.units["model.layers.1.mlp.up_proj"].weight)


def test_every_family_takes_part() -> None:
    assert {CASES[name]["model_type"] for name, _ in SETTINGS.values()} == set(families.FAMILIES)
