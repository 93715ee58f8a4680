"""Runs as the page shows them, and what it can ask of them: the queue, the log and the folder say everything."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import waiting
import web_written
from web_house import client, house, place, server

from luthier import machine, queue, supervisor
from luthier.config import load
from luthier.runs import commands
from luthier.runs.store import RunFolder
from luthier.web import board as boards
from luthier.web import tail as tails
from luthier.web.house import House

__all__ = ["place"]
GOLDEN = Path(__file__).parent / "golden" / "run"
RECIPE = "model: nano\ndata: {train: rows.json}\noptim: {steps: 3}\nrun: {name: first}\n"
STAGED = f"""{RECIPE.replace("first", "shop")}
stages:
  - {{name: a}}
  - {{name: b, optim: {{steps: 4}}}}
  - {{name: c, start: merge}}
"""


@pytest.fixture(autouse=True)
def _nobody_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits goes on waiting."""
    monkeypatch.setattr(supervisor, "ensure", lambda runs_dir=None: None)


@pytest.fixture
def here(place: Path) -> House:
    (place / "rows.json").write_text(json.dumps([{"instruction": "Say yes", "output": "yes"}] * 4))
    return house(place)


@pytest.fixture
def page(here: House) -> Any:
    return client(here)


def submitted(page: Any, recipe: Any = RECIPE, key: str = "a-first-key") -> Any:
    return page.post("/api/runs", json={"recipe": recipe, "key": key})


def ids(answer: Any) -> list[str]:
    return [each["id"] for each in answer.json()["problems"]]


def written(here: House, name: str = "first", **recipe: Any) -> RunFolder:
    """A run folder, locked for writing."""
    config = load.settle(load.load(None, {"model": "nano", "data.train": "rows.json", "run.name": name, **recipe}))
    return RunFolder.claim(config, load.dump(config))


def history_of(run: RunFolder) -> None:
    run.write_json("manifest.json", {})
    run.emit("started", {"num_steps": 40, "from_step": 0})
    for step in range(1, 31):
        facts = {"loss": 2.0 - step / 40, "lr": 1e-3, "num_steps": 40, "tokens": 100, "tokens_per_s": 50.0}
        run.emit("step", facts, step)
    run.emit("validation", {"loss": 1.0}, 30)


# ---------------------------------------------------------------------------------------------------- submitting


def test_a_recipe_becomes_a_run_that_waits(page: Any, here: House) -> None:
    answer = submitted(page)
    assert answer.status_code == 200 and answer.json() == {"name": "first", "place": 1, "runs": ["first"]}
    run = here.run("first")
    assert run.state == "queued" and run.config().run.dir == "runs", "it can be moved with the project"
    assert queue.Mark.of(run.path) is not None and queue.Mark.of(run.path).home == str(here.home)  # type: ignore[union-attr]
    assert submitted(page, RECIPE.replace("first", "second"), "another-key").json()["place"] == 2


def test_a_recipe_may_be_given_as_values(page: Any, here: House) -> None:
    values = {"model": "nano", "data": {"train": "rows.json"}, "run": {"name": "数据"}}
    assert submitted(page, values).json()["name"] == "数据"
    assert here.run("数据").config().data.train[0].path == "rows.json"


def test_the_same_key_is_the_same_run_also_for_another_server(page: Any, here: House, place: Path) -> None:
    first = submitted(page).json()
    queue.withdraw(here.run("first"))
    assert submitted(page).json() == {**first, "place": None}, "it is not put in again"
    assert submitted(client(house(place)), RECIPE.replace("first", "other")).json()["name"] == first["name"]
    assert not (here.runs_dir / "other").exists()


def test_two_clicks_at_once_make_one_run(page: Any, here: House) -> None:
    answers: list[Any] = []
    clicks = [
        threading.Thread(target=lambda key=key: answers.append(submitted(page, key=key)))  # type: ignore[misc]
        for key in ("one-click-key", "one-click-key", "other-person", "third-person") * 2
    ]
    for each in clicks:
        each.start()
    for each in clicks:
        each.join()
    assert [each.status_code for each in answers] == [200] * 8
    assert all(each.json() == {"name": "first", "place": 1, "runs": ["first"]} for each in answers)
    assert [path.name for path in queue.waiting()] == ["first"]


