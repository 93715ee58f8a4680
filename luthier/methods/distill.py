"""Distillation: the student learns what a teacher finds likely at each token that carries loss.

What goes in: a micro-batch and a teacher. What comes out: the sum over scored rows of weight * (T^2 * KL + s * nll), of
which the data's own words are the last part; see `luthier.kernels.divergence`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from luthier.batch import TERM, Batch
from luthier.config.schema import Policy
from luthier.engine.loop import Loss
from luthier.kernels.divergence import How, Lesson
from luthier.kernels.host import to_device
from luthier.methods.supervised import Supervised
from luthier.models.bottom import Bottom
from luthier.models.decoder import Decoder, Want
from luthier.models.teacher import Teacher


class Distilled(Supervised):
    """Args: as of `Supervised`, the teacher, and how it is learnt from."""

    def __init__(
        self,
        adapter: str | None,
        seed: int,
        policies: Sequence[Policy] = (),
        bottom: Bottom | None = None,
        *,
        teacher: Teacher,
        how: How,
    ) -> None:
        super().__init__(adapter, seed, policies, bottom)
        self.teacher, self.how = teacher, how

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        assert isinstance(model, Decoder)
        weights = to_device(batch.weights[TERM], model.device)
        # Before the student's pass: then the teacher's work is done when the student's begins to be kept.
        lesson = Lesson(self.teacher(batch), self.how)
        scores = self.scores(model, batch, Want("linear", coefficients=weights, lesson=lesson), step)
        assert scores.total is not None and scores.divergence is not None
        count = float(batch.weights[TERM].sum())
        metrics = {
            "divergence": ((weights * scores.divergence).sum(), count),
            "likelihood": ((weights * -scores.logp).sum(), count),
        }
        return Loss({TERM: scores.total}, metrics)

    def close(self) -> None:
        super().close()
        self.teacher.close()
