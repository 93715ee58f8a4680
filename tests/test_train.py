"""Whole runs on a tiny model: what is promised of a run, from the recipe to the receipt."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_tokenizers as toy
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import luthier
import luthier.proof
from luthier import planning, training
from luthier.config import load as config_load
from luthier.data import check, pack
from luthier.engine import backend, loop
from luthier.errors import ConfigError, DataError, Interrupted, ModelError, Problem, RunError, TrainingFailed
from luthier.methods import supervised
from luthier.models import weights
from luthier.paper import outlook
from luthier.planner import in_words
from luthier.runs import commands, reporters
from luthier.text import set_language

WORDS = ["amber", "birch", "cedar", "delta", "ember", "flint", "grove", "harbor", "iris", "jasper", "kelp", "lotus"]


pytestmark = pytest.mark.usefixtures("no_fresh_process")


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


class Killed(Exception):
    """Stands for a kill: the process is gone, and nothing more is written."""


def killed_at(kind: str, step: int):
    """A listener that ends everything at an event."""

    def listen(event):
        if (event.kind, event.step) == (kind, step):
            raise Killed

    return listen


# -------------------------------------------------------------------------------------------------- the main job


def test_a_run_leaves_everything_it_promises(recipe, monkeypatch):
    monkeypatch.undo()  # here a fresh process loads the saved files
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


def test_a_template_that_rewrites_history_trains_every_answer_and_says_so(recipe, tmp_path):
    turns = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b")) * 3]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": turns}) + "\n" + json.dumps({"messages": turns[:2]}))
    (tmp_path / "rewrites.jinja").write_text(toy.THINKING)
    data = {"train": str(tmp_path / "talk.jsonl"), "template": str(tmp_path / "rewrites.jinja"), "validation": 0.0}
    run = luthier.train({**recipe, "data": data, "optim": {"steps": 1}})
    notes = [event.data["text"] for event in run.events if event.kind == "note"]
    assert any("2 rows were unrolled into 4 sequences" in note for note in notes), notes
    checks = {check.name: check for check in run.receipt.checks}
    assert checks["rows_counted"].status == checks["prompt_law"].status == "pass"
    prompts = "4 prompts compared"
    assert prompts in checks["prompt_law"].evidence


def test_turns_that_are_trained_separately_are_computed_once(recipe, tmp_path):
    """Four conversations of four answers, each a sequence of its own; a step holds all of a conversation's."""
    said = [[f"{name} {turn}: " + f"{turn} " * 40 for turn in range(8)] for name in "abcd"]
    roles = ("user", "assistant") * 4
    rows = [{"messages": [{"role": r, "content": c} for r, c in zip(roles, each, strict=True)]} for each in said]
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "rewrites.jinja").write_text(toy.THINKING)
    data = {"train": str(tmp_path / "talks.jsonl"), "template": str(tmp_path / "rewrites.jinja"), "validation": 0.0}
    data["max_tokens"] = 4096
    run = luthier.train({**recipe, "data": data, "optim": {"epochs": 1, "batch": 4}})
    tokens, computed = (sum(step[name] for step in steps_of(run)) for name in ("tokens", "computed_tokens"))
    assert len(steps_of(run)) == 4
    # Of 2 + 4 + 6 + 8 turns the eight of the last sequence are there, and three answers that history has otherwise.
    assert abs(computed / tokens - 11 / 20) < 0.02, (computed, tokens)


def test_what_the_template_may_leave_out_is_written_down(recipe, tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "why not"}]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": turns}))
    given = {**recipe, "data": {"train": str(tmp_path / "talk.jsonl"), "validation": 0.0}, "optim": {"steps": 1}}
    with pytest.raises(ModelError, match=r"talk.jsonl:1: reasoning_content: .*leaves out this field"):
        luthier.train(given)
    run = luthier.train({**given, "data": {**given["data"], "accept_unread": ["reasoning_content"]}})
    notes = [event.data["text"] for event in run.events if event.kind == "note"]
    assert any(note.startswith("reasoning_content: ") and "accepted" in note for note in notes)
    assert list(run.receipt.recipe["data"]["accept_unread"]) == ["reasoning_content"]
    assert "reasoning_content: the chat template leaves this field" in (run.path / "receipt.md").read_text()


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


