"""Recipes in stages: what each stage is made of, and that a kill at any point costs nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import luthier
from luthier import staged
from luthier.cli import run as command
from luthier.config import load as config_load
from luthier.errors import ConfigError, DataError, RunError
from luthier.paper import outlook
from luthier.runs import manifest

WORDS = ["amber", "birch", "cedar", "delta", "ember", "flint", "grove", "harbor", "iris", "jasper", "kelp", "lotus"]
TWO = """\
model: nano
tune: {rank: 8, alpha: 4}
optim: {epochs: 1}
stages:
  - name: books
    method: pretrain
    data: {train: books.txt}
  - name: chat
    data: {train: chat.json}
    optim: {steps: 7}
"""

pytestmark = pytest.mark.usefixtures("no_fresh_process")


@pytest.fixture
def files(write_rows, tmp_path):
    chat = [
        {"instruction": f"Say {WORDS[i % 12]} {i}", "output": " ".join(WORDS[i % 7 : i % 7 + 3])} for i in range(16)
    ]
    (tmp_path / "books.txt").write_text("\n\n".join(f"{WORDS[i % 12]} and {WORDS[i % 5]}" for i in range(12)))
    return {"chat": str(write_rows("chat.json", chat)), "books": str(tmp_path / "books.txt")}


@pytest.fixture
def recipe(tiny_model, files, runs_dir) -> dict[str, Any]:
    """pretrain, sft on top of it, and sft on both merged; in float32 a few steps each."""
    return {
        "model": {"path": str(tiny_model("llama")), "dtype": "float32"},
        "data": {"validation": 0.0, "max_tokens": 128},
        "tune": {"kind": "lora", "rank": 4, "dropout": 0.1},
        "optim": {"lr": 1e-2, "epochs": 1, "batch": 4, "warmup": 0},
        "run": {"name": "all", "device": "cpu", "dir": str(runs_dir)},
        "stages": [
            {"name": "books", "method": "pretrain", "data": {"train": files["books"]}, "optim": {"steps": 2}},
            {"name": "chat", "data": {"train": files["chat"]}},
            {"name": "again", "start": "merge", "data": {"train": files["chat"]}, "tune": {"rank": 2}},
        ],
    }


def written(tmp_path: Path, text: str) -> str:
    file = tmp_path / "staged.yaml"
    file.write_text(text)
    return str(file)


def tensors(run: luthier.Run) -> dict[str, torch.Tensor]:
    assert run.adapter_path is not None
    return load_file(run.adapter_path / "adapter_model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------------------------------------------- the recipe


def test_a_stage_is_the_shared_sections_under_its_own(tmp_path) -> None:
    books, chat = config_load.stages(written(tmp_path, TWO))
    assert (books.start, books.from_, str(books.folder)) == ("fresh", None, "runs/nano-books")
    assert (chat.start, chat.from_, str(chat.folder)) == ("continue", "books", "runs/nano-chat")
    assert books.config.method.kind == "pretrain" and chat.config.method.kind == "sft"
    assert books.config.tune.rank == 8 and books.config.tune.from_ is None
    assert chat.config.tune.from_ == "runs/nano-books" and "rank" not in chat.config.tune.model_fields_set
    assert chat.planned.tune.rank == 8 and chat.planned.tune.alpha == 4 and chat.planned.tune.from_ is None
    assert (books.config.optim.epochs, chat.config.optim.steps) == (1, 7)
    for stage in (books, chat):
        assert config_load.settle(stage.config) == config_load.settle(config_load.settle(stage.config))


def test_overrides_hold_for_all_or_for_one(tmp_path) -> None:
    given = ["optim.lr=1e-3", "stages.chat.optim.lr=2e-3", "optim.epochs=2", "run.name=big", "stages.books.tune.rank=3"]
    for overrides in (given, dict(each.split("=") for each in given)):
        books, chat = config_load.stages(written(tmp_path, TWO), overrides)
        assert (float(books.config.optim.lr), float(chat.config.optim.lr)) == (1e-3, 2e-3)
        assert (chat.config.optim.epochs, chat.config.optim.steps) == (2, None), "overrides win over the stage's words"
        assert (books.config.run.name, chat.config.run.name) == ("big-books", "big-chat")
        assert int(books.config.tune.rank) == int(chat.planned.tune.rank) == 3


def test_what_a_stage_starts_from(tmp_path) -> None:
    more = """
  - {name: judge, start: merge, from: books, data: {train: x.json}}
  - {name: on, data: {train: x.json}}
  - {name: whole, start: merge, tune: full, data: {train: x.json}}
  - {name: last, tune: lora, data: {train: x.json}}
  - {name: alone, start: fresh, data: {train: x.json}}
