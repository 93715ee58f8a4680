"""What a run's event log comes to: the steps that count, as columns, and the run in numbers.

What goes in: events in their order, in as many pieces as one likes, so that a log that grows is read once. What comes
out: what is effective now (see `events.effective`), and a `Summary`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np

from luthier.runs.events import FIRST_OF_ATTEMPT, TOLD_ENDS, Event, Stretch, gathered

NUMBERS = (
    *("loss", "lr", "grad_norm", "epoch", "num_steps"),
    *("tokens", "tokens_per_s", "computed_tokens", "memory_bytes"),
)
"""What a `step` event says in one number each (see `events.KINDS`)."""
PLACE = ("seq", "time_s", "step")
MEASURE = "measure."
"""Before the name of what a method measures in a step."""
BESIDES = ("revised", "rehearsal")
"""Kinds that may be written outside of an attempt's training."""
WINDOW_STEPS = 50
"""Steps that the speed is taken over: long enough to even out rows of different length, short enough to follow a
machine that slows down. Chosen, not tuned."""


@dataclass(frozen=True)
class Attempt:
    """One process's share of a run. `end`: a kind of TOLD_ENDS, or None where it is still going or died."""

    number: int
    started_s: float
    ended_s: float
    from_step: int
    to_step: int
    end: str | None
    reason: str


@dataclass(frozen=True)
class Summary:
    """A run in numbers; None where nothing is known yet.

    tokens, seconds: of the examples learnt from and in training, over what is effective. tokens_per_s: their quotient.
    validation: (step, loss) of every effective validation. best: the lowest of those after step 0.
    computed_tokens: tokens that went through the model; None in runs of versions that share nothing.
    """

    attempts: tuple[Attempt, ...]
    started_s: float | None
    updated_s: float | None
    step: int
    num_steps: int | None
    loss: float | None
    validation: tuple[tuple[int, float | None], ...]
    best: tuple[int, float] | None
    tokens: int
    seconds: float
    peak_memory_bytes: int | None
    faults: int
    ended: str | None
    computed_tokens: int | None = None

    @property
    def shares(self) -> bool:
        """Whether beginnings that examples have in common were computed once."""
        return self.computed_tokens is not None and self.computed_tokens < self.tokens

    @property
    def tokens_per_s(self) -> float | None:
        return self.tokens / self.seconds if self.seconds > 0 else None


def summarise(events: Iterable[Event]) -> Summary:
    history = History()
    history.add(events)
    return history.summary()


# ---------------------------------------------------------------------------------------------------- told in pieces


@dataclass(frozen=True)
class Sums:
    """Over the first so many rows: the highest step, tokens learnt from, their seconds, tokens computed, most bytes."""

    rows: int = 0
    top: int = 0
    tokens: float = 0.0
    seconds: float = 0.0
    computed: float = 0.0
    memory: float = 0.0


class Steps:
    """The effective `step` events, one row for each.

    Attributes:
        columns: seq, time_s, step, NUMBERS, and measures under `measure.NAME`; nan where an event says nothing.
    """

    def __init__(self) -> None:
        self.columns: dict[str, array[float]] = {name: array("d") for name in (*PLACE, *NUMBERS)}
        self._sums = Sums()

    def __len__(self) -> int:
        return len(self.columns["step"])

    def last(self, name: str) -> float | None:
        column = self.columns[name]
        return None if not column or math.isnan(column[-1]) else column[-1]

    def extend(self, told: Stretch) -> None:
        before = len(self)
        for name in PLACE:
            self.columns[name].extend(_column(getattr(told, name)))
        for name, column in zip(NUMBERS, _numbers(told.data), strict=True):
            self.columns[name].extend(_column(column))
        self._measures(before, told.data)

    def _measures(self, before: int, datas: Sequence[Mapping[str, Any]]) -> None:
        known = {name.removeprefix(MEASURE) for name in self.columns if name.startswith(MEASURE)}
        told = [each.get("measures") for each in datas]
        found = [each if isinstance(each, dict) else {} for each in told]
        for name in known.union(*found) if any(found) else known:
            column = self.columns.setdefault(MEASURE + name, array("d", [math.nan]) * before)
            column.extend(_column([each.get(name) for each in found]))

    def cut(self, start: int) -> None:
        """Take out the rows of later steps."""
        kept = [row for row, step in enumerate(self.columns["step"]) if step <= start]
        if len(kept) < len(self):
            self.columns = {name: array("d", [column[row] for row in kept]) for name, column in self.columns.items()}
            self._sums = Sums()

    def sums(self) -> Sums:
        """Asked for after each new row, or after many."""
        old = self._sums
        if old.rows == len(self):
            return old
        names = ("step", "tokens", "tokens_per_s", "computed_tokens", "memory_bytes")
        new = (np.nan_to_num(np.array(self.columns[name][old.rows :])) for name in names)
        step, tokens, rate, computed, memory = new
        seconds = np.divide(tokens, rate, out=np.zeros_like(tokens), where=rate > 0)
        self._sums = Sums(
            rows=len(self),
            top=max(old.top, int(step.max(initial=0))),
            tokens=old.tokens + float(tokens.sum()),
            seconds=old.seconds + float(seconds.sum()),
            computed=old.computed + float(computed.sum()),
            memory=max(old.memory, float(memory.max(initial=0.0))),
        )
        return self._sums


