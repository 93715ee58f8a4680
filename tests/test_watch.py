"""Alarms of training on judged answers: each is raised when it should be, once, and not by a run that goes well."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_train import Killed, killed_at

import luthier
from luthier.engine.measures import Measure, of_examples
from luthier.errors import TrainingFailed
from luthier.methods import watch
from luthier.methods.alarms import LASTING
from luthier.methods.watch import ENOUGH, HELD_OUT_LASTING, Mean, Watch
from luthier.progress import LINES
from luthier.runs.store import RunFolder

WORDS = ["amber", "birch", "cedar", "delta", "ember", "flint", "grove", "harbor", "iris", "jasper", "kelp", "lotus"]


def kept(watch: Watch, referred: bool) -> Watch:
    """As a resume has it."""
    again = Watch(referred)
    again.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    return again


def share(right: int, of: int) -> Measure:
    return of_examples([1.0] * right + [0.0] * (of - right))


def after(watch: Watch, steps: int, **means: float) -> tuple[Watch, list[str]]:
    """What so many steps of 16 pairs raise, each after a resume."""
    raised: list[str] = []
    for _ in range(steps):
        watch = kept(watch, watch._first is None)
        raised += [each.id for each in watch.step({name: Measure(mean, 16) for name, mean in means.items()})]
    return watch, raised


# ------------------------------------------------------------------------------------------------ the better answers


def test_better_answers_that_become_unlikely() -> None:
    """Below the reference by 0.6 nats per token, over 64 pairs and three steps more; again only after it was over."""
    watch, raised = after(Watch(True), 8, chosen_per_token=-0.3)
    assert raised == []
    watch, raised = after(watch, 4, chosen_per_token=-0.6)
    assert raised == [], "of the latest 64 the mean has come below the limit once"
    watch, raised = after(watch, 8, chosen_per_token=-0.6)
    assert raised == ["judged.alarm_chosen"]
    watch, raised = after(watch, 8, chosen_per_token=0.1)
    _, again = after(watch, 8, chosen_per_token=-0.9)
    assert raised == [] and again == ["judged.alarm_chosen"]


def test_without_a_reference_the_first_pairs_say_what_is_usual() -> None:
    watch, raised = after(Watch(False), 12, chosen_per_token=-2.0)
    assert raised == []
    _, raised = after(watch, 12, chosen_per_token=-2.4)
    assert raised == []
    _, raised = after(watch, 12, chosen_per_token=-2.6)
    assert raised == ["judged.alarm_chosen"]


def test_a_loss_that_is_no_number_counts_as_a_fall() -> None:
    _, raised = after(Watch(True), 8, chosen_per_token=math.nan)
    assert raised == ["judged.alarm_chosen"]


def test_a_mean_is_of_the_latest_answers() -> None:
    mean = Mean()
    for at in range(10):
        assert mean.full == (16 * at >= ENOUGH)
        mean.add(Measure(float(at), 16))
    assert mean.value == pytest.approx((6 + 7 + 8 + 9) / 4)


def test_a_policy_that_moves_away() -> None:
    watch, raised = after(Watch(True), 5, kl_per_token=0.4)
    assert raised == []
    watch, raised = after(watch, LASTING - 1, kl_per_token=0.6)
    assert raised == []
    _, raised = after(watch, 3, kl_per_token=0.6)
    assert raised == ["judged.alarm_kl"]


# ------------------------------------------------------------------------------------------------------ rows held out


def validated(watch: Watch, loss: float, right: int, trained: float) -> list[str]:
    """Ten steps of 16 pairs of which so many are told right, then a validation on 60 pairs."""
    for _ in range(10):
        watch.step({"accuracy": Measure(trained, 16)})
    return [each.id for each in watch.held_out(loss, {"accuracy": share(right, 60)})]


def test_pairs_that_are_learnt_by_heart() -> None:
    """99 % of the training pairs, 63 % of those held out, and their loss rises twice: told at the second time."""
    watch = Watch(True)
    assert watch.held_out(0.693, {"accuracy": share(0, 60)}) == []
    assert validated(watch, 0.62, 38, 0.64) == []
    watch = kept(watch, True)
    assert validated(watch, 0.66, 38, 0.99) == [], "once"
    assert validated(kept(watch, True), 0.70, 38, 0.99) == ["judged.alarm_no_gain"]


@pytest.mark.parametrize(
    ("losses", "right", "trained"),
    [
        ((0.6, 0.5, 0.42, 0.40), 48, 0.99),  # rows held out go on gaining
        ((0.6, 0.605, 0.606, 0.606), 38, 0.99),  # they gain nothing any more, and lose nothing
        ((0.6, 0.66, 0.68, 0.70), 56, 0.99),  # nearly all of them are told right
        ((0.6, 0.66, 0.68, 0.70), 38, 0.70),  # training pairs are no better known
        ((0.6, 0.68, 0.61, 0.68), 38, 0.99),  # up and down
    ],
)
def test_what_is_no_alarm(losses: tuple[float, ...], right: int, trained: float) -> None:
    watch = Watch(True)
    watch.held_out(0.693, {"accuracy": share(0, 60)})
    assert [validated(watch, loss, right, trained) for loss in losses] == [[]] * 4


TIES = of_examples([0.5] * 80)


@pytest.mark.parametrize(
    ("before", "prefers", "alarm"),
    [
        (TIES, 75, "judged.alarm_longer"),
        (TIES, 10, "judged.alarm_shorter"),
        (TIES, 52, None),
        (TIES, 59, None),  # a sixth more than the data says, which is little
        (share(4, 80), 5, None),  # sums without a reference favour short answers from the start
        (share(76, 80), 75, None),
        (share(30, 80), 75, "judged.alarm_longer"),
    ],
)
def test_length_in_place_of_judgement(before: Measure, prefers: int, alarm: str | None) -> None:
    """Of 80 pairs the longer answer is the better one in 45; before step 1 nobody is worth more, or somebody is."""
    watch, better = Watch(False), share(45, 80)
    assert watch.held_out(0.7, {"prefers_longer": before, "longer_chosen": better}) == []
    raised = []
    for _ in range(HELD_OUT_LASTING + 1):
        watch = kept(watch, False)
        found = {"prefers_longer": share(prefers, 80), "longer_chosen": better}
        raised.append([each.id for each in watch.held_out(0.7, found)])
    assert raised == [[], [alarm] if alarm else [], []]


def test_a_single_pair_says_nothing_of_length() -> None:
    watch, found = Watch(True), {"prefers_longer": of_examples([0.5]), "longer_chosen": of_examples([1.0])}
    assert [watch.held_out(0.7, found) for _ in range(4)] == [[]] * 4


# -------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture
def recipe(tiny_model: Any, write_rows: Any, runs_dir: Any, no_fresh_process: Any) -> dict[str, Any]:
    """Pairs that can be told apart, of three answers' words."""
    rows = [
        {
            "prompt": f"Say a word {number}",
            "chosen": f"{WORDS[number % 6]} {number}",
            "rejected": f"{WORDS[6 + number % 6]} {number}",
        }
        for number in range(80)
    ]
    return {
        "model": {"path": str(tiny_model("llama")), "dtype": "float32"},
        "data": {"train": str(write_rows("pairs.json", rows)), "validation": 0.2, "max_tokens": 128},
        "method": {"kind": "dpo"},
        "tune": {"kind": "lora", "rank": 4},
        "optim": {"lr": 5e-3, "epochs": 4, "batch": 16, "warmup": 0, "schedule": "constant"},
        "run": {"name": "well", "device": "cpu", "dir": str(runs_dir)},
    }