def test_another_recipe_does_not_take_the_name_of_a_run_that_waits(page: Any, here: House) -> None:
    submitted(page)
    before = (here.runs_dir / "first" / "recipe.yaml").read_text()
    answer = submitted(page, RECIPE.replace("3", "4"), "another-key")
    assert answer.status_code == 409 and ids(answer) == ["runs.exists"]
    assert "first-2" in answer.json()["problems"][0]["remedy"]
    assert (here.runs_dir / "first" / "recipe.yaml").read_text() == before
    assert submitted(page, RECIPE.replace("3", "4").replace("first", "first-2"), "another-key").status_code == 200


def test_the_recipe_of_a_run_that_goes_on_is_that_run(page: Any, here: House) -> None:
    text = RECIPE.replace("first", "going")
    config = load.settle(load.loads(text, "recipe.yaml"))
    with RunFolder.claim(config, load.dump(config)) as run:
        history_of(run)
        assert submitted(page, text).json()["place"] is None
    again = submitted(page, text, "another-key").json()
    assert (again["name"], again["place"]) == ("going", 1), "it was left unfinished, and goes on"


def test_a_finished_run_is_not_made_again(page: Any, here: House) -> None:
    with written(here, **{"optim.steps": 3}) as run:
        history_of(run)
        run.emit("finished", {"outputs": []}, 30)
    answer = submitted(page)
    assert answer.status_code == 409 and ids(answer) == ["runs.finished"]
    assert submitted(page, RECIPE.replace("first", "next")).status_code == 200, "the key was not spent"


@pytest.mark.parametrize(
    ("recipe", "problem", "field"),
    [
        ("model: nano\ndata: {train: rows.json}\ntune: {rnak: 3}\n", "config.unknown_key_near", "tune.rnak"),
        (RECIPE + "run: {name: ../x}\n", "config.duplicate_key", "run"),
        (RECIPE.replace("first", "../../x"), "runs.name", "run.name"),
        (RECIPE.replace("first", "--json"), "runs.name", "run.name"),
        (RECIPE.replace("{name: first}", "{name: first, dir: /tmp}"), "web.other_dir", "run.dir"),
        (RECIPE.replace("{name: first}", "{name: first, dir: ..}"), "web.other_dir", "run.dir"),
        (STAGED.replace("name: b", "name: a"), "config.stage_twice", "stages.1.name"),
        (STAGED.replace("name: shop", "name: ../x"), "runs.name", "run.name"),
        (STAGED.replace("name: b", "name: b, run: {dir: ..}"), "web.other_dir", "run.dir"),
        ("{", "config.yaml_syntax", ""),
        ("", "config.missing", "model"),
    ],
)
def test_a_wrong_recipe_is_refused_as_on_the_command_line(
    page: Any, here: House, recipe: str, problem: str, field: str
) -> None:
    answer = submitted(page, recipe)
    assert answer.status_code == 422
    found = [(each["id"], each["field"]) for each in answer.json()["problems"]]
    assert (problem, field) in found
    assert not here.runs_dir.exists() or not list(here.runs_dir.iterdir())
    assert submitted(page).status_code == 200, "the key was not spent"


def test_a_recipe_in_stages_becomes_a_run_for_each(page: Any, here: House) -> None:
    names = ["shop-a", "shop-b", "shop-c"]
    answer = submitted(page, STAGED)
    assert answer.json() == {"name": "shop-a", "place": 1, "runs": names}
    lines = {each["name"]: each for each in page.get("/api/runs").json()["runs"]}
    assert [(lines[name]["state"], lines[name]["place"]) for name in names] == [("queued", at) for at in (1, 2, 3)]
    assert [lines[name]["stage"] for name in names] == [
        None,
        {"name": "b", "start": "continue", "after": "shop-a"},
        {"name": "c", "start": "merge", "after": "shop-b"},
    ]
    assert page.get("/api/runs/shop-c").json()["stage"] == lines["shop-c"]["stage"]
    b, c = here.run("shop-b"), here.run("shop-c")
    assert (b.config().optim.steps, str(b.config().tune.from_)) == (4, "runs/shop-a"), (
        "it can be moved with the project"
    )
    assert c.config().model.path == "runs/shop-b-merged" and c.config().run.dir == "runs"
    assert {queue.Mark.of(here.run(name).path).home for name in names} == {str(here.home)}  # type: ignore[union-attr]
    assert submitted(client(house(here.home)), STAGED).json()["runs"] == names, "another server knows the key"
    assert submitted(page, STAGED, "another-key").json()["runs"] == names and len(queue.waiting()) == 3