def _numbers(datas: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[Any]]:
    """A column for each of NUMBERS; at once where all say the same."""
    said, found = [name for name in NUMBERS if name in datas[0]], {}
    with contextlib.suppress(KeyError):
        if len(said) > 1:
            found = dict(zip(said, zip(*map(itemgetter(*said), datas), strict=True), strict=True))
    return [found.get(name) or [each.get(name) for each in datas] for name in NUMBERS]


def _column(values: Sequence[Any]) -> array[float]:
    if values.count(None) == len(values):
        return array("d", [math.nan]) * len(values)
    try:
        return array("d", values)
    except (TypeError, OverflowError):
        return array("d", [_number(value) for value in values])


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        return math.nan


class Pace:
    """Steps per second of one attempt, over the last WINDOW_STEPS steps."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, float]] = deque(maxlen=WINDOW_STEPS + 1)
        self._first_step_s: float | None = None

    def restart(self) -> None:
        """A new attempt: what an older one took says nothing about this machine, and the pause between them is no
        training time."""
        self._seen.clear()
        self._first_step_s = None

    def add(self, event: Event) -> None:
        for told in gathered([event]):
            assert isinstance(told, Stretch)
            self.extend(told)

    def extend(self, told: Stretch) -> None:
        rate, tokens = told.data[-1].get("tokens_per_s"), told.data[-1].get("tokens")
        self._first_step_s = tokens / rate if rate and tokens else None
        last = slice(-WINDOW_STEPS - 1, None)
        self._seen.extend(zip(told.step[last], told.time_s[last], strict=True))

    def seconds_left(self, steps: int) -> float | None:
        """Time for `steps` more steps; None before the first step. From a single step, its own duration counts."""
        if len(self._seen) < 2:
            return None if self._first_step_s is None else self._first_step_s * steps
        (old_step, old_s), (new_step, new_s) = self._seen[0], self._seen[-1]
        return steps * (new_s - old_s) / max(new_step - old_step, 1)


@dataclass
class _Share:
    """An attempt, as far as it is told."""

    started_s: float
    ended_s: float
    from_step: int
    reason: str
    to_step: int | None = None
    end: str | None = None


@dataclass
class History:
    """A run as its events tell it.

    Attributes:
        steps: the effective `step` events.
        others: all other effective events.
        last_seq: of the last event that was told.
        pace: of the last attempt.
        ended: how the last attempt ended: a kind of TOLD_ENDS. A revision of a finished run (`runs extend`) opens it
            again, as if interrupted.
    """

    steps: Steps = field(default_factory=Steps)
    others: list[Event] = field(default_factory=list)
    last_seq: int = 0
    ended: str | None = None
    pace: Pace = field(default_factory=Pace)
    _attempts: dict[int, _Share] = field(default_factory=dict)
    _started_s: float | None = None
    _updated_s: float | None = None

    def add(self, told: Iterable[Event | Stretch]) -> None:
        for each in gathered(told):
            if isinstance(each, Stretch):
                self._steps(each)
                continue
            self._told(each.seq, each.time_s, each.time_s)
            if each.kind == "step":
                self._share(each, each.time_s, None)
            else:
                self._other(each)

    def _told(self, seq: int, first_s: float, last_s: float) -> None:
        if self._started_s is None:
            self._started_s = first_s
        self._updated_s, self.last_seq = last_s, seq

    def _steps(self, told: Stretch) -> None:
        self._told(told.seq[-1], told.time_s[0], told.time_s[-1])
        self.steps.extend(told)
        self.pace.extend(told)
        first = Event("", told.seq[0], told.attempt, told.time_s[0], told.step[0], "step", told.data[0])
        self._share(first, told.time_s[-1], max(told.step))

    def _other(self, event: Event) -> None:
        if event.kind in FIRST_OF_ATTEMPT:
            start = from_step(event)
            # From step 0 without a checkpoint: all that older attempts did is superseded.
            self.steps.cut(start if start > 0 else -1)
            self.others = [old for old in self.others if old.step is None or (start > 0 and old.step <= start)]
            self.ended = None
            self.pace.restart()
        elif event.kind in TOLD_ENDS:
            self.ended = event.kind
        elif event.kind == "revised" and self.ended == "finished":
            self.ended = "interrupted"
        self.others.append(event)
        if event.kind not in BESIDES:
            self._share(event, event.time_s, event.step)

    def _share(self, first: Event, last_s: float, to_step: int | None) -> None:
        """Args:
        first: of those that are told at once; all are of its attempt and of its kind.
        """
        if not first.attempt:
            return
        new = _Share(first.time_s, last_s, from_step(first), str(first.data.get("reason", "")))
        share = self._attempts.setdefault(first.attempt, new)
        share.ended_s = last_s
        if to_step is not None:
            share.to_step = max(to_step, share.to_step or 0)
        if first.kind in TOLD_ENDS:
            share.end = first.kind

    def all_of(self, kind: str) -> list[Event]:
        """The effective events of a kind that is not `step`."""
        return [event for event in self.others if event.kind == kind]

    # --------------------------------------------------------------------------------------------- in numbers

    def summary(self) -> Summary:
        steps, sums = self.steps, self.steps.sums()
        finished = next((event.data for event in reversed(self.others) if event.kind == "finished"), {})
        told = {name: value for name, value in finished.items() if isinstance(value, (int, float))}
        losses = [(event.step or 0, event.data.get("loss")) for event in self.all_of("validation")]
        validation = tuple((step, loss if isinstance(loss, (int, float)) else None) for step, loss in losses)
        scored = [(step, loss) for step, loss in validation if step and loss is not None]
        return Summary(
            attempts=tuple(_attempt(number, self._attempts[number]) for number in sorted(self._attempts)),
            started_s=self._started_s,
            updated_s=self._updated_s,
            step=max(sums.top, max((event.step for event in self.others if event.step is not None), default=0)),
            num_steps=self._num_steps(),
            loss=steps.last("loss"),
            validation=validation,
            best=min(scored, key=lambda pair: pair[1], default=None),
            tokens=int(told.get("tokens") or sums.tokens),
            seconds=float(told.get("seconds") or sums.seconds),
            peak_memory_bytes=int(told.get("peak_memory_bytes") or 0) or int(sums.memory) or None,
            faults=len(self.all_of("fault")),
            ended=self.ended,
            computed_tokens=int(told.get("computed_tokens") or 0) or int(sums.computed) or None,
        )

    def seconds_left(self) -> float | None:
        """Until the run is finished, at the pace of this attempt; None before its first step."""
        steps = self._num_steps()
        return None if steps is None else self.pace.seconds_left(max(steps - self.steps.sums().top, 0))

    def _num_steps(self) -> int | None:
        """What was said last, by a step or by another event."""
        told = [(event.seq, event.data.get("num_steps")) for event in self.others]
        lengths = [(seq, length) for seq, length in told if isinstance(length, int)][-1:]
        of_step, seq = self.steps.last("num_steps"), self.steps.last("seq")
        if of_step is not None and seq is not None:
            lengths.append((int(seq), int(of_step)))
        return max(lengths)[1] if lengths else None


def thinned(losses: np.ndarray[Any, Any], points: int) -> np.ndarray[Any, Any]:
    """Places of at most `points` values, those with the lowest and the highest of each stretch among them: what stands
    out is what one looks for."""
    if len(losses) <= points:
        return np.arange(len(losses))
    edges = np.linspace(0, len(losses), max(points // 2, 2), dtype=int)
    kept = {0, len(losses) - 1}
    low, high = np.nan_to_num(losses, nan=np.inf), np.nan_to_num(losses, nan=-np.inf)
    for begin, end in itertools.pairwise(edges):
        kept |= {begin + int(low[begin:end].argmin()), begin + int(high[begin:end].argmax())}
    return np.array(sorted(kept))


def from_step(event: Event) -> int:
    """Where an attempt begins, by its first event."""
    start = event.data.get("from_step", 0)
    return start if isinstance(start, int) else 0


def _attempt(number: int, share: _Share) -> Attempt:
    to_step = share.from_step if share.to_step is None else share.to_step
    return Attempt(number, share.started_s, share.ended_s, share.from_step, to_step, share.end, share.reason)
