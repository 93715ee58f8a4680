"""Whole runs on real data files, with a tiny model; and one with the shapes of a real model."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from luthier.arch import families
from luthier.config import load as config_load
from luthier.data import check
from luthier.models import weights
from luthier.run import Run
from luthier.runs import receipt
from luthier.runs.receipt import Check
from luthier.training import train

SFT = ["alpaca_en_demo.json", "identity.json", "v1_sft_demo.jsonl"]


def recipe_of(model: Path, data: Path, runs: Path, **data_settings) -> dict:
    """Three steps of LoRA."""
    return {
        "model": {"path": str(model), "dtype": "float32"},
        "data": {"train": str(data), "validation": 0.0, "max_tokens": 512, "too_long": "drop", **data_settings},
        "tune": {"kind": "lora", "rank": 4},
        "optim": {"lr": 1e-2, "steps": 3, "batch": 8},
        "run": {"name": data.stem, "device": "cpu", "dir": str(runs)},
    }


def rows_in(path: Path) -> int:
    text = path.read_text(encoding="utf-8")
    return len(json.loads(text)) if path.suffix == ".json" else len(text.splitlines())


def facts_of(run: Run) -> dict:
    return next(event.data for event in run.events if event.kind == "data")


def checks_of(run: Run) -> dict[str, Check]:
    return {check.name: check for check in run.receipt.checks}


@pytest.mark.usefixtures("no_fresh_process")
@pytest.mark.parametrize("name", SFT)
def test_conversations(real_data, tiny_model, runs_dir, name):
    path = real_data(name)
    before = path.read_bytes()
    run = train(recipe_of(tiny_model("qwen2", max_position_embeddings=512), path, runs_dir))
    facts = facts_of(run)
    assert facts["read"] == rows_in(path) == facts["kept"] + sum(facts["excluded"].values())
    left_out = (run.path / "excluded.jsonl").read_text().splitlines()
    assert len(left_out) == sum(facts["excluded"].values())
    assert facts["kept"] > 0 and facts["loss_tokens"] > 0
    losses = [event.data["loss"] for event in run.events if event.kind == "step"]
    assert len(losses) == 3 and losses[-1] < losses[0]
    checks = checks_of(run)
    for promise in ("rows_counted", "prompt_law", "stop_token", "base_untouched", "adapter_reload", "effect"):
        assert checks[promise].status == "pass", checks[promise]
    assert checks["validation"].status == "not run"
    assert isinstance(run.chat("Who are you?", max_tokens=8), str)
    assert path.read_bytes() == before


@pytest.mark.usefixtures("no_fresh_process")
def test_placeholders_nobody_filled_in_are_noted(real_data, tiny_model, runs_dir):
    model = tiny_model("qwen2", max_position_embeddings=512)
    recipe = recipe_of(model, real_data("identity.json"), runs_dir)
    recipe["optim"]["steps"] = 1
    run = train(recipe)
    notes = [event.data["text"] for event in run.events if event.kind == "note"]
    assert any("{{name}}" in note and "{{author}}" in note for note in notes), notes
    assert "{{name}}" in (run.path / "receipt.md").read_text()
    recipe["data"]["allow_unfilled"] = True
    assert not check.check_sources(config_load.load(recipe)).notes


@pytest.mark.usefixtures("no_fresh_process")
def test_plain_text_is_read_to_the_last_word_in_chunks(real_data, tiny_model, runs_dir):
    path = real_data("wiki_demo.txt")
    recipe = recipe_of(tiny_model("qwen2", max_position_embeddings=512), path, runs_dir, max_tokens=128)
    del recipe["data"]["too_long"]
    recipe |= {"method": "pretrain", "tune": "full"}
    run = train(recipe)
    facts = facts_of(run)
    assert facts["read"] == facts["kept"] + sum(facts["excluded"].values())
    assert facts["excluded"] == {} and facts["train"] > facts["read"]
    assert facts["loss_tokens"] > 0.9 * facts["tokens"]
    assert checks_of(run)["rows_counted"].status == "pass"
    losses = [event.data["loss"] for event in run.events if event.kind == "step"]
    assert losses[-1] < losses[0]
    assert all(event.data["tokens"] <= 8 * 128 for event in run.events if event.kind == "step")


@pytest.mark.usefixtures("no_fresh_process")
@pytest.mark.parametrize("name", [*SFT, "wiki_demo.txt"])
def test_nano_gets_better_at_each(real_data, runs_dir, name):
    """The shipped base on real files: the loss on rows that were held out falls."""
    recipe = recipe_of(Path("nano"), real_data(name), runs_dir, validation=0.1, max_tokens=256)
    recipe["model"]["dtype"] = "auto"
    recipe["tune"]["rank"] = 16
    recipe["optim"] = {"lr": 2e-3, "steps": 12, "batch": 8}
    if name.endswith(".txt"):
        del recipe["data"]["too_long"]
        recipe["method"] = "pretrain"
    run = train(recipe)
    losses = [event.data["loss"] for event in run.events if event.kind == "validation"]
    assert losses[-1] < losses[0] - 0.1
    assert not [check for check in run.receipt.checks if check.status == "fail"]


JUDGED = {
    "dpo": ("dpo_en_demo.json", 2e-4, math.log(2)),
    "reward": ("dpo_en_demo.json", 1e-3, math.log(2)),
    "kto": ("kto_en_demo.json", 2e-4, 0.5),
}
"""Method -> the file, a learning rate, and the loss before step 1, which is the same whatever the model."""


@pytest.mark.long
@pytest.mark.parametrize("method", JUDGED)
def test_nano_learns_from_judged_answers(real_data, runs_dir, tmp_path, method):
    """Forty rows of the file, several times: every one is counted, the first loss is what the formula says of a model
    that is its own reference, and what was seen is learnt. Such answers are beyond what `nano` can judge on other rows;
    that it does not is printed."""
    name, rate, first = JUDGED[method]
    path = tmp_path / name
    rows = json.loads(real_data(name).read_text(encoding="utf-8"))
    path.write_text(json.dumps(rows[:40]), encoding="utf-8")
    recipe = recipe_of(Path("nano"), path, runs_dir, validation=0.2, max_tokens=1024, too_long="truncate")
    recipe["method"], recipe["tune"]["rank"] = method, 16
    recipe["optim"] = {"lr": rate, "steps": 24, "batch": 8}
    recipe["run"]["validate_every"] = 24
    run = train(recipe)
    facts = facts_of(run)
    assert facts["read"] == min(len(rows), 40) == facts["kept"] + sum(facts["excluded"].values())
    losses = [event.data["loss"] for event in run.events if event.kind == "step"]
    held_out = [event.data for event in run.events if event.kind == "validation"]
    print(name, method, losses[0], losses[-8:], held_out[-1]["loss"], held_out[-1]["measures"]["accuracy"])
    assert losses[0] == pytest.approx(first, abs=1e-4) and held_out[0]["loss"] == pytest.approx(first, abs=1e-4)
    assert sum(losses[-8:]) / 8 < 0.8 * first
    assert all(math.isfinite(each["mean"]) for each in held_out[-1]["measures"].values())
    assert not [check for check in run.receipt.checks if check.status == "fail" and check.name != "validation"]


# -------------------------------------------------------------------------------------------- the size of a real one

QWEN2_HALF_B = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
"""Qwen2.5-0.5B's config.json."""