"""
    found = {each.name: each.config for each in config_load.stages(written(tmp_path, TWO + more.lstrip("\n")))}
    assert found["judge"].model.path == found["on"].model.path == "runs/nano-books-merged"
    assert (found["judge"].tune.from_, found["judge"].tune.rank) == (None, 8)
    assert found["on"].tune.from_ == "runs/nano-judge"
    assert found["whole"].model.path == "runs/nano-on-merged"
    assert found["last"].model.path == "runs/nano-whole/model" and found["last"].tune.from_ is None
    assert found["alone"].model.path == "nano" and found["alone"].tune.from_ is None


def test_models_of_earlier_stages_are_planned_with_as_their_bases(tmp_path) -> None:
    """A judge or a teacher that a stage before is still to train; what it trains with is what was written."""
    more = """
  - {name: judge, start: merge, from: books, method: reward, data: {train: x.json}}
  - {name: play, from: chat, method: {kind: grpo, rewards: ["model:runs/nano-judge", exact]}, data: {train: x.json}}
  - {name: named, from: chat, method: {kind: grpo, rewards: "model:nano-judge"}, data: {train: x.json}}
  - {name: small, start: fresh, method: {kind: distill, teacher: runs/nano-play}, data: {train: x.json}}
  - {name: other, start: fresh, method: {kind: distill, teacher: runs/elsewhere}, data: {train: x.json}}