def test_stages_that_are_finished_are_passed_over(page: Any, here: House) -> None:
    (first, *_) = load.read(STAGED, "recipe.yaml", {"run.dir": "runs"}).configs
    with RunFolder.claim(load.settle(first), load.dump(first)) as run:
        run.emit("started", {"num_steps": 3})
        run.emit("finished", {"outputs": []}, 3)
    assert submitted(page, STAGED).json() == {"name": "shop-b", "place": 1, "runs": ["shop-a", "shop-b", "shop-c"]}


def test_another_recipe_does_not_take_the_names_of_stages_that_wait(page: Any, here: House) -> None:
    submitted(page, STAGED)
    before = [(here.runs_dir / name / "recipe.yaml").read_text() for name in ("shop-a", "shop-b", "shop-c")]
    answer = submitted(page, STAGED.replace("steps: 4", "steps: 5"), "another-key")
    assert answer.status_code == 409 and ids(answer) == ["runs.exists"]
    assert "shop-2" in answer.json()["problems"][0]["remedy"]
    after = [(here.runs_dir / name / "recipe.yaml").read_text() for name in ("shop-a", "shop-b", "shop-c")]
    assert after == before and len(queue.waiting()) == 3
    other = submitted(page, STAGED.replace("steps: 4", "steps: 5").replace("shop", "shop-2"), "another-key")
    assert other.json()["runs"] == ["shop-2-a", "shop-2-b", "shop-2-c"]


def test_stages_may_be_made_elsewhere(place: Path, tmp_path: Path, here: House) -> None:
    submitted(client(House(place, tmp_path / "big-disk")), STAGED)
    run = RunFolder(tmp_path / "big-disk" / "shop-b")
    assert run.state == "queued" and str(run.config().tune.from_) == str(tmp_path / "big-disk" / "shop-a")


def test_the_folder_of_runs_may_lie_elsewhere(place: Path, tmp_path: Path, here: House) -> None:
    away = House(place, tmp_path / "big-disk")
    answer = submitted(client(away), RECIPE)
    assert answer.json()["name"] == "first"
    run = RunFolder(tmp_path / "big-disk" / "first")
    assert run.state == "queued" and run.config().run.dir == str(tmp_path / "big-disk")
    asked = RECIPE.replace("first", f"second, dir: {tmp_path / 'big-disk'}")
    assert submitted(client(away), asked, "another-key").status_code == 200


# ---------------------------------------------------------------------------------------------------- the list


def test_a_line_says_how_a_run_goes(page: Any, here: House) -> None:
    with written(here) as run:
        history_of(run)
        (line,) = page.get("/api/runs").json()["runs"]
    assert {name: line[name] for name in ("name", "state", "model", "method", "tune", "step", "num_steps")} == {
        "name": "first",
        "state": "running",
        "model": "nano",
        "method": "sft",
        "tune": "lora",
        "step": 30,
        "num_steps": 40,
    }
    assert line["loss"] == 2.0 - 30 / 40 and line["best"] == [30, 1.0]
    assert line["tokens_per_s"] == 50.0 and line["seconds"] == 60.0
    assert len(line["spark"]) == 30 and line["problem"] is None and line["place"] is None
    assert line["eta_s"] is not None and line["eta_s"] >= 0
    (line,) = page.get("/api/runs").json()["runs"]
    assert line["state"] == "died" and line["eta_s"] is None


def test_why_a_run_has_ended_is_said(page: Any, here: House) -> None:
    with written(here, "failed") as run:
        history_of(run)
        run.emit("failed", {"problem": {"id": "x", "rule": "the disk is full", "remedy": "Make room."}}, 30)
    with written(here, "died") as run:
        history_of(run)
        run.emit("died", {"code": -9, "signal": "SIGKILL", "said": ["last words"]}, 30)
    lines = {each["name"]: each for each in page.get("/api/runs").json()["runs"]}
    assert lines["failed"]["problem"] == "the disk is full\nMake room."
    assert "SIGKILL" in lines["died"]["problem"] and "last words" in lines["died"]["problem"]
    chinese = page.get("/api/runs", headers={"X-Language": "zh"}).json()["runs"]
    assert "信号" in next(each["problem"] for each in chinese if each["name"] == "died")


