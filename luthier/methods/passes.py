"""A pass through the model for a micro-batch, as every method makes it that learns from the rows of a file.

What goes in: the model, a micro-batch, and what the method wants of its scored rows. What comes out: that, under the
adapter that trains, with the step's dropout, from the frozen layers below where those are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from luthier.batch import Batch
from luthier.config.schema import Policy
from luthier.models.bottom import Bottom
from luthier.models.decoder import Decoder, DropoutKey, Scores, Want


class Passes:
    """What methods have in common that keep nothing from step to step.

    Args:
        adapter: name of the adapter that trains; None trains base weights.
        seed: keys the dropout.
        policies: what each layer keeps for the backward pass; empty: everything.
        bottom: the frozen layers below, where what they make is kept; None computes them with the rest.
    """

    def __init__(
        self, adapter: str | None, seed: int, policies: Sequence[Policy] = (), bottom: Bottom | None = None
    ) -> None:
        self.adapter, self.seed = adapter, seed
        self.policies, self.bottom = policies, bottom

    def begin(self, model: Decoder, budget_tokens: int, step: int) -> dict[str, Any] | None:
        """Nothing has to be known before step 1."""
        return None

    def scores(self, model: nn.Module, batch: Batch, want: Want, step: int) -> Scores:
        """`step` keys the dropout; -1 for none."""
        assert isinstance(model, Decoder)
        key = DropoutKey(self.seed, step) if step >= 0 else None
        below = self.bottom(batch) if self.bottom is not None else None
        found = model(batch, want, adapter=self.adapter, dropout=key, policies=self.policies, below=below)
        return cast(Scores, found)

    def logp(self, model: nn.Module, batch: Batch, step: int) -> Tensor:
        """log p(target) of the scored rows, [M], for losses that are no plain sum of them."""
        assert isinstance(model, Decoder)
        return self.scores(model, batch, Want(model.head_mode(self.adapter)), step).logp

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert not state, "this method keeps no state"

    def close(self) -> None:
        if self.bottom is not None:
            self.bottom.close()
