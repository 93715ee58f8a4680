"""Every rule between two fields: where it fires, and the nearest recipes where it must not."""

from __future__ import annotations

import pytest

from luthier.config.load import load
from luthier.config.rules import RULES
from luthier.errors import ConfigError, Problem

LEAST = ["model=nano", "data.train=x.json"]

BROKEN: dict[str, list[str]] = {
    "random_needs_full": ["model.init=random"],
    "float16_on_cpu": ["run.device=cpu", "model.dtype=float16"],
    "revision_of_folder": ["model.revision=main"],
    "sft_on_text": ["data.train.format=text"],
    "pretrain_on_chat": ["method=pretrain", "data.format=alpaca"],
    "distill_new_tokens": ["method={kind: distill, teacher: nano}", "data.new_tokens=<a>"],
    "pretrain_without_chat": ["method=pretrain", "data.template=chatml", "data.system=Hi"],
    "pretrain_chunks": ["method=pretrain", "data.too_long=drop"],
    "smoothing_without_two_ways": ["method=dpo", "method.loss=hinge", "method.label_smoothing=0.1"],
    "robust_needs_share": ["method=dpo", "method.loss=robust"],
    "ipo_is_by_means": ["method=ipo", "method.length_normalised=true"],
    "own_loss_has_no_options": ["method=simpo", "method.loss=a:b", "method.gamma=0.5"],
    "rewards_and_weights": ["method=grpo", "method.rewards=exact", "method.reward_weights=[1, 2]"],
    "answers_without_dropout": ["method=grpo", "method.rewards=exact", "tune.dropout=0.1"],
    "answers_alone": ["method=ppo", "method.rewards=exact", "run.devices=2"],
    "answers_are_split": ["method=grpo", "method.rewards=exact", "tune=full", "optim.in_backward=true", "optim.clip=0"],
    "critic_of_its_own": ["method=ppo", "method.rewards=exact", "method.critic=separate", "tune=full"],
    "kl_is_off": ["method=grpo", "method.rewards=exact", "method.kl_estimator=k2"],
    "validation_share": ["data.validation=0.5"],
    "validation_in_train": ["data.train=[a.json, ./b/../x.json]", "data.validation=x.json"],
    "validation_weight": ["data.validation={path: v.json, weight: 2}"],
    "source_of_hub": ["data.train={path: x.json, split: test}"],
    "nothing_to_validate": ["data.validation=0", "run.validate_every=5"],
    "samples_of_nothing": ["data.validation=0", "run.samples=4"],
    "samples_of_scores": ["method=reward", "run.samples=4"],
    "sample_tokens_unused": ["run.sample_tokens=64"],
    "sample_tokens_of_answers": ["method=grpo", "method.rewards=exact", "run.samples=4", "run.sample_tokens=64"],
    "from_settles_shape": ["tune.from=runs/old", "tune.rank=16", "tune.targets=all-linear"],
    "saved_and_adapted": ["tune.targets=[q_proj, mlp.lm_head]", "tune.modules_to_save=lm_head"],
    "double_quant_of_int8": ["tune=qlora", "tune.base=int8", "tune.double_quant=false"],
    "new_tokens_and_saved": ["data.new_tokens=<|a|>", "tune.modules_to_save=[norm, model.embed_tokens]"],
    "new_tokens_frozen": ["data.new_tokens=<|a|>", "tune=freeze"],
    "steps_or_epochs": ["optim.steps=5", "optim.epochs=3"],
    "sgd_has_no_moments": ["optim.kind=sgd", "optim.lr=1", "optim.eps=1e-6"],
    "sgd_needs_rate": ["optim.kind=sgd"],
    "momentum_is_of_sgd": ["optim.momentum=0.9"],
    "compact_is_of_adamw": ["optim.kind=sgd", "optim.lr=1", "optim.states=8bit"],
    "adapters_stay_float32": ["optim.weights=bfloat16_kahan"],
    "bfloat16_computes_in_it": ["tune=full", "optim.weights=bfloat16_stochastic", "model.dtype=float32"],
    "in_backward_of_adapters": ["optim.in_backward=true", "optim.clip=0"],
    "in_backward_unclipped": ["tune=freeze", "optim.in_backward=true"],
    "in_backward_unscaled": ["tune=full", "optim.in_backward=true", "optim.clip=0", "model.dtype=float16"],
    "in_backward_alone": ["tune=full", "optim.in_backward=true", "optim.clip=0", "run.devices=2"],
    "devices_without_examples": ["run.devices=4", "optim.batch=3"],
    "power_is_of_polynomial": ["optim.power=3"],
    "constant_has_no_floor": ["optim.schedule=constant", "optim.min_lr_ratio=0.1"],
    "warmup_never_ends": ["optim.steps=10", "optim.warmup=10"],
    "budget_below_row": ["optim.budget_tokens=2047"],
}