def test_damaged_folders_hide_none_of_the_others(page: Any, here: House) -> None:
    with written(here, "good"):
        pass
    for name, text in {"broken": "model: [", "empty": "", "binary": "\0\1"}.items():
        (here.runs_dir / name).mkdir()
        (here.runs_dir / name / "recipe.yaml").write_text(text)
        (here.runs_dir / name / "events.jsonl").write_bytes(b"\xff\n{}\n{\n")
    (here.runs_dir / "no-run").mkdir()
    (here.runs_dir / "stray").write_text("")
    lines = {each["name"]: each for each in page.get("/api/runs").json()["runs"]}
    assert {name: each["state"] for name, each in lines.items()} == {
        "good": "new",
        "broken": "damaged",
        "empty": "damaged",
        "binary": "damaged",
    }
    for name in ("broken", "empty", "binary"):
        assert "recipe.yaml" in lines[name]["problem"]
        whole = page.get(f"/api/runs/{name}").json()
        assert whole["config"] is None and whole["problems"]
        for part in ("history", "log"):
            assert page.get(f"/api/runs/{name}/{part}").status_code == 200


ODD = [
    '"kind": "step", "step": 1, "data": {"loss": Infinity, "lr": "x", "tokens": 1e400, "measures": 3}',
    '"kind": "step", "step": 1e3, "data": {}',
    '"kind": "step", "step": 2, "data": {"loss": 1.0, "num_steps": "many", "memory_bytes": -Infinity}',
    '"kind": "validation", "step": 2, "data": {"loss": "low", "terms": NaN}',
    '"kind": "resumed", "step": null, "data": {"from_step": "2", "reason": 7}',
    '"kind": "unheard-of", "step": 3, "data": {"num_steps": true}',
    '"kind": "finished", "step": 3, "data": {"tokens": "many", "seconds": null, "outputs": 1}',
    '"kind": "failed", "step": 3, "data": {"problem": "x"}',
]


@pytest.mark.parametrize("count", range(1, len(ODD) + 1))
def test_odd_events_are_shown_as_far_as_they_mean_anything(page: Any, here: House, count: int) -> None:
    with written(here):
        pass
    head = '{{"format": 1, "run": "first", "seq": {}, "attempt": 1, "time_s": 1.5, {}}}\n'
    lines = [head.format(number, event) for number, event in enumerate(ODD[:count], start=1)]
    (here.runs_dir / "first" / "events.jsonl").write_text("".join(lines) + head.format(10**30, ODD[0]))
    for path in ("runs", "runs/first", "runs/first/history"):
        answer = page.get(f"/api/{path}")
        assert answer.status_code == 200 and answer.json()
    assert answer.json()["last"] == (count if count != 2 else 1), "a step is a whole number, and there are not so many"


def test_a_run_that_is_gone_leaves_the_list(page: Any, here: House) -> None:
    with written(here):
        pass
    assert len(page.get("/api/runs").json()["runs"]) == 1
    shutil.rmtree(here.runs_dir / "first")
    assert page.get("/api/runs").json()["runs"] == []
    assert page.get("/api/runs/first").status_code == 404


def test_one_run_whole(page: Any, here: House) -> None:
    with written(here) as run:
        history_of(run)
        with run.checkpoint(10) as folder:
            (folder / "x").write_text("x")
        with run.replace("model") as folder:
            (folder / "weights").write_bytes(b"x" * 1000)
        (run.path / "plan.json").write_text("{damaged")
        whole = page.get("/api/runs/first").json()
    assert whole["config"]["run"]["name"] == "first" and whole["yaml"].startswith("model:")
    assert whole["checkpoints"] == [10] and whole["best_steps"] == []
    assert whole["attempts"][0]["to_step"] == 30 and whole["manifest"] == {"format": 1}
    assert whole["outputs"] == [{"what": "model", "path": str(here.runs_dir / "first" / "model"), "bytes": 1000}]
    assert whole["plan"] is None and [each["id"] for each in whole["problems"]] == ["runs.file_damaged"]


