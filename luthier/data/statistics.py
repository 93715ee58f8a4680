"""Numbers that describe a data set.

What goes in: lengths. What comes out: percentiles, a histogram, and what each way of treating long rows costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from luthier.batch import Ints

PERCENTILES = (1, 10, 50, 90, 99)
BINS = 30
"""Bars of a histogram, at most; chosen to be read, not tuned."""


@dataclass(frozen=True)
class Bin:
    """Rows whose length lies in [low, high); high is None for the last, which holds all that are longer."""

    low: int
    high: int | None
    rows: int


@dataclass(frozen=True)
class Lengths:
    """Attributes:
    percentiles: percent -> length of a row; the upper of two neighbours, so that each is one that occurs.
    """

    rows: int
    total: int
    shortest: int
    longest: int
    percentiles: dict[int, int]
    histogram: tuple[Bin, ...]


@dataclass(frozen=True)
class Cost:
    """What a value of data.too_long does: rows touched by it, tokens that are not trained on."""

    policy: str
    rows: int
    tokens: int


@dataclass(frozen=True)
class Tokens:
    """Attributes:
    lengths: of rows, in tokens.
    learnt: tokens that carry loss.
    characters: of the rows measured.
    max_tokens: the bound; None where long rows become several (plain text).
    too_long: rows beyond it.
    costs: of each policy, empty where no row is too long.
    """

    lengths: Lengths
    learnt: int
    characters: int
    max_tokens: int | None
    too_long: int
    costs: tuple[Cost, ...]

    @property
    def learnt_share(self) -> float:
        return self.learnt / max(self.lengths.total, 1)

    @property
    def characters_per_token(self) -> float:
        return self.characters / max(self.lengths.total, 1)


@dataclass(frozen=True)
class Frequent:
    """An answer that comes often: its beginning, secrets covered, and how many rows have it."""

    answer: str
    rows: int


@dataclass(frozen=True)
class Statistics:
    """Attributes:
    rows, distinct: kept rows, and how many of them differ.
    characters: lengths of rows in characters; None where there are no rows.
    tokens: None where no tokenizer was at hand.
    frequent: the answers that come most often. labels: all answers with their counts, where they are labels.
    compared: different rows that were searched for near duplicates; sampled: whether there were more.
    """

    rows: int
    distinct: int
    characters: Lengths | None
    tokens: Tokens | None
    frequent: tuple[Frequent, ...]
    labels: tuple[Frequent, ...]
    compared: int
    sampled: bool


def lengths(values: Ints) -> Lengths | None:
    if not len(values):
        return None
    measured = np.percentile(values, PERCENTILES, method="higher")
    percentiles = {percent: int(value) for percent, value in zip(PERCENTILES, measured, strict=True)}
    bounds = int(values.min()), int(values.max())
    # A few very long rows would press all others into one bar.
    end = min(percentiles[99], 3 * percentiles[90])
    return Lengths(len(values), int(values.sum()), *bounds, percentiles, histogram(values, end))


def histogram(values: Ints, end: int) -> tuple[Bin, ...]:
    """Bars of one round width from 0 to beyond `end`; the last one holds what is longer."""
    width = round_width(max(end, 1) / BINS)
    bars = end // width + 1
    counts = np.bincount(np.minimum(values // width, bars), minlength=bars + 1)
    made = [Bin(bar * width, (bar + 1) * width, int(counts[bar])) for bar in range(bars)]
    return (*made, Bin(bars * width, None, int(counts[bars]))) if counts[bars] else tuple(made)


def round_width(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is not below `least`."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= least:
                return factor * power
        power *= 10


def costs(values: Ints, max_tokens: int) -> tuple[Cost, ...]:
    """What stop, drop and truncate do to rows longer than `max_tokens`."""
    long = values[values > max_tokens]
    if not len(long):
        return ()
    beyond = int(long.sum()) - max_tokens * len(long)
    return (
        Cost("stop", len(values), int(values.sum())),
        Cost("drop", len(long), int(long.sum())),
        Cost("truncate", len(long), beyond),
    )
