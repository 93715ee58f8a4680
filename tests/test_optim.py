"""Schedules against transformers', optimizer state through a file, clipping by hand."""

import math

import pytest
import torch
from torch import nn
from transformers import get_scheduler

from luthier.config.schema import OptimSection
from luthier.engine import optim

PEAK, STEPS = 0.5, 40


def rates(**settings) -> list[float]:
    section = OptimSection(**settings)
    return [optim.rate(step, STEPS, section, PEAK) for step in range(STEPS)]


def transformers_rates(name: str, warmup: int, **specific) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = get_scheduler(name, optimizer, warmup, STEPS, scheduler_specific_kwargs=specific)
    values = []
    for _ in range(STEPS):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize(
    ("schedule", "name", "specific"),
    [
        ("linear", "linear", {}),
        ("cosine", "cosine", {}),
        ("constant", "constant", {}),
        ("inverse_sqrt", "inverse_sqrt", {}),
        ("polynomial", "polynomial", {"power": 2.0, "lr_end": 0.0}),
    ],
)
def test_after_the_warm_up_each_schedule_is_the_field_s(schedule, name, specific):
    ours, theirs = rates(schedule=schedule, warmup=8), transformers_rates(name, 8, **specific)
    assert ours[8:] == pytest.approx(theirs[8:], rel=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "inverse_sqrt", "polynomial"])
def test_warm_up_rises_evenly_from_above_zero_to_the_peak(schedule):
    ours = rates(schedule=schedule, warmup=4)
    assert ours[:5] == pytest.approx([PEAK * k / 5 for k in (1, 2, 3, 4, 5)])


def test_warm_up_below_one_is_a_share_and_from_one_a_number():
    assert optim.warmup_steps(200, OptimSection(warmup=0.1)) == 20
    assert optim.warmup_steps(200, OptimSection(warmup=7)) == 7
    assert optim.warmup_steps(5, OptimSection(warmup=7)) == 5


def test_the_schedule_ends_at_the_given_share():
    ours = rates(schedule="linear", warmup=0, min_lr_ratio=0.1)
    assert ours[0] == PEAK
    assert ours[-1] == pytest.approx(PEAK * (0.1 + 0.9 / STEPS))


def pair() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        x = torch.linspace(-1, 1, 3) * (step + 1)
        model(x).pow(2).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("section", [OptimSection(weight_decay=0.1), OptimSection(kind="sgd", momentum=0.9)])
def test_state_through_tensors_continues_to_the_same_bits(section):
    straight, first, second = pair(), pair(), pair()
    whole = optim.build(straight.named_parameters(), section, 0.01)
    train(straight, whole, range(6))
    before = optim.build(first.named_parameters(), section, 0.01)
    train(first, before, range(3))
    second.load_state_dict(first.state_dict())
    after = optim.build(second.named_parameters(), section, 0.01)
    named = list(first.named_parameters())
    tensors = {key: value.clone() for key, value in optim.state_tensors(before, named).items()}
    optim.load_state_tensors(after, list(second.named_parameters()), tensors)
    train(second, after, range(3, 6))
    for ours, theirs in zip(second.parameters(), straight.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_weight_decay_spares_vectors():
    model = pair()
    optimizer = optim.build(model.named_parameters(), OptimSection(weight_decay=0.5), 0.1)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {id(model.weight): 0.5, id(model.bias): 0.0}


def test_clipping_scales_the_joint_norm():
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert float(optim.clip([first, second], 1.0)) == 5.0
    assert float(first.grad) == pytest.approx(0.6, rel=1e-5)
    assert float(second.grad) == pytest.approx(0.8, rel=1e-5)
    assert float(optim.clip([first, second], 0.0)) == pytest.approx(1.0, rel=1e-5)


def test_a_gradient_that_is_not_finite_shows_in_the_norm():
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, math.nan])
    assert not math.isfinite(float(optim.clip([parameter], 1.0)))
