"""Families and counts, held against transformers and PEFT on tiny configs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import CASES, LLAMA3, TINY, build, config_of, write_config
from transformers import AutoConfig, AutoModelForCausalLM

from luthier.arch import families
from luthier.arch.count import count, saved_modules, scale_of, select_units, trained_tensors
from luthier.arch.families.gated import assemble
from luthier.arch.spec import Architecture, Attention, DecoderSpec, Layer, Mlp, Rope
from luthier.arch.structure import structure
from luthier.config.schema import SEVEN_PROJECTIONS, Freeze, Full, Lora
from luthier.errors import ModelError
from luthier.text import set_language
from luthier.text.models import TEXT


def problem_ids(error: pytest.ExceptionInfo[ModelError]) -> list[str]:
    return [problem.id for problem in error.value.problems]


@pytest.mark.parametrize("name", CASES)
def test_tensors_and_windows_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """Both forms of config.json, the one as it was downloaded and the one transformers 5 writes, give the same
    architecture, with transformers' names, shapes and order."""
    model = build(name)
    model.config.save_pretrained(tmp_path / "new")
    arch = families.read(tmp_path / "new")
    assert families.read(write_config(tmp_path / "old", config_of(name))) == arch
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if arch.spec.tied:
        wanted.pop("lm_head.weight")
    assert list(arch.tensors.items()) == list(wanted.items())
    windows = [layer.mixer.window for layer in arch.spec.layers]
    if name in ("mistral_window", "phi3_window"):
        assert windows == [5, 5, 5], "their layers read it from the config"
    else:
        assert windows == [getattr(each.self_attn, "sliding_window", None) for each in model.model.layers]
    linear = {key for key, module in model.named_modules() if isinstance(module, torch.nn.Linear)} - {"lm_head"}
    assert {unit.name for unit in arch.units} == linear
    for unit in arch.units:
        module = model.get_submodule(unit.name)
        assert (unit.out_features, unit.in_features) == tuple(module.weight.shape)
        assert unit.bias == (module.bias is not None)
        assert sum(part.rows for part in unit.parts) == unit.out_features
    assert arch.num_parameters == sum(each.numel() for each in model.parameters())
    assert arch.spec.norm_eps == model.config.rms_norm_eps


def test_rotary_settings_are_read_in_all_forms() -> None:
    plain = {**TINY, "model_type": "llama"}

    def rope(**extra: Any) -> Rope:
        rotary = families.FAMILIES["llama"]({**plain, **extra}, "config.json").spec.layers[0].mixer.rope
        assert rotary is not None
        return rotary

    assert rope() == Rope("default", 10_000.0, 8)
    assert rope(rope_theta=5e5, rope_scaling=None) == Rope("default", 5e5, 8)
    assert rope(rope_parameters={"rope_theta": 5e5, "rope_type": "default"}) == Rope("default", 5e5, 8)
    linear = Rope("linear", 10_000.0, 8, scaling=(("factor", 2.0),))
    assert rope(rope_scaling={"type": "linear", "factor": 2.0}) == linear
    assert rope(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}) == linear
    without = {key: value for key, value in LLAMA3.items() if key != "original_max_position_embeddings"}
    scaling = dict(rope(rope_scaling=without).scaling)
    assert scaling["original_max_position_embeddings"] == 64.0, "falls back to max_position_embeddings"
    outer = {**TINY, "model_type": "llama", "rope_scaling": LLAMA3, "original_max_position_embeddings": 16}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**outer))
    scaling = dict(rope(rope_scaling=LLAMA3, original_max_position_embeddings=16).scaling)
    assert scaling["original_max_position_embeddings"] == 16
    assert model.config.rope_parameters["original_max_position_embeddings"] == 16, "and so does transformers"
    yarn = dict(rope(rope_scaling={"rope_type": "yarn", "factor": 4.0}).scaling)
    assert yarn["attention_factor"] == pytest.approx(1.1386294361119891)  # 0.1 ln 4 + 1
    assert (yarn["beta_fast"], yarn["beta_slow"], yarn["truncate"]) == (32.0, 1.0, 1.0)
    assert yarn["original_max_position_embeddings"] == 64.0