def test_its_log_and_its_receipt(page: Any, here: House) -> None:
    with written(here) as run:
        (run.path / "log").write_text("one\nhf_" + "a" * 34 + "\ntwo\n")
    assert page.get("/api/runs/first/log").json() == {"text": "one\nhf_***\ntwo\n"}
    assert page.get("/api/runs/first/log?bytes=6").json() == {"text": "two\n"}, "whole lines"
    assert page.get("/api/runs/first/log?bytes=0").status_code == 422
    assert page.get("/api/runs/first/receipt").status_code == 404
    (here.runs_dir / "first" / "receipt.json").write_text('{"format": 1}')
    assert ids(page.get("/api/runs/first/receipt")) == ["runs.file_damaged"]


def test_a_finished_run_of_an_older_version_is_shown_whole(page: Any, here: House) -> None:
    shutil.copytree(GOLDEN, here.runs_dir / "old")
    (line,) = page.get("/api/runs").json()["runs"]
    whole = page.get("/api/runs/old").json()
    assert whole["state"] == "finished" and whole["problems"] == []
    assert whole | line == whole
    assert [each["what"] for each in whole["outputs"]] == ["adapter"]
    receipt = page.get("/api/runs/old/receipt").json()
    assert receipt["markdown"] == (GOLDEN / "receipt.md").read_text()
    assert receipt["receipt"]["summary"]["step"] == whole["step"]
    history = page.get("/api/runs/old/history").json()
    events = RunFolder(GOLDEN).events()
    assert history["last"] == len(events)
    assert history["events"] == [each.to_json() for each in events if each.kind != "step"]


def test_runs_are_compared(page: Any, here: House) -> None:
    for name, steps in (("a", 3), ("b", 4)):
        with written(here, name, **{"optim.steps": steps}) as run:
            history_of(run)
            (run.path / "manifest.json").unlink()
    found = page.get("/api/compare", params={"run": ["a", "b"]}).json()
    assert found["runs"] == ["a", "b"] and found["recipe"]["optim.steps"] == [3, 4]
    assert found["curves"]["a"]["step"] == [[step, 2.0 - step / 40] for step in range(1, 31)]
    assert found["curves"]["b"]["validation"] == [[30, 1.0]] and found["samples"] == {"a": None, "b": None}
    assert page.get("/api/compare", params={"run": "a"}).status_code == 422
    assert page.get("/api/compare", params={"run": ["a", "../b"]}).status_code == 404


def scored(here: House, name: str, last: float, **values: Any) -> None:
    """A run that was judged before its first step and three times after it."""
    with written(here, name, **values) as run:
        run.emit("started", {"num_steps": 30})
        for step, loss, share in ((0, 2.0, 0.5), (10, 1.5, 0.6), (20, last, 0.75), (30, last + 1, 0.7)):
            accuracy = {"mean": share, "count": 40, "low": share - 0.1, "high": share + 0.1}
            measures = {"accuracy": accuracy, "margin": {"mean": step / 10, "count": 40, "low": None, "high": None}}
            run.emit("validation", {"loss": loss, "terms": {"nll": loss}, "measures": measures}, step)


def test_scores_are_compared_where_better_has_a_meaning(page: Any, here: House) -> None:
    scored(here, "a", 1.0)
    scored(here, "b", 0.9, **{"tune.rank": 2})
    with written(here, "none"):
        pass

    def compare(*runs: str) -> Any:
        return page.get("/api/compare", params={"run": runs}).json()

    found = compare("a", "b", "none")
    assert list(found["scores"]) == ["validation", "accuracy", "margin"], "one term is the loss itself"
    assert found["scores"]["validation"] == [[{"mean": 2.0}, {"mean": 1.0}], [{"mean": 2.0}, {"mean": 0.9}], None]
    accuracy = [{"mean": mean, "count": 40, "low": mean - 0.1, "high": mean + 0.1} for mean in (0.5, 0.75)]
    assert found["scores"]["accuracy"] == [accuracy, accuracy, None], "of step 20, whose weights ship"
    assert compare("a", "b")["better"] == {
        **{"loss": "lower", "validation": "lower", "accuracy": "higher"},
        **{"reward": "higher", "gain": "higher"},
    }
    scored(here, "other-method", 0.1, **{"method.train_on": "last"})
    assert compare("a", "other-method")["better"].keys() == {"accuracy", "reward", "gain"}
    scored(here, "other-rows", 0.1, **{"data.validation": 0.25})
    assert compare("a", "other-rows")["better"] == {"loss": "lower"}
    scored(here, "other-model", 0.1, **{"model": "elsewhere"})
    assert compare("a", "other-model")["better"].keys() == {"accuracy", "reward", "gain"}
    lines = commands.compare([here.run("a"), here.run("b")]).lines()
    assert any(re.search(r"accuracy +0\.5.* → 0\.75.*0\.65.*0\.85", line) for line in lines), lines


