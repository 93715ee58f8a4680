"""The user's own loss: what is tried before it is trusted, and that training with it is what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import luthier
from luthier.config import load as config_load
from luthier.config.fields import FIELDS
from luthier.errors import ConfigError, TrainingFailed
from luthier.losses import own
from luthier.runs import manifest

WORDS = ["amber", "birch", "cedar", "delta", "ember", "flint", "grove", "harbor", "iris", "jasper", "kelp", "lotus"]
LOSSES = """
import torch

CALLS = 0


def likelihood(logp, weights, owners):
    return -(weights * logp).sum()


def focal(logp, weights, owners):
    return -(weights * (1 - logp.exp()) ** 2 * logp).sum()


def mean(logp, weights, owners):
    return -(weights * logp).sum() / weights.sum()


def unweighted(logp, weights, owners):
    return -logp.sum()


def detached(logp, weights, owners):
    return -(weights * logp.exp().detach() * logp).sum()


def constant(logp, weights, owners):
    return (weights * logp.detach()).sum()


def vector(logp, weights, owners):
    return -weights * logp


def number(logp, weights, owners):
    return float(-(weights * logp).sum())


def infinite(logp, weights, owners):
    return (weights * (logp + 1).log()).sum()


def broken(logp, weights, owners):
    return logp.nothing


def later(logp, weights, owners):
    global CALLS
    CALLS += 1
    if logp.dtype == torch.float32 and CALLS > 40:
        raise ValueError("no more")
    return -(weights * logp).sum()


def dpo(chosen, rejected, ref_chosen, ref_rejected):
    return -torch.nn.functional.logsigmoid(0.1 * (chosen - ref_chosen - rejected + ref_rejected))


def two_sided(chosen, rejected):
    return -torch.nn.functional.logsigmoid(0.5 * (chosen - rejected) - 0.2)


def odds(chosen, rejected):
    odds = [each - torch.log(-torch.expm1(each)) for each in (chosen, rejected)]
    return -torch.nn.functional.logsigmoid(odds[0] - odds[1])


def to_a_target(chosen, rejected, ref_chosen, ref_rejected):
    return (chosen - ref_chosen - rejected + ref_rejected - 5) ** 2


def marked(logp, ref, side, z0):
    return 1 - torch.sigmoid(side * 0.1 * (logp - ref - z0))


def order(chosen, rejected, margin):
    return -torch.nn.functional.logsigmoid(chosen - rejected - margin)


def of_the_reference(chosen, rejected, ref_chosen, ref_rejected):
    return (ref_chosen - ref_rejected) ** 2


def cut(chosen, rejected):
    return torch.relu(1 - (chosen - rejected).detach()) * chosen


def against_the_mean(chosen, rejected, ref_chosen, ref_rejected):
    return (chosen - rejected - (chosen - rejected).mean()) ** 2
