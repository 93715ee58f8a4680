"""Losses over judged answers: the DPO family, SimPO, CPO, ORPO, KTO, and the reward model's.

What goes in: numbers per pair or per answer. What comes out: the loss of each, differentiable, and nothing summed: what
is divided by what is the business of the method. Pure functions of tensors, in the dtype they are given.

A log-probability here is that of a whole answer: the sum over its tokens, or their mean where a name says so. `delta`
is how much more the policy prefers the better answer than the reference does,

    delta = (log p(chosen) - log r(chosen)) - (log p(rejected) - log r(rejected)).

Shape legend: G pairs, Q answers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid(delta_G: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7): -log sigma(beta delta).

    smoothing: the share of pairs taken to be the wrong way round; the loss is then the mean over both ways
    ("conservative DPO", Mitchell 2023), which no longer falls for ever.
    """
    logits_G = beta * delta_G
    loss_G = -(1 - smoothing) * F.logsigmoid(logits_G)
    return loss_G - smoothing * F.logsigmoid(-logits_G) if smoothing else loss_G


def robust(delta_G: Tensor, beta: float, noise: float) -> Tensor:
    """Of pairs a share `noise` < 1/2 of which is the wrong way round: what has the loss of clean pairs as its mean
    (Chowdhury et al. 2024, arXiv 2403.00409, eq. 12)."""
    logits_G = beta * delta_G
    straight_G, turned_G = -F.logsigmoid(logits_G), -F.logsigmoid(-logits_G)
    return ((1 - noise) * straight_G - noise * turned_G) / (1 - 2 * noise)


def hinge(delta_G: Tensor, beta: float) -> Tensor:
    """max(0, 1 - beta delta) (SLiC-HF, Zhao et al. 2023, arXiv 2305.10425, with the reference's log-probabilities)."""
    return torch.relu(1 - beta * delta_G)


def ipo(mean_delta_G: Tensor, beta: float) -> Tensor:
    """(delta - 1 / (2 beta))^2 (Azar et al. 2023, arXiv 2310.12036, eq. 17), of means over tokens: sums would make the
    target depend on how long answers are. Its beta is the paper's tau."""
    return (mean_delta_G - 1 / (2 * beta)) ** 2


def simpo(mean_chosen_G: Tensor, mean_rejected_G: Tensor, beta: float, gamma: float, smoothing: float = 0.0) -> Tensor:
    """-log sigma(beta (mean log p(chosen) - mean log p(rejected)) - gamma) (Meng et al. 2024, arXiv 2405.14734, eq. 6):
    no reference; gamma is the margin by which the better answer is to lead."""
    return sigmoid(mean_chosen_G - mean_rejected_G - gamma / beta, beta, smoothing)


def log_odds(mean_logp: Tensor) -> Tensor:
    """log(p / (1 - p)) with p the geometric mean of the tokens' probabilities. Where p rounds to 1 the odds are held at
    what the dtype can tell from 1."""
    below = torch.clamp(mean_logp, max=-torch.finfo(mean_logp.dtype).eps)
    # log(1 - e^x): of the two ways each is exact on its side of -log 2 (Maechler 2012).
    near = below > -math.log(2)
    of_near = torch.log(-torch.expm1(torch.where(near, below, torch.full_like(below, -1.0))))
    of_far = torch.log1p(-torch.exp(torch.where(near, torch.full_like(below, -1.0), below)))
    return below - torch.where(near, of_near, of_far)


def odds_ratio(mean_chosen_G: Tensor, mean_rejected_G: Tensor) -> Tensor:
    """-log sigma(log odds(chosen) - log odds(rejected)) (ORPO, Hong et al. 2024, arXiv 2403.07691, eq. 7)."""
    return -F.logsigmoid(log_odds(mean_chosen_G) - log_odds(mean_rejected_G))


def kto(ratio_Q: Tensor, side_Q: Tensor, z0: Tensor, beta: float) -> Tensor:
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8): 1 - sigma(beta (ratio - z0)) for
    an answer that is wanted, 1 - sigma(beta (z0 - ratio)) for one that is not.

    Args:
        ratio_Q: log p(answer) - log r(answer).
        side_Q: 1 wanted, -1 not.
        z0: the policy's divergence from the reference, at least 0; a constant (`divergence`).
    """
    return 1 - torch.sigmoid(side_Q * beta * (ratio_Q - z0))


def by_side(side_Q: Tensor, wanted: float, unwanted: float) -> Tensor:
    """How much an answer counts: one number where it is wanted, another where it is not."""
    return torch.where(side_Q > 0, wanted, unwanted).to(side_Q.dtype)


def divergence(ratio_Q: Tensor) -> Tensor:
    """KTO's z0: the mean of log p - log r over answers that belong to other prompts, no less than 0. Not
    differentiable."""
    return ratio_Q.detach().mean().clamp_min(0)


def reward(chosen_G: Tensor, rejected_G: Tensor, margin_G: Tensor) -> Tensor:
    """Bradley-Terry, with how much better the better answer is: -log sigma(chosen - rejected - margin) (Touvron et al.
    2023, arXiv 2307.09288, eq. 2)."""
    return -F.logsigmoid(chosen_G - rejected_G - margin_G)


def off_centre(chosen_G: Tensor, rejected_G: Tensor) -> Tensor:
    """(chosen + rejected)^2, which settles what pairs leave open: where rewards lie (Eisenstein et al. 2023, arXiv
    2312.09244)."""
    return (chosen_G + rejected_G) ** 2
