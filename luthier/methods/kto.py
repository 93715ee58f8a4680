"""Answers marked good or bad, each by itself: KTO.

What goes in: micro-batches of marked answers. What comes out: the sum of their losses, term `preference`, whose
denominator is the number of answers in the step. What an answer is compared with, z0, says how far the policy has moved
from the reference: the mean over the step of log p - log r of answers to *other* questions. It is not linear in the
batch, so it is found beforehand over the whole step and all ranks, without gradients; which answer stands in for which
question's is settled for the whole run, so that the reference is asked about them once, too.

Shape legend: M scored rows, Q answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luthier.batch import EXAMPLES, SIDE, Batch, Floats, Ints, Rendered, Step
from luthier.config.schema import Kto
from luthier.data import pack
from luthier.data.sequences import Sequences
from luthier.engine.loop import Loss
from luthier.kernels.host import to_device
from luthier.losses import preference as losses
from luthier.methods import groups, reference
from luthier.methods.given import Given
from luthier.methods.own import own_or
from luthier.methods.preference import PREFERENCE, Referred
from luthier.methods.watch import Judging
from luthier.models.decoder import Decoder

OTHERS = "others"
"""The store of questions with other questions' answers."""
Z0 = "z0"


class Others:
    """Every question of a store with the answer to the next one, in the order of the file. As `Sequences`, as far as
    `data.pack` asks; none is longer than the store's longest."""

    judged = True

    def __init__(self, store: Sequences) -> None:
        self._store = store
        self.firsts: Ints = np.arange(len(store))
        self._asked = np.asarray([_first_learnt(store[uid]) for uid in range(len(store))], dtype=np.int64)
        answers = np.roll(store.computed - self._asked, -1)
        self.computed: Ints = np.minimum(self._asked + answers, store.computed.max())

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, uid: int) -> Rendered:
        other = (uid + 1) % len(self)
        own, given = self._store[uid], self._store[other]
        room = int(self.computed[uid]) + 1
        asked, first = int(self._asked[uid]), int(self._asked[other])
        ids = np.concatenate([own.ids[:asked], given.ids[first:]])[:room]
        weights = np.concatenate([np.zeros(asked, dtype=np.float32), given.weights[first:]])[:room]
        return Rendered(uid, ids, weights, group=uid, side=1)

    def fingerprint(self) -> str:
        return self._store.fingerprint()


def _first_learnt(row: Rendered) -> int:
    return int(np.flatnonzero(row.weights)[0])


class KahnemanTversky(Judging):
    """sum over answers of weight * (1 - sigma(beta * (how far the answer lies on its side of z0)))."""

    def __init__(self, method: Kto, given: Given) -> None:
        super().__init__(method, given, referred=True)
        self._method, self._ranks, self._call_tokens = method, given.ranks, given.call_tokens
        self._loss = own_or(method, lambda logp, ref, side, z0: losses.kto(logp - ref, side, z0, method.beta))
        self._others = Others(given.train)
        self._reference = Referred(given, needed=True, more={OTHERS: self._others})
        self._z0 = self._kl = 0.0

    def begin(self, model: Decoder, budget_tokens: int, step: int) -> dict[str, Any] | None:
        return self._reference.begin(model, budget_tokens, step)

    def prepare(self, step: Step, model: nn.Module) -> Step:
        assert isinstance(model, Decoder)
        self._z0 = self._divergence(step, model)
        micro = tuple(
            dataclasses.replace(batch, per_owner={**batch.per_owner, Z0: self._everywhere(batch)})
            for batch in step.micro
        )
        return dataclasses.replace(step, denom={PREFERENCE: step.denom[EXAMPLES]}, micro=micro)

    def _divergence(self, step: Step, model: Decoder) -> float:
        """z0 over the step's examples on all ranks; without dropout, as the reference."""
        uids = [int(uid) for batch in step.micro if batch.group is not None for uid in batch.uid]
        found = torch.zeros(3, dtype=torch.float64, device=model.device)
        if uids:
            budget_tokens = max(batch.num_tokens for batch in step.micro)
            batches = pack.microbatches([self._others[uid] for uid in uids], budget_tokens, self._call_tokens)
            for batch, logp_M in reference.per_row(model, self.adapter, batches):
                known = to_device(self._reference.of(batch, step.index, OTHERS), model.device)
                ratio_Q = groups.over_rows(logp_M, batch) - known
                counts = torch.tensor([len(batch.uid), float(groups.row_weights(batch).sum())], device=model.device)
                found += torch.cat([ratio_Q.double().sum()[None], counts])
        total, count, tokens = self._ranks.total(found)
        z0 = float(losses.divergence(total / count)) if count else 0.0
        self._kl = z0 * float(count / tokens.clamp_min(1))
        return z0

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        """Rows held out are compared with z0 of the last step."""
        logp_M = self.logp(model, batch, step)
        if batch.group is None:  # a filler
            return Loss({PREFERENCE: (logp_M * 0).sum()}, {})
        method, side = self._method, batch.per_owner[SIDE]
        z0 = batch.per_owner.get(Z0, self._everywhere(batch))
        logp_Q, reference_Q = groups.over_rows(logp_M, batch), self._placed(self._reference.of(batch, step), logp_M)
        side_Q = self._placed(side, logp_M)
        loss_Q = losses.by_side(side_Q, method.wanted_weight, method.unwanted_weight) * self._loss(
            logp_Q, reference_Q, side_Q, self._placed(z0, logp_M)
        )
        ratio_Q = (logp_Q - reference_Q).detach()
        each = _watched(method.beta * ratio_Q, method.beta * z0, side)
        per_token = ratio_Q / self._placed(groups.row_weights(batch), logp_M)
        each |= {"chosen_per_token": per_token[to_device(np.flatnonzero(side > 0), logp_M.device)]}
        if step >= 0:
            each |= {"kl_per_token": self._placed(np.full(1, self._kl, dtype=np.float32), logp_M)}
        return Loss({PREFERENCE: loss_Q.sum()}, {}, {PREFERENCE: float(len(side))}, each)

    def _everywhere(self, batch: Batch) -> Floats:
        return np.full(len(batch.uid), self._z0, dtype=np.float32)

    def _placed(self, values: Floats, like: Tensor) -> Tensor:
        return to_device(values, like.device).to(like.dtype)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), Z0: self._z0}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._z0 = float(state.get(Z0, 0.0))


def _watched(reward_Q: Tensor, z0: Floats, side: Floats) -> dict[str, Tensor]:
    """Of each answer whether it lies on its side of z0; what answers marked good are worth, and those marked bad."""
    sides_Q = to_device(side, reward_Q.device).to(reward_Q.dtype)
    right = (reward_Q - to_device(z0, reward_Q.device).to(reward_Q.dtype)) * sides_Q > 0
    good, bad = (to_device(np.flatnonzero(each), reward_Q.device) for each in (side > 0, side < 0))
    return {
        "accuracy": right,
        "reward_wanted": reward_Q[good],
        "reward_unwanted": reward_Q[bad],
        "z0": to_device(z0[:1], reward_Q.device).to(reward_Q.dtype),
    }