"""


@pytest.fixture
def module(runs_dir, request) -> str:
    """A module of its own for each test, in the folder where it runs."""
    name = f"losses_{abs(hash(request.node.name))}"
    Path(f"{name}.py").write_text(LOSSES)
    return name


@pytest.fixture
def recipe(tiny_model, write_rows, runs_dir, no_fresh_process) -> dict[str, Any]:
    rows = [
        {"instruction": f"Say {WORDS[i % 12]} {i}", "output": " ".join(WORDS[i % 7 : i % 7 + 3])} for i in range(16)
    ]
    return {
        "model": {"path": str(tiny_model("llama")), "dtype": "float32"},
        "data": {"train": str(write_rows("rows.json", rows)), "validation": 0.0, "max_tokens": 128},
        "tune": {"kind": "lora", "rank": 4},
        "optim": {"lr": 1e-2, "epochs": 2, "batch": 4, "warmup": 0},
        "run": {"name": "first", "device": "cpu", "dir": str(runs_dir)},
    }


def losses(run: luthier.Run) -> list[float]:
    return [event.data["loss"] for event in run.events if event.kind == "step"]


def tensors(run: luthier.Run) -> dict[str, torch.Tensor]:
    assert run.adapter_path is not None
    return load_file(run.adapter_path / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("function", "id"),
    [
        ("mean", "config.own_loss_split"),
        ("unweighted", "config.own_loss_filler"),
        ("detached", "config.own_loss_gradient"),
        ("constant", "config.own_loss_constant"),
        ("vector", "config.own_loss_shape"),
        ("number", "config.own_loss_shape"),
        ("infinite", "config.own_loss_finite"),
        ("broken", "config.own_loss_raised"),
        ("dpo", "config.own_loss_raised"),
        ("nowhere", "data.own_function"),
    ],
)
def test_what_cannot_be_trained_on_is_said_before_step_1(module, recipe, runs_dir, function, id) -> None:
    with pytest.raises(ConfigError) as caught:
        luthier.train(recipe, {"method.loss": f"{module}:{function}"})
    (problem,) = caught.value.problems
    assert (problem.id, problem.field) == (id, "method.loss") and problem.remedy
    assert not list(runs_dir.iterdir())


def test_good_ones_pass(module) -> None:
    own.try_on(f"{module}:likelihood", "sft")
    own.try_on(f"{module}:focal", "pretrain")
    for function, kinds in GOOD.items():
        for kind in kinds:
            own.try_on(f"{module}:{function}", kind)


GOOD = {
    "dpo": ("dpo", "ipo"),
    "to_a_target": ("dpo", "ipo"),
    "two_sided": ("simpo", "orpo", "cpo"),
    "odds": ("orpo",),
    "marked": ("kto",),
    "order": ("reward",),
}


def test_every_method_that_takes_one_tries_it() -> None:
    assert {*FIELDS["method.loss"].kinds} == {*own.CALLED_WITH}
    assert {name for kind, names in own.CALLED_WITH.items() if kind not in ("sft", "pretrain") for name in names} == {
        *own.TRIED_ON
    }
    assert {kind for kinds in GOOD.values() for kind in kinds} == {*own.CALLED_WITH} - {"sft", "pretrain"}


@pytest.mark.parametrize(
    ("kind", "function", "said"),
    [
        ("dpo", "against_the_mean", "how a step is split"),
        ("dpo", "focal", r"raised .*TypeError.*\n.*dpo calls it with \(chosen, rejected, ref_chosen, ref_rejected\)"),
        ("kto", "order", r"kto calls it with \(logp, ref, side, z0\)"),
        ("ipo", "of_the_reference", "does not depend on the model"),
        ("simpo", "cut", "gradient is not that of its value"),
        ("reward", "two_sided", r"reward calls it with \(chosen, rejected, margin\)"),
        ("orpo", "likelihood", r"orpo calls it with \(chosen, rejected\)"),
    ],
)
def test_what_is_wrong_with_a_loss_of_answers_is_said(module, kind, function, said) -> None:
    with pytest.raises(ConfigError, match=said):
        own.try_on(f"{module}:{function}", kind)


def test_the_likelihood_written_by_the_user_is_ours(module, recipe) -> None:
    ours = luthier.train(recipe, {"run.name": "ours"})
    theirs = luthier.train(recipe, {"method.loss": f"{module}:likelihood", "run.name": "theirs"})
    assert losses(theirs) == pytest.approx(losses(ours), rel=1e-5)
    a, b = tensors(ours), tensors(theirs)
    assert max(float((a[name] - b[name]).abs().max() / a[name].abs().max()) for name in a) < 1e-3
    whole = luthier.train(recipe, {"method.loss": f"{module}:likelihood", "tune": "full", "run.name": "whole"})
    assert losses(whole)[0] == pytest.approx(losses(ours)[0], rel=1e-5)


def test_another_loss_is_trained_on_and_stands_in_the_manifest(module, recipe) -> None:
    usual = luthier.train(recipe, {"run.name": "usual"})
    run = luthier.train(recipe, {"method.loss": f"{module}:focal"})
    assert losses(run)[0] < losses(usual)[0], "tokens that are half learnt count less"
    plugin = manifest.load(run.folder).plugins[f"{module}:focal"]
    assert plugin["sha256"] == manifest.file_fingerprint(Path(f"{module}.py"))["sha256"]
    assert run.receipt.failed == 0


def test_what_it_raises_later_ends_the_run_in_words(module, recipe) -> None:
    with pytest.raises(TrainingFailed, match=r"raised ValueError: no more \(losses_\d+\.py:\d+\)"):
        luthier.train(recipe, {"method.loss": f"{module}:later", "optim.epochs": 20})


def test_names_and_functions(recipe) -> None:
    with pytest.raises(ConfigError, match="no module:function"):
        config_load.load(recipe, {"method.loss": "focal"})
    with pytest.raises(ConfigError, match="sigmoid"):
        config_load.load(recipe, ["method=dpo", "method.loss=sigmoyd"])
    with pytest.raises(ConfigError):
        config_load.load(recipe, ["method=distill", "method.teacher=nano", "method.loss=a:b"])
    given = config_load.load(recipe, {"method.loss": losses})
    assert given.method.loss == f"{__name__}:losses", "a function from Python goes by its name"
    assert config_load.load(recipe, ["method=dpo", "method.loss=a.b:c"]).method.loss == "a.b:c"
    assert "module:function" in FIELDS["method.loss"].takes and "hinge" in FIELDS["method.loss"].choices


@pytest.mark.parametrize(
    ("method", "function"),
    [
        ({"kind": "dpo"}, "dpo"),
        ({"kind": "simpo", "beta": 0.5, "gamma": 0.2, "sft_weight": 0.3}, "two_sided"),
        ({"kind": "orpo", "beta": 0.7}, "odds"),
        ({"kind": "ipo", "beta": 0.1}, "to_a_target"),
        ({"kind": "kto", "wanted_weight": 1.5}, "marked"),
        ({"kind": "reward", "centre": 0.1}, "order"),
    ],
)
def test_a_usual_loss_written_by_the_user_is_ours(module, recipe, write_rows, method, function) -> None:
    """With all that stands beside it: weights, the likelihood of the better answers, means in place of sums."""
    marked = method["kind"] == "kto"
    rows = [
        {"prompt": f"Say {WORDS[i % 12]}", "completion": " ".join(WORDS[i % 5 : i % 5 + 3]), "label": bool(i % 3)}
        if marked
        else {"prompt": f"Say {WORDS[i % 12]}", "chosen": WORDS[i % 5], "rejected": " ".join(WORDS[i % 7 : i % 7 + 2])}
        for i in range(12)
    ]
    recipe["data"]["train"] = str(write_rows("judged.json", rows))
    ours = luthier.train({**recipe, "method": method}, {"run.name": "ours"})
    plain = {key: value for key, value in method.items() if key != "gamma"}
    own_loss = {**plain, "loss": f"{module}:{function}"}
    theirs = luthier.train({**recipe, "method": own_loss}, {"run.name": "theirs"})
    assert losses(theirs) == pytest.approx(losses(ours), rel=1e-4)
    assert losses(ours)[-1] != losses(ours)[0]


@pytest.mark.parametrize(
    ("method", "field"),
    [
        ({"kind": "dpo", "label_smoothing": 0.1}, "method.label_smoothing"),
        ({"kind": "simpo", "gamma": 0.5}, "method.gamma"),
    ],
)
def test_options_of_the_usual_loss_are_refused_beside_it(recipe, method, field) -> None:
    with pytest.raises(ConfigError) as caught:
        config_load.load({**recipe, "method": {**method, "loss": "a:b"}})
    (problem,) = caught.value.problems
    assert (problem.id, problem.field) == ("config.own_loss_has_no_options", field)


@pytest.mark.parametrize("kind", ["grpo", "ppo", "distill"])
def test_methods_that_take_none_say_which_do(recipe, kind) -> None:
    more = {"teacher": "nano"} if kind == "distill" else {"rewards": "exact"}
    with pytest.raises(ConfigError, match=rf"method of kind {kind} has no loss; it belongs to .*kto, reward"):
        config_load.load({**recipe, "method": {"kind": kind, "loss": "a:b", **more}})
