"""Losses of policy gradients: pure functions of log-probabilities, advantages and values.

What goes in: log-probabilities of answer tokens now, when they were sampled (`old`) and under the reference; rewards
or values. What comes out: a loss for each token, advantages, estimates of a KL divergence. Weights and denominators are
the caller's: nothing here depends on how a step is split.

Shape legend: M answer tokens, G answers to one prompt, T tokens of one answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Scale = Literal["group", "batch", "none"]
EPSILON = 1e-4
"""Added to a standard deviation before it divides, as TRL does: a group whose rewards hardly differ is not blown up."""


def surrogate(logp_M: Tensor, old_M: Tensor, advantage_M: Tensor, low: float, high: float) -> Tensor:
    """-min(r * A, clip(r, 1 - low, 1 + high) * A), r = exp(logp - old): PPO's clipped objective (Schulman et al. 2017,
    arXiv 1707.06347), with a bound of its own above (DAPO, Yu et al. 2025, arXiv 2503.14476)."""
    return clipped(torch.exp(logp_M - old_M), advantage_M, low, high)


def clipped(ratio_M: Tensor, advantage_M: Tensor, low: float, high: float) -> Tensor:
    """As `surrogate`, of ratios."""
    bounded_M = ratio_M.clamp(1 - low, 1 + high)
    return -torch.minimum(ratio_M * advantage_M, bounded_M * advantage_M)


def sequence_ratio(logp_M: Tensor, old_M: Tensor, owner_M: Tensor, owners: int) -> Tensor:
    """exp(mean over an answer of logp - old), at each of its tokens: the ratio of whole answers, by length (GSPO, Zheng
    et al. 2025, arXiv 2507.18071). owner_M: the answer of each token, 0..owners-1."""
    order_M = owner_M.argsort(stable=True)
    lengths = torch.bincount(owner_M, minlength=owners)
    # Sums in an order of their own, so that a GPU gives the same bits each time.
    sums = torch.segment_reduce((logp_M - old_M)[order_M], "sum", lengths=lengths, axis=0, initial=0)
    return torch.exp(sums / lengths.clamp(min=1))[owner_M]


def k1(logp_M: Tensor, reference_M: Tensor) -> Tensor:
    """logp - reference: its mean over samples is the KL divergence, its gradient has mean zero. For rewards."""
    return logp_M - reference_M


def k2(logp_M: Tensor, reference_M: Tensor) -> Tensor:
    """(logp - reference)^2 / 2: biased, of low variance; the mean of its gradient is the KL divergence's."""
    return (logp_M - reference_M).square() / 2


def k3(logp_M: Tensor, reference_M: Tensor) -> Tensor:
    """exp(reference - logp) - (reference - logp) - 1: never negative, and its mean is the KL divergence (Schulman 2020,
    "Approximating KL divergence")."""
    difference_M = reference_M - logp_M
    return torch.exp(difference_M) - difference_M - 1


Estimator = Literal["k1", "k2", "k3"]
ESTIMATORS: dict[Estimator, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def penalty(estimator: Estimator, logp_M: Tensor, reference_M: Tensor, ratio_M: Tensor) -> Tensor:
    """An estimate of the KL divergence that can be a loss: over answers of the policy that sampled, its gradient is
    that of the divergence itself. With k1 and k3 the ratio carries part of that gradient; k2 has all of it by
    itself."""
    estimate_M = ESTIMATORS[estimator](logp_M, reference_M)
    return estimate_M * (ratio_M.detach() if estimator == "k2" else ratio_M)


def group_advantages(rewards_PG: Tensor, scale: Scale) -> Tensor:
    """Rewards of the answers to each of P prompts less their group's mean, and by what they are divided: the standard
    deviation of the group, of the whole batch, or nothing (Shao et al. 2024, arXiv 2402.03300; without: Liu et al.
    2025, arXiv 2503.20783). A reward that is nan (it failed) counts nowhere, and its advantage is 0."""
    centred_PG = rewards_PG - rewards_PG.nanmean(1, keepdim=True)
    if scale == "group":
        centred_PG = centred_PG / (deviation(rewards_PG)[:, None] + EPSILON)
    elif scale == "batch":
        centred_PG = centred_PG / (deviation(rewards_PG.reshape(1, -1)) + EPSILON)
    return centred_PG.nan_to_num(nan=0.0)


def deviation(rewards_PG: Tensor) -> Tensor:
    """Standard deviation of each row, of n - 1, over what is not nan; 0 where that is one value or none. [P]"""
    there_PG = ~rewards_PG.isnan()
    counts_P = there_PG.sum(1)
    centred_PG = (rewards_PG - rewards_PG.nanmean(1, keepdim=True)).nan_to_num(nan=0.0)
    return (centred_PG.square().sum(1) / (counts_P - 1).clamp(min=1)).sqrt()


def advantages(rewards_T: Tensor, values_T: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2015, arXiv 1506.02438) of one answer: sum over l of (gamma *
    lam)^l * delta_(t+l), delta_t = r_t + gamma * V_(t+1) - V_t. Behind the last token nothing is worth anything."""
    after, made = values_T.new_zeros(()), torch.empty_like(values_T)
    for place in range(len(values_T) - 1, -1, -1):
        following = values_T[place + 1] if place + 1 < len(values_T) else values_T.new_zeros(())
        delta = rewards_T[place] + gamma * following - values_T[place]
        after = delta + gamma * lam * after
        made[place] = after
    return made


def whitened(advantages_M: Tensor) -> Tensor:
    """With mean 0 and standard deviation 1; of a single value, 0."""
    if len(advantages_M) < 2:
        return torch.zeros_like(advantages_M)
    return (advantages_M - advantages_M.mean()) / (advantages_M.std() + 1e-8)


def value_loss(value_M: Tensor, old_M: Tensor, return_M: Tensor, clip: float) -> Tensor:
    """Half the squared error of values, at least as large as that of values kept within `clip` of what they were when
    the answers were sampled."""
    bounded_M = old_M + (value_M - old_M).clamp(-clip, clip)
    return torch.maximum((value_M - return_M).square(), (bounded_M - return_M).square()) / 2


def adapted(beta: float, kl: float, target: float, answers: int, horizon: int) -> float:
    """The weight of the KL penalty after a round: it grows where KL is above its target, and shrinks below (Ziegler et
    al. 2019, arXiv 1909.08593)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * answers / horizon)
