"""Alarms of training on judged answers: what usually goes wrong, noticed while it does.

What goes in: what is measured of the steps that are logged and of the rows held out. What comes out: a `Problem` for
each thing that has gone wrong, which says what to try; each is raised once, and again only after it was over.

What is watched, where the method measures it:

- The better answers themselves become unlikely: their log-probability per token falls below that of the reference or,
  without one, below that of the first steps.
- The policy moves away from the reference, by kto's estimate; other methods have none.
- The rows held out gain nothing any more, while the order of the training pairs is known ever better.
- Length counts: of the pairs held out, the longer answer is worth more far more often, or less, than the data says, and
  than it was before step 1: sums over tokens favour short answers from the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.config.schema import Judged
from luthier.engine import measures
from luthier.engine.measures import Measure
from luthier.errors import Problem
from luthier.methods.alarms import KL_TOKEN, State, Streaks
from luthier.methods.given import Given
from luthier.methods.passes import Passes

FALL_TOKEN = 0.5
"""Nats per token by which the better answers may become less likely: they are then 1.65 times as perplexing. On nano
held-out answers fell by 0.03 in a run that went well, and by 0.46 at ten times its learning rate."""
ENOUGH = 64
"""Answers that a mean is taken over: those of one method differ by half a nat per token, so that a mean of 64 is off by
0.06."""
GIVEN_BACK = 0.25
"""Share of what the rows held out had gained in loss. On nano a run that had learnt its pairs by heart without harm
gave back 0.01, one at five times its learning rate all."""
LENGTH_SHARE = 0.2
"""Of the pairs, by which what is worth more may differ from the data beyond chance. Chosen, not tuned."""
HELD_OUT_LASTING = 2
"""Validations in a row, of which a run has four by default."""


class Watch(Streaks):
    """Watches one run. referred: whether there is a reference, so that log-probabilities are differences to its own."""

    def __init__(self, referred: bool) -> None:
        super().__init__()
        self._first = None if referred else Mean()
        self._latest = Mean()
        self._right = self._seen = 0.0
        self._start: float | None = None
        self._least = 0.0
        self._usual: tuple[float, float] | None = None

    def step(self, found: Mapping[str, Measure]) -> list[Problem]:
        """The alarms that a logged step raises."""
        if (right := found.get("accuracy")) is not None:
            self._right, self._seen = self._right + right.mean * right.count, self._seen + right.count
        raised = []
        if (chosen := found.get("chosen_per_token")) is not None:
            raised += self._fallen(chosen)
        if (kl := found.get("kl_per_token")) is not None:
            raised += self.lasting("judged.alarm_kl", not kl.mean <= KL_TOKEN, {"kl": kl.mean, "limit": KL_TOKEN})
        return raised

    def held_out(self, loss: float, found: Mapping[str, Measure]) -> list[Problem]:
        """The alarms that a validation raises; the first one is before step 1. loss: of the rows held out."""
        right, seen, self._right, self._seen = self._right, self._seen, 0.0, 0.0
        if self._start is None:
            self._start = self._least = loss
            before = found.get("prefers_longer")
            self._usual = before.interval if before is not None else None
            return []
        given_back = loss - self._least > GIVEN_BACK * (self._start - self._least)
        self._least = min(self._least, loss)
        raised = self._by_length(found)
        if seen and (known := found.get("accuracy")) is not None and known.interval is not None:
            low, high = known.interval
            values = {"train": right / seen, "held_out": known.mean, "low": low, "high": high}
            values |= {"loss": loss, "least": self._least}
            holds = given_back and measures.wilson(right / seen, int(seen))[0] > high
            raised += self.lasting("judged.alarm_no_gain", holds, values, HELD_OUT_LASTING)
        return raised

    def state_dict(self) -> State:
        first = None if self._first is None else self._first.parts
        return {
            **super().state_dict(),
            **{"first": first, "latest": self._latest.parts},
            **{"right": self._right, "seen": self._seen},
            **{"start": self._start, "least": self._least, "usual": self._usual},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if self._first is not None:
            self._first = Mean(state.get("first") or ())
        self._latest = Mean(state.get("latest", ()))
        self._right, self._seen = state.get("right", 0.0), state.get("seen", 0.0)
        self._start, self._least = state.get("start"), state.get("least", 0.0)
        self._usual = tuple(state["usual"]) if state.get("usual") else None

    # ------------------------------------------------------------------------------------------------ parts

    def _fallen(self, chosen: Measure) -> list[Problem]:
        if self._first is not None and not self._first.full:
            self._first.add(chosen)
            return []
        self._latest.add(chosen)
        fall = (self._first.value if self._first is not None else 0.0) - self._latest.value
        holds = self._latest.full and not fall <= FALL_TOKEN
        return self.lasting("judged.alarm_chosen", holds, {"fall": fall, "limit": FALL_TOKEN})

    def _by_length(self, found: Mapping[str, Measure]) -> list[Problem]:
        prefers, chosen = found.get("prefers_longer"), found.get("longer_chosen")
        if prefers is None or chosen is None or prefers.interval is None or chosen.interval is None:
            return []
        (low, high), fair = prefers.interval, [chosen.interval, self._usual or chosen.interval]
        apart = abs(prefers.mean - chosen.mean) > LENGTH_SHARE
        longer = apart and low > max(each[1] for each in fair)
        shorter = apart and high < min(each[0] for each in fair)
        values = {"prefers": 100 * prefers.mean, "chosen": 100 * chosen.mean, "pairs": int(chosen.count)}
        return [
            *self.lasting("judged.alarm_longer", longer, values, HELD_OUT_LASTING),
            *self.lasting("judged.alarm_shorter", shorter, values, HELD_OUT_LASTING),
        ]


class Judging(Passes):
    """What methods that learn from judged answers have in common: they are watched."""

    def __init__(self, method: Judged, given: Given, referred: bool) -> None:
        super().__init__(given.adapter, given.seed, given.policies, given.bottom)
        self.stops = method.alarms == "stop"
        self._watch = Watch(referred)

    def watch(self, found: Mapping[str, Measure], held_out: float | None) -> list[Problem]:
        return self._watch.step(found) if held_out is None else self._watch.held_out(held_out, found)

    def state_dict(self) -> State:
        return {"watch": self._watch.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._watch.load_state_dict(state.get("watch", {}))


class Mean:
    """Over the latest `ENOUGH` examples. parts: [mean, count] of each step that they are of."""

    def __init__(self, parts: Any = ()) -> None:
        self.parts: list[list[float]] = [list(each) for each in parts]

    def add(self, measure: Measure) -> None:
        self.parts.append([measure.mean, measure.count])
        while self._count - self.parts[0][1] >= ENOUGH:
            self.parts.pop(0)

    @property
    def full(self) -> bool:
        return self._count >= ENOUGH

    @property
    def value(self) -> float:
        return sum(mean * count for mean, count in self.parts) / self._count

    @property
    def _count(self) -> float:
        return sum(count for _, count in self.parts)
