"""A reward model: a number for every answer.

What goes in: micro-batches of whole pairs of which the last token of each answer is looked at. What comes out: the sum
of the Bradley-Terry losses, term `preference`, whose denominator is the number of pairs in the step.

Shape legend: M scored rows, one of each sequence; G pairs.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from luthier.batch import EXAMPLES, MARGIN, SIDE, Batch, Step
from luthier.config.schema import Reward
from luthier.engine.loop import Loss
from luthier.kernels.host import to_device
from luthier.losses import preference as losses
from luthier.methods import groups
from luthier.methods.given import Given
from luthier.methods.own import own_or
from luthier.methods.passes import Passes
from luthier.methods.preference import PREFERENCE, watched
from luthier.models.decoder import Want


class RewardModel(Passes):
    """sum over pairs of -log sigma(reward of the better - of the worse - margin), rewards held around 0."""

    def __init__(self, method: Reward, given: Given) -> None:
        super().__init__(given.adapter, given.seed, given.policies, given.bottom)
        self._centre = method.centre
        self._order = own_or(method, losses.reward)

    def prepare(self, step: Step, model: nn.Module) -> Step:
        return dataclasses.replace(step, denom={PREFERENCE: step.denom[EXAMPLES]})

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        value_M = self.scores(model, batch, Want(None, value=True), step).value
        assert value_M is not None
        if batch.group is None:  # a filler
            return Loss({PREFERENCE: (value_M * 0).sum()}, {})
        better, worse = groups.over_sides(groups.over_rows(value_M, batch), batch)
        margins = batch.per_owner[MARGIN] * (batch.per_owner[SIDE] > 0)
        margin, _ = groups.over_sides(to_device(margins, value_M.device).to(value_M.dtype), batch)
        loss = self._order(better, worse, margin) + self._centre * losses.off_centre(better, worse)
        # How sure it is of the order that it takes to be right: as often as that, it should be.
        sure = torch.sigmoid((better - worse).abs())
        each = watched(better, worse, confidence=sure)
        return Loss({PREFERENCE: loss.sum()}, {}, {PREFERENCE: float(len(loss))}, each)
