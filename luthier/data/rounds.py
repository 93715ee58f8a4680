"""Which prompts are answered when.

What goes in: the prompts of a run as sequences, and their rows. What comes out: steps without micro-batches, which the
method fills with its own answers: a step names the prompts of its round; several steps in a row may learn from the
answers of one round. All of it is a pure function of (seed, step).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Step
from luthier.config.schema import Online, RunConfig
from luthier.data import rollouts
from luthier.data.check import Rows
from luthier.data.examples import Prompt
from luthier.data.sequences import Sequences
from luthier.data.stream import Budgets, Stream, budget_at
from luthier.errors import DataError, Problem

ANSWER, AGAIN = 3, 4
"""First words of the random streams of answers, and of prompts that take another's place; see `data.stream`."""


def answer_seed(seed: int, *key: int) -> int:
    """The seed of one answer: a pure function of the run's seed and what the answer is to."""
    (word,) = np.random.SeedSequence([seed, ANSWER, *key]).generate_state(1, np.uint64)
    return int(word) >> 1  # torch takes 63 bits


@dataclass(frozen=True)
class Prompts:
    """Rows that ask.

    sequences: their token ids; rows: the examples, by uid.
    """

    sequences: Sequences
    rows: Sequence[Prompt]

    @classmethod
    def of(cls, sequences: Sequences, rows: Rows) -> Prompts:
        """Read the rows again.

        Raises:
            DataError: a file has changed since it was tokenised.
        """
        found = {item.where: item.example for item in rows}
        examples: list[Prompt] = []
        for uid in range(len(sequences)):
            example = found.get(sequences.locate(uid))
            if not isinstance(example, Prompt):
                raise DataError(Problem("data.changed", sequences.locate(uid)))
            examples.append(example)
        return cls(sequences, examples)

    def __len__(self) -> int:
        return len(self.rows)

    def ids(self, uid: int) -> NDArray[np.int32]:
        return self.sequences[uid].ids

    @property
    def longest(self) -> NDArray[np.int32]:
        return self.ids(int(self.sequences.lengths.argmax()))


class Rounds:
    """Steps of a method that learns from its own answers; see `engine.loop.Steps`.

    Args:
        names: what is known of each row of a micro-batch (`RolloutBatch.known`).
    """

    def __init__(self, prompts: Prompts, config: RunConfig, budgets: Budgets, names: Sequence[str]) -> None:
        assert isinstance(config.method, Online)
        self._method, self._prompts, self._names = config.method, prompts, tuple(names)
        self._budgets, self._seed = budgets, config.run.seed
        self.updates = config.method.updates
        self._answers = config.optim.batch * config.method.samples
        steps = config.optim.steps
        rounds = None if steps is None else -(-steps // self.updates)
        optim = config.optim.model_copy(update={"steps": rounds})
        self._stream = Stream.of(prompts.sequences, config.model_copy(update={"optim": optim}), budgets)
        self.num_steps = steps if steps is not None else self._stream.num_steps * self.updates
        self.steps_per_epoch = self._stream.steps_per_epoch * self.updates

    @property
    def per_source_counts(self) -> dict[int, int]:
        return self._stream.per_source_counts

    def budget(self, index: int) -> int:
        """Tokens that a micro-batch of a step may hold."""
        return budget_at(self._budgets, index)

    def step(self, index: int) -> Step:
        epoch, uids = self._stream.step_uids(index // self.updates)
        return Step(index=index, epoch=epoch, uids=uids, micro=(), denom={}, tokens=0)

    def others(self, round_: int, taken: Sequence[int], count: int) -> tuple[int, ...]:
        """Prompts to ask in place of some of a round, none of those taken; fewer, where there are no more."""
        words = np.random.Philox(np.random.SeedSequence([self._seed, AGAIN, round_])).random_raw(len(self._prompts))
        free = [int(uid) for uid in np.argsort(words, kind="stable") if int(uid) not in set(taken)]
        return tuple(free[:count])

    def split(self, budgets: Budgets) -> None:
        self._budgets = budgets

    def largest(self, index: int, whole: bool) -> Step:
        assert not whole, "what is learnt from one's own answers is split"
        batch = rollouts.largest(
            self._prompts.longest, self._method.max_new_tokens, self.budget(index), self._answers, self._names
        )
        return Step(index, 0, (0,), (batch,), {rollouts.POLICY: 1.0, "kl": 1.0, "value": 1.0}, batch.num_tokens)
