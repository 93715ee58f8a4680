"""Proximal policy optimisation: answers measured by what a critic expected of them.

What goes in: as for `luthier.methods.online`. What comes out: the clipped objective with an advantage for each token,
and the loss of the critic, each with a denominator of its own. The divergence from the reference is taken off the
reward of each token; its weight may follow a target. The critic reads the hidden state from which a token is predicted:
that of the policy itself, or of an adapter of its own beside it.

Shape legend: M scored rows of a micro-batch, N flat tokens, D hidden, A tokens of one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luthier.batch import Batch, Floats
from luthier.config.schema import Policy, Ppo
from luthier.data.rollouts import POLICY, RolloutBatch
from luthier.engine.loop import Loss
from luthier.kernels.host import to_device
from luthier.losses import policy
from luthier.methods.online import ADVANTAGE, OLD, REFERENCE, SAMPLED, Online, Setting
from luthier.methods.round import Round
from luthier.models.decoder import Decoder, Want

VALUE, RETURN = "value", "return"
"""What the critic expected at each row, and what came of it."""


def known_names(method: Ppo) -> tuple[str, ...]:
    """What is known of each row when it is updated."""
    return (ADVANTAGE, SAMPLED, OLD, VALUE, RETURN, *([REFERENCE] if method.kl else []))


class Critic(nn.Module):
    """A value for each hidden state; it begins with 0 everywhere.

    Args:
        adapter: whose hidden states it reads, where that is not the policy's.
    """

    def __init__(self, width: int, device: torch.device, adapter: str | None = None) -> None:
        super().__init__()
        self.adapter = adapter
        self.weight = nn.Parameter(torch.zeros(width, device=device))
        self.bias = nn.Parameter(torch.zeros((), device=device))

    def forward(self, hidden_MD: Tensor) -> Tensor:
        """[M, D] -> float32 [M]."""
        return hidden_MD.float() @ self.weight + self.bias


class Proximal(Online):
    """`ppo`."""

    def __init__(self, method: Ppo, setting: Setting, policies: Sequence[Policy], critic: Critic) -> None:
        super().__init__(method, setting, policies)
        self.ppo = method
        self.critic = critic
        self.beta = method.kl

    # -------------------------------------------------------------------------------------------------- the loop's

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        assert isinstance(model, Decoder) and isinstance(batch, RolloutBatch)
        logp_M, value_M = self._both(model, batch)
        known = {name: to_device(values, logp_M.device) for name, values in batch.known.items()}
        self._note(logp_M.detach(), known[SAMPLED])
        weights_M = to_device(batch.weights[POLICY], logp_M.device)
        clip = self.ppo.clip
        losses_M = policy.surrogate(logp_M, known[OLD], known[ADVANTAGE], clip, clip)
        values_M = policy.value_loss(value_M, known[VALUE], known[RETURN], self.ppo.value_clip)
        sums = {
            POLICY: (weights_M * losses_M).sum(),
            VALUE: self.ppo.value_weight * (weights_M * values_M).sum(),
        }
        ratio_M = torch.exp(logp_M.detach() - known[OLD])
        cut = ((ratio_M - 1).abs() > clip).float().sum()
        return Loss(sums, {"clipped": (cut, float(len(batch.rows)))})

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "beta": self.beta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.beta = state.get("beta", self.ppo.kl)

    # ------------------------------------------------------------------------------------------------------- a round

    def _teaches(self, made: Round) -> list[bool]:
        return [True] * len(made.rollouts)

    def _weights(self, made: Round) -> list[float]:
        return [0.0 if reward is None else 1.0 for reward in made.rewards]

    def _denominators(self, made: Round) -> dict[str, float]:
        tokens = sum(
            len(each.answer) for each, reward in zip(made.rollouts, made.rewards, strict=True) if reward is not None
        )
        return dict.fromkeys((POLICY, VALUE), float(max(tokens, 1)))

    def _score(self, made: Round, micro: Sequence[RolloutBatch], model: Decoder) -> dict[str, list[Floats]]:
        known: dict[str, list[Floats]] = {SAMPLED: [each.logp for each in made.rollouts]}
        known[OLD], known[VALUE] = ([np.zeros_like(each.logp) for each in made.rollouts] for _ in range(2))
        with torch.no_grad():
            for batch in micro:
                for name, scores_M in zip((OLD, VALUE), self._both(model, batch), strict=True):
                    batch.spread(scores_M.float().cpu().numpy(), known[name])
        if self.ppo.kl:
            known[REFERENCE] = self._tables(made.rollouts, micro, lambda batch: self._reference(model, batch))
        self._measure(made, known)
        return known

    def _measure(self, made: Round, known: dict[str, list[Floats]]) -> None:
        """Advantages and returns of every token, from the rewards less what the divergence costs."""
        found, returns = [], []
        for at, reward in enumerate(made.rewards):
            values_A = torch.from_numpy(known[VALUE][at]).double()
            rewards_A = torch.zeros_like(values_A)
            if self.ppo.kl:
                old_A, reference_A = (torch.from_numpy(known[name][at]).double() for name in (OLD, REFERENCE))
                rewards_A -= self.beta * policy.ESTIMATORS[self.ppo.kl_estimator](old_A, reference_A)
            rewards_A[-1] += reward or 0.0
            found.append(policy.advantages(rewards_A, values_A, self.ppo.discount, self.ppo.gae_lambda))
            returns.append((found[-1] + values_A).numpy().astype(np.float32))
        if self.ppo.whiten:
            judged = [each for each, reward in zip(found, made.rewards, strict=True) if reward is not None]
            every = policy.whitened(torch.cat(judged)) if judged else torch.zeros(0, dtype=torch.float64)
            parts = iter(torch.split(every, [len(each) for each in judged]) if judged else ())
            found = [
                next(parts) if reward is not None else torch.zeros_like(each)
                for each, reward in zip(found, made.rewards, strict=True)
            ]
        known[ADVANTAGE] = [each.numpy().astype(np.float32) for each in found]
        known[RETURN] = returns

    def _both(self, model: Decoder, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values of the scored rows, [M] each."""
        adapter, own = self.setting.adapter, self.critic.adapter
        want = Want(model.head_mode(adapter), hidden=own is None)
        scores = model(batch, want, adapter=adapter, policies=self.policies)
        if own is None:
            return scores.logp, self.critic(scores.hidden)
        beside = model(batch, Want(None, hidden=True), adapter=own, policies=self.policies)
        return scores.logp, self.critic(beside.hidden)

    # -------------------------------------------------------------------------------------------------- what is told

    def _account(self, made: Round) -> dict[str, Any]:
        facts = super()._account(made)
        facts["kl_weight"] = self.beta
        judged = [at for at, reward in enumerate(made.rewards) if reward is not None]
        if not judged:
            return facts
        known = {name: [tables[at] for at in judged] for name, tables in made.known.items()}
        values, returns = (np.concatenate(known[name]) for name in (VALUE, RETURN))
        facts["value_error"] = float(np.square(values - returns).mean())
        if returns.std() > 0:  # how much of what came of the tokens the critic foretold: 1 all, 0 nothing
            facts["explained"] = float(1 - np.var(returns - values) / np.var(returns))
        if REFERENCE in known:
            apart = [(old - reference).sum() for old, reference in zip(known[OLD], known[REFERENCE], strict=True)]
            facts["kl_answer"] = float(np.mean(apart))
        return facts

    def _watch(self, step: int) -> None:
        """The weight of the divergence follows its target with each round."""
        super()._watch(step)
        target = self.ppo.kl_target
        if target is not None and "kl_answer" in self._facts:
            answers = self._facts["answers"]
            self.beta = policy.adapted(self.beta, self._facts["kl_answer"], target, answers, self.ppo.kl_horizon)
