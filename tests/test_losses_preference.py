"""Losses over judged answers: by hand, by finite differences, at their ends, and against TRL's own code."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.config.schema import Cpo, Dpo, Ipo, Orpo, Simpo
from luthier.losses import preference as losses
from luthier.methods.preference import Numbers, imitation_weight, objective


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
    found = losses.kto(t(3.0, 3.0), t(1.0, -1.0), t(1.0), 0.5)
    assert found.tolist() == pytest.approx([1 - 0.7310585786, 0.7310585786], abs=1e-9)
    assert losses.by_side(t(1.0, -1.0), 1.5, 0.5).tolist() == [1.5, 0.5]
    assert losses.divergence(t(1.0, 3.0)).item() == 2.0 and losses.divergence(t(-1.0, -3.0)).item() == 0.0
    # 1.5 - -0.5 - 1 = 1, and (1.5 - 0.5)^2
    assert losses.reward(t(1.5), t(-0.5), t(1.0)).item() == pytest.approx(0.3132616875, abs=1e-9)
    assert losses.off_centre(t(1.5), t(-0.5)).item() == 1.0


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
        lambda x, y: losses.kto(x - y, side, t(0.3), 0.5),
        lambda x, y: losses.reward(x, y, margin),
        lambda x, y: losses.off_centre(x, y),
    ):
        assert torch.autograd.gradcheck(made, (one, other))
    assert not losses.divergence(one).requires_grad


ENDS: dict[str, tuple[Any, float, float, float]] = {
    # The loss of a pair, and its value where the answers are equal, the better one is infinitely far ahead, and
    # infinitely far behind.
    "sigmoid": (lambda x, y: losses.sigmoid(x - y, 0.5), math.log(2), 0.0, math.inf),
    "smoothed": (lambda x, y: losses.sigmoid(x - y, 0.5, 0.1), math.log(2), math.inf, math.inf),
    "hinge": (lambda x, y: losses.hinge(x - y, 0.5), 1.0, 0.0, math.inf),
    "ipo": (lambda x, y: losses.ipo(x - y, 0.5), 1.0, math.inf, math.inf),
    "simpo": (lambda x, y: losses.simpo(x, y, 2.0, 1.0), math.log1p(math.e), 0.0, math.inf),
    "reward": (lambda x, y: losses.reward(x, y, torch.zeros_like(x)), math.log(2), 0.0, math.inf),
    "odds": (lambda x, y: losses.odds_ratio(x, y), math.log(2), 0.0, math.inf),
    "wanted": (lambda x, y: losses.kto(x - y, torch.ones_like(x), x.new_zeros(()), 0.5), 0.5, 0.0, 1.0),
    "unwanted": (lambda x, y: losses.kto(y - x, -torch.ones_like(x), x.new_zeros(()), 0.5), 0.5, 0.0, 1.0),
}


@pytest.mark.parametrize(("loss", "equal", "ahead", "behind"), ENDS.values(), ids=ENDS)
def test_at_their_ends(loss: Any, equal: float, ahead: float, behind: float) -> None:
    """Equal answers, a margin without bounds, and no pair at all: the value that the formula has there; and where it is
    finite, so is the gradient."""
    for chosen, rejected, value in ((-1.0, -1.0, equal), (-1.0, -math.inf, ahead), (-math.inf, -1.0, behind)):
        x, y = t(chosen).requires_grad_(), t(rejected).requires_grad_()
        found = loss(x, y)
        assert found.tolist() == [pytest.approx(value, abs=1e-12)]
        if math.isfinite(value):
            assert all(each.isfinite().all() for each in torch.autograd.grad(found.sum(), (x, y)))
    none = torch.zeros(0, dtype=torch.float64, requires_grad=True)
    found = loss(none, none)
    assert found.shape == (0,) and torch.autograd.grad(found.sum(), none)[0].shape == (0,)


def test_robust_at_its_ends() -> None:
    """Equal answers: log 2. It falls without bound as the better answer leads, which is why its share is below 1/2."""
    assert losses.robust(t(0.0), 0.5, 0.1).item() == pytest.approx(math.log(2))
    x = t(1e4, -1e4).requires_grad_()
    loss = losses.robust(x, 1.0, 0.1)
    assert loss.tolist() == pytest.approx([-0.1 * 1e4 / 0.8, 0.9 * 1e4 / 0.8])
    assert torch.autograd.grad(loss.sum(), x)[0].tolist() == pytest.approx([-0.1 / 0.8, -0.9 / 0.8])
    assert losses.robust(t(), 1.0, 0.1).shape == (0,)


def test_nothing_overflows_in_float32() -> None:
    for delta in (-1e4, 0.0, 1e4):
        x = torch.tensor([delta], requires_grad=True)
        for loss in (losses.sigmoid(x, 1.0, 0.1), losses.robust(x, 1.0, 0.1), losses.hinge(x, 1.0)):
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            assert loss.isfinite().all() and gradient.isfinite().all()
    for logp in (0.0, -1e-9, -1e-3, -50.0, -1e4):
        x = torch.tensor([logp], requires_grad=True)
        (gradient,) = torch.autograd.grad(losses.odds_ratio(x, torch.tensor([-1.0])).sum(), x)
        assert losses.log_odds(x).isfinite().all() and gradient.isfinite().all()
    exact = math.log(math.exp(-1e-3) / -math.expm1(-1e-3))
    assert losses.log_odds(t(-1e-3)).item() == pytest.approx(exact, rel=1e-12)


def test_means_of_answers_without_tokens_are_nothing() -> None:
    """An answer of one token is that token; one of none (cut off by `data.max_tokens`) divides by 1."""
    numbers = Numbers(*(t(-3.0, 0.0), t(-1.0, -6.0)), *(t(0.0, 0.0),) * 2, *(t(1.0, 0.0), t(1.0, 3.0)))
    assert [each.tolist() for each in numbers.per_token()[:2]] == [[-3.0, 0.0], [-1.0, -2.0]]


# ------------------------------------------------------------------------------------------------- against TRL

LENGTHS = [[5, 1, 3, 4], [2, 1, 6, 4]]
"""Tokens of the better and the worse answer of each pair; those of the second are one token each."""


class Given:
    """Log-probabilities of the tokens of four pairs, [2G, T], the better answers first, as TRL has them, with those of
    the reference; the last pair's answers are equal."""

    def __init__(self) -> None:
        made = torch.Generator().manual_seed(3)
        self.lengths = torch.tensor(LENGTHS).reshape(-1)
        self.there = torch.arange(6)[None] < self.lengths[:, None]
        logp, reference = (-3 * torch.rand(2, 8, 6, generator=made, dtype=torch.float64)).unbind()
        logp[7], reference[7] = logp[3], reference[3]
        self.leaf = logp.requires_grad_()
        self.logp = logp * self.there
        self.reference = (reference * self.there).sum(1).chunk(2)

    def numbers(self) -> Numbers:
        return Numbers(*self.logp.sum(1).chunk(2), *self.reference, *self.lengths.double().chunk(2))

    def alone(self, pair: int) -> Given:
        """One of the pairs."""
        one = copy.copy(self)
        rows = [pair, pair + 4]
        one.lengths, one.there = self.lengths[rows], self.there[rows]
        one.logp, one.reference = self.logp[rows], tuple(each[pair : pair + 1] for each in self.reference)
        return one


