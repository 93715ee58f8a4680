"""Whole runs on judged answers: from the recipe to the receipt, to the bit on a resume, and out to PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_serve import House
from test_train import WORDS, Killed, final_state, killed_at, same_bits, steps_of

import luthier
from luthier import proof
from luthier.errors import TrainingFailed
from luthier.serving.limits import Limits
from luthier.session import open_judge

pytestmark = pytest.mark.usefixtures("no_fresh_process")


@pytest.fixture
def recipe(tiny_model, write_rows, runs_dir, tmp_path, monkeypatch):
    """Ten steps in float32: of two words the first one of the list is the better one."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    rows = []
    for number in range(44):
        better, worse = WORDS[number % 5], WORDS[5 + number % 7]
        rows.append({"prompt": f"Say a word {number}", "chosen": f"{better} {number}", "rejected": f"{worse} {number}"})
    return {
        "model": {"path": str(tiny_model("llama")), "dtype": "float32"},
        "data": {"train": str(write_rows("pairs.json", rows)), "validation": 0.1, "max_tokens": 256},
        "method": {"kind": "dpo"},
        "tune": {"kind": "lora", "rank": 4, "dropout": 0.1},
        "optim": {"lr": 1e-2, "epochs": 1, "batch": 4},
        "run": {"name": "first", "device": "cpu", "dir": str(runs_dir)},
    }


def test_a_dpo_run_tells_what_it_changed_and_goes_on_to_the_bit(recipe):
    whole = luthier.train(recipe)
    steps = steps_of(whole)
    assert len(steps) == 10 and steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert set(steps[0]["measures"]) == {
        "accuracy", "margin", "reward_chosen", "reward_rejected", "logp_chosen", "logp_rejected", "chosen_per_token",
        "prefers_longer", "longer_chosen",
    }  # fmt: skip
    before, after = whole.receipt.measures["margin"]
    assert before["mean"] == pytest.approx(0, abs=1e-4) and after["mean"] > 0.1 and after["low"] < after["mean"]
    assert "measured on the rows held out" in (whole.path / "receipt.md").read_text(encoding="utf-8")
    assert (whole.path / "reference.npz").is_file()

    recipe["run"]["name"] = "broken"
    with pytest.raises(Killed):
        luthier.train(recipe, on_event=killed_at("step", 6))
    again = luthier.train(recipe)
    assert [event.data["source"] for event in again.events if event.kind == "reference"] == ["cache", "run"]
    assert same_bits(final_state(whole), final_state(again))
    recipe["method"], recipe["run"]["name"] = {"kind": "ipo", "beta": 0.5}, "other"
    other = luthier.train(recipe)
    assert [event.data["source"] for event in other.events if event.kind == "reference"] == ["cache"]


@pytest.mark.parametrize("start", ["fresh", "further"])
def test_the_reference_of_other_rows_is_not_taken(recipe, start):
    """Rows that change on an unfinished run, as `run.on_change` allows, are as many as before."""
    if start == "further":
        luthier.train(recipe)
        recipe["tune"] = {"kind": "lora", "from": str(recipe["run"]["dir"]) + "/first"}
    recipe["run"] |= {"name": "changed", "save_every": 2}
    with pytest.raises(Killed):
        luthier.train(recipe, on_event=killed_at("step", 6))
    file = Path(recipe["data"]["train"])
    rows = json.loads(file.read_text(encoding="utf-8"))
    rows[0], rows[1] = {**rows[0], "chosen": rows[1]["chosen"]}, {**rows[1], "chosen": rows[0]["chosen"]}
    file.write_text(json.dumps(rows), encoding="utf-8")
    recipe["run"]["on_change"] = "continue"
    if start == "further":  # the adapter is no longer what it was at step 0: nobody can be asked
        with pytest.raises(TrainingFailed) as caught:
            luthier.train(recipe)
        assert caught.value.problem.id == "engine.reference_lost"
        return
    again = luthier.train(recipe)
    assert [event.data["source"] for event in again.events if event.kind == "reference"][-1] == "computed"


