"""Pairs of a better and a worse answer: the DPO family, SimPO, CPO and ORPO.

What goes in: micro-batches of whole pairs, each prompt in them once. What comes out: the sum of the pairs' losses, term
`preference`, whose denominator is the number of pairs in the step; where the better answers are learnt as well, their
negative log-likelihood, term `nll`, whose denominator is their number of tokens; and what is worth watching, per pair.

Shape legend: M scored rows, Q sequences, G pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from luthier.batch import EXAMPLES, SIDE, TERM, Batch, Floats, Step
from luthier.config.schema import Cpo, Dpo, Orpo, Pairs, Simpo
from luthier.data import pack
from luthier.engine.loop import Loss
from luthier.errors import Problem, TrainingFailed
from luthier.kernels.host import to_device
from luthier.losses import preference as losses
from luthier.methods import groups, reference
from luthier.methods.given import Given
from luthier.methods.own import own_or
from luthier.methods.watch import Judging
from luthier.models.decoder import Decoder
from luthier.runs import files

PREFERENCE = "preference"
"""The term of the pairs."""
SLOPE, LOSS, CHOSEN_REWARD, REJECTED_REWARD, FIRST = "slope", "loss", "chosen_reward", "rejected_reward", "first"
"""In `Batch.per_owner` of a pair that comes answer by answer: the derivative of its loss by the answer's
log-probability; and in its first answer, marked so, its loss and rewards."""


class Numbers(NamedTuple):
    """Of each pair, [G]: log-probabilities of the policy and of the reference (0 where there is none), and tokens."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    def ratios(self) -> tuple[Tensor, Tensor]:
        """log p - log r, of both answers."""
        return self.chosen - self.ref_chosen, self.rejected - self.ref_rejected

    def per_token(self) -> Numbers:
        """Means over the tokens of an answer in place of sums."""
        chosen, rejected = self.chosen_tokens.clamp_min(1), self.rejected_tokens.clamp_min(1)
        return self._replace(
            chosen=self.chosen / chosen,
            rejected=self.rejected / rejected,
            ref_chosen=self.ref_chosen / chosen,
            ref_rejected=self.ref_rejected / rejected,
        )


class Judgement(NamedTuple):
    """loss: of each pair, differentiable; rewards: what the loss takes each answer to be worth, [G]."""

    loss: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor


Objective = Callable[[Numbers], Judgement]


def objective(method: Pairs | Orpo) -> Objective:
    """The loss of a pair that a section of the recipe asks for, ours or the user's own."""
    loss_of = own_or(method, _usual(method))
    given = 4 if isinstance(method, Dpo) else 2
    weight = method.beta if isinstance(method, Orpo) else 1.0

    def judge(numbers: Numbers) -> Judgement:
        compared = numbers.per_token() if by_means(method) else numbers
        chosen, rejected = compared.ratios()
        return Judgement(weight * loss_of(*compared[:given]), method.beta * chosen, method.beta * rejected)

    return judge


def by_means(method: Pairs | Orpo) -> bool:
    """Whether answers are compared by the means over their tokens, or else by the sums."""
    if isinstance(method, Dpo):
        return method.length_normalised or "ipo" in (method.kind, method.loss)
    return isinstance(method, (Simpo, Orpo))


def _usual(method: Pairs | Orpo) -> Callable[..., Tensor]:
    """Of (chosen, rejected) and, with a reference, what it thinks of both, [G] each."""
    match method:
        case Dpo():
            return lambda chosen, rejected, ref_chosen, ref_rejected: _of_delta(
                method, (chosen - ref_chosen) - (rejected - ref_rejected)
            )
        case Simpo():
            return lambda chosen, rejected: losses.simpo(
                chosen, rejected, method.beta, method.gamma, method.label_smoothing
            )
        case Cpo():
            return lambda chosen, rejected: _of_delta(method, chosen - rejected)
        case Orpo():
            return losses.odds_ratio
    raise AssertionError(f"{method.kind} does not learn from pairs of log-probabilities")


def _of_delta(method: Dpo | Cpo, delta_G: Tensor) -> Tensor:
    match method.loss:
        case "robust":
            return losses.robust(delta_G, method.beta, method.label_smoothing)
        case "hinge":
            return losses.hinge(delta_G, method.beta)
        case "ipo":
            return losses.ipo(delta_G, method.beta)
    return losses.sigmoid(delta_G, method.beta, method.label_smoothing)


def imitation_weight(method: Pairs | Orpo) -> float:
    """How much the likelihood of the better answers weighs beside the pairs."""
    return 1.0 if isinstance(method, Orpo) else method.sft_weight


