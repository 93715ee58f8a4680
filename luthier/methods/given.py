"""What a method is made of, beside its section of the recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.config.schema import Policy
from luthier.data.sequences import Sequences
from luthier.engine.ranks import Ranks
from luthier.models.bottom import Bottom
from luthier.models.teacher import Teacher


@dataclasses.dataclass(frozen=True)
class Given:
    """Attributes:
    adapter: name of the adapter that trains; None trains base weights.
    fresh: whether it starts as nothing, so that without it the model is what it was at step 0.
    seed: keys the dropout; policies: what each layer keeps for the backward pass; bottom: see `models.bottom`.
    train, validation: the sequences of the run.
    call_tokens: as for `data.pack.microbatches`.
    ranks: the processes that train together.
    run: the run's folder; cache: the folder that all runs share.
    facts: what the model at step 0 and its arithmetic are, as plain values.
    teacher: the model to learn from, of the method that has one.
    """

    adapter: str | None
    seed: int
    train: Sequences
    validation: Sequences | None
    run: Path
    cache: Path
    fresh: bool = True
    policies: Sequence[Policy] = ()
    bottom: Bottom | None = None
    call_tokens: int | None = None
    ranks: Ranks = dataclasses.field(default_factory=Ranks)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    teacher: Teacher | None = None

    @property
    def stores(self) -> dict[str, Sequences]:
        """By the names under which what is known of their sequences is kept."""
        return {"train": self.train} | ({"validation": self.validation} if self.validation is not None else {})
