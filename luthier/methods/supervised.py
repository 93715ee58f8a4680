"""Next-token likelihood: `pretrain` and `sft`.

What goes in: a micro-batch whose weights say which tokens are learnt. What comes out: the weighted sum of their
negative log-likelihood in nats, term `nll`. The two methods differ only in the data that reaches them.
"""

from __future__ import annotations

from torch import nn

from luthier.batch import TERM, Batch, Step
from luthier.engine.loop import Loss
from luthier.kernels.host import to_device
from luthier.methods.passes import Passes
from luthier.models.decoder import Decoder, Want


class Supervised(Passes):
    """sum over scored rows of weight * -log p(target). The head forms its gradient in the forward pass, because the
    coefficients are known beforehand."""

    def prepare(self, step: Step, model: nn.Module) -> Step:
        return step

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        assert isinstance(model, Decoder)
        weights = to_device(batch.weights[TERM], model.device)
        scores = self.scores(model, batch, Want("linear", coefficients=-weights), step)
        assert scores.total is not None
        return Loss({TERM: scores.total}, {TERM: (scores.total.detach(), float(batch.weights[TERM].sum()))})