def alarms(run: luthier.Run) -> list[str]:
    return [event.data["alarm"] for event in run.events if event.kind == "alarm"]


@pytest.mark.parametrize("kind", ["dpo", "ipo", "simpo", "orpo", "cpo", "reward"])
def test_a_run_that_goes_well_raises_none(recipe: dict[str, Any], kind: str) -> None:
    run = luthier.train({**recipe, "method": kind})
    assert alarms(run) == []
    held_out = [event.data for event in run.events if event.kind == "validation"]
    assert held_out[-1]["loss"] < held_out[0]["loss"] and held_out[-1]["measures"]["accuracy"]["mean"] >= 0.8


@pytest.mark.parametrize("mode", ["warn", "stop"])
def test_an_alarm_is_told_everywhere_or_ends_the_run(
    recipe: dict[str, Any], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit that every run is beyond: after 64 pairs and two steps more."""
    monkeypatch.setattr(watch, "FALL_TOKEN", -math.inf)
    recipe["method"] = {"kind": "dpo", "alarms": mode}
    recipe["run"] |= {"validate_every": 2}
    if mode == "stop":
        with pytest.raises(TrainingFailed) as caught:
            luthier.train(recipe)
        assert caught.value.problem.id == "judged.alarm_chosen"
    else:
        run = luthier.train(recipe)
        assert "less likely than they were" in (run.path / "receipt.md").read_text(encoding="utf-8")
    folder = RunFolder.open(recipe["run"]["dir"] + "/well")
    events = list(folder.events())
    (told,) = [event for event in events if event.kind == "alarm"]
    assert told.step == 6 and "less likely than they were" in LINES["alarm"](told)
    if mode == "stop":
        assert [event.kind for event in events][-2:] == ["alarm", "failed"] and folder.summary().step == 6


def test_a_resumed_run_knows_what_was_usual(recipe: dict[str, Any]) -> None:
    """The measures of before are in the checkpoint."""
    recipe["method"], recipe["run"]["save_every"] = "simpo", 2
    with pytest.raises(Killed):
        luthier.train(recipe, on_event=killed_at("step", 9))
    state = json.loads((Path(recipe["run"]["dir"]) / "well/checkpoints/step-8/state.json").read_text(encoding="utf-8"))
    kept = state["method"]["watch"]
    assert sum(count for _, count in kept["first"]) == ENOUGH and kept["start"] > 0
    assert alarms(luthier.train(recipe)) == []


@pytest.mark.long
def test_pairs_learnt_by_heart_are_told_of(recipe: dict[str, Any], write_rows: Any) -> None:
    """nano, on pairs of which nothing can be said without having seen them: which of two words is the better one is a
    coin's throw."""
    coin = np.random.default_rng(0).integers(0, 2, 160)
    rows = []
    for number, up in enumerate(coin):
        one, other = WORDS[number % 12], WORDS[(number * 5 + 1) % 12]
        better, worse = (one, other) if up else (other, one)
        rows.append({"prompt": f"Question {number * 7919 % 1000}", "chosen": better, "rejected": worse})
    recipe["model"]["path"] = "nano"
    recipe["data"] |= {"train": str(write_rows("coin.json", rows)), "validation": 0.4}
    recipe["optim"] |= {"lr": 2e-3, "epochs": 10, "batch": 16}
    run = luthier.train(recipe)
    assert "judged.alarm_no_gain" in alarms(run)
