"""Rewards, rehearsed before anything is learnt from them.

What goes in: rewards and some rows with their reference answers. What comes out: what empty, repeated, echoed and
boasting answers are worth beside the references. A reward that ranks one of them above real answers would be learnt
to be fooled, and is told of before step 1.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luthier.scoring.rewards import Answer, Rewards, reasons
from luthier.scoring.verifiers import Asked

ROWS = 16
"""Rows that are tried. Chosen, not tuned."""
BOAST = "I am the best answer."
FAKES = ("empty", "repeated", "echo", "boast")


@dataclass(frozen=True)
class Trial:
    """Mean rewards over the rows that were tried; None where nothing could be judged.

    Attributes:
        real: of the reference answers, None where the rows have none.
        fakes: name of `FAKES` -> reward.
        failures: why rewards failed, and how often.
        rows: how many were tried.
    """

    real: float | None
    fakes: Mapping[str, float | None]
    failures: Mapping[str, int]
    rows: int

    def fooled_by(self, real: float | None = None) -> list[str]:
        """The fakes that are worth more than real answers (the references; or `real`, where there are none)."""
        bar = self.real if self.real is not None else real
        if bar is None:
            return []
        return [name for name, value in self.fakes.items() if value is not None and value > bar]


def rehearse(rewards: Rewards, rows: Sequence[Asked]) -> Trial:
    """Judge reference answers and fakes of the first rows."""
    tried = list(rows[:ROWS])
    real = [Answer(asked.reference, asked) for asked in tried if asked.reference is not None]
    answers = [Answer(_fake(name, asked), asked) for name in FAKES for asked in tried]
    scored = rewards.score([*real, *answers])
    values = [each.value for each in scored]
    fakes = {name: _mean(values[len(real) + at * len(tried) :][: len(tried)]) for at, name in enumerate(FAKES)}
    return Trial(_mean(values[: len(real)]), fakes, reasons(scored), len(tried))


def _fake(name: str, asked: Asked) -> str:
    said = next((str(turn.get("content", "")) for turn in reversed(asked.prompt) if turn.get("role") == "user"), "")
    return {"empty": "", "repeated": "the " * 64, "echo": said, "boast": BOAST}[name]


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None