@pytest.mark.parametrize("tune", ["full", "freeze"])
def test_weights_themselves_learn_pairs(recipe, tune):
    recipe |= {"tune": tune, "method": "orpo"}
    steps = steps_of(luthier.train(recipe))
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_an_adapter_that_goes_on_is_its_own_reference(recipe, write_rows):
    chats = [{"instruction": f"Say {each}", "output": each} for each in WORDS * 2]
    recipe["data"] |= {"validation": 0.0}
    sft = recipe | {"data": recipe["data"] | {"train": str(write_rows("sft.json", chats))}, "method": "sft"}
    luthier.train(sft | {"run": recipe["run"] | {"name": "sft"}})
    recipe["tune"] = {"kind": "lora", "from": str(recipe["run"]["dir"]) + "/sft"}
    steps = steps_of(luthier.train(recipe))
    assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-4) and steps[-1]["loss"] < 0.6


def test_a_run_that_learnt_pairs_leaves_the_house(recipe, tmp_path):
    """Merged it says the same, in llama.cpp it says the same, and a server and a chat answer with it."""
    run = luthier.train(recipe)
    merged = run.merge(tmp_path / "merged")
    question, short = "Say a word 3", {"max_tokens": 4}
    said = run.chat(question, **short)
    checks = json.loads((merged / "receipt.json").read_text(encoding="utf-8"))["checks"]
    assert {each["name"]: each["status"] for each in checks} == {"base": "pass", "agreement": "pass"}
    transformers = pytest.importorskip("transformers")
    oracle = transformers.AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    ids = torch.tensor([run.session.prompt(question)])
    with torch.no_grad():
        theirs = oracle(input_ids=ids).logits[0, -1].numpy()
    mine = proof.next_token_logits(run.session.decoder, ids.tolist(), run.session.adapter)[0]
    assert np.abs(theirs - mine).max() <= 1e-5 * np.abs(mine).max() + 1e-4
    file = run.export(["f16"], tmp_path / "gguf")
    found = json.loads((file / "receipt.json").read_text(encoding="utf-8"))["checks"]
    assert not [each for each in found if each["status"] == "fail"] and list(file.glob("*.gguf"))
    with House([str(run.path)], [], Limits(), "auto") as served:
        asked = [{"role": "user", "content": question}]
        got = served.client().chat.completions.create(model=run.name, messages=asked, max_tokens=4, temperature=0)
        assert got.choices[0].message.content == said


def test_marked_answers(recipe, write_rows):
    rows = []
    for number in range(40):
        word = WORDS[number % 12]
        rows.append({"prompt": f"Say a word {number}", "completion": word, "label": number % 2 == 0})
    recipe["data"]["train"] = str(write_rows("marked.json", rows))
    recipe["method"] = "kto"
    steps = steps_of(luthier.train(recipe))
    assert steps[0]["loss"] == pytest.approx(0.5, abs=1e-5) and steps[-1]["loss"] < 0.49


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_reward_model_judges_and_is_what_transformers_reads(recipe, tune, tmp_path):
    recipe |= {"method": "reward", "tune": {"kind": tune}}
    recipe["optim"]["epochs"] = 3
    run = luthier.train(recipe)
    measured = run.receipt.measures
    assert measured["accuracy"][1]["mean"] >= measured["accuracy"][0]["mean"] and "confidence" in measured
    judge = open_judge(run.path)
    question = [{"role": "user", "content": "Say a word 3"}]
    answers = [f"{WORDS[0]} 3", f"{WORDS[7]} 3", "something else"]
    mine = judge.score([(question, answer) for answer in answers])
    assert mine[0] > mine[1] and len(mine) == 3

    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    folder = recipe["model"]["path"] if tune == "lora" else str(run.path / "model")
    labels: dict[str, Any] = {"num_labels": 1} if tune == "lora" else {}
    oracle = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, **labels)
    if tune == "lora":
        oracle = peft.PeftModel.from_pretrained(oracle, str(run.path / "adapter"))
        config = json.loads((run.path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["task_type"] == "SEQ_CLS" and config["modules_to_save"] == ["score"]
    oracle.config.pad_token_id = None
    for answer, value in zip(answers, mine, strict=True):
        ids = torch.from_numpy(judge.ids(question, answer))[None]
        with torch.no_grad():
            assert oracle.eval()(input_ids=ids).logits.item() == pytest.approx(value, abs=1e-4)