# --------------------------------------------------------------------------------- weights and states in fewer bytes

COMPACT = {
    "stochastic": ("full", {"weights": "bfloat16_stochastic", "states": "8bit"}),
    "kahan": ({"kind": "freeze", "layers": 1}, {"weights": "bfloat16_kahan", "states": "bfloat16"}),
    "adapter": ({"kind": "lora", "rank": 4, "dropout": 0.1}, {"states": "8bit"}),
    "in backward": ("full", {"in_backward": True, "clip": 0}),
    "least": ("full", {"weights": "bfloat16_stochastic", "states": "8bit", "in_backward": True, "clip": 0}),
}


@pytest.fixture(params=COMPACT)
def compact(recipe, request):
    """A recipe whose trained weights or states take fewer bytes."""
    tune, optim = COMPACT[request.param]
    dtype = "auto" if "weights" in optim else "float32"
    recipe["model"]["dtype"] = dtype
    recipe["optim"] |= {"lr": 3e-3, **optim}
    return recipe | {"tune": tune}


def test_in_fewer_bytes_it_learns_and_says_how(compact):
    run = luthier.train(compact)
    steps = steps_of(run)
    assert run.state == "finished" and steps[-1]["loss"] < steps[0]["loss"]
    optim = {"weights": "float32", "states": "float32", **compact["optim"]}
    page = (run.path / "receipt.md").read_text()
    assert f"weights {optim['weights']}, optimizer state {optim['states']}" in page
    assert not [check.name for check in run.receipt.checks if check.status == "fail"]
    plan = json.loads((run.path / "plan.json").read_text())
    assert plan["backend"]["dtype"] == ("float32" if optim["weights"] == "float32" else "bfloat16")


def test_in_fewer_bytes_a_run_goes_on_to_the_same_bits(compact):
    straight = luthier.train(compact | {"run": compact["run"] | {"name": "straight", "save_every": 1}})
    with pytest.raises(Killed):
        luthier.train(compact | {"run": compact["run"] | {"save_every": 1}}, on_event=killed_at("step", 5))
    resumed = luthier.train(compact | {"run": compact["run"] | {"save_every": 1}})
    assert any(event.kind == "resumed" and event.data["from_step"] == 4 for event in resumed.events)
    assert same_bits(final_state(straight), final_state(resumed))


def test_weights_kept_in_bfloat16_ship_as_they_are(recipe):
    recipe["model"]["dtype"] = "auto"
    recipe |= {"tune": "full", "optim": recipe["optim"] | {"weights": "bfloat16_stochastic"}}
    run = luthier.train(recipe)
    trained, shipped = final_state(run), load_file(run.model_path / "model.safetensors")
    for name, tensor in shipped.items():
        assert tensor.dtype == torch.bfloat16
        assert trained[name].dtype == (torch.bfloat16 if tensor.ndim > 1 else torch.float32)
        assert torch.equal(tensor, trained[name].bfloat16()), name


def test_the_plan_counts_weights_and_states_to_the_byte(compact):
    run = luthier.train(compact)
    folder = max((run.path / "checkpoints").iterdir(), key=lambda p: int(p.name.split("-")[1]))
    memory = json.loads((run.path / "plan.json").read_text())["memory"]
    trained, slots = (load_file(folder / f"{name}.safetensors") for name in ("trainable", "optim"))
    assert memory["trainable"] == sum(each.nbytes for each in trained.values())
    assert memory["optimizer"] == sum(each.nbytes for each in slots.values() if each.ndim)
    total = 4 * sum(each.numel() for each in trained.values())
    assert memory["gradients"] == (0 if compact["optim"].get("in_backward") else total)


def test_within_the_backward_pass_a_run_ends_with_the_usual_bits(recipe):
    recipe |= {"tune": "full", "optim": recipe["optim"] | {"clip": 0, "lr": 1e-3}}
    usual = luthier.train(recipe)
    recipe |= {"optim": recipe["optim"] | {"in_backward": True}, "run": recipe["run"] | {"name": "early"}}
    assert same_bits(final_state(usual), final_state(luthier.train(recipe)))


