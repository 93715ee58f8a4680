"""Alarms of training by rewards: what usually goes wrong, noticed while it does.

What goes in: the account of each round, and rewards on held-out prompts. What comes out: a `Problem` for each thing
that has gone wrong, which says what to try; each is raised once, and again only after it was over. What is normal is
learnt from the first rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.errors import Problem

FIRST = 5
"""Rounds that say what is normal."""
LASTING = 3
"""Rounds in a row that something has to hold to count: a single one is chance."""
KL_TOKEN = 0.5
"""Nats per token from the reference: beyond that, answers are of another model."""
ENTROPY_SHARE = 0.2
"""Of the first rounds' entropy: below that, answers to one prompt are hardly different any more."""
LENGTH_FACTOR = 2.0
"""By how much answers may grow or shrink."""
CUT_SHARE = 0.5
FAILED_SHARE = 0.2
DEAD_SHARE = 0.8
"""All chosen, not tuned."""

State = dict[str, Any]


class Streaks:
    """For how many looks in a row something has held: an alarm is raised once when that is enough, and again only after
    it was over."""

    def __init__(self) -> None:
        self._streaks: dict[str, int] = {}

    def lasting(self, id: str, holds: bool, values: State, looks: int = LASTING) -> list[Problem]:
        self._streaks[id] = self._streaks.get(id, 0) + 1 if holds else 0
        return [Problem(id, values=values)] if self._streaks[id] == looks else []

    def state_dict(self) -> State:
        return {"streaks": self._streaks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._streaks = dict(state.get("streaks", {}))


class Alarms(Streaks):
    """Watches one run."""

    def __init__(self) -> None:
        super().__init__()
        self._first: list[State] = []
        self._latest: list[float] = []
        self.held_out_before: list[float | None] | None = None

    def round(self, facts: Mapping[str, Any]) -> list[Problem]:
        """The alarms that a round raises."""
        reward = facts.get("reward")
        if reward is not None:
            self._latest = [*self._latest[-FIRST + 1 :], float(reward)]
        if len(self._first) < FIRST:
            self._first.append({name: facts.get(name) for name in ("entropy", "answer_tokens", "reward")})
        found = {**self._always(facts), **(self._against_first(facts) if len(self._first) == FIRST else {})}
        return [problem for id, (holds, values) in found.items() for problem in self.lasting(id, holds, values)]

    def held_out(self, values: Sequence[float | None], found: Mapping[str, Any]) -> list[Problem]:
        """The alarm that an evaluation raises: rewards rise on the prompts that are learnt from, and not elsewhere."""
        if self.held_out_before is None:
            self.held_out_before = list(values)
            return []
        first = [each["reward"] for each in self._first if each["reward"] is not None]
        if len(self._first) < FIRST or not first or not self._latest or "gain" not in found:
            return []
        rise = statistics.fmean(self._latest) - statistics.fmean(first)
        risen = rise > 2 * _deviation(first) and rise > 0
        id = "rewards.alarm_no_gain"
        holds = risen and found["gain"] <= 0
        values_ = {"rise": rise, "gain": found["gain"], "low": found["gain_low"], "high": found["gain_high"]}
        return self.lasting(id, holds, values_, looks=1)

    def state_dict(self) -> State:
        more = {"first": self._first, "latest": self._latest, "held_out_before": self.held_out_before}
        return {**super().state_dict(), **more}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._first = list(state.get("first", []))
        self._latest = list(state.get("latest", []))
        self.held_out_before = state.get("held_out_before")

    # ------------------------------------------------------------------------------------------------ parts

    def _always(self, facts: Mapping[str, Any]) -> dict[str, tuple[bool, State]]:
        kl, dead, groups = facts.get("kl"), facts["dead"], facts["groups"]
        failed, answers = facts["failed"], facts["answers"]
        return {
            "rewards.alarm_kl": (kl is not None and not kl <= KL_TOKEN, {"kl": kl or 0.0, "limit": KL_TOKEN}),
            "rewards.alarm_dead": (dead > DEAD_SHARE * groups, {"dead": dead, "groups": groups}),
            "rewards.alarm_failed": (
                failed > FAILED_SHARE * answers,
                {"failed": failed, "answers": answers, "reason": next(iter(facts.get("failures", {})), "")},
            ),
            "rewards.alarm_cut": (facts["cut"] > CUT_SHARE, {"percent": 100 * facts["cut"]}),
        }

    def _against_first(self, facts: Mapping[str, Any]) -> dict[str, tuple[bool, State]]:
        entropy, usual = facts["entropy"], statistics.fmean([each["entropy"] for each in self._first])
        length, before = facts["answer_tokens"], statistics.fmean([each["answer_tokens"] for each in self._first])
        return {
            "rewards.alarm_entropy": (entropy < ENTROPY_SHARE * usual, {"entropy": entropy, "before": usual}),
            "rewards.alarm_longer": (length > LENGTH_FACTOR * before, {"tokens": length, "before": before}),
            "rewards.alarm_shorter": (length < before / LENGTH_FACTOR, {"tokens": length, "before": before}),
        }


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