def watched(chosen_reward: Tensor, rejected_reward: Tensor, **more: Tensor) -> dict[str, Tensor]:
    """What is told of each pair, without gradients: whether the better answer is worth more, by how much, and what each
    is worth."""
    chosen, rejected = chosen_reward.detach(), rejected_reward.detach()
    found = {
        "accuracy": chosen > rejected,
        "margin": chosen - rejected,
        "reward_chosen": chosen,
        "reward_rejected": rejected,
    }
    return found | {name: value.detach() for name, value in more.items()}


def by_length(margin_G: Tensor, lengths: Floats, batch: Batch) -> dict[str, Tensor]:
    """Of the pairs whose answers are not of one length: whether the longer one is worth more (1/2, where both are worth
    the same), and whether the data says so. lengths: of each sequence, [Q]."""
    assert batch.group is not None
    lead = np.bincount(batch.group, lengths * batch.per_owner[SIDE])
    at = np.flatnonzero(lead)
    sign = to_device(np.sign(lead[at]).astype(np.float32), margin_G.device)
    lead_G = margin_G[to_device(at, margin_G.device)] * sign
    return {"prefers_longer": (lead_G.sign() + 1) / 2, "longer_chosen": (sign + 1) / 2}


class Referred:
    """What methods with a reference have in common: its log-probability of every sequence.

    Args:
        needed: whether there is one at all.
    """

    def __init__(self, given: Given, needed: bool, more: Mapping[str, Any] | None = None) -> None:
        """more: further sequences that it is asked about, by name."""
        self._given, self._needed = given, needed
        self._stores: dict[str, Any] = {**given.stores, **(more or {})}
        self._tables: reference.Tables = {}

    def begin(self, model: Decoder, budget_tokens: int, step: int) -> dict[str, Any] | None:
        """Ask the reference, where nobody has; what to say of it.

        Raises:
            TrainingFailed: the model is no longer what it was at step 0, and its answers of then are gone.
        """
        if not self._needed:
            return None
        given, facts = self._given, {**self._given.facts, "budget_tokens": budget_tokens}
        stores = {name: store.fingerprint() for name, store in self._stores.items()}
        keeper = reference.Keeper(given.run if given.ranks.first else None, given.cache, facts, stores)
        sizes = {name: len(store) for name, store in self._stores.items()}
        found = given.ranks.told(keeper.find(sizes) if given.ranks.first else None)
        if found is None:
            if step and not given.fresh:
                raise TrainingFailed(Problem("engine.reference_lost", where=str(given.run / reference.FILE)))
            found = self._ask(model, budget_tokens), "computed"
        self._tables, source = found
        if given.ranks.first and source != "run":
            with files.user_errors(given.run / reference.FILE):
                keeper.keep(self._tables)
        return {"sequences": sum(sizes.values()), "source": source}

    def _ask(self, model: Decoder, budget_tokens: int) -> reference.Tables:
        """Each rank asks about its share; all have all of it then."""
        given = self._given
        adapter = None if given.fresh else given.adapter
        tables = {}
        for name, store in self._stores.items():
            batches = pack.batches(store, budget_tokens, given.call_tokens)
            share = [batches[place] for place in range(given.ranks.index, len(batches), given.ranks.size)]
            own = reference.logps(model, adapter, share, len(store))
            tables[name] = reference.together(given.ranks.gather(own))
        return tables

    def of(self, batch: Batch, step: int, name: str = "train") -> Floats:
        """Of each sequence of a batch; zeros before `begin`, in the rehearsal."""
        table = self._tables.get(name if step >= 0 else "validation")
        return np.zeros(len(batch.uid), dtype=np.float32) if table is None else table[batch.uid]


def _number(value_G: Tensor) -> Floats:
    return np.asarray(value_G.detach().cpu(), dtype=np.float32)