def test_absent_fields_mean_what_they_mean_in_transformers() -> None:
    few = {key: TINY[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    for family, extra in (
        ("llama", {}),
        ("mistral", {"num_attention_heads": 16}),
        ("qwen2", {"num_attention_heads": 32, "hidden_size": 64}),
        ("qwen3", {"num_attention_heads": 32, "hidden_size": 64}),
    ):
        fields = {**few, "model_type": family, "num_attention_heads": 4, **extra}
        arch = families.FAMILIES[family](fields, "config.json")
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields))
        assert arch.tensors == {key: tuple(value.shape) for key, value in model.state_dict().items()}
        assert arch.spec.max_positions == model.config.max_position_embeddings
        assert arch.spec.layers[0].mixer.window == (4096 if family == "mistral" else None)


def test_layer_types_decide_over_max_window_layers() -> None:
    fields = {
        **config_of("qwen2_window"),
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }
    arch = families.FAMILIES["qwen2"](fields, "config.json")
    assert [layer.mixer.window for layer in arch.spec.layers] == [5, None, 5]
    off = families.FAMILIES["qwen2"]({**fields, "use_sliding_window": False}, "config.json")
    assert [layer.mixer.window for layer in off.spec.layers] == [None, None, None]


@pytest.mark.parametrize(
    ("extra", "wanted", "field"),
    [
        ({"quantization_config": {"bits": 4}}, "quantized", "quantization_config"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "not_causal", "architectures"),
        ({"hidden_act": "relu6"}, "activation", "hidden_act"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_kind", "rope_scaling.rope_type"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "rope_kind", "rope_scaling.type"),
        ({"rope_scaling": {"rope_type": "linear"}}, "config_missing_field", "rope_scaling.factor"),
        ({"rope_scaling": "linear"}, "config_object", "rope_scaling"),
        ({"rope_parameters": {"full_attention": {}}}, "rope_per_layer", "rope_parameters"),
        ({"partial_rotary_factor": 0.5}, "rope_partial", "partial_rotary_factor"),
        ({"head_dim": 7}, "head_dim_odd", "head_dim"),
        ({"num_attention_heads": 3, "num_key_value_heads": 3}, "heads", "num_attention_heads"),
        ({"num_key_value_heads": 3}, "kv_heads", "num_key_value_heads"),
        ({"hidden_size": None}, "config_missing_field", "hidden_size"),
        ({"hidden_size": "32"}, "config_integer", "hidden_size"),
        ({"num_hidden_layers": True}, "config_integer", "num_hidden_layers"),
        ({"rms_norm_eps": 0}, "config_number", "rms_norm_eps"),
        ({"attention_bias": "no"}, "config_flag", "attention_bias"),
    ],
)
def test_what_a_family_does_not_do_is_refused_by_name(
    extra: dict[str, Any], wanted: str, field: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as error:
        families.read(write_config(tmp_path, {**TINY, "model_type": "llama", **extra}))
    found = {(problem.id, problem.where, problem.field) for problem in error.value.problems}
    expected = {("models." + wanted, str(tmp_path / "config.json"), field)}
    assert found == expected


def test_bad_layer_types_are_refused() -> None:
    fields = {**config_of("qwen2_window"), "layer_types": ["full_attention"]}
    with pytest.raises(ModelError) as error:
        families.FAMILIES["qwen2"](fields, "config.json")
    assert problem_ids(error) == ["models.layer_types"]


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    fields = {**TINY, "model_type": "llama", "hidden_act": "x", "vocab_size": -1, "quantization_config": {"a": 1}}
    with pytest.raises(ModelError) as error:
        families.read(write_config(tmp_path, fields))
    assert sorted(problem_ids(error)) == ["models.activation", "models.config_integer", "models.quantized"]


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    def ids(folder: Path) -> list[str]:
        with pytest.raises(ModelError) as error:
            families.read(folder)
        return problem_ids(error)

    assert ids(tmp_path / "nowhere") == ["models.no_folder"]
    (tmp_path / "empty").mkdir()
    assert ids(tmp_path / "empty") == ["models.no_config"]
    (tmp_path / "empty" / "adapter_config.json").write_text("{}")
    assert ids(tmp_path / "empty") == ["models.is_adapter"]
    assert ids(write_config(tmp_path / "broken", '{"model_type": ')) == ["models.bad_config"]
    assert ids(write_config(tmp_path / "deep", "[" * 100_000)) == ["models.bad_config"]
    assert ids(write_config(tmp_path / "list", [1])) == ["models.bad_config"]
    assert ids(write_config(tmp_path / "typeless", TINY)) == ["models.no_model_type"]
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / "config.json").write_bytes(b"\xff\xfe\x00")
    assert ids(tmp_path / "bytes") == ["models.bad_config"]


def test_an_unknown_family_lists_the_known_and_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        families.read(write_config(tmp_path, {**TINY, "model_type": "qwen3_moe"}))
    text = str(error.value)
    assert problem_ids(error) == ["models.unknown_family"]
    assert all(family in text for family in families.FAMILIES) and "nearest: qwen3" in text


# ---------------------------------------------------------------------------------------------------- counts


def shape_2b(tied: bool = True) -> Architecture:
    """24 layers, hidden 2048, intermediate 8192, 16 heads, vocabulary 135,040."""
    layer = Layer(Attention(16, 16, 128, rope=Rope("default", 1e4, 128)), Mlp(8192))
    return assemble(DecoderSpec("llama", 135_040, 2048, (layer,) * 24, tied, 1e-6, 8192))


@pytest.mark.parametrize(
    ("rank", "targets", "trainable"),
    [(8, SEVEN_PROJECTIONS, 9_043_968), (8, SEVEN_PROJECTIONS[:3], 2_359_296), (4, SEVEN_PROJECTIONS[:3], 1_179_648)],
)
def test_known_counts(rank: int, targets: tuple[str, ...], trainable: int) -> None:
    """Per layer and projection rank * (in + out): 8 * (4 * 4096 + 3 * 10240) * 24 = 9,043,968."""
    arch = shape_2b()
    counts = count(arch, Lora(rank=rank, targets=targets))
    assert counts.trainable == trainable
    assert counts.total == arch.num_parameters + trainable
    base = 135_040 * 2048 + 24 * (4 * 2048 * 2048 + 3 * 2048 * 8192 + 2 * 2048) + 2048
    assert arch.num_parameters == base
    localized_filters = 24 * (2 * 2 * 2048 * 1024 + 1024 + 2048 + 2048)  # what Yuan 2.0 has besides, on these shapes
    assert base + localized_filters == 2_088_724_480
    if targets == SEVEN_PROJECTIONS:
        assert count(arch, Lora(rank=rank)) == counts, "all-linear is the seven"
        assert round(counts.percent, 4) == round(100 * 9_043_968 / (base + 9_043_968), 4)


LORAS: dict[str, tuple[Lora, dict[str, Any]]] = {
    "all": (Lora(rank=4), {"r": 4, "target_modules": "all-linear"}),
    "dotted": (Lora(rank=4, targets=("self_attn.q_proj", "mlp.up_proj")), {}),
    "layers": (Lora(rank=2, targets=("q_proj", "down_proj"), layers=(0, 2)), {"layers_to_transform": [0, 2]}),
    "patterns": (
        Lora(rank=4, targets=("q_proj", "v_proj"), rank_pattern={r"layers\.1\..*q_proj": 9, "q_proj": 2}),
        {},
    ),
    "saved": (Lora(rank=4, targets=("q_proj",), modules_to_save=("embed_tokens", "lm_head")), {}),
    "norms": (
        Lora(rank=4, targets=("q_proj",), modules_to_save=("input_layernorm", "model.norm")),
        {"modules_to_save": ["input_layernorm", "model.norm"]},
    ),
}


@pytest.mark.parametrize("name", LORAS)
def test_counts_agree_with_peft(name: str, tmp_path: Path) -> None:
    lora, extra = LORAS[name]
    model = build("qwen2")
    model.config.save_pretrained(tmp_path)
    arch = families.read(tmp_path)
    settings = {
        "r": lora.rank,
        "lora_alpha": lora.effective_alpha,
        "target_modules": list(lora.targets),
        "rank_pattern": lora.rank_pattern,
        "modules_to_save": list(lora.modules_to_save) or None,
        "task_type": "CAUSAL_LM",
        **extra,
    }
    peft_model = get_peft_model(model, LoraConfig(**settings))
    counts = count(arch, lora)
    assert (counts.trainable, counts.total) == peft_model.get_nb_trainable_parameters()
    chosen = {unit.name: (rank, scale_of(lora, rank, alpha)) for unit, rank, alpha in select_units(arch, lora)}
    theirs = {
        key.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
        for key, module in peft_model.named_modules()
        if hasattr(module, "lora_A")
    }
    assert chosen == theirs


def test_full_and_freeze_counts() -> None:
    untied = families.FAMILIES["llama"]({**TINY, "model_type": "llama"}, "")
    tied = families.FAMILIES["llama"]({**TINY, "model_type": "llama", "tie_word_embeddings": True}, "")
    assert count(untied, Full()).trainable == count(untied, Full()).total == untied.num_parameters
    layer = 32 * 32 * 2 + 16 * 32 * 2 + 3 * 32 * 40 + 2 * 32
    assert count(untied, Freeze(layers=2)).trainable == 2 * layer + 32 + 48 * 32
    assert count(tied, Freeze(layers=2)).trainable == 2 * layer + 32
    names = trained_tensors(untied, Freeze(layers=1))
    assert {"model.norm.weight", "lm_head.weight", "model.layers.2.mlp.up_proj.weight"} < names
    assert not any(name.startswith(("model.layers.1.", "model.embed")) for name in names)
    with pytest.raises(ModelError) as error:
        count(untied, Freeze(layers=4))
    assert problem_ids(error) == ["models.too_many_layers"]


@pytest.mark.parametrize(
    ("lora", "wanted", "text"),
    [
        (Lora(targets=("q_porj",)), "models.no_such_module", "nearest: q_proj"),
        (Lora(targets=("attn.q_proj",)), "models.no_such_module", "q_proj, k_proj, v_proj"),
        (Lora(targets=("lm_head",)), "models.target_not_linear", "modules_to_save"),
        (Lora(targets=("embed_tokens",)), "models.target_not_linear", "modules_to_save"),
        (Lora(layers=(1, 3)), "models.no_such_layer", "0 to 2"),
        (Lora(rank_pattern={"(?i)q_proj": 3}), "models.bad_pattern", "regular expression"),
        (Lora(rank_pattern={"proj": 3}), "models.no_such_module", "q_proj"),
        (Lora(targets=("q_proj",), rank_pattern={"k_proj": 3}), "models.no_such_module", "q_proj"),
        (Lora(modules_to_save=("lm_head",)), "models.tied_head", "embed_tokens"),
        (Lora(modules_to_save=("q_proj",)), "models.no_such_module", "embed_tokens"),
    ],
)
def test_what_matches_nothing_is_an_error_that_lists_what_exists(lora: Lora, wanted: str, text: str) -> None:
    arch = families.FAMILIES["qwen2"](config_of("qwen2_tied"), "")
    with pytest.raises(ModelError) as error:
        count(arch, lora)
    assert problem_ids(error) == [wanted]
    assert text in str(error.value)


def test_a_shared_embedding_is_saved_once() -> None:
    arch = families.FAMILIES["qwen2"](config_of("qwen2_tied"), "")
    lora = Lora(targets=("q_proj",), modules_to_save=("lm_head", "embed_tokens"))
    assert saved_modules(arch, lora) == ("model.embed_tokens",)


def test_structure_fits_a_screen_and_says_what_trains() -> None:
    lines = structure(shape_2b(), Lora(rank=8))
    text = "\n".join(lines)
    assert len(lines) <= 40 and max(map(len, lines)) <= 120
    assert "layers 0-23 (24 alike)" in text and "shared with embed_tokens" in text
    assert "9,043,968 of 1,896,318,976 parameters (0.4769 %)" in lines[-1]
    assert re.search(r"q_proj +2,048 x 2,048 +4,194,304 +frozen \+ adapter of rank 8, alpha 16: 32,768", text)
    frozen = "\n".join(structure(shape_2b(tied=False), Freeze(layers=3)))
    assert "layers 0-20 (21 alike)" in frozen and "layers 21-23 (3 alike)" in frozen
    assert re.search(r"lm_head .* trained", frozen) and re.search(r"embed_tokens .* frozen", frozen)
    many = structure(shape_2b(), Lora(rank_pattern={rf"layers\.{index}\..*": index + 1 for index in range(24)}))
    assert len(many) <= 48 and any("21 layers of 21 more kinds" in line for line in many)
    set_language("zh")
    try:
        chinese = structure(shape_2b(), Lora(rank=8))
    finally:
        set_language("en")
    assert "9,043,968" in chinese[-1] and "训练" in chinese[-1] and len(chinese) == len(lines)


def test_every_text_has_both_languages_and_the_same_placeholders() -> None:
    for key, (english, chinese) in TEXT.items():
        assert english and chinese and english != chinese, key
        assert set(re.findall(r"\{(\w+)", english)) == set(re.findall(r"\{(\w+)", chinese)), key
    ids = {key.rpartition(".")[0] for key in TEXT if key.endswith(".rule")}
    assert ids == {key.rpartition(".")[0] for key in TEXT if key.endswith(".remedy")}


def test_arch_loads_no_torch() -> None:
    code = (
        "import sys, luthier.arch.families, luthier.arch.count, luthier.arch.structure, luthier.arch.adapter_config;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