def test_within_the_backward_pass_a_step_is_one_micro_batch_or_refused(recipe, monkeypatch):
    recipe |= {"tune": "full", "optim": recipe["optim"] | {"clip": 0, "in_backward": True}}
    monkeypatch.setattr(planning.planner, "CAP_TOKENS", {"cpu": 1, "cuda": 1})
    run = luthier.train(recipe)
    budget = json.loads((run.path / "plan.json").read_text())["budget_tokens"]
    assert max(step["tokens"] for step in steps_of(run)) <= budget, "the least that a micro-batch has to hold"
    recipe["run"]["name"] = "split"
    recipe["data"]["max_tokens"] = 80
    recipe["optim"]["budget_tokens"] = 80
    with pytest.raises(RunError, match=r"optim\.budget_tokens") as caught:
        luthier.train(recipe)
    assert caught.value.problems[0].id == "engine.split_in_backward"
    del recipe["optim"]["budget_tokens"]
    monkeypatch.setattr(backend, "free_memory_bytes", lambda device: 1000)
    with pytest.raises(RunError) as caught:
        luthier.train(recipe)
    assert caught.value.problems[0].id == "engine.step_too_large"
    monkeypatch.setattr(backend, "choose", lambda *_, **__: backend.Backend("cuda", "float16", 1, "test", "test"))
    with pytest.raises(ConfigError, match="float16"):
        luthier.train(recipe)
    assert not (Path(recipe["run"]["dir"]) / "split").exists()


@pytest.mark.parametrize("activations", ["drop_mlp", "drop_layer"])
def test_in_fewer_bytes_what_layers_keep_changes_no_bit(recipe, activations):
    recipe["model"]["dtype"] = "auto"
    least = {"weights": "bfloat16_stochastic", "states": "8bit", "in_backward": True, "clip": 0}
    states = []
    for kept in ("keep", activations):
        given = {"optim": recipe["optim"] | {**least, "activations": kept}, "run": recipe["run"] | {"name": kept}}
        states.append(final_state(luthier.train(recipe | {"tune": "full"} | given)))
    assert same_bits(*states)


def test_another_way_to_keep_states_does_not_take_up_a_run(recipe):
    with pytest.raises(Killed):
        luthier.train(recipe | {"run": recipe["run"] | {"save_every": 1}}, on_event=killed_at("step", 3))
    recipe["optim"]["states"] = "8bit"
    recipe["run"] |= {"save_every": 1, "on_change": "continue"}
    with pytest.raises(RunError, match=r"optim\.states"):
        luthier.train(recipe)


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


