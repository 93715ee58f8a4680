"""Next-token likelihood: `pretrain` and `sft`.

What goes in: a micro-batch whose weights say which tokens are learnt. What comes out: the weighted sum of their
negative log-likelihood in nats, term `nll`. The two methods differ only in the data that reaches them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from luthier.batch import TERM, Batch, Step
from luthier.config.schema import Policy
from luthier.engine.loop import Loss
from luthier.kernels.host import to_device
from luthier.models.bottom import Bottom
from luthier.models.decoder import Decoder, DropoutKey, Want


class Supervised:
    """sum over scored rows of weight * -log p(target). The head forms its gradient in the forward pass, because the
    coefficients are known beforehand.

    Args:
        adapter: name of the adapter that trains; None trains base weights.
        seed: keys the dropout.
        policies: what each layer keeps for the backward pass; empty: everything.
        bottom: the frozen layers below, where what they make is kept; None computes them with the rest.
    """

    def __init__(
        self, adapter: str | None, seed: int, policies: Sequence[Policy] = (), bottom: Bottom | None = None
    ) -> None:
        self.adapter = adapter
        self.seed = seed
        self.policies = policies
        self.bottom = bottom

    def begin(self, model: Decoder, budget_tokens: int, step: int) -> None:
        """Nothing has to be known before step 1."""

    def prepare(self, step: Step, model: nn.Module) -> Step:
        return step

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        assert isinstance(model, Decoder)
        weights = to_device(batch.weights[TERM], model.device)
        key = DropoutKey(self.seed, step) if step >= 0 else None
        want = Want("linear", coefficients=-weights)
        below = self.bottom(batch) if self.bottom is not None else None
        scores = model(batch, want, adapter=self.adapter, dropout=key, policies=self.policies, below=below)
        assert scores.total is not None
        return Loss({TERM: scores.total}, {TERM: (scores.total.detach(), float(batch.weights[TERM].sum()))})

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state, "this method keeps no state"

    def close(self) -> None:
        if self.bottom is not None:
            self.bottom.close()