"""
    found = {each.name: each for each in config_load.stages(written(tmp_path, TWO + more.lstrip("\n")))}
    assert found["play"].config.method.rewards == ("model:runs/nano-judge", "exact")
    assert found["play"].planned.method.rewards == ("model:nano", "exact")
    assert found["named"].planned.method.judges == ("nano",)
    assert (found["small"].config.method.teacher, found["small"].planned.method.teacher) == ("runs/nano-play", "nano")
    assert found["other"].planned.method.teacher == "runs/elsewhere"
    made = outlook.plan(found["play"].planned, "T4")
    assert made.memory.judges == outlook.plan(found["judge"].planned, "T4").memory.weights > 0


def test_weights_from_scratch_are_those_of_the_first_stage_only(tmp_path) -> None:
    text = TWO.replace("model: nano", "model: {path: nano, init: random}").replace(
        "tune: {rank: 8, alpha: 4}", "tune: full"
    )
    books, chat = config_load.stages(written(tmp_path, text), ["stages.chat.tune=lora"])
    assert books.config.model.init == "random"
    assert (chat.config.model.path, chat.config.model.init) == ("runs/nano-books/model", "pretrained")


@pytest.mark.parametrize(
    ("old", "new", "line", "id"),
    [
        ("name: chat", "name: books", 8, "config.stage_twice"),
        ("name: chat", "name: a b", 8, "config.stage_name"),
        ("name: chat", "name: chat\n    start: merged", 9, "config.stage_start"),
        ("name: chat", "name: chat\n    from: sft", 9, "config.stage_from"),
        ("name: books", "name: books\n    start: continue", 5, "config.stage_from"),
        ("name: chat", "name: chat\n    from: books\n    start: fresh", 9, "config.stage_fresh"),
        ("name: chat", "name: chat\n    model: other", 8, "config.stage_model"),
        ("name: chat", "name: chat\n    tune: full", 8, "config.stage_needs_merge"),
        ("name: chat", "name: chat\n    methd: dpo", 9, "config.unknown_key_near"),
        ("name: chat", "name: chat\n    tune: {rank: 4}", 9, "config.from_settles_shape"),
        ("name: chat", "name: chat\n    run: {name: nano-books}", 8, "config.stage_run_twice"),
        ("steps: 7", "stepz: 7", 10, "config.unknown_key_near"),
        ("tune: {rank: 8, alpha: 4}", "tune: full", 8, "config.stage_nothing_to_merge"),
    ],
)
def test_mistakes_are_named_where_they_stand(tmp_path, old, new, line, id) -> None:
    text = TWO.replace(old, new)
    text = text.replace("name: chat", "name: chat\n    start: merge") if id.endswith("nothing_to_merge") else text
    with pytest.raises(ConfigError) as caught:
        config_load.stages(written(tmp_path, text))
    found = caught.value.problems
    assert [each.id for each in found] == [id]
    assert found[0].where.endswith((f":{line}", f":{line + 1}")) and str(found[0])


def test_overrides_of_no_stage_and_recipes_of_one_are_told(tmp_path) -> None:
    file = written(tmp_path, TWO)
    with pytest.raises(ConfigError, match="there are: books, chat"):
        config_load.stages(file, ["stages.chit.optim.lr=1"])
    with pytest.raises(ConfigError, match="stage=books"):
        config_load.load(file)
    assert config_load.load(file, ["stage=chat", "optim.lr=1e-3"]).optim.lr == 1e-3
    assert config_load.stages(None, ["model=nano", "data.train=x.json"]) == ()
    for wrong in ("stages: 3", "stages: []", "stages: [chat]"):
        with pytest.raises(ConfigError, match="section"):
            config_load.stages(written(tmp_path, wrong))


# ---------------------------------------------------------------------------------------------------- the runs


class Killed(Exception):
    """Stands for a kill."""


def killed_at(run: str, step: int) -> Any:
    def kill(event: Any) -> None:
        if (event.run, event.kind, event.step) == (run, "step", step):
            raise Killed

    return kill


def test_every_stage_is_a_run_and_names_what_it_started_from(recipe, runs_dir) -> None:
    told: list[staged.At] = []
    last = luthier.train(recipe, on_stage=told.append)
    books, chat, again = last.stages.values()
    assert [(each.number, each.of, each.stage.name, each.done) for each in told] == [
        (1, 3, "books", False),
        (2, 3, "chat", False),
        (3, 3, "again", False),
    ]
    assert last is again and list(last.stages) == ["books", "chat", "again"]
    for run in (books, chat, again):
        assert run.state == "finished" and run.receipt.failed == 0 and (run.path / "receipt.md").is_file()
    given = manifest.load(chat.folder).parent
    assert given is not None and given["path"] == str(books.path)
    assert given["sha256"] == manifest.parent_fingerprint(books.adapter_path)["sha256"]
    base = manifest.load(again.folder).base
    assert base["path"] == f"{chat.path}-merged" and base["made_by"]["run"] == "all-chat"
    (adapter,) = base["made_by"]["adapters"]
    assert adapter["sha256"] == manifest.parent_fingerprint(chat.adapter_path)["sha256"]
    # The first stage by hand is the same bits.
    alone = {key: value for key, value in recipe.items() if key != "stages"}
    alone["data"] = recipe["data"] | recipe["stages"][0]["data"]
    by_hand = {"method": "pretrain", "optim.steps": 2, "run.name": "by-hand"}
    assert same(tensors(luthier.train(alone, by_hand)), tensors(books))


@pytest.mark.parametrize(("run", "step"), [("all-books", 1), ("all-chat", 2), ("all-again", 3)])
def test_killed_anywhere_the_same_command_ends_with_the_same_bits(recipe, runs_dir, run, step) -> None:
    straight = luthier.train(recipe | {"run": recipe["run"] | {"dir": str(runs_dir / "straight")}})
    with pytest.raises(Killed):
        luthier.train(recipe, {"run.save_every": 1}, on_event=killed_at(run, step))
    seen: list[tuple[str, str]] = []
    resumed = luthier.train(recipe, on_event=lambda event: seen.append((event.run, event.kind)))
    trained = [name for name in ("all-books", "all-chat", "all-again") if (name, "step") in seen]
    assert trained == ["all-books", "all-chat", "all-again"][["all-books", "all-chat", "all-again"].index(run) :]
    assert (run, "resumed") in seen
    for name, there in straight.stages.items():
        assert same(tensors(there), tensors(resumed.stages[name])), name
    seen.clear()
    assert luthier.train(recipe, on_event=lambda event: seen.append((event.run, event.kind))).stages
    assert not seen, "all is finished: nothing is trained"


def test_a_merge_that_was_interrupted_is_made_again(recipe, monkeypatch) -> None:
    whole = staged.merging.merge

    def dies(*given: Any, **named: Any) -> None:
        raise Killed

    monkeypatch.setattr(staged.merging, "merge", dies)
    with pytest.raises(Killed):
        luthier.train(recipe)
    monkeypatch.setattr(staged.merging, "merge", whole)
    assert luthier.train(recipe).state == "finished"


def test_a_changed_stage_is_refused_or_kept(recipe, files, runs_dir) -> None:
    first = luthier.train(recipe)
    with pytest.raises(RunError) as caught:
        luthier.train(recipe, {"stages.books.optim.lr": 1e-3})
    assert [(each.id, each.field) for each in caught.value.problems] == [("runs.changed", "optim.lr")]
    kept = luthier.train(recipe, {"stages.books.optim.lr": 1e-3, "run.on_change": "continue"})
    assert same(tensors(first), tensors(kept))
    luthier.train(recipe, {"run.save_every": 3})  # nothing that is learnt depends on it
    Path(files["books"]).write_text("other words entirely")
    with pytest.raises(RunError, match=r"books\.txt"):
        luthier.train(recipe)


def test_a_first_stage_made_anew_is_noticed_by_all_that_came_of_it(recipe, runs_dir) -> None:
    luthier.train(recipe)
    shutil.rmtree(runs_dir / "all-books")
    with pytest.raises(RunError) as caught:
        luthier.train(recipe, {"stages.books.optim.lr": 1e-3})
        luthier.train(recipe, {"stages.books.optim.lr": 1e-3})
    assert [each.field for each in caught.value.problems] == ["parent"]
    shutil.rmtree(runs_dir / "all-chat")
    shutil.rmtree(runs_dir / "all-again")
    with pytest.raises(RunError, match=r"is not what .*all-chat merges to now"):
        luthier.train(recipe, {"stages.books.optim.lr": 1e-3})
    redone = luthier.train(recipe, {"stages.books.optim.lr": 1e-3, "run.on_change": "continue"})
    (adapter,) = manifest.load(redone.folder).base["made_by"]["adapters"]
    chat = redone.stages["chat"].adapter_path
    assert adapter["sha256"] == manifest.parent_fingerprint(chat)["sha256"]


def test_wrong_rows_of_the_last_stage_are_found_before_the_first_trains(recipe, write_rows, runs_dir) -> None:
    recipe["stages"][2]["data"]["train"] = str(write_rows("bad.json", [{"instruction": "a", "output": 3}]))
    with pytest.raises(DataError, match=r"bad\.json"):
        luthier.train(recipe)
    assert not list(runs_dir.iterdir())


def test_weights_tuned_in_full_are_the_next_stages_model(recipe) -> None:
    recipe["stages"] = recipe["stages"][:2]
    last = luthier.train(recipe, {"stages.books.tune": "full", "stages.chat.tune.kind": "lora"})
    books = last.stages["books"]
    base = manifest.load(last.folder).base
    assert base["path"] == str(books.model_path) and base["made_by"] == {"run": "all-books"}
    assert base["sha256"] == manifest.weights_fingerprint(books.model_path)["sha256"]


def test_the_command_line_shows_and_plans_every_stage(tmp_path, monkeypatch, capsys, files) -> None:
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, TWO)
    assert command(["train", file, "--dry-run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["stages"]
    assert [(each["name"], each["from"], each["start"]) for each in shown] == [
        ("books", None, "fresh"),
        ("chat", "books", "continue"),
    ]
    assert shown[1]["recipe"]["tune"]["from"] == "runs/nano-books"
    assert command(["train", file, "--dry-run"]) == 0
    assert "# chat (runs/nano-chat) goes on with what books has made" in capsys.readouterr().out
    assert command(["plan", file, "stages.chat.optim.batch=64", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    peaks = {each["name"]: each["memory"]["peak_bytes"] for each in plan["stages"]}
    assert plan["largest"] == {"stage": max(peaks, key=lambda name: peaks[name]), "peak_bytes": max(peaks.values())}
    assert command(["plan", file]) == 0
    assert "needs most" in capsys.readouterr().out
    assert command(["data", "check", file, "stage=chat", f"data.train={files['chat']}"]) == 0
