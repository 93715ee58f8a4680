"""What is worth watching besides the loss: numbers per example, and means over tokens.

What goes in: what a method says of its micro-batches. What comes out: means over a step or over the rows held out, and
of numbers per example an interval that holds the true mean in 95 of 100 cases. Nothing is read from the device before
somebody wants to know.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from luthier.engine.ranks import Ranks

Z = 1.959964
"""Of a 95 % interval of the normal distribution."""


@dataclass(frozen=True)
class Measure:
    """mean of `count` numbers; low, high: its 95 % interval; None of a mean over tokens, which are not independent."""

    mean: float
    count: float
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Measures:
    """Collects; `read` adds up."""

    def __init__(self) -> None:
        self._each: dict[str, list[Tensor]] = {}
        self._sums: dict[str, list[tuple[Tensor | float, float]]] = {}

    def add(self, each: Mapping[str, Tensor], sums: Mapping[str, tuple[Tensor | float, float]]) -> None:
        """each: name -> a number, or a yes or no, per example; sums: name -> (sum, count)."""
        for name, values in each.items():
            self._each.setdefault(name, []).append(values.detach())
        for name, pair in sums.items():
            self._sums.setdefault(name, []).append(pair)

    def read(self, ranks: Ranks) -> dict[str, Measure]:
        """Over all ranks; every rank asks."""
        each = {name: [x for part in parts for x in part.tolist()] for name, parts in self._each.items()}
        sums = {
            name: (math.fsum(float(total) for total, _ in pairs), math.fsum(count for _, count in pairs))
            for name, pairs in self._sums.items()
        }
        gathered = ranks.gather((each, sums))
        names = dict.fromkeys(name for one, _ in gathered for name in one)
        values = {name: [x for one, _ in gathered for x in one.get(name, ())] for name in names}
        found = {name: of_examples(numbers) for name, numbers in values.items() if numbers}
        for name in dict.fromkeys(name for _, one in gathered for name in one):
            total, count = (math.fsum(one.get(name, (0.0, 0.0))[part] for _, one in gathered) for part in (0, 1))
            if count:
                found[name] = Measure(total / count, count)
        return found


def of_examples(values: Sequence[float]) -> Measure:
    """Of shares (yes or no of each example) Wilson's interval (1927), which holds for few examples and near the ends
    too; of numbers the normal one."""
    count, (mean, spread) = len(values), normal(values)
    if all(isinstance(each, bool) for each in values):
        return Measure(mean, count, *wilson(mean, count))
    if count == 1:
        return Measure(mean, count)
    return Measure(mean, count, mean - spread, mean + spread)


def normal(values: Sequence[float], z: float = Z) -> tuple[float, float]:
    """Mean, and half the width of its interval by the normal distribution, z standard errors; 0 of a single value."""
    mean = statistics.fmean(values)
    return mean, 0.0 if len(values) == 1 else z * statistics.stdev(values, mean) / math.sqrt(len(values))


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share found among `count`."""
    shrunk = 1 + Z**2 / count
    middle = (share + Z**2 / (2 * count)) / shrunk
    half = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / shrunk
    return middle - half, middle + half