def test_where_answers_are_judged_the_reward_stands_for_the_loss(page: Any, here: House) -> None:
    for name, gained in (("a", 0.25), ("b", 0.5)):
        with written(here, name) as run:
            run.emit("started", {"num_steps": 10})
            for step, reward in ((0, 0.25), (10, 0.25 + gained)):
                measures = {"reward": {"mean": reward, "count": 9, "low": reward - 0.1, "high": reward + 0.1}}
                run.emit("validation", {"loss": -reward, "reward": reward, "measures": measures}, step)
        found = page.get("/api/compare", params={"run": ["a", "b"]}).json()
    assert list(found["scores"]) == ["reward"]
    assert [after["mean"] for _, after in found["scores"]["reward"]] == [0.5, 0.75]


def test_long_curves_are_compared_by_what_stands_out(page: Any, here: House) -> None:
    for name in ("a", "b"):
        run = web_written.begun(here.runs_dir, name, 20_000)
        run.emit("samples", web_written.samples(0), 0)
        web_written.long_log(run, 20_000)
        run.close()
        log = run.path / "events.jsonl"
        log.write_text(re.sub(r'("step": 12345, .*"loss": )[\d.]+', r"\g<1>99.0", log.read_text()))
    found = page.get("/api/compare", params={"run": ["a", "b"], "points": 100}).json()
    curve = found["curves"]["b"]["step"]
    assert 50 < len(curve) <= 102 and [curve[0][0], curve[-1][0]] == [1, 20_000]
    assert [12_345, 99.0] in curve and found["results"]["steps"] == [20_000, 20_000]
    assert found["samples"]["a"] == {"step": 0, **web_written.samples(0)}
    whole = commands.compare([here.run("a"), here.run("b")]).value
    assert len(whole["curves"]["a"]["step"]) == 20_000, "the command line's"
    assert whole["results"]["loss"] == found["results"]["loss"]


def test_events_before_the_last_ones_are_there_for_who_asks(page: Any, here: House) -> None:
    with written(here) as run:
        run.emit("started", {"num_steps": 9000})
        for number in range(1, tails.MOST_TOLD + 500):
            run.emit("note", {"text": str(number)})
            if number % 3 == 0:
                run.emit("step", {"loss": 1.0}, number)
    told = [each.to_json() for each in run.events() if each.kind != "step"]
    past = page.get("/api/runs/first/history").json()
    assert (past["events"], past["earlier"]) == (told[-tails.MOST_TOLD :], 500)
    before = page.get("/api/runs/first/told", params={"before": past["events"][0]["seq"]}).json()
    assert before == {"events": told[:500], "earlier": 0}
    assert page.get("/api/runs/first/told", params={"before": 1}).json() == {"events": [], "earlier": 0}
    last = page.get("/api/runs/first/told", params={"before": 10**9}).json()
    assert (last["events"], last["earlier"]) == (past["events"], 500)
    assert page.get("/api/runs/first/told?before=0").status_code == 422


# ---------------------------------------------------------------------------------------------------- actions


def test_one_that_waits_is_brought_to_the_front_and_taken_out(page: Any, here: House) -> None:
    for name in ("a", "b"):
        submitted(page, RECIPE.replace("first", name), f"key-of-{name}")
    assert page.post("/api/runs/b/first").json() == {"state": "queued"}
    lines = {each["name"]: each["place"] for each in page.get("/api/runs").json()["runs"]}
    assert lines == {"a": 2, "b": 1}
    assert page.post("/api/runs/b/stop").json() == {"state": "new"}
    answer = page.post("/api/runs/b/first")
    assert answer.status_code == 409 and ids(answer) == ["queue.not_waiting"]


