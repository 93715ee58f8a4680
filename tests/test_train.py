"""Whole runs on a tiny model: what is promised of a run, from the recipe to the receipt."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import luthier
from luthier.engine import loop
from luthier.errors import ConfigError, DataError, Interrupted, ModelError, RunError, TrainingFailed
from luthier.methods import supervised

WORDS = ["amber", "birch", "cedar", "delta", "ember", "flint", "grove", "harbor", "iris", "jasper", "kelp", "lotus"]


@pytest.fixture
def rows(write_rows):
    """A tiny Alpaca file: 40 questions with lengths from short to long."""
    made = [
        {"instruction": f"Say {WORDS[i % 12]} {i}", "output": " ".join(WORDS[j % 12] for j in range(i, i + 1 + i % 7))}
        for i in range(40)
    ]
    return write_rows("rows.json", made)


@pytest.fixture
def recipe(tiny_model, rows, runs_dir):
    """A recipe as a mapping: one epoch of ten steps in float32."""
    return {
        "model": {"path": str(tiny_model("llama")), "dtype": "float32"},
        "data": {"train": str(rows), "validation": 0.0, "max_tokens": 256},
        "tune": {"kind": "lora", "rank": 4, "dropout": 0.1},
        "optim": {"lr": 1e-2, "epochs": 1, "batch": 4},
        "run": {"name": "first", "device": "cpu", "dir": str(runs_dir)},
    }


def steps_of(run: luthier.Run) -> list[dict]:
    return [event.data for event in run.events if event.kind == "step"]


def final_state(run: luthier.Run) -> dict[str, torch.Tensor]:
    folder = max((run.path / "checkpoints").iterdir(), key=lambda p: int(p.name.split("-")[1]))
    return {**load_file(folder / "trainable.safetensors"), **load_file(folder / "optim.safetensors")}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -------------------------------------------------------------------------------------------------- the main job


def test_a_run_leaves_everything_it_promises(recipe):
    recipe["data"]["validation"] = 0.2
    run = luthier.train(recipe)
    assert run.state == "finished"
    for name in (
        "recipe.yaml",
        "plan.json",
        "manifest.json",
        "events.jsonl",
        "receipt.json",
        "receipt.md",
        "excluded.jsonl",
    ):
        assert (run.path / name).is_file(), name
    steps = steps_of(run)
    assert [event.step for event in run.events if event.kind == "step"] == list(range(1, 9))
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.2
    validations = [event.data["loss"] for event in run.events if event.kind == "validation"]
    assert len(validations) >= 3 and validations[-1] < validations[0]
    checks = {check.name: check for check in run.receipt.checks}
    for name in (
        "rows_counted",
        "prompt_law",
        "stop_token",
        "base_untouched",
        "adapter_reload",
        "effect",
        "validation",
    ):
        assert checks[name].status == "pass", checks[name]


def test_the_adapter_speaks_the_same_through_peft(recipe):
    peft = pytest.importorskip("peft")
    run = luthier.train(recipe)
    base = AutoModelForCausalLM.from_pretrained(recipe["model"]["path"], dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, run.adapter_path).eval()
    prompt = run.session.renderer.prompt(luthier.session.chat_of("Say iris 3").messages)
    with torch.no_grad():
        expected = theirs(torch.tensor([prompt])).logits[0, -1]
    ours = torch.from_numpy(luthier.proof.next_token_logits(run.session.decoder, [prompt], run.session.adapter))[0]
    assert float((ours - expected).abs().max() / expected.abs().max()) <= 1e-5


@pytest.mark.parametrize("tune", ["full", {"kind": "freeze", "layers": 1}])
def test_whole_weights_become_an_ordinary_model_folder(recipe, tune):
    recipe["tune"] = tune
    run = luthier.train(recipe)
    assert steps_of(run)[-1]["loss"] < steps_of(run)[0]["loss"]
    theirs = AutoModelForCausalLM.from_pretrained(run.model_path, dtype=torch.float32).eval()
    prompt = run.session.renderer.prompt(luthier.session.chat_of("Say iris 3").messages)
    with torch.no_grad():
        expected = theirs(torch.tensor([prompt])).logits[0, -1]
    ours = torch.from_numpy(luthier.proof.next_token_logits(run.session.decoder, [prompt], None))[0]
    assert float((ours - expected).abs().max() / expected.abs().max()) <= 1e-5
    base = load_file(Path(recipe["model"]["path"]) / "model.safetensors")
    tuned = load_file(run.model_path / "model.safetensors")
    moved = {name for name in base if not torch.equal(base[name].float(), tuned[name].float())}
    if tune == "full":
        assert moved == set(base)
    else:
        assert moved and all(name.startswith(("model.layers.1.", "model.norm", "lm_head")) for name in moved)


@pytest.mark.parametrize(("max_tokens", "status"), [(48, "pass"), (28, "fail")])
def test_rows_that_were_cut_are_counted_where_it_matters(recipe, max_tokens, status):
    """Some answers lose their ends, or all do: it is noted, logged and on the receipt."""
    recipe["data"] |= {"max_tokens": max_tokens, "too_long": "truncate"}
    run = luthier.train(recipe)
    facts = next(event.data for event in run.events if event.kind == "data")
    cut = facts["truncated"]
    assert 0 < cut <= facts["train"] and (cut == facts["train"]) == (status == "fail")
    assert any(f"{cut} rows were cut" in event.data["text"] for event in run.events if event.kind == "note")
    check = next(check for check in run.receipt.checks if check.name == "stop_token")
    assert check.status == status and f"{cut} of {facts['train']} sequences" in check.evidence


def test_pretraining_reads_plain_text_and_chunks_it(recipe, tmp_path):
    text = tmp_path / "book.txt"
    text.write_text("\n".join(" ".join(WORDS) for _ in range(60)), encoding="utf-8")
    recipe |= {"method": "pretrain", "data": {"train": str(text), "validation": 0.0, "max_tokens": 16}, "tune": "full"}
    run = luthier.train(recipe)
    assert run.state == "finished" and steps_of(run)[-1]["loss"] < steps_of(run)[0]["loss"]


def test_random_weights_can_be_trained_from_scratch(recipe, tmp_path):
    recipe["model"]["init"] = "random"
    recipe["tune"] = "full"
    run = luthier.train(recipe)
    vocabulary = json.loads((Path(recipe["model"]["path"]) / "config.json").read_text())["vocab_size"]
    assert abs(steps_of(run)[0]["loss"] - math.log(vocabulary)) < 0.3
    assert run.state == "finished"


def test_the_split_into_micro_batches_does_not_change_the_result(recipe):
    states = []
    for name, budget in (("whole", 4096), ("split", 80)):
        recipe["optim"]["budget_tokens"] = budget
        recipe["data"]["max_tokens"] = 80
        recipe["run"]["name"] = name
        states.append(final_state(luthier.train(recipe)))
    for name, whole in states[0].items():
        if name.endswith((".A", ".B")):
            assert float((whole - states[1][name]).abs().max() / whole.abs().max()) < 1e-3, name


def test_the_same_recipe_gives_the_same_bits_and_another_seed_does_not(recipe):
    first = luthier.train(recipe)
    recipe["run"]["name"] = "second"
    assert same_bits(final_state(first), final_state(luthier.train(recipe)))
    recipe["run"] |= {"name": "third", "seed": 1}
    assert not same_bits(final_state(first), final_state(luthier.train(recipe)))


def test_reproduce_compares_bits_and_notices_a_changed_one(recipe):
    run = luthier.train(recipe)
    from luthier.training import reproduce

    assert reproduce(run.path)["same"]
    recipe["run"]["seed"] = 5
    recipe["run"]["name"] = "other"
    other = luthier.train(recipe)
    text = (other.path / "recipe.yaml").read_text().replace("seed: 5", "seed: 6")
    (other.path / "recipe.yaml").write_text(text)
    verdict = reproduce(other.path)
    assert not verdict["same"] and verdict["different"]


def test_an_adapter_is_trained_further_and_its_parent_recorded(recipe):
    first = luthier.train(recipe)
    recipe["tune"] = {"kind": "lora", "from": str(first.adapter_path)}
    recipe["run"]["name"] = "further"
    second = luthier.train(recipe)
    assert steps_of(second)[0]["loss"] < steps_of(first)[0]["loss"] - 0.2
    manifest = json.loads((second.path / "manifest.json").read_text())
    assert manifest["parent"]["files"]["adapter_model.safetensors"]


# ------------------------------------------------------------------------------------------------ validation, best


def test_the_weights_with_the_lowest_validation_loss_are_the_ones_that_ship(recipe, monkeypatch):
    recipe["data"]["validation"] = 0.2
    recipe["run"]["validate_every"] = 2
    losses = iter([5.0, 3.0, 2.0, 4.0, 4.5])
    monkeypatch.setattr(loop, "evaluate", lambda job: {"nll": next(losses)})
    run = luthier.train(recipe)
    best = load_file(run.path / "best" / "trainable.safetensors")
    assert json.loads((run.path / "best" / "state.json").read_text())["step"] == 4
    finished = next(event for event in run.events if event.kind == "finished")
    assert finished.data["weights_of_step"] == 4
    shipped = load_file(run.adapter_path / "adapter_model.safetensors")
    a_name = next(name for name in best if name.endswith(".A") and "layers.0.self_attn.q_proj" in name)
    peft_name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert torch.equal(best[a_name], shipped[peft_name])
    assert not same_bits(best, load_file(run.path / "checkpoints" / "step-8" / "trainable.safetensors"))


# --------------------------------------------------------------------------------------------------------- faults


def poisoned(monkeypatch, steps: set[int]) -> None:
    """Make the loss of some optimizer steps infinite, as a broken row would."""
    original = supervised.Supervised.loss

    def loss(self, model, batch, step):
        found = original(self, model, batch, step)
        if step not in steps:
            return found
        return loop.Loss({name: value * math.inf for name, value in found.sums.items()}, found.metrics)

    monkeypatch.setattr(supervised.Supervised, "loss", loss)


def test_a_step_that_is_not_finite_is_skipped_and_its_rows_are_named(recipe, monkeypatch, rows):
    poisoned(monkeypatch, {3, 4})
    run = luthier.train(recipe)
    assert run.state == "finished"
    faults = [event for event in run.events if event.kind == "fault"]
    assert [event.step for event in faults] == [4, 5]
    assert len(faults[0].data["rows"]) == 4
    assert all(row.startswith(f"{rows}:") for row in faults[0].data["rows"])
    assert all(torch.isfinite(value).all() for value in final_state(run).values())


def test_three_in_a_row_stop_the_run_with_advice(recipe, monkeypatch):
    poisoned(monkeypatch, {2, 3, 4})
    with pytest.raises(TrainingFailed) as caught:
        luthier.train(recipe)
    assert "optim.lr" in str(caught.value)
    run = luthier.Run(Path(recipe["run"]["dir"]) / "first")
    assert run.state == "failed"


# ------------------------------------------------------------------------------------------------------- refusals


def test_a_finished_run_is_not_trained_again(recipe):
    luthier.train(recipe)
    with pytest.raises(RunError, match=r"run\.name"):
        luthier.train(recipe)


def test_changed_data_on_an_unfinished_run_stops_and_shows_the_difference(recipe, monkeypatch, rows):
    poisoned(monkeypatch, {4, 5, 6})
    with pytest.raises(TrainingFailed):
        luthier.train(recipe)
    monkeypatch.undo()
    changed = json.loads(rows.read_text())
    changed[0]["output"] = "something else"
    rows.write_text(json.dumps(changed))
    with pytest.raises(RunError, match="rows"):
        luthier.train(recipe)
    recipe["run"]["on_change"] = "continue"
    assert luthier.train(recipe).state == "finished"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"tune": {"kind": "lora", "targets": ["q_prj"]}}, ModelError),
        ({"model": "no/such/folder/here"}, ModelError),
        ({"data": {"train": "missing.json"}}, DataError),
        ({"tune": {"kind": "lora", "rank": "many"}}, ConfigError),
    ],
)
def test_bad_input_leaves_no_run_behind(recipe, change, error):
    with pytest.raises(error):
        luthier.train(recipe | change)
    assert not list(Path(recipe["run"]["dir"]).glob("*/recipe.yaml"))


# --------------------------------------------------------------------------------------------------------- Python


def test_the_base_is_never_touched_by_training(recipe):
    folder = Path(recipe["model"]["path"])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    base = luthier.open_session(folder, device="cpu")
    prompt = base.renderer.prompt(luthier.session.chat_of("Say iris 3").messages)
    first = luthier.proof.next_token_logits(base.decoder, [prompt], None)
    run = luthier.train(recipe)
    run.chat("Say iris 3", max_tokens=4)
    assert np.array_equal(first, luthier.proof.next_token_logits(base.decoder, [prompt], None))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_relative_paths_count_from_where_the_run_was_started(recipe, tmp_path, monkeypatch):
    """A run is stopped, its whole project moved, and everything else asked for from another folder."""
    from luthier.runs.verify import verify
    from luthier.training import reproduce, resume

    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere" / "deep"
    elsewhere.mkdir(parents=True)
    project.mkdir()
    shutil.copytree(recipe["model"]["path"], project / "base")
    shutil.copy(recipe["data"]["train"], project / "rows.json")
    recipe["model"]["path"], recipe["data"]["train"], recipe["run"]["dir"] = "base", "rows.json", "out/runs"

    def stop(event):
        if event.step == 3:
            luthier.Run("out/runs/first").folder.request_stop()

    monkeypatch.chdir(project)
    with pytest.raises(Interrupted):
        luthier.train(recipe, on_event=stop)
    monkeypatch.chdir(elsewhere)
    moved = project.rename(tmp_path / "moved") / "out" / "runs" / "first"
    run = resume(os.path.relpath(moved))
    assert Path.cwd() == elsewhere and not list(elsewhere.iterdir())
    assert isinstance(run.chat("Say amber 0", max_tokens=8), str)
    checks = {check["name"]: check["status"] for check in verify(run.folder).value["checks"]}
    assert checks["data_unchanged"] == "pass"
    assert reproduce(run.path)["same"]


def test_what_each_file_gave_is_on_the_receipt(recipe, write_rows):
    few = write_rows("few.jsonl", [{"instruction": f"Name {i}", "output": WORDS[i]} for i in range(4)])
    recipe["data"] |= {"train": [recipe["data"]["train"], str(few)], "temperature": 100.0, "max_repeats": 3}
    run = luthier.train(recipe)
    sources = next(event.data for event in run.events if event.kind == "data")["sources"]
    assert [(Path(each["path"]).name, each["sequences"]) for each in sources] == [("rows.json", 40), ("few.jsonl", 4)]
    assert sources[1]["seen"] == 12 and 20 <= sources[0]["seen"] <= 24
    page = (run.path / "receipt.md").read_text()
    assert "seen in training" in page and f"`{few}` |" in page


def test_names_with_dots_train_and_answer(recipe):
    recipe["run"]["name"] = "qwen1.5-v0.1"
    run = luthier.train(recipe)
    assert run.name == "qwen1.5-v0.1" and isinstance(run.chat("Say amber 0", max_tokens=8), str)


def test_the_tuner_fits_and_predicts(recipe):
    tuner = luthier.Tuner(
        model=recipe["model"], data=recipe["data"], tune=recipe["tune"], optim=recipe["optim"], run=recipe["run"]
    )
    answers = tuner.fit().predict(["Say amber 0", "Say birch 1"])
    assert len(answers) == 2 and all(isinstance(answer, str) for answer in answers)
    assert tuner.run.state == "finished"


def test_events_reach_the_listener_as_they_reach_the_file(recipe):
    seen = []
    run = luthier.train(recipe, on_event=seen.append)
    assert [event.seq for event in seen] == [event.seq for event in run.events]
