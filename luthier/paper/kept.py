"""Answers that are slow to get and may be a little old: of a hub, of a GPU's driver, of a measurement.

What goes in: a question and who answers it. What comes out: the answer, or the one that was got a moment ago. One-time
commands keep nothing; a page that plans a recipe at each change of it does. Torch-free.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from luthier.errors import UserError

T = TypeVar("T")


class Kept:
    """Attributes:
    patience_s: how old an answer may be; a refusal counts as one.
    """

    def __init__(self, patience_s: float = 0.0) -> None:
        self.patience_s = patience_s
        self._answers: dict[Hashable, tuple[float, Any]] = {}  # until when it holds, and what it is

    def ask(self, question: Hashable, answer: Callable[[], T], lasting: float = 1.0) -> T:
        """Args:
            lasting: how many times as long as others this answer holds.

        Raises:
            UserError: as `answer` does, or did a moment ago.
        """
        until_s, found = self._answers.get(question, (float("-inf"), None))
        if time.monotonic() >= until_s:
            try:
                found = answer()
            except UserError as error:
                found = error
            now_s = time.monotonic()
            self._answers = {key: kept for key, kept in self._answers.items() if now_s < kept[0]}
            self._answers[question] = (now_s + lasting * self.patience_s, found)
        if isinstance(found, UserError):
            raise found
        return found  # type: ignore[no-any-return]