class Metrics(dict[str, list[float]]):
    def __missing__(self, key: str) -> list[float]:
        self[key] = []
        return self[key]


def trainer(**settings: Any) -> Any:
    """What a method of one of TRL's trainers asks of itself."""

    def itself(values: Tensor) -> Tensor:
        return values

    accelerator = SimpleNamespace(device="cpu", gather=itself, gather_for_metrics=itself)
    made = {"accelerator": accelerator, "model": SimpleNamespace(training=True), "aux_loss_enabled": False}
    return SimpleNamespace(
        **made, _metrics={"train": Metrics()}, _total_train_tokens=0, _tp_size=1, **settings
    )  # fmt: skip


def says(*answers: Tensor) -> Any:
    """A model that answers calls with these log-probabilities, one after the other."""
    left = list(answers)

    def model(**_: Any) -> Any:
        logp = left.pop(0)
        zero = torch.zeros_like(logp)
        return SimpleNamespace(log_probs=logp, entropy=zero, mean_logits=zero, is_top1=zero.bool())

    return model


def with_prompt(there: Tensor) -> Tensor:
    """TRL's mask of the answers: a prompt of one token before each."""
    return torch.nn.functional.pad(there.long(), (1, 0))


def same(mine: Tensor, theirs: Tensor, leaf: Tensor) -> None:
    """Value, and gradient by every token's log-probability."""
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    gradients = [torch.autograd.grad(each, leaf, retain_graph=True)[0] for each in (mine, theirs)]
    assert gradients[1].abs().max() > 0
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def trl_dpo(given: Given, section: Dpo, *kinds: str) -> Tensor:
    module = pytest.importorskip("trl.trainer.dpo_trainer", exc_type=ImportError)
    own = trainer(
        beta=section.beta, loss_types=kinds, loss_weights=[1.0, section.sft_weight][: len(kinds)], ld_alpha=None,
        label_smoothing=section.label_smoothing, precompute_ref_logps=True, f_divergence_type="reverse_kl",
        use_weighting=False,
    )  # fmt: skip
    mask = with_prompt(given.there)
    chosen, rejected = given.reference
    inputs = {"input_ids": mask, "attention_mask": mask, "completion_mask": mask}
    inputs |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    return module.DPOTrainer._compute_loss(own, says(given.logp), inputs, False)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        (Dpo(beta=0.3), "sigmoid"),
        (Dpo(beta=0.3, loss="hinge"), "hinge"),
        (Dpo(beta=0.3, loss="robust", label_smoothing=0.2), "robust"),
        (Dpo(beta=0.3, length_normalised=True), "sigmoid_norm"),
        (Ipo(beta=0.3), "ipo"),
    ],
)
def test_dpo_is_trl_s(section: Dpo, kind: str) -> None:
    given = Given()
    same(objective(section)(given.numbers()).loss.mean(), trl_dpo(given, section, kind), given.leaf)


