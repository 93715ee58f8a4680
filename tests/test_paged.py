"""Paged AdamW gives the bits of the one that is not, and its state stays where it lies."""

from __future__ import annotations

import pytest
import torch
from test_adamw import COMPACT, Model, built, train

from luthier import holdings
from luthier.config.schema import OptimSection
from luthier.engine import optim, paged

KINDS = [("float32", "float32"), *COMPACT]


@pytest.fixture(params=(1, 2**26), ids=("a parameter each", "one page"))
def page_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged, "PAGE_BYTES", request.param)


@pytest.mark.usefixtures("page_bytes")
@pytest.mark.parametrize(("weights", "states"), KINDS)
def test_every_bit_is_that_of_the_unpaged(weights: str, states: str) -> None:
    results = []
    for how in (False, True):
        model, optimizer = built(weights, states, weight_decay=0.1, paged=how)
        assert isinstance(optimizer, paged.Paged) == how
        optim.allocate(optimizer)
        train(model, optimizer, range(3))
        results.append({**dict(model.named_parameters()), **optim.state_tensors(optimizer, model.named_parameters())})
    plain, ours = results
    assert plain.keys() == ours.keys() and len(plain) > 4
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


@pytest.mark.usefixtures("page_bytes")
def test_state_stays_where_it_lies_also_after_a_resume_and_an_update_in_the_backward_pass() -> None:
    model, optimizer = built(paged=True)
    groups = optimizer.param_groups
    optim.allocate(optimizer)

    def places() -> list[int]:
        slots = optim.state_tensors(optimizer, model.named_parameters()).values()
        return [slot.data_ptr() for slot in slots if slot.ndim]

    before = places()
    train(model, optimizer, range(2))
    assert places() == before and optimizer.param_groups is groups

    other_model, other = built(paged=True)
    other_model.load_state_dict(model.state_dict())
    tensors = {name: each.clone() for name, each in optim.state_tensors(optimizer, model.named_parameters()).items()}
    optim.load_state_tensors(other, other_model.named_parameters(), tensors)
    for each_model, each in ((model, optimizer), (other_model, other)):
        each.zero_grad()
        with optim.in_backward(each, list(each_model.parameters())):
            (each_model.matrix.square().sum() + each_model.vector.sum()).backward()
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other_model.parameters(), strict=True))
    assert places() == before


def test_a_fault_leaves_the_groups_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = built(paged=True)
    groups = optimizer.param_groups

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "step", fail)
    with pytest.raises(RuntimeError):
        train(model, optimizer, range(1))
    assert optimizer.param_groups is groups


def test_the_plan_counts_it_on_the_host_and_two_pages_on_the_device() -> None:
    assert holdings.PAGE_BYTES == paged.PAGE_BYTES
    large = {"a": (20_000, 1_000), "b": (3_000, 1_000), "norm": (1_000,)}
    plain, ours = (holdings.trained(large, False, paged=how) for how in (False, True))
    assert plain.state_bytes == plain.device_state_bytes == ours.state_bytes == 8 * 23_001_000
    assert ours.device_state_bytes == ours.state_bytes < 2 * 8 * 20_000_000, "two of the largest would be more than all"
    many = holdings.trained({str(each): (3_000, 1_000) for each in range(40)}, False, paged=True)
    assert many.device_state_bytes == 2 * paged.PAGE_BYTES < many.state_bytes
    model, optimizer = built(states="8bit", paged=True)
    optim.allocate(optimizer)
    shapes = {name: tuple(each.shape) for name, each in model.named_parameters()}
    planned = holdings.trained(shapes, False, states="8bit", paged=True)
    assert paged.scratch_bytes(optimizer) == planned.device_state_bytes == planned.state_bytes


def test_sgd_has_nothing_to_page() -> None:
    section = OptimSection(kind="sgd", lr=0.1, momentum=0.9)
    assert not isinstance(optim.build(Model().named_parameters(), section, 0.1), paged.Paged)