@pytest.mark.long
def test_the_size_of_qwen_half_b(real_data, tiny_model, runs_dir, tmp_path):
    """20 LoRA steps in bf16; speed and memory go on the receipt, and the memory stays near the plan."""
    plain, folder = tmp_path / "config", tmp_path / "half-b"
    tiny = tiny_model("qwen2")  # its tokenizer uses the first 320 of the 151936 rows
    given = json.loads((tiny / "config.json").read_text())
    ids = {name: given[name] for name in ("eos_token_id", "pad_token_id", "bos_token_id")}
    AutoConfig.for_model("qwen2", **QWEN2_HALF_B, **ids, dtype="bfloat16").save_pretrained(plain)
    arch = families.read(plain)
    assert arch.num_parameters == 494_032_768
    weights.save_model(weights.random(arch, 0, dtype=torch.bfloat16), plain, folder, torch.bfloat16)
    for path in tiny.glob("token*"):
        shutil.copy(path, folder)
    for path in tiny.glob("*.jinja"):
        shutil.copy(path, folder)
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(json.loads(real_data("alpaca_en_demo.json").read_text())[:100]))
    recipe = recipe_of(folder, rows, runs_dir)
    recipe["model"]["dtype"] = "bfloat16"
    recipe["tune"]["rank"] = 16
    recipe["optim"] = {"lr": 1e-4, "steps": 20, "batch": 8}
    # In a process of its own: the most memory that this one ever had says nothing about the run.
    code = "import json, sys, luthier; luthier.train(json.loads(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, json.dumps(recipe)], check=True)
    run = Run(runs_dir / recipe["run"]["name"])
    steps = [event.data for event in run.events if event.kind == "step"]
    assert len(steps) == 20 and steps[-1]["loss"] < steps[0]["loss"]
    peak = max(step["memory_bytes"] for step in steps)
    planned = run.folder.read_json("plan.json")["memory"]["peak_bytes"]
    speed = sum(step["tokens"] for step in steps) / sum(step["tokens"] / step["tokens_per_s"] for step in steps)
    evidence = f"{speed:.0f} tokens/s, peak {peak / 2**30:.2f} GiB, planned {planned / 2**30:.2f} GiB"
    with run.folder.open(run.path, write=True) as writer:
        receipt.record(writer, Check("size", "pass", "20 steps", evidence, "A model of half a billion weights trains."))
        made_receipt = receipt.build(writer)
    assert checks_of(run)["size"].evidence == evidence and made_receipt.state == "finished"
    print(evidence)
    # Python, torch and the page cache of the weights come on top of the tensors that are planned.
    assert peak < planned + 3 * 2**30
