"""Learning from one's own answers, end to end on a tiny model: what is sampled is what is learnt from, splitting
changes nothing, a run that was stopped or killed anywhere ends with the same bits, what fails costs one answer."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import luthier
from luthier import planning, tightening
from luthier.batch import Step
from luthier.config.schema import Ppo
from luthier.data.rollouts import Rollout
from luthier.data.rounds import answer_seed
from luthier.engine import loop
from luthier.errors import ConfigError, Problem, TrainingFailed
from luthier.holdings import Tokens
from luthier.methods import online, writing
from luthier.methods import ppo as proximal
from luthier.methods.alarms import FIRST, LASTING, Alarms
from luthier.methods.round import Round
from luthier.models.decoder import Decoder, Delta
from luthier.runs.store import RunFolder
from luthier.scoring.rewards import Rewards, Scored
from luthier.session import find_base

pytestmark = pytest.mark.usefixtures("no_fresh_process")


def worth(answers: Any) -> list[Scored]:
    """A reward that any text has some of: the share of its characters that are letters of the first half."""
    return [Scored(sum(c < "n" for c in each.text.lower()) / (1 + len(each.text))) for each in answers]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rewards, "score", lambda self, answers: worth(answers))


@pytest.fixture
def recipe(tiny_model: Callable[..., Path], write_rows: Callable[..., Path], runs_dir: Path) -> dict[str, Any]:
    rows = [{"prompt": f"Say the number {number}, and say it well.", "answer": str(number)} for number in range(12)]
    return {
        "model": {"path": str(tiny_model("qwen2")), "dtype": "float32"},
        "data": {"train": str(write_rows("rows.jsonl", rows)), "validation": 0.25, "max_tokens": 128},
        "method": {"kind": "grpo", "rewards": "exact", "samples": 4, "max_new_tokens": 8, "updates": 2, "kl": 0.1},
        "tune": {"kind": "lora", "rank": 4},
        "optim": {"lr": 1e-2, "steps": 6, "batch": 2},
        "run": {"name": "straight", "device": "cpu", "dir": str(runs_dir), "save_every": 1, "validate_every": 3},
    }


def changed(recipe: dict[str, Any], **sections: dict[str, Any]) -> dict[str, Any]:
    return {**recipe, **{name: {**recipe[name], **values} for name, values in sections.items()}}


def trained(recipe: dict[str, Any]) -> tuple[RunFolder, dict[str, torch.Tensor]]:
    run = luthier.train(recipe).folder
    return run, load_file(run.path / "adapter" / "adapter_model.safetensors")


def events(run: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event.data for event in run.events() if event.kind == kind]


# ------------------------------------------------------------------------------------------------------ end to end


def test_a_run(recipe: dict[str, Any]) -> None:
    run, adapter = trained(recipe)
    rounds = events(run, "rollout")
    assert [each["round"] for each in rounds] == [0, 0, 1, 1, 2, 2]
    assert [each["update"] for each in rounds] == [0, 1] * 3
    assert all(each["answers"] == 8 and each["groups"] == 2 for each in rounds)
    assert rounds[0]["kl"] == pytest.approx(0, abs=1e-7), "the reference is the policy at step 0"
    assert rounds[-1]["kl"] > 1e-5
    assert all(each["difference"] <= 1e-5 for each in rounds if each["update"] == 0)
    assert {"generate", "reward", "score", "update"} == rounds[0]["seconds"].keys()
    (agreement,) = events(run, "agreement")
    assert agreement["difference"] <= 1e-5 and agreement["tokens"] > 8
    assert [set(each) >= {"reward", "low", "high"} for each in events(run, "validation")] == [True] * 3
    last = events(run, "validation")[-1]
    before, after = json.loads((run.path / "receipt.json").read_text())["measures"]["reward"]
    assert last["measures"]["gain"]["mean"] == last["gain"]
    assert before["mean"] == events(run, "validation")[0]["reward"] and after["count"] == last["rows"]
    assert any(tensor.abs().max() > 0 for name, tensor in adapter.items() if "lora_B" in name)


def test_the_same_seed_gives_the_same_bits_and_another_others(recipe: dict[str, Any]) -> None:
    _, one = trained(recipe)
    _, same = trained(changed(recipe, run={"name": "again"}))
    _, other = trained(changed(recipe, run={"name": "other", "seed": 1}))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("update", [1, 2, 3])
def test_killed_between_answers_and_updates(
    recipe: dict[str, Any], update: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first of two updates (the answers lie in the checkpoint), before the first one of the next round (they
    are written again), and in between."""
    _, straight = trained(recipe)
    own = loop._train_step

    def dies(job: Any, step: Step, state: Any) -> Any:
        if step.index == update:
            raise KeyboardInterrupt
        return own(job, step, state)

    recipe = changed(recipe, run={"name": f"killed-{update}"})
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train_step", dies)
        with pytest.raises(KeyboardInterrupt):
            luthier.train(recipe)
    run, resumed = trained(recipe)
    assert len(run.summary().attempts) == 2
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_splitting_changes_nothing(recipe: dict[str, Any]) -> None:
    """Answers of one prompt in several micro-batches: the same losses up to rounding."""
    recipe = changed(recipe, optim={"steps": 2})
    found = []
    for budget in (4096, 128):
        run, _ = trained(changed(recipe, optim={"budget_tokens": budget}, run={"name": f"split-{budget}"}))
        found.append([(each["loss"], each["grad_norm"]) for each in events(run, "step")])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"weighting": "sequence", "scale": "none", "kl": 0, "updates": 1},
        {"weighting": "constant", "scale": "batch", "ratio": "sequence", "clip_high": 0.3},
        {"resample": 2, "kl_estimator": "k1", "updates": 1},
    ],
)
def test_variants(recipe: dict[str, Any], options: dict[str, Any]) -> None:
    run, adapter = trained(changed(recipe, method=options, optim={"steps": 2}))
    assert all(torch.isfinite(tensor).all() for tensor in adapter.values())
    assert all(math.isfinite(each["grad_norm"]) and each["grad_norm"] > 0 for each in events(run, "step"))