def test_smoothed_dpo_is_trl_s() -> None:
    """TRL's `sigmoid` leaves smoothing out; its `aot` of a single pair is the smoothed form."""
    given, section = Given(), Dpo(beta=0.3, label_smoothing=0.2)
    theirs = torch.stack([trl_dpo(given.alone(pair), section, "aot") for pair in range(4)])
    same(objective(section)(given.numbers()).loss.mean(), theirs.mean(), given.leaf)


def test_imitation_is_trl_s() -> None:
    """The likelihood of the better answers beside the pairs, over all their tokens."""
    given, section = Given(), Dpo(beta=0.3, sft_weight=0.5)
    numbers = given.numbers()
    imitation = -imitation_weight(section) * numbers.chosen.sum() / numbers.chosen_tokens.sum()
    mine = objective(section)(numbers).loss.mean() + imitation
    same(mine, trl_dpo(given, section, "sigmoid", "sft"), given.leaf)


@pytest.mark.parametrize(
    "section",
    [
        Cpo(beta=0.2, label_smoothing=0.1),
        Cpo(beta=0.2, loss="hinge", sft_weight=0.3),
        Simpo(beta=0.2, gamma=0.7, label_smoothing=0.1),
        Simpo(sft_weight=0.4),
    ],
)
def test_cpo_and_simpo_are_trl_s(section: Cpo | Simpo) -> None:
    trl = pytest.importorskip("trl.experimental.cpo.cpo_trainer", exc_type=ImportError)
    given = Given()
    numbers = given.numbers()
    simpo = isinstance(section, Simpo)
    own = trainer(
        alpha=0.0, beta=section.beta, loss_type="simpo" if simpo else section.loss, cpo_alpha=section.sft_weight,
        simpo_gamma=getattr(section, "gamma", 0.0), label_smoothing=section.label_smoothing,
    )  # fmt: skip
    imitation = -numbers.chosen.sum() / numbers.chosen_tokens.sum()
    logps = (numbers.per_token() if simpo else numbers)[:2]
    zero = torch.zeros(1)
    own.concatenated_forward = lambda *_: (*logps, zero, zero, imitation)
    own.cpo_loss = lambda *given: trl.CPOTrainer.cpo_loss(own, *given)
    theirs, _ = trl.CPOTrainer.get_batch_loss_metrics(own, None, {})
    mine = objective(section)(numbers).loss.mean() + imitation_weight(section) * imitation
    same(mine, theirs, given.leaf)