FINE: dict[str, list[list[str]]] = {
    "random_needs_full": [["model.init=random", "tune=full"], ["tune=freeze"]],
    "float16_on_cpu": [["model.dtype=float16"], ["run.device=cuda", "model.dtype=float16"], ["run.device=cpu"]],
    "revision_of_folder": [["model=org/name", "model.revision=v1"], ["model=./here"]],
    "sft_on_text": [["method=pretrain", "data.format=text"], ["data.format=qa"]],
    "distill_new_tokens": [["method={kind: distill, teacher: nano}"], ["data.new_tokens=<a>"]],
    "pretrain_on_chat": [["method=pretrain", "data.format=text"], ["method=pretrain", "data.format=own:rows"]],
    "pretrain_without_chat": [["method=pretrain", "data.template=model"], ["data.template=chatml", "data.system=Hi"]],
    "pretrain_chunks": [["method=pretrain", "data.too_long=stop"], ["data.too_long=drop"]],
    "smoothing_without_two_ways": [
        ["method=dpo", "method.label_smoothing=0.1"],
        ["method=cpo", "method.label_smoothing=0.1"],
        ["method=dpo", "method.loss=hinge"],
    ],
    "robust_needs_share": [["method=dpo", "method.loss=robust", "method.label_smoothing=0.1"], ["method=ipo"]],
    "ipo_is_by_means": [["method=ipo"], ["method=dpo", "method.length_normalised=true"]],
    "own_loss_has_no_options": [
        ["method=simpo", "method.gamma=0.5"],
        ["method=orpo", "method.loss=a:b", "method.beta=0.5"],
        ["method=dpo", "method.loss=a:b", "method.length_normalised=true", "method.sft_weight=1"],
    ],
    "rewards_and_weights": [["method=grpo", "method.rewards=exact", "method.reward_weights=[2]"]],
    "answers_without_dropout": [["tune.dropout=0.1"], ["method=grpo", "method.rewards=exact", "tune.dropout=0"]],
    "answers_alone": [["method=ppo", "method.rewards=exact", "run.devices=1"]],
    "answers_are_split": [["method=grpo", "method.rewards=exact", "tune=full"]],
    "critic_of_its_own": [["method=ppo", "method.rewards=exact", "method.critic=separate"]],
    "kl_is_off": [
        ["method=grpo", "method.rewards=exact", "method.kl_estimator=k2", "method.kl=0.1"],
        ["method=ppo", "method.rewards=exact", "method.kl_target=6"],
    ],
    "validation_share": [["data.validation=0.49"], ["data.validation=0"], ["data.validation=auto"]],
    "validation_in_train": [["data.validation=x.jsonl"], ["data.validation=0.1"]],
    "validation_weight": [["data.validation={path: v.json, weight: 1}"], ["data.train.weight=2"]],
    "source_of_hub": [["data.train={path: 'hub:a/b', split: test, subset: c}"], ["data.train={path: x, split: train}"]],
    "nothing_to_validate": [["data.validation=0"], ["run.validate_every=5"]],
    "samples_of_nothing": [["data.validation=0"], ["run.samples=4"], ["data.validation=v.json", "run.samples=4"]],
    "samples_of_scores": [["method=reward", "run.samples=0"], ["method=dpo", "run.samples=4"]],
    "sample_tokens_unused": [["run.samples=1", "run.sample_tokens=64"], ["run.sample_tokens=128"]],
    "sample_tokens_of_answers": [["method=grpo", "method.rewards=exact", "run.samples=4"]],
    "from_settles_shape": [["tune.from=runs/old", "tune.dropout=0.1"], ["tune.rank=16"], ["tune.from=", "tune.rank=8"]],
    "saved_and_adapted": [["tune.modules_to_save=lm_head"], ["tune.targets=q_proj", "tune.modules_to_save=lm_head"]],
    "double_quant_of_int8": [["tune=qlora", "tune.double_quant=false"], ["tune=qlora", "tune.base=int8"]],
    "new_tokens_and_saved": [["data.new_tokens=<|a|>", "tune.modules_to_save=norm"], ["tune.modules_to_save=lm_head"]],
    "new_tokens_frozen": [["data.new_tokens=<|a|>", "tune=full"], ["data.new_tokens=[]", "tune=freeze"]],
    "steps_or_epochs": [["optim.steps=5"], ["optim.epochs=3"], ["optim.steps=", "optim.epochs=3"]],
    "sgd_has_no_moments": [["optim.kind=sgd", "optim.lr=1", "optim.betas=[0.9, 0.999]"], ["optim.eps=1e-6"]],
    "sgd_needs_rate": [["optim.kind=sgd", "optim.lr=0.01"], ["optim.kind=adamw"]],
    "momentum_is_of_sgd": [["optim.kind=sgd", "optim.lr=1", "optim.momentum=0.9"], ["optim.momentum=0"]],
    "compact_is_of_adamw": [["optim.states=bfloat16"], ["optim.kind=sgd", "optim.lr=1", "optim.states=float32"]],
    "adapters_stay_float32": [["tune=full", "optim.weights=bfloat16_kahan"], ["optim.states=8bit"]],
    "bfloat16_computes_in_it": [
        ["tune=full", "optim.weights=bfloat16_stochastic"],
        ["tune=freeze", "optim.weights=bfloat16_kahan", "model.dtype=bfloat16"],
        ["tune=full", "optim.states=8bit", "model.dtype=float32"],
    ],
    "in_backward_of_adapters": [["tune=full", "optim.in_backward=true", "optim.clip=0"], ["optim.in_backward=false"]],
    "in_backward_unclipped": [["tune=freeze", "optim.in_backward=true", "optim.clip=0"], ["optim.clip=1"]],
    "in_backward_unscaled": [["tune=full", "optim.in_backward=true", "optim.clip=0", "model.dtype=bfloat16"]],
    "in_backward_alone": [
        ["tune=full", "optim.in_backward=true", "optim.clip=0", "run.devices=1"],
        ["tune=full", "optim.in_backward=true", "optim.clip=0", "run.devices=auto"],
        ["run.devices=2"],
    ],
    "devices_without_examples": [["run.devices=4", "optim.batch=4"], ["run.devices=auto", "optim.batch=1"]],
    "power_is_of_polynomial": [["optim.power=3", "optim.schedule=polynomial"], ["optim.power=2"]],
    "constant_has_no_floor": [["optim.schedule=linear", "optim.min_lr_ratio=0.1"], ["optim.schedule=constant"]],
    "warmup_never_ends": [["optim.steps=10", "optim.warmup=9"], ["optim.steps=1", "optim.warmup=0.9"]],
    "budget_below_row": [["optim.budget_tokens=2048"], ["optim.budget_tokens=64", "data.max_tokens=64"]],
}