def test_a_running_one_is_asked_to_stop(page: Any, here: House) -> None:
    with written(here) as run:
        assert page.post("/api/runs/first/stop").json() == {"state": "running"}
        assert run.stop_requested()
    answer = page.post("/api/runs/first/stop")
    assert answer.status_code == 409 and ids(answer) == ["runs.not_running"]


def test_an_unfinished_one_goes_on_and_can_be_made_longer(page: Any, here: House) -> None:
    with written(here, **{"optim.steps": 40}) as run:
        history_of(run)
        run.emit("interrupted", {}, 30)
    assert page.post("/api/runs/first/extend", json={"steps": 50}).json() == {"state": "interrupted"}
    assert here.run("first").config().optim.steps == 50
    for wrong in ({"steps": 50}, {"steps": 60, "epochs": 2}, {}, {"steps": 0}, {"step": 5}):
        assert page.post("/api/runs/first/extend", json=wrong).status_code == 422
    for _ in range(2):
        assert page.post("/api/runs/first/resume").json() == {"state": "queued"}
    assert [path.name for path in queue.waiting()] == ["first"]
    with RunFolder.open(here.runs_dir / "first", write=True):
        assert page.post("/api/runs/first/resume").json() == {"state": "running"}
        answer = page.post("/api/runs/first/extend", json={"steps": 60})
        assert answer.status_code == 409 and ids(answer) == ["runs.locked"]


# ---------------------------------------------------------------------------------------------------- the machine