def test_orpo_is_trl_s() -> None:
    """TRL computes it in float32."""
    trl = pytest.importorskip("trl.experimental.orpo.orpo_trainer", exc_type=ImportError)
    given, section = Given(), Orpo(beta=0.3)
    numbers = given.numbers()
    imitation = -numbers.chosen.sum() / numbers.chosen_tokens.sum()
    own, zero = trainer(beta=section.beta), torch.zeros(1)
    means = numbers.per_token()[:2]
    own.concatenated_forward = lambda *_: (*means, zero, zero, imitation)
    own.odds_ratio_loss = lambda *given: trl.ORPOTrainer.odds_ratio_loss(own, *given)
    theirs, _ = trl.ORPOTrainer.get_batch_loss_metrics(own, None, {})
    mine = objective(section)(numbers).loss.mean() + imitation_weight(section) * imitation
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=0)
    ours, trls = (torch.autograd.grad(each, given.leaf, retain_graph=True)[0] for each in (mine, theirs))
    torch.testing.assert_close(ours, trls, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("moved", [4.0, -4.0])
@pytest.mark.parametrize("labels", [(1, 0, 0, 1, 0, 1, 1, 0), (1,) * 8, (0,) * 8])
def test_kto_is_trl_s(moved: float, labels: tuple[int, ...]) -> None:
    """With its own estimate of z0 from answers to other questions, above 0 and held at it; and with answers of one kind
    only."""
    trl = pytest.importorskip("trl.trainer.kto_trainer", exc_type=ImportError)
    given = Given()
    reference, label = torch.cat(given.reference), torch.tensor(labels)
    other = torch.roll(given.logp.detach(), 1, 0)
    of_other = other.sum(1) - moved
    own = trainer(
        beta=0.3, calculate_KL=True, precompute_ref_logps=True, loss_type="kto", desirable_weight=1.5,
        undesirable_weight=0.5,
    )  # fmt: skip
    own._compute_kl_logps = lambda model, batch: trl.KTOTrainer._compute_kl_logps(own, model, batch)
    mask = with_prompt(given.there)
    inputs = {"input_ids": mask, "attention_mask": mask, "completion_mask": mask, "label": label}
    inputs |= {f"KL_{name}": mask for name in ("input_ids", "attention_mask", "completion_mask")}
    inputs |= {"ref_logps": reference, "ref_KL_logps": of_other}
    theirs = trl.KTOTrainer._compute_loss(own, says(other, given.logp), inputs, False)
    z0 = losses.divergence(other.sum(1) - of_other)
    assert float(z0) == pytest.approx(max(moved, 0.0)) and own._metrics["train"]["kl"] == [pytest.approx(float(z0))]
    side = 2.0 * label.double() - 1
    mine = (losses.by_side(side, 1.5, 0.5) * losses.kto(given.logp.sum(1) - reference, side, z0, 0.3)).mean()
    same(mine, theirs, given.leaf)


@pytest.mark.parametrize("centre", [0.0, 0.01])
@pytest.mark.parametrize("with_margin", [False, True])
def test_reward_is_trl_s(centre: float, with_margin: bool) -> None:
    trl = pytest.importorskip("trl.trainer.reward_trainer", exc_type=ImportError)
    rewards = torch.randn(8, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    own = trainer(args=SimpleNamespace(center_rewards_coefficient=centre or None))
    margin = t(0.0, 0.5, 1.0, 2.0) if with_margin else t(0.0, 0.0, 0.0, 0.0)
    inputs = {"attention_mask": torch.ones(8, 3)} | ({"margin": margin} if with_margin else {})
    theirs = trl.RewardTrainer.compute_loss(own, lambda **_: SimpleNamespace(logits=rewards), inputs)
    better, worse = rewards.squeeze(1).chunk(2)
    mine = (losses.reward(better, worse, margin) + centre * losses.off_centre(better, worse)).mean()
    same(mine, theirs, rewards)