def found(overrides: list[str]) -> tuple[Problem, ...]:
    try:
        load(None, [*LEAST, *overrides])
    except ConfigError as error:
        return error.problems
    return ()


def test_every_rule_is_tested() -> None:
    assert BROKEN.keys() == FINE.keys() == RULES.keys()


@pytest.mark.parametrize("name", BROKEN)
def test_fires(name: str) -> None:
    problems = found(BROKEN[name])
    assert [problem.id for problem in problems] == [f"config.{name}"]
    problem = problems[0]
    assert problem.where == "command line"
    assert problem.field in RULES[name].fields
    assert problem.rule and problem.remedy


@pytest.mark.parametrize(("name", "overrides"), [(name, each) for name, cases in FINE.items() for each in cases])
def test_does_not_fire(name: str, overrides: list[str]) -> None:
    assert found(overrides) == ()


@pytest.mark.parametrize("name", BROKEN)
def test_each_part_alone_is_fine(name: str) -> None:
    """A rule is about two fields: neither is wrong without the other (single-field rules aside)."""
    parts = BROKEN[name]
    if len(parts) == 1:
        return
    for left_out in range(len(parts)):
        rest = parts[:left_out] + parts[left_out + 1 :]
        if (name, left_out) not in STILL_BROKEN:
            assert f"config.{name}" not in {problem.id for problem in found(rest)}, rest


STILL_BROKEN = {
    ("answers_are_split", 2),
    ("answers_are_split", 3),  # clip is only there to keep another rule silent
    ("answers_are_split", 4),
    ("kl_is_off", 1),
    ("validation_in_train", 0),  # x.json is what LEAST trains on
    ("pretrain_without_chat", 1),  # either of the two fields is enough
    ("pretrain_without_chat", 2),
    ("from_settles_shape", 1),
    ("from_settles_shape", 2),
    ("compact_is_of_adamw", 1),
    ("in_backward_of_adapters", 1),  # clip is only there to keep another rule silent
    ("bfloat16_computes_in_it", 0),  # so are these
    ("in_backward_unclipped", 0),
    ("in_backward_unscaled", 0),
    ("in_backward_unscaled", 2),
    ("in_backward_alone", 0),
    ("in_backward_alone", 2),
    ("sgd_has_no_moments", 1),  # the learning rate is only there to keep another rule silent
}


def test_the_problem_stands_where_the_user_wrote() -> None:
    """The field shown first is the one that is given; a default is nobody's mistake."""
    problem = found(["model=org/a", "model.init=random"])[0]
    assert (problem.field, problem.value) == ("model.init", "random")
    problem = found(["model=org/a", "model.init=random", "tune=lora"])[0]
    assert (problem.field, problem.value) == ("tune.kind", "lora")


def test_rules_speak_although_other_fields_are_wrong() -> None:
    ids = [problem.id for problem in found(["tune.rank=x", "optim.power=3", "data.trian=y", "run.report=[z]"])]
    assert "config.power_is_of_polynomial" in ids and len(ids) == 4


def test_rules_keep_silent_about_fields_that_are_wrong_themselves() -> None:
    ids = [problem.id for problem in found(["optim.power=x", "optim.schedule=linear"])]
    assert ids == ["config.number"]


def test_sources_are_shown_by_their_names() -> None:
    problem = found(["data.train=[a.json, {path: b.txt, format: text}]"])[0]
    assert problem.value == "a.json, b.txt"
