"""AdamW in few bytes: torch's in float32 is the oracle, to rounding where both are the same, else within a bound."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from luthier import holdings
from luthier.config.schema import OptimSection
from luthier.engine import adamw, optim

WEIGHTS = ("float32", "bfloat16_stochastic", "bfloat16_kahan")
STATES = ("float32", "bfloat16", "8bit")
COMPACT = [pair for pair in itertools.product(WEIGHTS, STATES) if pair != ("float32", "float32")]


class Model(nn.Module):
    """A matrix of several pieces on a CPU with an odd end, and a vector."""

    def __init__(self, weights: str = "float32") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        dtype = torch.float32 if weights == "float32" else torch.bfloat16
        self.matrix = nn.Parameter((torch.randn(613, 217, generator=generator) / 16).to(dtype))
        self.matrix.grad_dtype = torch.float32
        self.vector = nn.Parameter(torch.ones(30))


def built(weights="float32", states="float32", seed=0, **given):
    model = Model(weights)
    section = OptimSection(weights=weights, states=states, **given)
    return model, optim.build(model.named_parameters(), section, 1e-3, seed)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """The same gradients for every model: their spread over elements is that of real ones, some decades."""
    for step in steps:
        for place, parameter in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(100 * step + place)
            spread = torch.linspace(-4, 0, parameter.numel()).view(parameter.shape)
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 10**spread
        optimizer.step()


def moved(model: nn.Module, weights: str = "float32") -> torch.Tensor:
    return (model.matrix.detach().double() - Model(weights).matrix.detach().double()).flatten()


def test_in_float32_it_is_torch_s():
    """Vectors of compact runs take this path; here the matrix does too."""
    ours, theirs = Model(), Model()
    groups = [
        {"params": [p], "weight_decay": decay, "weights": "float32", "states": "float32"}
        for p, decay in ((ours.matrix, 0.1), (ours.vector, 0.0))
    ]
    names = {parameter: name for name, parameter in ours.named_parameters()}
    made = adamw.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, names=names, seed=0)
    theirs_groups = [
        {"params": [theirs.matrix], "weight_decay": 0.1},
        {"params": [theirs.vector], "weight_decay": 0.0},
    ]
    train(ours, made, range(20))
    train(theirs, torch.optim.AdamW(theirs_groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8), range(20))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert float((one - other).detach().abs().max() / other.detach().abs().max()) < 1e-6


@pytest.mark.parametrize("states", STATES[1:])
def test_the_first_step_is_that_of_float32(states):
    compact, exact = built(states=states), built()
    for model, optimizer in (compact, exact):
        train(model, optimizer, range(1))
    torch.testing.assert_close(compact[0].matrix, exact[0].matrix, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("weights", "states", "bound"), [
    ("float32", "bfloat16", 0.01),
    ("float32", "8bit", 0.04),
    ("bfloat16_kahan", "float32", 0.01),
    ("bfloat16_kahan", "8bit", 0.04),
])  # fmt: skip
def test_the_way_of_fifty_steps_is_that_of_float32(weights, states, bound):
    """Norm of the difference over the norm of the way. Gradients here are pure noise, which is the worst case."""
    compact, exact = built(weights, states), built()
    for model, optimizer in (compact, exact):
        train(model, optimizer, range(50))
    way = moved(exact[0])
    held = compact[0].matrix.detach().double().flatten()
    if weights == "bfloat16_kahan":
        held = held + compact[1].state[compact[0].matrix]["compensation"].double().flatten()
    start = Model(weights).matrix.detach().double().flatten()
    assert float((held - start - way).norm() / way.norm()) < bound
    torch.testing.assert_close(compact[0].vector, exact[0].vector, rtol=1e-6, atol=0)


def drift(weights: str) -> float:
    """How far a weight goes in 2000 steps of 1e-5, a hundredth of half a unit of bfloat16 at 0.25: 1 is all the way."""
    parameter = nn.Parameter(torch.full((64, 64), 0.25, dtype=torch.bfloat16))
    parameter.grad_dtype = torch.float32
    made = optim.build([("w", parameter)], OptimSection(weights=weights), 1e-5)
    for _ in range(2000):
        parameter.grad = torch.ones(64, 64)
        made.step()
    return (0.25 - float(parameter.detach().double().mean())) / (2000 * 1e-5)


def test_small_steps_add_up_where_plain_rounding_loses_them():
    assert drift("bfloat16_stochastic") == pytest.approx(1, abs=0.02)
    assert drift("bfloat16_kahan") == pytest.approx(1, abs=0.04)  # the last half unit is in the compensation
    plain = nn.Parameter(torch.full((4,), 0.25, dtype=torch.bfloat16))
    theirs = torch.optim.AdamW([plain], lr=1e-5, weight_decay=0.0)
    for _ in range(100):
        plain.grad = torch.ones(4, dtype=torch.bfloat16)
        theirs.step()
    assert torch.equal(plain.detach(), torch.full((4,), 0.25, dtype=torch.bfloat16))


def test_a_second_moment_in_bfloat16_falls():
    """Rounded to the nearest, 0.999 of a bfloat16 is that bfloat16."""
    model, optimizer = built(states="bfloat16")
    train(model, optimizer, range(1))
    before = optimizer.state[model.matrix]["exp_avg_sq"].double().sum()
    for _ in range(300):
        model.matrix.grad = torch.zeros_like(model.matrix)
        optimizer.step()
    after = optimizer.state[model.matrix]["exp_avg_sq"].double().sum()
    assert float(after / before) == pytest.approx(0.999**300, rel=0.01)


@pytest.mark.parametrize(("weights", "states"), COMPACT)
def test_state_through_tensors_continues_to_the_same_bits(weights, states):
    straight = built(weights, states, seed=3, weight_decay=0.1)
    train(*straight, range(6))
    first, second = built(weights, states, seed=3, weight_decay=0.1), built(weights, states, seed=3, weight_decay=0.1)
    train(*first, range(3))
    second[0].load_state_dict(first[0].state_dict())
    tensors = optim.state_tensors(first[1], list(first[0].named_parameters()))
    tensors = {key: value.clone() for key, value in tensors.items()}
    optim.load_state_tensors(second[1], list(second[0].named_parameters()), tensors)
    train(*second, range(3, 6))
    for ours, theirs in zip(second[0].parameters(), straight[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)
    again = optim.state_tensors(second[1], list(second[0].named_parameters()))
    slots = optim.state_tensors(straight[1], list(straight[0].named_parameters()))
    assert again.keys() == slots.keys() and all(torch.equal(again[key], slots[key]) for key in slots)


def test_chance_depends_on_seed_step_and_name():
    made = {}
    for seed in (0, 1):
        model, optimizer = built("bfloat16_stochastic", seed=seed)
        train(model, optimizer, range(1))
        made[seed] = model.matrix.detach().clone()
    assert not torch.equal(made[0], made[1])
    twins = [nn.Parameter(torch.full((64, 64), 0.25, dtype=torch.bfloat16)) for _ in range(2)]
    optimizer = optim.build(zip("ab", twins, strict=True), OptimSection(weights="bfloat16_stochastic"), 1e-4)
    bits = []
    for _ in range(2):
        for twin in twins:
            twin.grad_dtype = torch.float32
            twin.grad = torch.ones(64, 64)
            twin.data.fill_(0.25)
        optimizer.step()
        bits += [twin.detach().clone() for twin in twins]
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(bits, 2))


@pytest.mark.parametrize(("held", "loaded"), [
    (OptimSection(), OptimSection(states="8bit")),
    (OptimSection(states="8bit"), OptimSection()),
    (OptimSection(states="bfloat16"), OptimSection(states="8bit")),
    (OptimSection(weights="bfloat16_stochastic"), OptimSection(weights="bfloat16_kahan")),
    (OptimSection(kind="sgd", momentum=0.9), OptimSection()),
    (OptimSection(), OptimSection(kind="sgd", momentum=0.9)),
])  # fmt: skip
def test_state_that_is_kept_in_another_way_is_refused(held, loaded):
    model = Model(held.weights)
    optimizer = optim.build(model.named_parameters(), held, 1e-3)
    train(model, optimizer, range(1))
    named = list(model.named_parameters())
    other = optim.build(named, loaded, 1e-3)
    with pytest.raises(KeyError):
        optim.load_state_tensors(other, named, optim.state_tensors(optimizer, named))


@pytest.mark.parametrize(("weights", "states"), [("float32", "float32"), *COMPACT])
def test_the_plan_counts_what_is_held_to_the_byte(weights, states):
    model, optimizer = built(weights, states)
    train(model, optimizer, range(1))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    planned = holdings.trained(shapes, False, weights=weights, states=states)
    assert planned.weight_bytes == sum(p.nbytes for p in model.parameters())
    assert planned.gradient_bytes == sum(p.grad.nbytes for p in model.parameters())
    slots = optim.state_tensors(optimizer, model.named_parameters()).values()
    assert planned.state_bytes == sum(slot.nbytes for slot in slots if slot.ndim)


def test_pieces_cover_everything_in_whole_blocks():
    for count in (1, 256, 257, 131072, 133021, 10**6):
        parts = list(adamw.pieces(count, torch.device("cpu")))
        assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])] and parts[-1].stop == count
        assert all(part.start % 256 == 0 for part in parts)
    assert len(list(adamw.pieces(613 * 217, torch.device("cpu")))) > 1, "the model here takes more than one"


def test_no_copy_of_a_whole_tensor_is_made(monkeypatch):
    """What a step works with is a few pieces, however large the tensor is."""
    largest = 0
    read = adamw.Blocks.read

    def seen(self, part):
        nonlocal largest
        largest = max(largest, part.stop - part.start)
        return read(self, part)

    monkeypatch.setattr(adamw.Blocks, "read", seen)
    parameter = nn.Parameter(torch.zeros(1024, 1024))
    optimizer = optim.build([("w", parameter)], OptimSection(states="8bit"), 1e-3)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert 4 * largest <= adamw.TILE_BYTES and torch.allclose(parameter, torch.tensor(-1e-3))


@pytest.mark.long
def test_every_option_learns_what_float32_learns_and_plain_bfloat16_does_not():
    """nano on the demonstration's task. Share of what float32 learns; measured: 0.0011 less or more at most,
    and 0.095 less."""
    bench = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "optim.py"))
    found = dict(bench["curves"](120, 0))
    exact = found["float32"]
    assert exact.after < 0.2 * exact.before
    less = {way: bench["distance"](curve, exact) for way, curve in found.items()}
    print(less)
    assert less.pop(bench["PLAIN"]) > 0.05
    assert len(less) == 7 and max(map(abs, less.values())) < 0.003
