"""The answers of one round, what they are worth, and what is known of their tokens.

What goes in: rollouts and rewards. What comes out: a `Round` that a checkpoint can hold bit for bit, and its account.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.batch import Floats
from luthier.data.rollouts import Rollout


@dataclass
class Round:
    """Attributes:
    number: of the round, from 0.
    rollouts: `samples` answers to each prompt, one prompt after the other; rewards: of each, None where it failed.
    resampled: prompts that were given up for others.
    known: name -> of each answer what is known of its tokens, float32 [A]; empty until it is scored.
    failures: why rewards failed, and how often.
    """

    number: int
    rollouts: list[Rollout]
    rewards: list[float | None]
    samples: int
    resampled: int = 0
    known: dict[str, list[Floats]] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)

    @property
    def scored(self) -> bool:
        return bool(self.known)

    @property
    def rewards_PG(self) -> Tensor:
        """nan where a reward failed."""
        values = [math.nan if value is None else value for value in self.rewards]
        return torch.tensor(values, dtype=torch.float64).view(-1, self.samples)

    def facts(self) -> dict[str, Any]:
        """The account of the round."""
        there = [value for value in self.rewards if value is not None]
        lengths = [len(each.answer) for each in self.rollouts]
        logp = np.concatenate([each.logp for each in self.rollouts])
        groups = [
            {value for value in self.rewards[at : at + self.samples] if value is not None}
            for at in range(0, len(self.rewards), self.samples)
        ]
        return {
            "round": self.number,
            "reward": float(np.mean(there)) if there else None,
            "reward_deviation": float(np.std(there)) if there else None,
            "answers": len(self.rollouts),
            "groups": len(groups),
            "dead": sum(len(each) < 2 for each in groups) if self.samples > 1 else 0,
            "resampled": self.resampled,
            "failed": len(self.rewards) - len(there),
            "failures": dict(self.failures),
            "answer_tokens": float(np.mean(lengths)),
            "longest": max(lengths),
            "cut": sum(not each.ended for each in self.rollouts) / len(self.rollouts),
            "entropy": float(-logp.mean(dtype=np.float64)),
        }

    # ------------------------------------------------------------------------------------------------ kept

    def to_json(self) -> dict[str, Any]:
        """As plain values, from which `from_json` makes the same round to the bit."""
        each = self.rollouts
        return {
            "number": self.number,
            "samples": self.samples,
            "resampled": self.resampled,
            "uids": [rollout.uid for rollout in each],
            "ended": [rollout.ended for rollout in each],
            "prompts": [_text(rollout.prompt) for rollout in each[:: self.samples]],
            "answers": [_text(rollout.answer) for rollout in each],
            "logp": [_text(rollout.logp) for rollout in each],
            "rewards": self.rewards,
            "known": {name: [_text(values) for values in tables] for name, tables in self.known.items()},
            "failures": dict(self.failures),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Round:
        samples = int(value["samples"])
        prompts = [_array(text, np.int32) for text in value["prompts"]]
        rollouts = [
            Rollout(uid, prompts[at // samples], _array(answer, np.int32), _array(logp, np.float32), ended)
            for at, (uid, answer, logp, ended) in enumerate(
                zip(value["uids"], value["answers"], value["logp"], value["ended"], strict=True)
            )
        ]
        known = {name: [_array(text, np.float32) for text in tables] for name, tables in value["known"].items()}
        number, resampled, rewards = int(value["number"]), int(value["resampled"]), list(value["rewards"])
        return cls(number, rollouts, rewards, samples, resampled, known, value["failures"])


def _text(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def _array(text: str, dtype: Any) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), dtype=dtype).copy()