def test_devices_and_disk(page: Any, here: House, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    card = machine.Gpu("Card", 7 * 2**30, (9, 0), 8 * 2**30)
    monkeypatch.setattr(machine, "gpus", lambda: asked.append(1) or (card, card))
    for _ in range(3):
        state = page.get("/api/state").json()
    assert len(asked) == 1, "the driver is not asked each time"
    assert [each["kind"] for each in state["devices"]] == ["gpu", "gpu", "cpu"]
    gpu = state["devices"][0]
    assert gpu["total_bytes"] == 8 * 2**30 and 0 <= 7 * 2**30 - gpu["free_bytes"] < 8 * 2**30 / 200
    for each in (*state["devices"], state["disk"]):
        assert 0 <= each["free_bytes"] <= each["total_bytes"]
    assert (state["home"], state["runs_dir"], state["base"]) == (str(here.home), str(here.runs_dir), "/")
    assert state["language"] == "en"
    assert page.get("/api/state", headers={"X-Language": "zh"}).json()["language"] == "zh"


# ---------------------------------------------------------------------------------------------------- live


@pytest.fixture
def live(here: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setattr(boards, "LOOK_S", 0.05)
    monkeypatch.setattr(tails, "POLL_S", 0.02)
    with server(here.home) as url, httpx.Client(base_url=f"{url}api/", trust_env=False, timeout=30) as asked:
        yield asked


def told(asked: httpx.Client, path: str, until: Any, headers: dict[str, str] | None = None) -> list[dict[str, str]]:
    """Server-sent events until one is enough, or the stream ends."""
    found: list[dict[str, str]] = []
    event: dict[str, str] = {}
    with asked.stream("GET", path, headers=headers or {}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                event[name] = value
            elif event:
                found.append(event)
                if until(event):
                    break
                event = {}
    return found


def test_the_overview_says_what_changes(live: httpx.Client, here: House) -> None:
    seen: list[list[tuple[str, str]]] = []

    def enough(event: dict[str, str]) -> bool:
        value = json.loads(event["data"])
        assert set(value) == {"runs", "devices", "disk", "jobs"}
        seen.append([(each["name"], each["state"]) for each in value["runs"]])
        if len(seen) == 1:
            with written(here):
                assert waiting.until(lambda: live.get("runs").json()["runs"] != [])
        return seen[-1] == [("first", "new")]

    told(live, "overview", enough)
    assert seen[0] == []


def test_logs_that_take_long_to_read_hide_none_of_the_others(
    page: Any, here: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest come first, the rest with the next looks; who asks for the list gets it whole."""
    for age, name in enumerate(("old", "newer", "newest")):
        with written(here, name) as run:
            history_of(run)
        os.utime(run.path / "events.jsonl", (age + 1, age + 1))
    true = tails.Tail.refresh
    monkeypatch.setattr(tails.Tail, "refresh", lambda tail: time.sleep(0 if tail.is_read else 0.02) or true(tail))
    monkeypatch.setattr(boards, "FIRST_READ_S", 0.01)
    for names in (["newest"], ["newest", "newer"], ["newest", "newer", "old"]):
        found = here.board.overview()["runs"]
        assert {each["name"] for each in found} == set(names)
    assert len(client(house(here.home)).get("/api/runs").json()["runs"]) == 3


def test_two_who_watch_see_the_same_each_in_their_language(live: httpx.Client, here: House) -> None:
    with written(here) as run:
        history_of(run)
        run.emit("died", {"code": 1}, 30)

    def problem(language: str) -> str:
        (event,) = told(live, "overview", lambda event: True, {"X-Language": language})
        return str(json.loads(event["data"])["runs"][0]["problem"])

    assert "exit code 1" in problem("en") and "退出码 1" in problem("zh")


@pytest.mark.parametrize("last", ["10", "0", "abc", "-1", "1.5", "9" * 30, ""])
def test_events_go_on_behind_the_last_that_a_browser_had(live: httpx.Client, here: House, last: str) -> None:
    with written(here) as run:
        history_of(run)
        run.emit("finished", {}, 30)
    found = told(live, "runs/first/events", lambda event: event.get("event") == "end", {"Last-Event-ID": last})
    assert found[-1]["event"] == "end"
    events = [json.loads(each["data"]) for each in found if "id" in each]
    first = int(last) + 1 if last == "10" else 1
    assert [each["seq"] for each in events] == list(range(first, 34))
    assert [int(each["id"]) for each in found if "id" in each] == [each["seq"] for each in events]
    assert events == [each.to_json() for each in RunFolder(here.runs_dir / "first").events()[first - 1 :]]
    again = told(live, f"runs/first/events?after={last}", lambda event: event.get("event") == "end")
    assert again == found


def test_a_fault_ends_a_stream_instead_of_leaving_it_silent(
    live: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boards.Board, "disk", lambda self: 1 // 0)
    with pytest.raises(httpx.RemoteProtocolError):
        told(live, "overview", lambda event: True)


def test_the_list_is_shown_where_the_order_cannot_be_read(page: Any, here: House, place: Path) -> None:
    submitted(page)
    order = queue.folder() / "order.sqlite"
    order.unlink()
    order.mkdir()
    (line,) = page.get("/api/runs").json()["runs"]
    assert (line["state"], line["place"]) == ("queued", None)


def test_events_of_what_is_no_run(live: httpx.Client) -> None:
    answer = live.get("runs/none/events")
    assert answer.status_code == 404 and ids(answer) == ["web.no_run"]


def test_history_and_stream_join_without_a_gap(live: httpx.Client, here: House) -> None:
    """While the run goes on: what is asked first ends exactly where what is followed begins."""
    with written(here) as run:
        run.emit("started", {"num_steps": 400})
        stop = threading.Event()

        def train() -> None:
            step = 0
            while not stop.wait(0.001):
                step += 1
                run.emit("step", {"loss": 1.0}, step)

        trainer = threading.Thread(target=train)
        trainer.start()
        try:
            for _ in range(5):
                past = live.get("runs/first/history").json()
                assert past["last"] == 1 + past["steps_total"]
                (first, *_) = told(live, f"runs/first/events?after={past['last']}", lambda event: True)
                assert int(first["id"]) == past["last"] + 1
        finally:
            stop.set()
            trainer.join()


def test_a_client_that_goes_away_is_let_go(live: httpx.Client, here: House) -> None:
    with written(here) as run:
        run.emit("started", {})
        told(live, "runs/first/events", lambda event: True)
        told(live, "overview", lambda event: True)
        threads = threading.active_count()
        for _ in range(10):
            told(live, "runs/first/events", lambda event: True)
        assert threading.active_count() <= threads + 2