@pytest.mark.parametrize("tune", [{"kind": "full"}, {"kind": "lora", "rank": 4, "modules_to_save": ["embed_tokens"]}])
def test_other_tunings(recipe: dict[str, Any], tune: dict[str, Any], tiny_model: Callable[..., Path]) -> None:
    """With all weights trained the reference is a second model; with a head that trains log-probabilities are formed
    again in the backward pass."""
    recipe = {**changed(recipe, optim={"steps": 2, "lr": 1e-3}), "tune": tune}
    run = luthier.train(recipe).folder
    rounds = events(run, "rollout")
    assert rounds[0]["kl"] == pytest.approx(0, abs=1e-7)
    assert events(run, "agreement")[0]["difference"] <= 1e-5


def test_going_on_from_an_adapter_is_measured_against_that_adapter(recipe: dict[str, Any]) -> None:
    first, _ = trained(changed(recipe, optim={"steps": 2}, run={"name": "first"}))
    recipe = {**changed(recipe, optim={"steps": 2}, run={"name": "second"}), "tune": {"from": str(first.path)}}
    run, _ = trained(recipe)
    assert events(run, "rollout")[0]["kl"] == pytest.approx(0, abs=1e-7)


# ------------------------------------------------------------------------------------------------------------- ppo


@pytest.fixture
def ppo(recipe: dict[str, Any]) -> dict[str, Any]:
    method = {"kind": "ppo", "rewards": "exact", "samples": 2, "max_new_tokens": 8, "updates": 2, "kl": 0.05}
    return {**recipe, "method": method}


@pytest.mark.parametrize("options", [{}, {"critic": "separate", "kl_target": 1.0}, {"kl": 0, "whiten": False}])
def test_ppo(ppo: dict[str, Any], options: dict[str, Any]) -> None:
    run, adapter = trained(changed(ppo, method=options, optim={"lr": 5e-3}))
    rounds = events(run, "rollout")
    assert all(each["difference"] <= 1e-5 for each in rounds if each["update"] == 0)
    assert not any("critic" in name for name in adapter), "the critic is no part of the result"
    first = load_file(run.path / "checkpoints" / "step-5" / "trainable.safetensors")
    assert first["critic.weight"].abs().max() > 0
    if "kl_target" in options:
        assert rounds[-1]["kl_weight"] < 0.05, "the divergence was below its target"
        assert any("@critic" in name for name in first)


