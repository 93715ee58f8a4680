"""The scikit-learn way: a `Tuner` that fits and predicts.

What goes in: the recipe's sections as keyword arguments. What comes out: answers. Everything else is in its `run`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.errors import Problem, RunError
from luthier.generate import Sampling
from luthier.run import Run
from luthier.session import Conversation
from luthier.training import train


class Tuner:
    """Fine-tune, then answer.

    Args:
        model: `nano`, a folder, a hub id, or the recipe's `model` section.
        data: a file, or the recipe's `data` section.
        sections: `method`, `tune`, `optim`, `run` as in a recipe.
    """

    def __init__(self, model: str | Mapping[str, Any], data: str | Mapping[str, Any], **sections: Any) -> None:
        self.recipe = {"model": model, "data": {"train": data} if isinstance(data, str) else data, **sections}
        self._run: Run | None = None

    @property
    def run(self) -> Run:
        """The run that `fit` made.

        Raises:
            RunError: `fit` was not called yet.
        """
        if self._run is None:
            raise RunError(Problem("runs.not_fitted"))
        return self._run

    def fit(self) -> Tuner:
        """Train; returns itself, so that `Tuner(...).fit().predict(...)` reads on."""
        self._run = train(self.recipe)
        return self

    def predict(self, questions: Sequence[Conversation], **sampling: Any) -> list[str]:
        """Answer each question (or list of messages), in one batch; `sampling` as in `Run.chat`."""
        return self.run.session.answers(questions, Sampling(**sampling))
