"""Losses over judged answers: by hand, by finite differences, at their ends, and against TRL's own code."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.losses import preference as losses


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------- by hand


def test_values_by_hand() -> None:
    """beta 0.5, delta 2: the logit is 1, sigma(1) = 0.7310585786."""
    delta = t(2.0)
    assert losses.sigmoid(delta, 0.5).item() == pytest.approx(0.3132616875, abs=1e-9)
    # a tenth the wrong way round: 0.9 * 0.3132616875 + 0.1 * 1.3132616875
    assert losses.sigmoid(delta, 0.5, 0.1).item() == pytest.approx(0.4132616875, abs=1e-9)
    # (0.9 * 0.3132616875 - 0.1 * 1.3132616875) / 0.8
    assert losses.robust(delta, 0.5, 0.1).item() == pytest.approx(0.1882616875, abs=1e-9)
    assert losses.hinge(t(1.0, 3.0), 0.5).tolist() == [0.5, 0.0]
    assert losses.ipo(t(2.0), 0.5).item() == 1.0, "(2 - 1)^2"
    # 2 * (-0.5 - -1.0) - 1 = 0
    assert losses.simpo(t(-0.5), t(-1.0), 2.0, 1.0).item() == pytest.approx(math.log(2), abs=1e-12)
    # p = 1/2 has odds 1, p = 1/5 has odds 1/4: the log odds differ by log 4, and -log sigma(log 4) = log(5/4)
    assert losses.odds_ratio(t(-math.log(2)), t(-math.log(5))).item() == pytest.approx(math.log(1.25), abs=1e-12)
    # sigma(0.5 * (3 - 1)) of a wanted answer, sigma(0.5 * (1 - 3)) of an unwanted one
    found = losses.kto(t(3.0, 3.0), t(1.0, -1.0), t(1.0), 0.5, (1.0, 2.0))
    assert found.tolist() == pytest.approx([1 - 0.7310585786, 2 * 0.7310585786], abs=1e-9)
    assert losses.divergence(t(1.0, 3.0)).item() == 2.0 and losses.divergence(t(-1.0, -3.0)).item() == 0.0
    # 1.5 - -0.5 - 1 = 1, and 0.01 * (1.5 - 0.5)^2
    assert losses.reward(t(1.5), t(-0.5), t(1.0), 0.01).item() == pytest.approx(0.3232616875, abs=1e-9)


def test_robust_is_unbiased() -> None:
    """With a share of pairs turned round, its mean is the loss of clean pairs."""
    delta = t(-1.5, 0.2, 3.0)
    mean = 0.8 * losses.robust(delta, 0.3, 0.2) + 0.2 * losses.robust(-delta, 0.3, 0.2)
    torch.testing.assert_close(mean, losses.sigmoid(delta, 0.3))


def test_gradients() -> None:
    one, other = torch.randn(2, 5, dtype=torch.float64).unbind()
    one.requires_grad_()
    other.requires_grad_()
    side, margin = t(1, -1, 1, -1, 1), t(0, 1, 0.5, 2, 0)

    def below(x: Tensor) -> Tensor:
        return -torch.nn.functional.softplus(x) - 0.01  # as means of log-probabilities are

    for made in (
        lambda x, y: losses.sigmoid(x - y, 0.3, 0.1),
        lambda x, y: losses.robust(x - y, 0.3, 0.1),
        lambda x, y: losses.hinge(x - y, 0.3),
        lambda x, y: losses.ipo(x - y, 0.3),
        lambda x, y: losses.simpo(x, y, 2.0, 0.5, 0.1),
        lambda x, y: losses.odds_ratio(below(x), below(y)),
        lambda x, y: losses.kto(x - y, side, t(0.3), 0.5, (1.0, 1.5)),
        lambda x, y: losses.reward(x, y, margin, 0.01),
    ):
        assert torch.autograd.gradcheck(made, (one, other))
    assert not losses.divergence(one).requires_grad


def test_at_their_ends() -> None:
    """Nothing overflows, and a pair that is told apart completely, or not at all, has a finite gradient."""
    for delta in (-1e4, 0.0, 1e4):
        x = torch.tensor([delta], requires_grad=True)
        for loss in (losses.sigmoid(x, 1.0, 0.1), losses.robust(x, 1.0, 0.1), losses.hinge(x, 1.0)):
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            assert loss.isfinite().all() and gradient.isfinite().all()
    for logp in (0.0, -1e-9, -1e-3, -50.0, -1e4):
        x = torch.tensor([logp], requires_grad=True)
        (gradient,) = torch.autograd.grad(losses.odds_ratio(x, torch.tensor([-1.0])).sum(), x)
        assert losses.log_odds(x).isfinite().all() and gradient.isfinite().all()
    assert losses.sigmoid(t(0.0), 0.1).item() == pytest.approx(math.log(2))
    exact = math.log(math.exp(-1e-3) / -math.expm1(-1e-3))
    assert losses.log_odds(t(-1e-3)).item() == pytest.approx(exact, rel=1e-12)


# ------------------------------------------------------------------------------------------------- against TRL


def numbers() -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(3)
    return tuple((-30 * torch.rand(2, 7, generator=made)).unbind())  # type: ignore[return-value]


def test_cpo_and_simpo_are_trl_s() -> None:
    trl = pytest.importorskip("trl.experimental.cpo.cpo_trainer", exc_type=ImportError)
    chosen, rejected = numbers()
    for kind, smoothing, mine in (
        ("sigmoid", 0.1, losses.sigmoid(chosen - rejected, 0.2, 0.1)),
        ("hinge", 0.0, losses.hinge(chosen - rejected, 0.2)),
        ("simpo", 0.1, losses.simpo(chosen, rejected, 0.2, 0.7, 0.1)),
    ):
        own: Any = SimpleNamespace(
            alpha=0.0, beta=0.2, loss_type=kind, simpo_gamma=0.7, label_smoothing=smoothing,
            accelerator=SimpleNamespace(device="cpu"),
        )  # fmt: skip
        theirs, _, _ = trl.CPOTrainer.cpo_loss(own, chosen, rejected)
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_orpo_is_trl_s() -> None:
    trl = pytest.importorskip("trl.experimental.orpo.orpo_trainer", exc_type=ImportError)
    chosen, rejected = (each / 30 - 0.01 for each in numbers())
    own: Any = SimpleNamespace(beta=1.0, accelerator=SimpleNamespace(device="cpu"))
    theirs, *_ = trl.ORPOTrainer.odds_ratio_loss(own, chosen, rejected)
    torch.testing.assert_close(losses.odds_ratio(chosen, rejected), -theirs, rtol=1e-5, atol=1e-6)