class Preference(Judging):
    """sum over pairs of the loss that the recipe asks for."""

    def __init__(self, method: Pairs | Orpo, given: Given) -> None:
        super().__init__(method, given, referred=isinstance(method, Dpo))
        self._objective = objective(method)
        self._imitation = imitation_weight(method)
        self._train = given.train
        self._reference = Referred(given, isinstance(method, Dpo))

    def begin(self, model: Decoder, budget_tokens: int, step: int) -> dict[str, Any] | None:
        return self._reference.begin(model, budget_tokens, step)

    def prepare(self, step: Step, model: nn.Module) -> Step:
        denom = {PREFERENCE: step.denom[EXAMPLES]}
        if self._imitation:
            denom[TERM] = step.denom[TERM]
        return dataclasses.replace(step, denom=denom, micro=self._with_slopes(step, model))

    def _with_slopes(self, step: Step, model: nn.Module) -> tuple[Batch, ...]:
        """Pairs that are too long for one micro-batch come answer by answer. How much each answer's log-probability
        moves the loss depends on both, so both are asked for first, and nothing is kept of that."""
        parted: dict[int, list[int]] = {}
        for place, batch in enumerate(step.micro):
            if batch.group is not None and len(batch.uid) == 1:
                members = self._train.members(self._train.first_of(int(batch.uid[0])))
                if len(members) > 1:
                    parted.setdefault(members.start, []).append(place)
        micro = list(step.micro)
        for places in parted.values():
            for place, more in zip(places, self._slopes([micro[at] for at in places], model, step.index), strict=True):
                micro[place] = dataclasses.replace(micro[place], per_owner={**micro[place].per_owner, **more})
        return tuple(micro)

    def _slopes(self, batches: Sequence[Batch], model: nn.Module, step: int) -> list[dict[str, Floats]]:
        """Of one pair, answer by answer."""
        with torch.no_grad():
            logps = [groups.over_rows(self.logp(model, batch, step), batch) for batch in batches]
        numbers = [self._numbers(logp_Q, batch, step) for logp_Q, batch in zip(logps, batches, strict=True)]
        whole = Numbers(*(torch.stack(parts).sum(0) for parts in zip(*numbers, strict=True)))
        chosen, rejected = (each.detach().requires_grad_() for each in (whole.chosen, whole.rejected))
        judged = self._objective(whole._replace(chosen=chosen, rejected=rejected))
        slopes = torch.autograd.grad(judged.loss.sum(), (chosen, rejected))
        # What is told of the pair is told with its first answer.
        told = {LOSS: judged.loss, CHOSEN_REWARD: judged.chosen_reward, REJECTED_REWARD: judged.rejected_reward}
        once = {name: _number(value) for name, value in told.items()} | {FIRST: np.ones(1, dtype=np.float32)}
        never = {name: np.zeros_like(value) for name, value in once.items()}
        return [
            {SLOPE: _number(slopes[0] if batch.per_owner[SIDE][0] > 0 else slopes[1])} | (never if index else once)
            for index, batch in enumerate(batches)
        ]

    def _parted(self, logp_Q: Tensor, batch: Batch, step: int) -> Loss:
        """One answer of a pair: the loss at the place where it is, with its slope there."""

        def told(name: str) -> Tensor:
            return to_device(batch.per_owner[name], logp_Q.device).to(logp_Q.dtype)

        loss = told(LOSS) + told(SLOPE) * (logp_Q - logp_Q.detach())
        sums, counts = {PREFERENCE: loss.sum()}, {PREFERENCE: float(batch.per_owner[FIRST].sum())}
        if self._imitation:
            sums[TERM] = -self._imitation * (logp_Q * (told(SIDE) > 0)).sum()
        first = batch.per_owner[FIRST].any()
        each = watched(told(CHOSEN_REWARD), told(REJECTED_REWARD)) if first else {}
        return Loss(sums, {}, counts, each)

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        logp_M = self.logp(model, batch, step)
        if batch.group is None:  # a filler
            return Loss({PREFERENCE: (logp_M * 0).sum()}, {})
        logp_Q = groups.over_rows(logp_M, batch)
        if SLOPE in batch.per_owner:
            return self._parted(logp_Q, batch, step)
        numbers = self._numbers(logp_Q, batch, step)
        judged = self._objective(numbers)
        sums, counts = {PREFERENCE: judged.loss.sum()}, {PREFERENCE: float(len(judged.loss))}
        if self._imitation:
            sums[TERM] = -self._imitation * numbers.chosen.sum()
            counts[TERM] = float(groups.row_weights(batch)[batch.per_owner[SIDE] > 0].sum())
        each = watched(
            judged.chosen_reward,
            judged.rejected_reward,
            logp_chosen=numbers.chosen,
            logp_rejected=numbers.rejected,
            chosen_per_token=numbers.per_token().ratios()[0],
        )
        lengths = groups.row_weights(batch)
        return Loss(sums, {}, counts, each | by_length(each["margin"], lengths, batch))

    def _numbers(self, logp_Q: Tensor, batch: Batch, step: int) -> Numbers:
        def sides(values: Floats) -> groups.Sides:
            return groups.over_sides(to_device(values, logp_Q.device).to(logp_Q.dtype), batch)

        policy = groups.over_sides(logp_Q, batch)
        return Numbers(*policy, *sides(self._reference.of(batch, step)), *sides(groups.row_weights(batch)))
