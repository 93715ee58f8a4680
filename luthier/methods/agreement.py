"""The sampler and the trainer see the same policy.

What goes in: log-probabilities of the same tokens, by the sampler when it wrote them and by the trainer. What comes
out: how far they are apart, and an error where that is more than rounding: what is learnt would not be what was
sampled.

Shape legend: A tokens of some answers, M scored rows of a micro-batch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.batch import Floats
from luthier.errors import Problem, TrainingFailed

AGREE = 1e-5
"""Between the sampler's and the trainer's log-probabilities in float32, relative where they are above 1: the root of
the mean square over the tokens. The largest of some hundred tokens is rounding that varies with the seed, up to 1.1e-5
on nano; one alone that is off by 3e-4 is noticed all the same."""
SPREAD = 3.0
"""In units of what the trainer differs by from itself over batches of other shapes."""
COARSE = 16.0
"""The same in units of the last place, where less is kept than in float32; the trainer need not differ from itself at
all: rows of a product may not depend on how many there are. A wrong position, mask or adapter is off by more than a
tenth. On nano in bfloat16 1.3 % were measured, which is 3.4 units."""
APART = 10.0
"""What the sampler and the trainer may differ by in a later round, in units of the bound of the first."""


class Agreement:
    """Of one attempt: compared closely once, before anything is learnt, and watched from then on."""

    def __init__(self) -> None:
        self.compared = False
        self._bound = math.inf
        self._seen: list[Tensor] = []

    def compare(self, sampled_A: Floats, trained_A: Floats, alone_A: Floats, dtype: torch.dtype) -> dict[str, Any]:
        """What there is to be told.

        Args:
            trained_A: by the trainer, of answers packed as in an update; alone_A: of each by itself.
        """
        self.compared = True
        scale = np.maximum(np.abs(sampled_A), 1.0)
        spread, difference = (_root_mean_square((trained_A - other) / scale) for other in (alone_A, sampled_A))
        least = AGREE if dtype == torch.float32 else COARSE * torch.finfo(dtype).eps
        self._bound = max(least, SPREAD * spread)
        return {"tokens": len(sampled_A), "difference": difference, "spread": spread, "bound": self._bound}

    def hold(self, facts: dict[str, Any]) -> None:
        """Raises TrainingFailed where what was compared differs by more than rounding."""
        difference, bound = facts["difference"], facts["bound"]
        if not difference <= bound:
            raise TrainingFailed(Problem("engine.sampler_differs", values=facts))

    def begin(self) -> None:
        """An update begins."""
        self._seen = []

    def note(self, logp_M: Tensor, sampled_M: Tensor) -> None:
        """The same tokens in a micro-batch of the first update with a round's answers; nothing is read back."""
        apart_M = (logp_M - sampled_M) / sampled_M.abs().clamp(min=1.0)
        self._seen.append(apart_M.square().mean().sqrt())

    def noted(self) -> float | None:
        """The largest difference of a micro-batch; None where none was noted."""
        return float(torch.stack(self._seen).max()) if self._seen else None

    def hold_noted(self, difference: float | None) -> None:
        """Raises TrainingFailed where answers were not written by the weights that were trained."""
        if difference is not None and not difference <= APART * self._bound:
            values = {"difference": difference, "bound": APART * self._bound}
            raise TrainingFailed(Problem("engine.sampler_differs", values=values))


def _root_mean_square(values: NDArray[np.floating[Any]]) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))
