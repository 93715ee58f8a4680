"""Group relative policy optimisation: answers to one prompt measured by each other.

What goes in: as for `luthier.methods.online`. What comes out: the clipped objective, with the advantage of each answer
over the others of its group at each of its tokens, and the weighed divergence from the reference as a term of its own.

Shape legend: M scored rows of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from luthier.batch import Batch, Floats
from luthier.config.schema import Grpo, Policy
from luthier.data.rollouts import POLICY, RolloutBatch
from luthier.engine.loop import Loss
from luthier.kernels.host import to_device
from luthier.losses import policy
from luthier.methods.online import ADVANTAGE, KL, OLD, REFERENCE, SAMPLED, Online, Setting
from luthier.methods.round import Round
from luthier.models.decoder import Decoder


def known_names(method: Grpo) -> tuple[str, ...]:
    """What is known of each row when it is updated."""
    return (ADVANTAGE, SAMPLED, *([OLD] if method.updates > 1 else []), *([REFERENCE] if method.kl else []))


class Group(Online):
    """`grpo`."""

    def __init__(self, method: Grpo, setting: Setting, policies: Sequence[Policy] = ()) -> None:
        super().__init__(method, setting, policies)
        self.grpo = method

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        assert isinstance(model, Decoder) and isinstance(batch, RolloutBatch)
        method, logp_M = self.grpo, self._logp(model, batch)
        known = {name: to_device(values, logp_M.device) for name, values in batch.known.items()}
        old_M = known[OLD] if OLD in known else logp_M.detach()
        self._note(old_M, known[SAMPLED])
        weights_M = to_device(batch.weights[POLICY], logp_M.device)
        ratio_M = token_M = torch.exp(logp_M - old_M)
        if method.ratio == "sequence":
            owner_M = to_device(batch.row_owner, logp_M.device)
            ratio_M = policy.sequence_ratio(logp_M, old_M, owner_M, len(batch.uid))
        high = method.clip if method.clip_high is None else method.clip_high
        losses_M = policy.clipped(ratio_M, known[ADVANTAGE], method.clip, high)
        sums = {POLICY: (weights_M * losses_M).sum()}
        cut_M = ((ratio_M - 1 > high) & (known[ADVANTAGE] > 0)) | ((1 - ratio_M > method.clip) & (known[ADVANTAGE] < 0))
        metrics = {"clipped": (cut_M.float().sum().detach(), float(len(batch.rows)))}
        if REFERENCE in known:
            kl_M = policy.penalty(method.kl_estimator, logp_M, known[REFERENCE], token_M)
            sums[KL] = method.kl * (weights_M * kl_M).sum()
        return Loss(sums, metrics)

    # ------------------------------------------------------------------------------------------------------- a round

    @property
    def _attempts(self) -> int:
        return 1 + self.grpo.resample

    def _teaches(self, made: Round) -> list[bool]:
        """Of each answer whether it has an advantage; the divergence is to be small in all of them."""
        if self.grpo.kl > 0:
            return [True] * len(made.rollouts)
        return [bool(each) for each in self._advantages(made)]

    def _weights(self, made: Round) -> list[float]:
        by_answer = self.grpo.weighting == "sequence"
        return [
            0.0 if reward is None else 1.0 / len(each.answer) if by_answer else 1.0
            for each, reward in zip(made.rollouts, made.rewards, strict=True)
        ]

    def _denominators(self, made: Round) -> dict[str, float]:
        judged = [each for each, reward in zip(made.rollouts, made.rewards, strict=True) if reward is not None]
        tokens = sum(len(each.answer) for each in judged)
        most = len(judged) * self.grpo.max_new_tokens
        denom = {"token": tokens, "sequence": len(judged), "constant": most}[self.grpo.weighting]
        terms = (POLICY, KL) if self.grpo.kl else (POLICY,)
        return dict.fromkeys(terms, float(max(denom, 1)))

    def _score(self, made: Round, micro: Sequence[RolloutBatch], model: Decoder) -> dict[str, list[Floats]]:
        known = {SAMPLED: [each.logp for each in made.rollouts]}
        known[ADVANTAGE] = [
            np.full(len(each.answer), advantage, dtype=np.float32)
            for each, advantage in zip(made.rollouts, self._advantages(made), strict=True)
        ]
        if self.setting.rounds.updates > 1:
            known[OLD] = self._tables(made.rollouts, micro, lambda batch: self._logp(model, batch))
        if self.grpo.kl:
            known[REFERENCE] = self._tables(made.rollouts, micro, lambda batch: self._reference(model, batch))
        return known

    def _advantages(self, made: Round) -> list[float]:
        """Of each answer."""
        found: Tensor = policy.group_advantages(made.rewards_PG, self.grpo.scale)
        return [float(each) for each in found.reshape(-1)]
