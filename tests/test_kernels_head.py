"""The three head modes against log_softmax: values, every gradient, chunks and tiles, edges."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from luthier.kernels import chained, head, reference, select
from luthier.kernels.head import Mode

Case = tuple[Tensor, Tensor, Tensor, Tensor]


def _case(rows: int = 7, vocabulary: int = 19, dtype: torch.dtype = torch.float64, trainable: bool = True) -> Case:
    torch.manual_seed(0)
    x = torch.randn(rows, 6, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, 6, dtype=dtype, requires_grad=trainable)
    targets = torch.randint(0, vocabulary, (rows,))
    coefficients = torch.randn(rows, dtype=torch.promote_types(dtype, torch.float32))
    return x, weight, targets, coefficients


@pytest.fixture(params=[1, 2, 3, 1000], ids=lambda rows: f"chunks of {rows} rows")
def chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.kernels.head.CHUNK_BYTES", request.param * 19 * 8)
    monkeypatch.setattr("luthier.kernels.tiles.TILE_BYTES", 2 * 19 * 8)


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("trainable", [False, True])
def test_linear_mode(trainable: bool) -> None:
    x, weight, targets, c = _case(trainable=trainable)
    expected = reference.log_probability(x, weight, targets)
    scored = head.score(x, weight, targets, "linear", c, entropy=True)
    assert scored.total is not None and scored.entropy_M is not None
    torch.testing.assert_close(scored.logp_M, expected.detach())
    torch.testing.assert_close(scored.entropy_M, reference.entropy(x, weight).detach())
    torch.testing.assert_close(scored.total, (c * expected).sum())
    assert not scored.logp_M.requires_grad and not scored.entropy_M.requires_grad
    inputs = (x, weight) if trainable else (x,)
    ours = torch.autograd.grad(3.5 * scored.total, inputs)
    theirs = torch.autograd.grad(3.5 * (c * expected).sum(), inputs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize(("mode", "trainable"), [("unit", False), ("recompute", False), ("recompute", True)])
def test_modes_for_any_loss(mode: Mode, trainable: bool) -> None:
    x, weight, targets, c = _case(trainable=trainable)
    inputs = (x, weight) if trainable else (x,)

    def loss(logp: Tensor) -> Tensor:
        return (c * logp.exp()).sum() + torch.nn.functional.softplus(logp[0] - logp[1])  # a toy preference loss

    expected = reference.log_probability(x, weight, targets)
    scored = head.score(x, weight, targets, mode, entropy=True)
    assert scored.total is None and scored.entropy_M is not None
    torch.testing.assert_close(scored.logp_M, expected)
    torch.testing.assert_close(scored.entropy_M, reference.entropy(x, weight).detach())
    ours, theirs = (torch.autograd.grad(loss(logp), inputs) for logp in (scored.logp_M, expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(("mode", "trainable"), [("linear", True), ("unit", False), ("recompute", True)])
def test_gradcheck(mode: Mode, trainable: bool) -> None:
    x, weight, targets, c = _case(rows=3, vocabulary=5, trainable=trainable)

    def value(x: Tensor, weight: Tensor) -> Tensor:
        scored = head.score(x, weight, targets, mode, c)
        return scored.logp_M if scored.total is None else scored.total

    assert torch.autograd.gradcheck(value, (x, weight))


@pytest.mark.parametrize("mode", ["linear", "unit", "recompute"])
def test_no_scored_rows(mode: Mode) -> None:
    x, weight, targets, c = _case(rows=0, trainable=mode != "unit")
    scored = head.score(x, weight, targets, mode, c, entropy=True)
    loss = scored.logp_M.sum() if scored.total is None else scored.total
    loss.backward()
    assert loss == 0 and x.grad is not None and x.grad.shape == (0, 6)
    assert weight.grad is None or not weight.grad.any()


@pytest.mark.parametrize("mode", ["linear", "unit", "recompute"])
def test_without_gradients_only_values(mode: Mode) -> None:
    x, weight, targets, c = _case()
    with torch.no_grad():
        scored = head.score(x, weight, targets, mode, c)
    torch.testing.assert_close(scored.logp_M, reference.log_probability(x, weight, targets).detach())
    assert scored.total is not None and not scored.total.requires_grad


def test_unit_mode_refuses_a_trainable_head() -> None:
    x, weight, targets, _ = _case()
    with pytest.raises(AssertionError, match="frozen head"):
        head.score(x, weight, targets, "unit")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_small_coefficients_under_a_loss_scale(dtype: torch.dtype) -> None:
    """The scale arrives in the backward pass; a gradient stored at its true size would have vanished in float16."""
    x, weight, targets, _ = _case(rows=4, dtype=torch.float32, trainable=False)
    c = torch.tensor([1e-7, 2e-7, 0.0, -1e-7])
    half, exact = x.detach().to(dtype).requires_grad_(), x.detach().to(dtype).double().requires_grad_()
    scored = head.score(half, weight.to(dtype), targets, "linear", c)
    assert scored.total is not None
    (scored.total * 2.0**16).backward()
    ((c * reference.log_probability(exact, weight.to(dtype).double(), targets)).sum() * 2.0**16).backward()
    assert half.grad is not None and exact.grad is not None
    error = (half.grad.double() - exact.grad).abs().max() / exact.grad.abs().max()
    assert error < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("chains", [select.PLAIN, select.COMPILED], ids=["plain", "compiled"])
def test_extreme_logits_stay_finite(chains: select.Chains, monkeypatch: pytest.MonkeyPatch) -> None:
    if chains is select.COMPILED and chained.library() is None:
        pytest.skip("no C compiler here")
    monkeypatch.setattr(select, "chains", lambda _: chains)
    x = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]])
    scored = head.score(x, weight, torch.tensor([1, 2]), "unit", entropy=True)
    torch.testing.assert_close(scored.logp_M.detach(), torch.tensor([-600.0, -450.0]))
    scored.logp_M.sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all()) and scored.entropy_M is not None
    assert bool(scored.entropy_M.isfinite().all())


@pytest.mark.parametrize(
    ("mode", "trainable", "matmuls"),
    [("linear", False, 2), ("linear", True, 3), ("unit", False, 2), ("recompute", True, 4)],
)
def test_number_of_matmuls(mode: Literal["linear", "unit", "recompute"], trainable: bool, matmuls: int) -> None:
    x, weight, targets, c = _case(trainable=trainable)
    with FlopCounterMode(display=False) as counter:
        scored = head.score(x, weight, targets, mode, c)
        (scored.logp_M.sum() if scored.total is None else scored.total).backward()
    assert counter.get_total_flops() == matmuls * 2 * 7 * 19 * 6


def test_logits() -> None:
    x, weight, _, _ = _case(dtype=torch.bfloat16)
    logits = head.logits(x, weight)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, (x @ weight.T).float())