@pytest.mark.parametrize("update", [1, 2])
def test_ppo_killed(ppo: dict[str, Any], update: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ppo = changed(ppo, method={"kl_target": 1.0}, optim={"steps": 4})
    test_killed_between_answers_and_updates(ppo, update, monkeypatch)


def measured(rewards: list[float | None], tables: dict[str, list[float]], **options: Any) -> Any:
    """(the method, a round of answers of two tokens that it measured by what is known of the tokens of each)."""
    config = Ppo(rewards=("exact",), **options)
    method = proximal.Proximal.__new__(proximal.Proximal)
    method.ppo, method.beta = config, config.kl
    ids = np.asarray([1, 2], np.int32)
    made = Round(0, [Rollout(0, ids, ids, np.zeros(2, np.float32), True)] * len(rewards), rewards, 1)
    made.known = {name: [np.asarray(values, np.float32)] * len(rewards) for name, values in tables.items()}
    method._measure(made, made.known)
    return method, made


def test_advantages_of_ppo_by_hand() -> None:
    """Two answers, worth 1 and failed; the divergence of the first one's tokens is 2 and -1 nats, at a weight of 0.1.
    Values 0.5, 0.25; discount and lambda 1: returns to go are 1 - 0.2 + 0.1 and 1 + 0.1."""
    tables = {"old": [-1.0, -3.0], "reference": [-3.0, -2.0], "value": [0.5, 0.25]}
    method, made = measured([1.0, None], tables, kl=0.1, whiten=False)
    np.testing.assert_allclose(made.known["advantage"][0], [0.9 - 0.5, 1.1 - 0.25], rtol=1e-6)
    np.testing.assert_allclose(made.known["return"][0], [0.9, 1.1], rtol=1e-6)
    assert method._weights(made) == [1.0, 0.0]


def test_a_critic_that_knows_nothing_lets_every_token_hear_the_whole_reward() -> None:
    """Answers worth 1 and 0, values 0: by default tokens are told apart by their answers and not by their places."""
    _, made = measured([1.0, 0.0], {"value": [0.0, 0.0]}, kl=0.0)
    better, worse = made.known["advantage"]
    np.testing.assert_allclose(better, [3**0.5 / 2] * 2, rtol=1e-6)  # (1 - 1/2) / sqrt(4 * 1/4 / 3)
    np.testing.assert_allclose(worse, -better, rtol=1e-6)


def test_how_much_the_critic_foretold_by_hand() -> None:
    """Returns 1, 1, 0, 0 (variance 1/4); values 0.5, 0: errors 0.5, 1, -0.5, 0 (variance 5/16). Tokens of each answer
    are 2 and -1 nats from the reference. An answer that could not be judged counts nowhere."""
    tables = {"value": [0.5, 0.0], "old": [-1.0, -3.0], "reference": [-3.0, -2.0]}
    method, made = measured([1.0, 0.0, None], tables, kl=0.0)
    for values in made.known.values():
        values[2] = np.asarray([7.0, 8.0], np.float32)
    facts = method._account(made)
    assert facts["kl_answer"] == pytest.approx(1.0)
    assert facts["value_error"] == pytest.approx((0.25 + 1 + 0.25) / 4)
    assert facts["explained"] == pytest.approx(1 - (5 / 16) / (1 / 4))
    method, made = measured([1.0, 1.0], {"value": [0.5, 0.0]}, kl=0.0)
    assert "explained" not in method._account(made), "there was nothing to foretell"


# ------------------------------------------------------------------------------------------------- what goes wrong


def test_a_sampler_that_differs_stops_the_run(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    own = writing.write

    def off(*args: Any, **how: Any) -> list[Rollout]:
        return [
            Rollout(each.uid, each.prompt, each.answer, each.logp + np.float32(1e-3), each.ended)
            for each in own(*args, **how)
        ]

    monkeypatch.setattr(writing, "write", off)
    with pytest.raises(TrainingFailed) as caught:
        luthier.train(recipe)
    assert caught.value.problem.id == "engine.sampler_differs"
    assert "spread" in caught.value.problem.values, "told by the comparison before anything is learnt"


def test_answers_of_weights_that_were_not_trained_stop_the_run(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the sampler made of the adapter once, used on after the weights have moved."""
    monkeypatch.setattr(Decoder, "moved", lambda self: None)
    monkeypatch.setattr(Delta, "ready", functools.cache(Delta.ready))
    with pytest.raises(TrainingFailed) as caught:
        luthier.train(recipe)
    assert caught.value.problem.id == "engine.sampler_differs"


def test_failed_rewards_cost_their_answers(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def sometimes(self: Any, answers: Any) -> list[Scored]:
        return [Scored(None, "it broke") if at % 4 == 1 else each for at, each in enumerate(worth(answers))]

    monkeypatch.setattr(Rewards, "score", sometimes)
    run, _ = trained(changed(recipe, optim={"steps": 2}))
    rounds = events(run, "rollout")
    assert rounds[0]["failed"] == 2 and rounds[0]["failures"] == {"it broke": 2}


def test_nothing_to_learn_is_no_crash(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rewards, "score", lambda self, answers: [Scored(1.0)] * len(answers))
    run, adapter = trained(changed(recipe, method={"kl": 0, "updates": 1}, optim={"steps": 3}))
    assert all(each["dead"] == each["groups"] for each in events(run, "rollout"))
    assert not any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)
    assert any(each["alarm"] == "rewards.alarm_dead" for each in events(run, "alarm"))


def test_a_held_out_alarm_names_the_step_and_can_stop_a_run(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes of the first evaluation after step 1 is taken for no gain."""
    own = Alarms.held_out

    def always(self: Alarms, values: Any, found: Any) -> list[Problem]:
        return [
            *own(self, values, found),
            *([Problem("rewards.alarm_no_gain", values=USELESS)] if self._latest else []),
        ]

    monkeypatch.setattr(Alarms, "held_out", always)
    with pytest.raises(TrainingFailed) as caught:
        luthier.train(changed(recipe, method={"alarms": "stop"}))
    assert caught.value.problem.id == "rewards.alarm_no_gain"
    told = [event for event in RunFolder.open(Path(recipe["run"]["dir"]) / "straight").events()][-2:]
    assert [(event.kind, event.step) for event in told] == [("alarm", 3), ("failed", 3)]


USELESS = {"rise": 0.5, "gain": -0.1, "low": -0.2, "high": 0.0}


def test_alarms_can_stop_a_run(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rewards, "score", lambda self, answers: [Scored(1.0)] * len(answers))
    with pytest.raises(TrainingFailed) as caught:
        luthier.train(changed(recipe, method={"kl": 0, "updates": 1, "alarms": "stop"}))
    assert caught.value.problem.id == "rewards.alarm_dead"


class Short:
    """A machine that has memory for so many texts at once. tried: how many were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        self.most, self.tried = most, list[int]()
        self._write = writing.write
        monkeypatch.setattr(writing, "write", self.write)

    def write(self, *given: Any, texts: int, **how: Any) -> list[Rollout]:
        self.tried.append(texts)
        if texts > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._write(*given, texts=texts, **how)


def test_memory_that_runs_out_over_answers_costs_how_many_are_written_at_once(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half as many until they fit, at a validation as in a round, told with the step; a later attempt begins so."""
    short = Short(monkeypatch, most=4)

    def hear(event: Any) -> None:
        if (event.kind, event.step) == ("rollout", 2):
            short.most = 2
        if (event.kind, event.step) == ("checkpoint", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        luthier.train(recipe, on_event=hear)
    assert short.tried == [8, 4, 4, 4, 2, 2], "before step 1, two rounds, step 3"
    short.tried.clear()
    run, _ = trained(recipe)
    assert set(short.tried) == {2}
    revised = [
        (each.step, each.data["reason"], each.data["changes"]) for each in run.events() if each.kind == "revised"
    ]
    assert revised == [(0, "memory", [["plan.answer_texts", 8, 4]]), (2, "memory", [["plan.answer_texts", 4, 2]])]
    assert run.read_json("plan.json")["memory"]["answer_texts"] == 2


def test_an_answer_that_does_not_fit_by_itself_ends_the_run(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Short(monkeypatch, most=0)
    with pytest.raises(TrainingFailed) as caught:
        luthier.train(recipe)
    assert caught.value.problem.id == "engine.answers_out_of_memory" and short.tried == [8, 4, 2, 1]


def test_dead_groups_give_way_to_others(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other prompt is worth the same whatever the answer."""

    def half(self: Any, answers: Any) -> list[Scored]:
        return [
            Scored(1.0) if int(each.asked.reference) % 2 else found
            for each, found in zip(answers, worth(answers), strict=True)
        ]

    monkeypatch.setattr(Rewards, "score", half)
    run, _ = trained(changed(recipe, method={"resample": 5, "updates": 1}, optim={"steps": 4}))
    rounds = events(run, "rollout")
    assert sum(each["resampled"] for each in rounds) > 0
    assert all(each["groups"] == 2 and each["dead"] == 0 for each in rounds)


def test_a_reward_that_cannot_be_used_is_told_before_anything_is_read(recipe: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        luthier.train(changed(recipe, method={"rewards": "nowhere:f"}))


# ------------------------------------------------------------------------------------------------------- the parts


def test_after_a_kill_there_is_less_of_what_takes_most(recipe: dict[str, Any]) -> None:
    """Fewer answers at once where writing them takes more than an update, else smaller micro-batches."""
    made = luthier.train(changed(recipe, optim={"steps": 1, "activations": "keep"})).folder
    config, base = made.config(), find_base(made.config().model)
    plan = planning.decide(config, base, config.tune, Tokens(100), None)
    assert plan.memory.answers == 0
    assert tightening.after_kill(plan)[1].field == planning.BUDGET
    more = dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, answers=1))
    fewer, told = tightening.after_kill(more)
    assert (told.field, told.values, fewer.memory.answer_texts) == (planning.TEXTS, {"old": 8, "new": 4}, 4)


def test_seeds_of_answers() -> None:
    keys = [(0, 1, 2, 3), (0, 1, 2, 4), (0, 1, 3, 3), (1, 1, 2, 3), (0, 2, 2, 3)]
    assert len({answer_seed(*key) for key in keys}) == len(keys)
    assert answer_seed(5, 1, 2) == answer_seed(5, 1, 2) < 2**63


def test_a_round_is_kept_to_the_bit() -> None:
    random = np.random.default_rng(0)
    rollouts = [
        Rollout(at // 2, np.asarray([1, 2, at // 2], np.int32), np.asarray([at, 7], np.int32), logp, bool(at % 2))
        for at, logp in enumerate(random.normal(size=(4, 2)).astype(np.float32))
    ]
    known = {"old": [each.logp * np.float32(1 / 3) for each in rollouts]}
    made = Round(3, rollouts, [0.1, None, 1 / 3, 2.0], 2, 1, known, {"x": 1})
    again = Round.from_json(json.loads(json.dumps(made.to_json())))
    assert again.rewards == made.rewards and again.facts() == made.facts() and again.number == 3
    for one, other in zip(made.rollouts, again.rollouts, strict=True):
        assert (one.uid, one.ended) == (other.uid, other.ended)
        assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("prompt", "answer", "logp"))
    assert all(np.array_equal(*pair) for pair in zip(made.known["old"], again.known["old"], strict=True))


def test_gain_by_hand() -> None:
    """0, 1, 1, 1 after 0, 0, 0, 1: mean 3/4, deviation 1/2, so 3/4 +- 1.96 / 4; gain 1/2, deviation sqrt(1/3)."""
    found = online.gain([0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0])
    assert (found["reward"], found["low"], found["high"]) == pytest.approx((0.75, 0.75 - 0.49, 0.75 + 0.49))
    assert (found["gain"], found["gain_low"]) == pytest.approx((0.5, 0.5 - 1.96 * math.sqrt(1 / 3) / 2))
    assert math.isnan(online.gain([None], None)["reward"])


USUAL = {
    "reward": 0.5,
    "entropy": 1.0,
    "answer_tokens": 20.0,
    "dead": 0,
    "groups": 8,
    "failed": 0,
    "answers": 64,
    "cut": 0.0,
    "kl": 0.01,
}


@pytest.mark.parametrize(
    ("alarm", "facts"),
    [
        ("rewards.alarm_kl", {"kl": 0.6}),
        ("rewards.alarm_kl", {"kl": math.nan}),
        ("rewards.alarm_entropy", {"entropy": 0.1}),
        ("rewards.alarm_longer", {"answer_tokens": 41.0}),
        ("rewards.alarm_shorter", {"answer_tokens": 9.0}),
        ("rewards.alarm_dead", {"dead": 7}),
        ("rewards.alarm_failed", {"failed": 20, "failures": {"broken": 20}}),
        ("rewards.alarm_cut", {"cut": 0.6}),
    ],
)
def test_alarms(alarm: str, facts: dict[str, Any]) -> None:
    """Raised once, when it has lasted; again only after it was over; known again after a resume."""
    watch = Alarms()
    for _ in range(FIRST):
        assert watch.round(USUAL) == []
    raised = []
    for _ in range(LASTING + 2):
        again = Alarms()
        again.load_state_dict(json.loads(json.dumps(watch.state_dict())))
        watch = again
        raised.append([each.id for each in watch.round({**USUAL, **facts})])
    assert raised == [[]] * (LASTING - 1) + [[alarm]] + [[]] * 2
    assert watch.round(USUAL) == []
    assert [[each.id for each in watch.round({**USUAL, **facts})] for _ in range(LASTING)][-1] == [alarm]


def test_rewards_without_held_out_gain() -> None:
    watch = Alarms()
    before = [0.5, 0.4, 0.6, 0.5]
    assert watch.held_out(before, online.gain(before, None)) == []
    for at in range(FIRST):
        watch.round({**USUAL, "reward": 0.5 + 0.01 * at})
    for _ in range(FIRST):
        watch.round({**USUAL, "reward": 0.9})
    worse = [0.5, 0.3, 0.6, 0.4]
    assert [each.id for each in watch.held_out(worse, online.gain(worse, before))] == ["rewards.alarm_no_gain"]
    assert watch.held_out([0.9] * 4, online.gain([0.9] * 4, before)) == []