def test_a_beginning_that_rows_share_is_computed_once_and_changes_nothing(recipe, write_rows, monkeypatch):
    """A system prompt before every row, dropout on."""
    system = "Answer with the words that come next, in their order, and nothing else. " * 2
    rows = [{"instruction": f"Say {WORDS[i % 12]} {i}", "output": WORDS[i % 7], "system": system} for i in range(40)]
    recipe["data"] |= {"train": str(write_rows("system.json", rows)), "validation": 0.2}
    runs = {}
    for name, call_tokens in (("shared", pack.CALL_TOKENS), ("apart", {"cpu": 10**6})):
        monkeypatch.setattr(pack, "CALL_TOKENS", call_tokens)
        recipe["run"]["name"] = name
        runs[name] = luthier.train(recipe)
    shared, apart = (steps_of(run) for run in runs.values())
    for one, other in zip(shared, apart, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["tokens"] == other["tokens"] == other["computed_tokens"] > 2 * one["computed_tokens"]
    losses = [[e.data["loss"] for e in run.events if e.kind == "validation"] for run in runs.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    total, computed = (sum(step[name] for step in shared) for name in ("tokens", "computed_tokens"))
    finished = next(event.data for event in runs["shared"].events if event.kind == "finished")
    assert (finished["tokens"], finished["computed_tokens"]) == (total, computed)
    for run, count in ((runs["shared"], 1), (runs["apart"], 0)):
        page = (run.path / "receipt.md").read_text(encoding="utf-8")
        assert page.count(f"{total:,}; {computed:,} of them computed") == count


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
    assert not verdict["same"] and verdict["different"] and not verdict["revised"]


def test_a_paged_optimizer_is_refused_where_there_is_no_other_memory(recipe):
    recipe["optim"]["paged"] = True
    for refuse in (luthier.train, lambda recipe: outlook.plan(config_load.load(recipe), "cpu")):
        with pytest.raises(ConfigError, match="paged") as caught:
            refuse(recipe)
        assert caught.value.problems[0].id == "engine.paged_on_cpu"


def test_reproduce_refuses_other_inputs_before_it_trains_and_keeps_trackers_out(recipe, monkeypatch, rows):
    from luthier.training import reproduce

    run = luthier.train(recipe)
    text = (run.path / "recipe.yaml").read_text()
    assert "report: []" in text
    (run.path / "recipe.yaml").write_text(text.replace("report: []", "report: [wandb]"))
    started = []
    monkeypatch.setattr(reporters.Reporters, "_start", lambda self, name, step: started.append(name))
    assert reproduce(run.path)["same"] and not started
    rows.write_text(json.dumps([*json.loads(rows.read_text()), {"instruction": "Say more", "output": "more"}]))
    seen = []
    with pytest.raises(RunError) as caught:
        reproduce(run.path, on_event=seen.append)
    assert {problem.id for problem in caught.value.problems} == {"runs.other_inputs"} and not seen
    assert any(str(rows) in problem.field for problem in caught.value.problems)


def test_reproduce_names_what_was_changed_on_the_way(recipe):
    from luthier.training import reproduce

    with pytest.raises(Killed):
        luthier.train(recipe, on_event=killed_at("step", 3))
    recipe["optim"]["lr"] = 5e-3
    recipe["run"]["on_change"] = "continue"
    run = luthier.train(recipe)
    notes = []
    verdict = reproduce(run.path, on_event=lambda event: notes.append(event.data.get("text", "")))
    assert verdict["revised"] == [["optim.lr", 1e-2, 5e-3]] and any("optim.lr" in note for note in notes)


def test_an_adapter_is_trained_further_and_its_parent_recorded(recipe):
    first = luthier.train(recipe)
    recipe["tune"] = {"kind": "lora", "from": str(first.adapter_path)}
    recipe["run"]["name"] = "further"
    second = luthier.train(recipe)
    assert steps_of(second)[0]["loss"] < steps_of(first)[0]["loss"] - 0.2
    manifest = json.loads((second.path / "manifest.json").read_text())
    assert manifest["parent"]["files"]["adapter_model.safetensors"]


def further(recipe, name: str, source: object) -> dict:
    return recipe | {"tune": {"kind": "lora", "from": str(source)}, "run": recipe["run"] | {"name": name}}


def test_a_parent_is_a_name_a_run_or_its_adapter_and_only_the_adapter_counts(recipe):
    recipe["data"]["template"] = "alpaca"
    first = luthier.train(recipe)
    recipe["data"]["template"] = "model"
    hashes = set()
    for name, source in (("by-name", "first"), ("by-run", first.path), ("by-adapter", first.adapter_path)):
        with pytest.raises(Killed):
            luthier.train(further(recipe, name, source), on_event=killed_at("step", 3))
        given = json.loads((first.path.parent / name / "manifest.json").read_text())
        assert given["parent"]["path"] == str(source) and "events.jsonl" not in given["parent"]["files"]
        hashes.add(given["parent"]["sha256"])
    assert len(hashes) == 1
    commands.extend(first.folder, epochs=2)  # changes the parent's folder, but not its adapter
    child = luthier.train(further(recipe, "by-name", "first"))
    assert child.state == "finished"
    saved = [(run.adapter_path / "chat_template.jinja").read_text() for run in (first, child)]
    assert saved[0] == saved[1] != (Path(recipe["model"]["path"]) / "chat_template.jinja").read_text()
    assert any("template" in note for note in child.receipt.notes)


def test_a_parent_of_another_base_is_refused_and_a_strange_one_is_noted(recipe, tiny_model, tmp_path):
    first = luthier.train(recipe)
    bare = shutil.copytree(first.adapter_path, tmp_path / "bare")
    other = recipe | {"model": {"path": str(tiny_model("llama", seed=9)), "dtype": "float32"}}
    for source in ("first", first.path, first.adapter_path):
        with pytest.raises(ModelError) as caught:
            luthier.train(further(other, "child", source))
        assert [problem.id for problem in caught.value.problems] == ["engine.parent_base"]
    assert not (first.path.parent / "child").exists()
    child = luthier.train(further(recipe, "child", bare))
    assert any(recipe["model"]["path"] in note and str(bare) in note for note in child.receipt.notes)


def test_a_parent_that_is_no_adapter_says_what_to_do(recipe):
    recipe["tune"] = "full"
    whole = luthier.train(recipe)
    with pytest.raises(ModelError) as caught:
        luthier.train(further(recipe, "child", "first"))
    assert f"model={whole.model_path.relative_to(Path.cwd())}" in str(caught.value)
    with pytest.raises(ModelError, match="adapter_config"):
        luthier.train(further(recipe, "child", "no-such-run"))


# ------------------------------------------------------------------------------------------------ validation, best


def test_the_weights_with_the_lowest_validation_loss_are_the_ones_that_ship(recipe, monkeypatch):
    recipe["data"]["validation"] = 0.2
    recipe["run"]["validate_every"] = 2
    losses = iter([5.0, 3.0, 2.0, 4.0, 4.5])
    monkeypatch.setattr(loop, "evaluate", lambda job: ({"nll": next(losses)}, {}))
    run = luthier.train(recipe)
    best = load_file(run.path / "best" / "step-4" / "trainable.safetensors")
    assert json.loads((run.path / "best" / "step-4" / "state.json").read_text())["step"] == 4
    finished = next(event for event in run.events if event.kind == "finished")
    assert finished.data["weights_of_step"] == 4
    shipped = load_file(run.adapter_path / "adapter_model.safetensors")
    a_name = next(name for name in best if name.endswith(".A") and "layers.0.self_attn.q_proj" in name)
    peft_name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert torch.equal(best[a_name], shipped[peft_name])
    assert not same_bits(best, load_file(run.path / "checkpoints" / "step-8" / "trainable.safetensors"))


def validation_losses(monkeypatch, *losses: float) -> None:
    told = iter(losses)
    monkeypatch.setattr(loop, "evaluate", lambda job: ({"nll": next(told)}, {}))


def first_a(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """One matrix of a checkpoint or of an adapter."""
    return next(tensors[name] for name in tensors if "layers.0.self_attn.q_proj" in name and "A" in name)


def test_the_best_weights_of_a_time_that_was_taken_back_do_not_ship(recipe, monkeypatch):
    """Better at step 6, killed before a checkpoint knows of it, and never better again on the other way."""
    recipe["data"]["validation"] = 0.2
    recipe["run"] |= {"validate_every": 3, "save_every": 5}
    validation_losses(monkeypatch, 5.0, 3.0, 2.0)
    with pytest.raises(Killed):
        luthier.train(recipe, on_event=killed_at("best", 6))
    recipe["optim"]["lr"] = 5e-3
    recipe["run"]["on_change"] = "continue"
    validation_losses(monkeypatch, 4.0, 4.5)
    run = luthier.train(recipe)
    finished = next(event for event in run.events if event.kind == "finished")
    assert finished.data["weights_of_step"] == 3 and run.folder.bests() == [3]
    best = load_file(run.folder.best_dir(3) / "trainable.safetensors")
    assert torch.equal(first_a(load_file(run.adapter_path / "adapter_model.safetensors")), first_a(best))
    assert run.receipt.summary.best == (3, 3.0)


def test_best_weights_that_are_gone_are_named_and_looked_for_anew(recipe, monkeypatch):
    recipe["data"]["validation"] = 0.2
    recipe["run"] |= {"validate_every": 3, "save_every": 5}
    validation_losses(monkeypatch, 5.0, 3.0)
    with pytest.raises(Killed):
        luthier.train(recipe, on_event=killed_at("step", 6))
    shutil.rmtree(Path(recipe["run"]["dir"]) / "first" / "best" / "step-3")
    validation_losses(monkeypatch, 4.0, 4.5)
    run = luthier.train(recipe)
    finished = next(event for event in run.events if event.kind == "finished")
    assert finished.data["weights_of_step"] == 6
    assert any("step 3" in event.data["text"] for event in run.events if event.kind == "note")


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
    with monkeypatch.context() as patch:
        poisoned(patch, {4, 5, 6})
        with pytest.raises(TrainingFailed):
            luthier.train(recipe)
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


def test_a_start_that_fails_does_not_bind_the_corrected_command(recipe, monkeypatch):
    """A device that is not there, a tracker that is not installed, too little memory, weights that are damaged."""
    folder = Path(recipe["run"]["dir"]) / "first"
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(ConfigError):
            luthier.train(recipe | {"run": recipe["run"] | {"device": "cuda"}})
        patch.setattr(reporters.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ConfigError, match="wandb"):
            luthier.train(recipe | {"run": recipe["run"] | {"report": ["wandb"]}})
    with monkeypatch.context() as patch, pytest.raises(RunError, match=r"data\.max_tokens"):
        patch.setattr(backend, "free_memory_bytes", lambda device: 1000)
        luthier.train(recipe)
    assert not folder.exists()
    problem = Problem("models.damaged", where="model.safetensors", values={"reason": "torn"})

    def damaged(*_, **__):
        raise ModelError(problem)

    with monkeypatch.context() as patch, pytest.raises(ModelError):
        patch.setattr(weights, "load", damaged)
        luthier.train(recipe | {"optim": recipe["optim"] | {"lr": 1.0}})
    assert luthier.Run(folder).state == "failed"
    assert luthier.train(recipe).receipt.summary.attempts[0].number == 1


def test_no_bit_depends_on_what_layers_keep_and_the_plan_says_it(recipe):
    trained, recipe["optim"]["steps"] = {}, 3
    for policy in ("auto", "drop_mlp", "drop_layer", "offload"):
        recipe["run"]["name"], recipe["optim"]["activations"] = policy, policy
        run = luthier.train(recipe)
        trained[policy] = (run.adapter_path / "adapter_model.safetensors").read_bytes()
        (said,) = [event.data for event in run.events if event.kind == "plan"]
        planned = run.folder.read_json("plan.json")["activations"]
        assert planned == said["activations"] and len(planned) > 1
        # all that fits is kept; on a CPU there is no other memory to offload to
        assert set(planned) == {"keep" if policy in ("auto", "offload") else policy}
        told = [event.data["text"] for event in run.events if event.kind == "note"]
        assert any("no other memory" in each for each in told) is (policy == "offload"), "not without a word"
    assert len(set(trained.values())) == 1


def test_less_memory_on_a_resume_makes_layers_keep_less_at_the_same_bits(recipe, monkeypatch):
    """What fits without a smaller budget needs none."""
    recipe["optim"]["budget_tokens"] = 2048
    straight = luthier.train({**recipe, "run": {**recipe["run"], "name": "straight"}})
    with pytest.raises(Killed):
        luthier.train(recipe, on_event=killed_at("step", 3))
    path = Path(recipe["run"]["dir"]) / "first"
    before = json.loads((path / "plan.json").read_text())
    memory = before["memory"]
    monkeypatch.setattr(backend, "free_memory_bytes", lambda device: memory["peak_bytes"] - memory["activations"] // 8)
    run = luthier.train(recipe)
    after = json.loads((path / "plan.json").read_text())
    assert after["budget_tokens"] == before["budget_tokens"] == 2048 and after["backend"] == before["backend"]
    assert set(before["activations"]) == {"keep"} and after["activations"] != before["activations"]
    (revision,) = [event.data for event in run.events if event.kind == "revised"]
    words = [in_words(each["activations"]) for each in (before, after)]
    assert revision == {"changes": [["plan.activations", *words]], "reason": "plan"}
    files = [each.adapter_path / "adapter_model.safetensors" for each in (straight, run)]
    assert files[0].read_bytes() == files[1].read_bytes()
    found = luthier.reproduce(path)
    assert found["same"] and found["revised"] == [], "a change that changes no bit is none for a repetition"


def test_a_saved_plan_s_policies_are_obeyed_and_may_be_changed(recipe):
    """Without a word they stay, whatever memory is free; asked for otherwise, they change without a fuss."""
    recipe["optim"]["activations"] = "drop_mlp"
    with pytest.raises(Killed):
        luthier.train(recipe, on_event=killed_at("step", 3))
    path = Path(recipe["run"]["dir"]) / "first"
    recipe["optim"]["activations"] = "auto"
    with pytest.raises(Killed):
        luthier.train(recipe, on_event=killed_at("step", 4))
    assert set(json.loads((path / "plan.json").read_text())["activations"]) == {"drop_mlp"}
    recipe["optim"]["activations"] = "drop_layer"
    run = luthier.train(recipe)
    assert set(json.loads((path / "plan.json").read_text())["activations"]) == {"drop_layer"}
    fields = [change[0] for event in run.events if event.kind == "revised" for change in event.data["changes"]]
    assert fields == ["optim.activations", "optim.activations", "plan.activations"]


def test_less_memory_on_a_resume_makes_a_smaller_budget_and_says_so(recipe, monkeypatch):
    recipe["optim"]["activations"] = "keep"
    with pytest.raises(Killed):
        luthier.train(recipe, on_event=killed_at("step", 3))
    path = Path(recipe["run"]["dir"]) / "first"
    before = json.loads((path / "plan.json").read_text())
    monkeypatch.setattr(backend, "free_memory_bytes", lambda device: enough_for(before, 100))
    run = luthier.train(recipe)
    after = json.loads((path / "plan.json").read_text())
    assert after["budget_tokens"] < before["budget_tokens"] and after["backend"] == before["backend"]
    (revision,) = [event.data for event in run.events if event.kind == "revised"]
    changes = [["plan.budget_tokens", before["budget_tokens"], after["budget_tokens"]]]
    assert revision == {"changes": changes, "reason": "plan"}


def enough_for(plan, tokens):
    """Free bytes that a micro-batch of so many tokens fits into, and one as the run has it does not."""
    memory = plan["memory"]
    assert memory["micro_tokens"] > tokens
    return int((memory["peak_bytes"] - memory["bytes_per_token"] * (memory["micro_tokens"] - tokens)) / 0.8)


def test_a_budget_that_does_not_fit_is_named_by_its_field(recipe, monkeypatch):
    """Where steps are that large; a budget that no step fills binds nobody."""
    recipe["optim"] |= {"budget_tokens": 100_000_000, "activations": "keep"}
    run = luthier.train({**recipe, "run": {**recipe["run"], "name": "roomy"}})
    free_bytes = enough_for(run.folder.read_json("plan.json"), 100)
    monkeypatch.setattr(backend, "free_memory_bytes", lambda device: free_bytes)
    with pytest.raises(RunError) as caught:
        luthier.train(recipe)
    assert [problem.field for problem in caught.value.problems] == ["optim.budget_tokens"]


def test_a_result_that_was_deleted_is_written_again_from_the_last_checkpoint(recipe):
    run = luthier.train(recipe)
    before = (run.adapter_path / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(run.adapter_path)
    with pytest.raises(RunError, match="runs resume first"):
        luthier.open_session(run.path)
    seen = []
    again = luthier.resume(run.path, on_event=seen.append)
    assert again.state == "finished" and not [event for event in seen if event.kind == "step"]
    assert (again.adapter_path / "adapter_model.safetensors").read_bytes() == before


def test_an_error_during_training_is_written_down(recipe, monkeypatch):
    problem = Problem("runs.no_room_left", where="disk", values={"free": "0 B", "reason": "full"})

    def full(job, state):
        raise RunError(problem)

    monkeypatch.setattr(loop, "_save", full)
    with pytest.raises(RunError):
        luthier.train(recipe)
    run = luthier.Run(Path(recipe["run"]["dir"]) / "first")
    assert run.state == "failed" and run.events[-1].data["problem"]["id"] == "runs.no_room_left"


def test_whoever_watches_may_go_away(recipe):
    def gone(event):
        raise OSError(errno.EIO, "the terminal was closed")

    assert luthier.train(recipe, on_event=gone).state == "finished"


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


def test_what_rows_hold_is_told_once_and_written_down(recipe, write_rows):
    """A warning for what most likely harms, a count for the rest; nothing stops."""
    answers = [" ".join(WORDS[j % 12] for j in range(i, i + 6)) for i in range(40)]
    values = [{"instruction": f"Name {i} {i * i}", "output": answer} for i, answer in enumerate(answers)]
    values[5]["output"] += " \x07"
    values[9]["instruction"] += " Write to john.smith@acme-corp.io."
    path = write_rows("faulty.jsonl", values)
    recipe["data"]["train"] = str(path)
    run = luthier.train(recipe)
    assert run.state == "finished"
    notes = [event.data["text"] for event in run.events if event.kind == "note"]
    told = [f"1 rows hold control characters (first: {path}:6)"]
    told.append("what stands in the rows: 1 warnings, 1 notes; `luthier data check` shows all, with remedies")
    assert [each for each in notes if each in told] == told
    assert all(each in run.receipt.notes for each in told)
    assert told[0] in (run.path / "receipt.md").read_text()


def test_rows_that_are_nearly_the_same_are_held_out_together(recipe, write_rows):
    """Ten groups of six; and the split is the one that `data check` and `data show` show."""
    texts = [" ".join(f"{WORDS[(k * k * g + 7 * k + g) % 12]}{k * g}" for k in range(40)) for g in range(10)]
    values = [{"instruction": f"{g}", "output": f"{texts[g]} {WORDS[n]}"} for n in range(6) for g in range(10)]
    recipe["data"] |= {"train": str(write_rows("near.jsonl", values)), "validation": 0.2, "max_tokens": 1024}
    config = config_load.load(recipe)
    data = training.prepare(config, training.find_base(config.model))
    trained, held_out = (
        {item.example.messages[0].content for item in side} for side in (data.checked.train, data.checked.validation)
    )
    assert len(held_out) == 2 and len(data.checked.validation) == 12 and not trained & held_out
    shown = check.check_sources(config)
    assert list(shown.validation.hashes()) == list(data.checked.validation.hashes())


def test_where_rows_of_a_hub_come_from_is_in_the_manifest(recipe, rows, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    rows.rename(tmp_path / "set" / "train.json")
    recipe["data"]["train"] = f"hub:{tmp_path / 'set'}"
    run = luthier.train(recipe)
    (file,) = run.folder.read_json("manifest.json")["data"]
    origin = {"source": recipe["data"]["train"], "subset": None, "split": "train", "revision": None, "commit": None}
    assert file["origin"] == origin and file["path"].endswith(".arrow")
    assert run.receipt.manifest["data"][0]["origin"] == origin


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


@pytest.mark.parametrize("language", ["en", "zh"])
def test_rows_beyond_the_base_s_positions_are_told_at_the_start(recipe, tiny_model, language):
    set_language(language)
    for limit, told in ((40, 1), (256, 0)):
        recipe["model"]["path"] = str(tiny_model("llama", max_position_embeddings=limit))
        recipe["optim"] = {"lr": 1e-2, "steps": 1, "batch": 4}
        recipe["run"]["name"] = f"far-{limit}"
        run = luthier.train(recipe)
        notes = [e.data["text"] for e in run.events if e.kind == "note" and "max_position_embeddings" in e.data["text"]]
        assert len(notes) == told
        if told:
            data = next(event.data for event in run.events if event.kind == "data")
            rows, shown_limit, longest = (int(n) for n in re.findall(r"\d+", notes[0])[:3])
            assert 0 < rows < data["train"] and shown_limit == 40 < longest


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        (5, (), ["recipe", "5", "mapping"]),
        ([("model", "nano")], (), ["mapping"]),
        ({"model": None, "data": None}, (), ["model: this must be given", "data.train: this must be given"]),
        ({"model": "nano", "data": {"train": "x.json"}}, "tune.rank=x", ["tune.rank = x: ", "whole number"]),
        ({"model": "nano", "data": {"train": "x.json"}}, 5, ["overrides: 5: "]),
        ({"model": "nano", "data": {"train": "x.json"}}, [5, "tune.rank=x"], ["overrides: 5: ", "tune.rank = x: "]),
    ],
)
def test_python_s_slips_are_answered_in_words(recipe, overrides, words):
    with pytest.raises(ConfigError) as caught:
        luthier.train(recipe, overrides)
    assert all(word in str(caught.value) for word in words), str(caught.value)
