"""Recipes of LLaMA-Factory and axolotl: what they become, and that no key is dropped without a word.

The recipes here are our own, with the keys that those programs document.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier import cli
from luthier.config.load import load
from luthier.config.schema import Qlora
from luthier.errors import ConfigError
from luthier.importing import axolotl, llamafactory, trainer
from luthier.importing.draft import Draft
from luthier.importing.translate import bring, translate
from luthier.text import TABLES, set_language

CATALOGUE: dict[str, Any] = {
    "plain": {"file_name": "plain.json"},
    "talks": {"file_name": "talks.json", "formatting": "sharegpt", "columns": {"messages": "conversations"}},
    "turns": {
        "file_name": "turns.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    },
    "asked": {"file_name": "asked.json", "columns": {"prompt": "question", "response": "answer"}},
    "renamed": {"file_name": "renamed.json", "columns": {"prompt": "ask", "response": "say", "system": "who"}},
    "roles": {"file_name": "roles.json", "formatting": "sharegpt", "tags": {"user_tag": "customer"}},
    "pairs": {
        "file_name": "pairs.json",
        "ranking": True,
        "columns": {"prompt": "instruction", "query": "input", "chosen": "good", "rejected": "bad"},
    },
    "corpus": {"file_name": "corpus.txt", "columns": {"prompt": "text"}},
    "web": {"hf_hub_url": "someone/web", "split": "train", "columns": {"prompt": "content"}},
}
FACTORY: dict[str, Any] = {
    "model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct",
    "stage": "sft",
    "finetuning_type": "lora",
    "lora_rank": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "lora_target": "q_proj,v_proj",
    "dataset": "plain,talks",
    "template": "qwen",
    "cutoff_len": 1024,
    "val_size": 0.1,
    "output_dir": "saves/qwen/lora",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 8,
    "learning_rate": 1.0e-4,
    "num_train_epochs": 2,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "eval_steps": 50,
    "bf16": True,
}
AXOLOTL: dict[str, Any] = {
    "base_model": "Qwen/Qwen2.5-0.5B",
    "datasets": [{"path": "data/talks.jsonl", "type": "chat_template"}],
    "adapter": "lora",
    "lora_r": 32,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_target_linear": True,
    "sequence_len": 4096,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "num_epochs": 3,
    "optimizer": "adamw_torch",
    "lr_scheduler": "linear",
    "learning_rate": 2e-4,
    "warmup_steps": 10,
    "val_set_size": 0.05,
    "output_dir": "./outputs/first",
    "special_tokens": {"pad_token": "<|end|>"},
}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as those programs are started in, with a catalogue in `data`; no data file exists."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(CATALOGUE))
    return tmp_path


def put(folder: Path, recipe: dict[str, Any], name: str = "theirs.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(recipe) if path.suffix == ".yaml" else json.dumps(recipe))
    return path


def whys(path: Path) -> dict[str, tuple[str, str]]:
    return {each.key: (each.kind, each.reason) for each in translate(path).findings}


# ------------------------------------------------------------------------------------------------ LLaMA-Factory


@pytest.mark.parametrize("name", ["theirs.yaml", "theirs.json"])
def test_a_llama_factory_recipe_becomes_one_of_ours(name: str, desk: Path) -> None:
    bring(put(desk, FACTORY, name), desk / "ours.yaml", devices=4)
    ours = load(desk / "ours.yaml")
    assert [source.path for source in ours.data.train] == ["data/plain.json", "data/talks.json"]
    assert [source.format for source in ours.data.train] == ["alpaca", "sharegpt"]
    assert (ours.data.max_tokens, ours.data.validation, ours.data.template) == (1024, 0.1, "model")
    assert ours.tune.model_dump(exclude_unset=True) == {
        "kind": "lora",
        "rank": 8,
        "alpha": 32.0,
        "dropout": 0.05,
        "targets": ("q_proj", "v_proj"),
    }
    assert (ours.optim.batch, ours.optim.lr, ours.optim.epochs) == (2 * 8 * 4, 1e-4, 2.0)
    assert (ours.optim.schedule, ours.optim.warmup) == ("cosine", 0.1)
    assert (ours.run.dir, ours.run.name, ours.run.seed, ours.run.validate_every) == ("saves/qwen", "lora", 42, 50)
    assert (ours.model.path, ours.model.dtype, ours.method.kind) == ("Qwen/Qwen2.5-0.5B-Instruct", "bfloat16", "sft")


def test_their_defaults_stand_where_ours_would_be_others(desk: Path) -> None:
    least = {"model_name_or_path": "nano", "dataset": "plain"}
    ours = translate(put(desk, least)).config
    assert isinstance(ours.tune.model_dump()["rank"], int)
    assert ours.tune.model_dump()["rank"] == 8
    assert (ours.optim.batch, ours.optim.lr, ours.optim.schedule, ours.optim.warmup) == (8, 5e-5, "linear", 0)
    assert (ours.data.validation, ours.run.seed) == (0, 42)
    ours = translate(
        put(desk, {"base_model": "nano", "datasets": [{"path": "a.json", "type": "chat_template"}]})
    ).config
    assert (ours.tune.kind, ours.optim.batch, ours.optim.epochs, ours.data.max_tokens) == ("full", 1, 1.0, 512)


def test_stages_and_kinds(desk: Path) -> None:
    plain = translate(put(desk, {**FACTORY, "stage": "pt", "dataset": "corpus"}))
    assert plain.config.method.kind == "pretrain"
    assert plain.config.data.train[0].format == "text"
    assert whys(desk / "theirs.yaml")["template"] == ("not needed", "no_template")
    frozen = translate(put(desk, {**FACTORY, "finetuning_type": "freeze", "freeze_trainable_layers": 3}))
    assert frozen.config.tune.model_dump() == {"kind": "freeze", "layers": 3}
    assert whys(desk / "theirs.yaml")["lora_rank"] == ("not needed", "other_kind")
    full = translate(put(desk, {**FACTORY, "finetuning_type": "full", "train_from_scratch": True}))
    assert (full.config.tune.kind, full.config.model.init) == ("full", "random")
    last = translate(put(desk, {**FACTORY, "mask_history": True})).config.method
    assert last.model_dump() == {"kind": "sft", "train_on": "last", "loss": None}


@pytest.mark.parametrize(
    ("given", "missed"),
    [({"stage": "ppo", "reward_model": "saves/judge"}, "stage: ppo"), ({"stage": "dpo", "pref_loss": "kto_pair"}, "x")],
)
def test_a_stage_that_is_not_here_is_said_loudly(
    given: dict[str, str], missed: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(desk, {**FACTORY, **given, "pref_beta": 0.1, "dataset": "pairs"})
    assert cli.run(["import", "theirs.yaml", "-o", "ours.yaml"]) == 1
    text = (desk / "ours.yaml").read_text()
    assert text.splitlines()[1].startswith("# NOT THE SAME TRAINING")
    for key, value in given.items():
        assert f"{key}: {value}  -- " in text or (key, value) == ("stage", "dpo")
    assert "pref_beta: 0.1  -- " in text
    assert capsys.readouterr().out.startswith("NOT THE SAME TRAINING")
    load(desk / "ours.yaml")


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ({"stage": "rm"}, {"kind": "reward", "centre": 0.0}),
        ({"stage": "dpo"}, {"kind": "dpo"}),
        (
            {"stage": "dpo", "pref_beta": 0.3, "pref_ftx": 0.5, "dpo_label_smoothing": 0.1},
            {"kind": "dpo", "beta": 0.3, "sft_weight": 0.5, "label_smoothing": 0.1},
        ),
        ({"stage": "dpo", "pref_loss": "hinge"}, {"kind": "dpo", "loss": "hinge"}),
        ({"stage": "dpo", "pref_loss": "ipo", "pref_beta": 0.2}, {"kind": "ipo", "beta": 0.2}),
        ({"stage": "dpo", "pref_loss": "orpo", "pref_beta": 0.2}, {"kind": "orpo", "beta": 0.2}),
        ({"stage": "dpo", "pref_loss": "simpo"}, {"kind": "simpo", "beta": 0.1, "gamma": 0.5}),
        (
            {"stage": "dpo", "pref_loss": "simpo", "simpo_gamma": 1.2, "pref_beta": 2.5},
            {"kind": "simpo", "beta": 2.5, "gamma": 1.2},
        ),
        (
            {"stage": "kto", "kto_chosen_weight": 1.5, "kto_rejected_weight": 0.5, "pref_beta": 0.2},
            {"kind": "kto", "wanted_weight": 1.5, "unwanted_weight": 0.5, "beta": 0.2},
        ),
    ],
)
def test_judged_answers_of_llama_factory(given: dict[str, Any], method: dict[str, Any], desk: Path) -> None:
    done = translate(put(desk, {**FACTORY, "dataset": "pairs", **given}))
    assert done.config.method.model_dump(exclude_unset=True) == method and not done.missed
    assert not {*given} & {*whys(desk / "theirs.yaml")}


def test_what_another_method_weighs_is_told(desk: Path) -> None:
    given = {"pref_loss": "orpo", "pref_ftx": 0.2, "simpo_gamma": 0.5, "ref_model": "other", "ld_alpha": 1}
    found = whys(put(desk, {**FACTORY, "stage": "dpo", "dataset": "pairs", **given}))
    assert found["simpo_gamma"] == ("not needed", "other_method")
    assert found["pref_ftx"] == found["ld_alpha"] == ("not yet", "preference")
    assert found["ref_model"] == ("not yet", "reference")


@pytest.mark.parametrize(
    ("given", "base", "double", "told"),
    [
        ({"quantization_bit": 4}, "nf4", True, {}),
        ({"quantization_bit": 4, "quantization_type": "nf4", "double_quantization": False}, "nf4", False, {}),
        (
            {"quantization_bit": 4, "quantization_type": "fp4", "quantization_method": "hqq"},
            "nf4",
            True,
            {"quantization_type": ("changed", "only_nf4"), "quantization_method": ("changed", "other_quantiser")},
        ),
        (
            {"quantization_bit": 8, "double_quantization": True, "quantization_method": "bnb"},
            "int8",
            True,
            {"double_quantization": ("not needed", "other_kind"), "quantization_method": ("not needed", "always")},
        ),
    ],
)
def test_a_quantised_base_is_qlora(desk: Path, given: Any, base: str, double: bool, told: Any) -> None:
    done = translate(put(desk, {**FACTORY, **given}))
    tune = done.config.tune
    assert isinstance(tune, Qlora) and not done.missed
    assert (tune.base, tune.double_quant, tune.rank) == (base, double, FACTORY.get("lora_rank", tune.rank))
    found = whys(desk / "theirs.yaml")
    assert {key: why for key, why in found.items() if "quant" in key} == told


def test_other_bits_are_the_same_training_with_more_memory(desk: Path) -> None:
    done = translate(put(desk, {**FACTORY, "quantization_bit": 3}))
    assert (done.config.tune.kind, done.missed) == ("lora", False)
    assert whys(desk / "theirs.yaml")["quantization_bit"] == ("not yet", "quantised")


@pytest.mark.parametrize(
    ("name", "path", "format", "told"),
    [
        ("plain", "data/plain.json", "alpaca", {}),
        ("talks", "data/talks.json", "sharegpt", {}),
        ("turns", "data/turns.jsonl", "messages", {}),
        ("asked", "data/asked.json", "qa", {}),
        ("renamed", "data/renamed.json", "qa", {}),
        ("roles", "data/roles.json", "sharegpt", {}),
        ("web", "hub:someone/web", "auto", {"columns": "value"}),
    ],
)
def test_names_of_data_sets_become_files(name: str, path: str, format: str, told: dict[str, str], desk: Path) -> None:
    done = translate(put(desk, {**FACTORY, "dataset": name}))
    assert [(each.path, each.format) for each in done.config.data.train] == [(path, format)]
    start = f"dataset_info.json: {name}."
    assert {each.key.removeprefix(start): each.reason for each in done.findings if each.key.startswith(start)} == told


def test_the_catalogue_is_found_above_the_recipe_too(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = desk / "examples" / "lora"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    done = translate(put(inner, FACTORY))
    assert [each.path for each in done.config.data.train] == [f"{desk}/data/plain.json", f"{desk}/data/talks.json"]


def test_a_missing_catalogue_or_name_is_told(desk: Path) -> None:
    assert whys(put(desk, {**FACTORY, "dataset": "nowhere"}))["dataset.nowhere"] == ("unknown", "no_such_data")
    (desk / "data" / "dataset_info.json").unlink()
    assert whys(put(desk, FACTORY))["dataset.plain"] == ("unknown", "no_catalogue")


def test_an_adapter_that_is_trained_further_settles_its_shape(desk: Path) -> None:
    done = translate(put(desk, {**FACTORY, "adapter_name_or_path": "saves/old"}))
    assert done.config.tune.model_dump(exclude_unset=True) == {"kind": "lora", "from_": "saves/old", "dropout": 0.05}
    assert whys(desk / "theirs.yaml")["lora_rank"] == ("not needed", "from_settles")


@pytest.mark.parametrize(
    ("name", "states", "told"),
    [
        ("adamw_torch", "float32", False),
        ("adamw_8bit", "8bit", False),
        ("adamw_bnb_8bit", "8bit", False),
        ("paged_adamw_8bit", "8bit", False),
        ("paged_adamw_32bit", "float32", False),
        ("adamw_torch_4bit", "8bit", True),
    ],
)
def test_optimizers_keep_as_few_bits_as_theirs_where_we_can(name: str, states: str, told: bool, desk: Path) -> None:
    done = translate(put(desk, {**FACTORY, "optim": name}))
    assert (done.config.optim.kind, done.config.optim.states) == ("adamw", states)
    assert done.config.optim.paged == ("paged" in name)
    assert (whys(desk / "theirs.yaml").get("optim") == ("changed", "states")) == told


# ------------------------------------------------------------------------------------------------ axolotl


def test_an_axolotl_recipe_becomes_one_of_ours(desk: Path) -> None:
    bring(put(desk, AXOLOTL), desk / "ours.yaml", devices=2)
    ours = load(desk / "ours.yaml")
    assert [(each.path, each.format) for each in ours.data.train] == [("data/talks.jsonl", "messages")]
    assert (ours.data.max_tokens, ours.data.validation) == (4096, 0.05)
    assert ours.tune.model_dump(exclude_unset=True) == {
        "kind": "lora",
        "rank": 32,
        "alpha": 16.0,
        "dropout": 0.05,
        "targets": "all-linear",
    }
    assert (ours.optim.batch, ours.optim.epochs, ours.optim.warmup) == (2 * 4 * 2, 3.0, 10)
    assert (ours.run.dir, ours.run.name) == ("outputs", "first")
    assert whys(desk / "theirs.yaml")["special_tokens.pad_token"] == ("not needed", "packing")


@pytest.mark.parametrize(
    ("entry", "format", "template"),
    [
        ({"type": "alpaca"}, "alpaca", "alpaca"),
        ({"type": "chat_template"}, "messages", "model"),
        (
            {
                "type": "chat_template",
                "field_messages": "conversations",
                "message_property_mappings": {"role": "from", "content": "value"},
            },
            "sharegpt",
            "model",
        ),
        ({"type": "chat_template", "field_messages": "dialog"}, "messages", "model"),
        ({"type": {"field_instruction": "ask", "field_output": "say"}}, "qa", "model"),
    ],
)
def test_types_of_data_sets(entry: dict[str, Any], format: str, template: str, desk: Path) -> None:
    ours = translate(put(desk, {**AXOLOTL, "datasets": [{"path": "data/a.jsonl", **entry}]})).config
    assert (ours.data.train[0].format, ours.data.template) == (format, template)


def test_new_tokens_train_as_rows_of_their_own(desk: Path) -> None:
    whole = {"lora_modules_to_save": ["embed_tokens", "lm_head"], "tokens": ["<|a|>", "<|b|>"]}
    ours = translate(put(desk, {**AXOLOTL, **whole})).config
    assert ours.data.new_tokens == ("<|a|>", "<|b|>")
    assert ours.tune.model_dump()["modules_to_save"] == ()
    assert whys(desk / "theirs.yaml")["lora_modules_to_save"] == ("changed", "rows_only")
    ours = translate(put(desk, {**FACTORY, "add_special_tokens": "<|a|>, <|b|>", "resize_vocab": True})).config
    assert ours.data.new_tokens == ("<|a|>", "<|b|>")
    frozen = translate(put(desk, {**FACTORY, "add_tokens": "<|a|>", "finetuning_type": "freeze"}))
    assert "data.new_tokens" not in frozen.settings
    assert whys(desk / "theirs.yaml")["add_tokens"] == ("unknown", "refused")


def test_plain_text_is_pre_training(desk: Path) -> None:
    for data in (
        {"pretraining_dataset": [{"path": "data/c.jsonl", "type": "pretrain"}], "max_steps": 20},
        {"datasets": [{"path": "data/c.jsonl", "type": "completion"}]},
    ):
        rest = {key: value for key, value in AXOLOTL.items() if key != "datasets"}
        ours = translate(put(desk, {**rest, **data})).config
        assert (ours.method.kind, ours.data.train[0].format) == ("pretrain", "text")
        assert ours.optim.steps == data.get("max_steps")


def test_qlora_and_preferences(desk: Path) -> None:
    for bits, base, double in (
        ({"adapter": "qlora", "load_in_4bit": True}, "nf4", True),
        ({"adapter": "lora", "load_in_8bit": True}, "int8", True),
        ({"adapter": "lora", "load_in_4bit": True, "load_in_8bit": False}, "nf4", True),
        ({"adapter": "qlora", "bnb_config_kwargs": {"bnb_4bit_use_double_quant": False}}, "nf4", False),
    ):
        done = translate(put(desk, {**AXOLOTL, **bits}))
        tune = done.config.tune
        assert isinstance(tune, Qlora) and (tune.base, tune.double_quant, done.missed) == (base, double, False)
        assert not {*bits} & {*whys(desk / "theirs.yaml")}
    assert translate(put(desk, {**AXOLOTL, "adapter": "lora", "load_in_8bit": False})).config.tune.kind == "lora"


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ({"rl": "dpo"}, {"kind": "dpo", "beta": 0.1}),
        (
            {"rl": "dpo", "rl_beta": 0.2, "rpo_alpha": 0.5, "dpo_label_smoothing": 0.1, "dpo_norm_loss": True},
            {"kind": "dpo", "beta": 0.2, "sft_weight": 0.5, "label_smoothing": 0.1, "length_normalised": True},
        ),
        ({"rl": "dpo", "dpo_loss_type": ["hinge"]}, {"kind": "dpo", "beta": 0.1, "loss": "hinge"}),
        ({"rl": "dpo", "rl_beta": 0.2, "trl": {"beta": 0.3}}, {"kind": "dpo", "beta": 0.3}),
        ({"rl": "ipo", "rl_beta": 0.2}, {"kind": "ipo", "beta": 0.2}),
        ({"rl": "orpo", "orpo_alpha": 0.3}, {"kind": "orpo", "beta": 0.3}),
        ({"rl": "simpo"}, {"kind": "simpo", "beta": 0.1, "gamma": 0.5, "sft_weight": 1.0}),
        (
            {"rl": "simpo", "rl_beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0},
            {"kind": "simpo", "beta": 2.0, "gamma": 1.0, "sft_weight": 0.0},
        ),
        (
            {"rl": "kto", "kto_desirable_weight": 1.5, "kto_undesirable_weight": 0.5},
            {"kind": "kto", "beta": 0.1, "wanted_weight": 1.5, "unwanted_weight": 0.5},
        ),
        ({"reward_model": True}, {"kind": "reward", "centre": 0.0}),
        ({"reward_model": True, "center_rewards_coefficient": 0.02}, {"kind": "reward", "centre": 0.02}),
    ],
)
def test_judged_answers_of_axolotl(given: dict[str, Any], method: dict[str, Any], desk: Path) -> None:
    done = translate(put(desk, {**AXOLOTL, **given}))
    assert done.config.method.model_dump(exclude_unset=True) == method and not done.missed
    assert not {*given} & {*whys(desk / "theirs.yaml")} or "trl" in given


def test_rewards_of_axolotl(desk: Path) -> None:
    """Theirs counts answers: 2 x 4 a device are two prompts with four answers each."""
    trl = {
        "beta": 0.01,
        "max_completion_length": 128,
        "use_vllm": True,
        "vllm_server_port": 8000,
        "reward_funcs": ["mine.length", "org/judge"],
        "reward_weights": [1.0, 0.5],
        "num_generations": 4,
        "num_iterations": 2,
        "epsilon": 0.1,
        "epsilon_high": 0.28,
        "scale_rewards": False,
        "loss_type": "dr_grpo",
        "importance_sampling_level": "sequence",
        "temperature": 1.0,
        "top_p": 0.9,
        "sync_ref_model": True,
        "nobody_knows_this": 1,
    }
    data = [{"path": "data/asks.jsonl", "type": "mine.prompts"}]
    done = translate(put(desk, {**AXOLOTL, "rl": "grpo", "datasets": data, "trl": trl, "vllm": {"port": 1}}))
    assert done.config.method.model_dump(exclude_unset=True) == {
        "kind": "grpo",
        "kl": 0.01,
        "max_new_tokens": 128,
        "rewards": ("mine:length", "model:org/judge"),
        "reward_weights": (1.0, 0.5),
        "samples": 4,
        "updates": 2,
        "clip": 0.1,
        "clip_high": 0.28,
        "scale": "none",
        "weighting": "constant",
        "ratio": "sequence",
    }
    assert done.config.optim.batch == 2 and not done.missed
    found = {key: why for key, why in whys(desk / "theirs.yaml").items() if key.startswith(("trl", "vllm", "datasets"))}
    assert found == {
        "trl.use_vllm": ("not needed", "sampler"),
        "trl.vllm_server_port": ("not needed", "sampler"),
        "trl.reward_funcs": ("changed", "reward_function"),
        "trl.temperature": ("not needed", "always"),
        "trl.top_p": ("not yet", "sampling"),
        "trl.sync_ref_model": ("not yet", "reference"),
        "trl.nobody_knows_this": ("unknown", "unknown"),
        "vllm": ("not needed", "sampler"),
        "datasets.0.type": ("not yet", "prompt_rows"),
    }
    without = translate(put(desk, {**AXOLOTL, "rl": "grpo", "datasets": data, "trl": {"num_generations": 4}}))
    assert without.missed and without.config.method.kind == "sft"
    assert whys(desk / "theirs.yaml")["rl"] == ("not yet", "no_rewards")
    assert translate(put(desk, {**AXOLOTL, "rl": "gdpo"})).missed
    assert translate(put(desk, {**AXOLOTL, "process_reward_model": True})).missed


def test_what_only_another_method_of_axolotl_has_is_told(desk: Path) -> None:
    given = {"rl": "dpo", "simpo_gamma": 0.5, "orpo_alpha": 0.3, "kto_desirable_weight": 2.0, "max_prompt_len": 512}
    found = whys(put(desk, {**AXOLOTL, **given, "trl": {"num_generations": 4, "use_vllm": True}}))
    for key in ("simpo_gamma", "orpo_alpha", "kto_desirable_weight", "trl.num_generations", "trl.use_vllm"):
        assert found[key] == ("not needed", "other_method"), key
    assert found["max_prompt_len"] == ("not yet", "prompt_length")


# ------------------------------------------------------------------------------------------------ nothing is dropped

PROGRAMS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "LLaMA-Factory": (
        {"model_name_or_path": "nano", "dataset": "plain"},
        {
            *llamafactory.REASONS,
            *llamafactory.TRANSLATED,
            *llamafactory.LORA,
            *llamafactory.FREEZE,
            *llamafactory.QUANTISED,
            *(key for table in llamafactory.METHODS.values() for key in table),
            *llamafactory.DEFAULTS,
        },
    ),
    "axolotl": (
        {"base_model": "nano", "datasets": [{"path": "a.json", "type": "alpaca"}]},
        {
            *(*axolotl.REASONS, *axolotl.TRANSLATED, *axolotl.LORA, *axolotl.DEFAULTS, *axolotl.BITS),
            *(key for table in axolotl.METHODS.values() for key in table),
            *("chat_template", "special_tokens", "trl", "reward_model", "process_reward_model", *axolotl.BETAS),
        },
    ),
}
JOINT = {
    *("warmup_steps", "warmup_ratio", "max_steps", "adam_beta1", "adam_beta2", "lr_scheduler_kwargs", "report_to"),
    *(
        "eval_steps",
        "bf16",
        "fp16",
        "output_dir",
        "run_name",
        "use_swanlab",
        "batch_size",
        "rl",
        "tokens",
        "add_tokens",
        "nobody_knows_this",
    ),
}
VALUES = st.one_of(
    *(st.booleans(), st.integers(-2, 3), st.floats(0, 1.5), st.sampled_from(["x", "", "auto", "none", "1e-4", "all"])),
    *(st.just([]), st.just({}), st.just(["a", "b"]), st.just([{"path": "b.json"}]), st.just({"min_lr": "x"})),
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_key_is_translated_or_told(program: str, desk: Path) -> None:
    least, keys = PROGRAMS[program]

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.dictionaries(st.sampled_from(sorted((keys | JOINT) - least.keys())), VALUES, max_size=12))
    def holds(more: dict[str, Any]) -> None:
        theirs = {**least, **more}
        if program == "axolotl":
            draft = axolotl.translate(theirs, 1)
        else:
            draft = llamafactory.translate(theirs, CATALOGUE, "data", 1)
        used = {key for keys in draft.origin.values() for key in keys}
        told = {each.key.partition(".")[0] for each in draft.findings}
        assert theirs.keys() <= used | told
        done = translate(put(desk, theirs, "theirs.json"))
        (desk / "ours.yaml").write_text(done.text)
        assert load(desk / "ours.yaml") == done.config

    holds()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from([*axolotl.RL, "gdpo", ""]),
    st.dictionaries(
        st.sampled_from([*axolotl.TRL, *axolotl.NEUTRAL, *axolotl.TRL_REASONS, "beta", "reward_funcs", "vllm_x"]),
        VALUES,
    ),
)
def test_every_key_of_the_section_trl_is_translated_or_told(rl: str, trl: dict[str, Any]) -> None:
    draft = axolotl.translate({"base_model": "nano", "datasets": [{"path": "a.json"}], "rl": rl, "trl": trl}, 1)
    named = {each.key for each in draft.findings}
    taken = set() if draft.missed or not rl else {"beta", *((*axolotl.TRL, "reward_funcs") if rl == "grpo" else ())}
    for key, value in trl.items():
        assert f"trl.{key}" in named or (key in taken and value is not None), key


def test_a_table_never_loses_a_translation_to_a_remark(desk: Path) -> None:
    """A remark on a key must not stand in the way of its field."""
    done = translate(put(desk, FACTORY))
    assert done.settings["data.max_tokens"] == 1024
    assert whys(desk / "theirs.yaml")["cutoff_len"] == ("changed", "too_long")


def test_what_changes_nothing_is_told_too(desk: Path) -> None:
    off = {"mask_history": False, "bf16": False, "use_swanlab": False, "train_from_scratch": False, "warmup_steps": 5}
    found = whys(put(desk, {**FACTORY, **off}))
    for key in off.keys() - {"warmup_steps"}:
        assert found[key] == ("not needed", "off"), key
    assert found["warmup_ratio"] == ("not needed", "without_effect")


def test_what_our_rules_refuse_is_left_out_and_told(desk: Path) -> None:
    done = translate(put(desk, {**FACTORY, "lora_rank": -3, "learning_rate": 50, "val_size": 0.7}))
    refused = {each.key for each in done.findings if each.reason == "refused"}
    assert refused == {"lora_rank", "learning_rate", "val_size"}
    assert "tune.rank" not in done.settings


def test_secrets_are_never_repeated(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(desk, {**FACTORY, "hf_hub_token": "verysecret", "swanlab_api_key": "verysecret"})
    assert cli.run(["import", "theirs.yaml", "-o", "ours.yaml", "--json"]) == 0
    assert "verysecret" not in (desk / "ours.yaml").read_text() + capsys.readouterr().out


@pytest.mark.parametrize("kind", ["trainer", "llamafactory", "axolotl"])
def test_tables_are_of_our_own_words(kind: str) -> None:
    tables = {"trainer": trainer, "llamafactory": llamafactory, "axolotl": axolotl}
    for key, (_, reason) in tables[kind].REASONS.items():
        assert f"importing.why.{reason}" in TABLES["importing"], key
        assert key not in tables[kind].TRANSLATED, f"{key} is both translated and explained away"


def test_a_value_is_not_taken_for_another() -> None:
    draft = Draft({"lora_rank": True, "warmup_steps": "soon"}, {"lora_rank": 8})
    draft.translate(llamafactory.LORA)
    assert draft.settings["tune.rank"] == 8
    assert [(each.key, each.reason) for each in draft.findings] == [("lora_rank", "value")]


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_writes_and_tells(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(desk, {**FACTORY, "mystery": 3, "flash_attn": "fa2"})
    assert cli.run(["import", "theirs.yaml", "-o", "ours.yaml"]) == 0
    out = capsys.readouterr().out
    assert "mystery: 3  -- unknown key" in out
    assert "flash_attn: fa2  -- the fastest kernels" in out
    assert cli.run(["import", "theirs.yaml", "-o", "ours.yaml"]) == 2, "an existing file is left as it is"
    assert "already there" in capsys.readouterr().err
    assert cli.run(["import", "theirs.yaml", "-o", "more.yaml", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["program"], said["same_training"]) == ("LLaMA-Factory", True)
    assert {"key": "mystery", "value": "3", "kind": "unknown", "why": "unknown key"} in said["findings"]


def test_it_speaks_chinese(desk: Path) -> None:
    try:
        set_language("zh")
        assert "由 theirs.yaml（LLaMA-Factory）转换而来" in translate(put(desk, FACTORY)).text
    finally:
        set_language("en")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither"),
        ("- a\n- b\n", "name: value"),
        ("just words", "name: value"),
        ("model: nano\n", "neither"),
        ("base_model: a\nmodel_name_or_path: b\n", "neither"),
        ("model_name_or_path: a\n", "needs this key"),
        ("base_model: a\ndatasets: [3]\n", "needs this key"),
        ("base_model:\ndatasets: [a.json]\n", "needs this key"),
        ("a: [", "YAML"),
        ("a: &b 1\nc: *b\n", "alias"),
    ],
)
def test_what_is_no_recipe_is_refused_in_words(
    text: str, message: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (desk / "theirs.yaml").write_text(text)
    assert cli.run(["import", "theirs.yaml", "-o", "ours.yaml"]) == 2
    assert message in capsys.readouterr().err
    assert not (desk / "ours.yaml").exists()


@pytest.mark.parametrize("text", ["[]", "{", '{"a": NaN}', "[" * 100_000])
def test_a_damaged_catalogue_is_refused_in_words(text: str, desk: Path) -> None:
    (desk / "data" / "dataset_info.json").write_text(text)
    with pytest.raises(ConfigError, match=r"dataset_info\.json"):
        translate(put(desk, FACTORY))
