"""Answers that the model wrote itself, as micro-batches.

What goes in: prompts and answers as token ids, and the number of tokens that a micro-batch may hold. What comes out:
micro-batches in which a prompt is there once for all answers to it that stand there, and each answer has scored rows of
its own: two that begin alike are weighed apart.

Shape legend: P tokens of a prompt, A tokens of an answer, M scored rows, Q answers of a micro-batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Batch, Floats, Ints, Rendered
from luthier.data import pack, prefix

POLICY = "policy"
"""The loss term of answers that are rewarded; its weights are those of their tokens."""


@dataclass(frozen=True)
class Rollout:
    """An answer.

    Attributes:
        uid: of the row that asked.
        prompt: int32 [P]; answer: int32 [A], at least one, with the token that ends it where it ended by itself.
        logp: of each token when it was sampled, by the sampler's own logits, float32 [A].
        ended: whether it ended by itself.
    """

    uid: int
    prompt: NDArray[np.int32]
    answer: NDArray[np.int32]
    logp: Floats
    ended: bool

    @property
    def computed(self) -> NDArray[np.int32]:
        """The tokens that enter the model."""
        return np.concatenate([self.prompt, self.answer[:-1]])


@dataclass(frozen=True)
class RolloutBatch(Batch):
    """A micro-batch of answers.

    Attributes:
        rollout: which of the answers that were packed each owner is, int64 [Q].
        place: of each scored row's target in its answer, int64 [M].
        known: name -> float32 [M]: what is known of each scored row before the update (advantage, `old` and reference
            log-probability...).
    """

    rollout: Ints = dataclasses.field(kw_only=True)
    place: Ints = dataclasses.field(kw_only=True)
    known: Mapping[str, Floats] = dataclasses.field(kw_only=True, default_factory=dict)

    def knowing(self, tables: Mapping[str, Sequence[Floats]]) -> RolloutBatch:
        """The same with what is known of each answer's tokens: name -> of each answer, float32 [A]."""
        known = {
            name: np.asarray([table[r][p] for r, p in zip(self.row_rollout, self.place, strict=True)], dtype=np.float32)
            for name, table in tables.items()
        }
        return dataclasses.replace(self, known={**self.known, **known})

    def spread(self, values_M: Floats, tables: Sequence[Floats]) -> None:
        """The other way: put a number per scored row into tables [A] of each answer."""
        for rollout, place, value in zip(self.row_rollout, self.place, values_M, strict=True):
            tables[rollout][place] = value

    @property
    def row_rollout(self) -> Ints:
        """Which of the answers each scored row belongs to, [M]."""
        return self.rollout[self.row_owner]


def packed(
    rollouts: Sequence[Rollout],
    chosen: Sequence[int],
    weights: Sequence[float],
    budget_tokens: int,
    call_tokens: int | None,
) -> tuple[RolloutBatch, ...]:
    """Micro-batches of at most `budget_tokens` tokens, in order; a longer answer gets one of its own.

    Args:
        chosen: which of the answers; those to one prompt stand together.
        weights: of a token of each answer.
        call_tokens: as in `luthier.data.prefix.shared`; None shares nothing.
    """
    made: list[RolloutBatch] = []
    held: list[int] = []
    tokens, asked = 0, -1
    for index in chosen:
        each = rollouts[index]
        own = len(each.answer) - 1
        whole = own + len(each.prompt)
        more = own if each.uid == asked and call_tokens is not None else whole
        if held and tokens + more > budget_tokens:
            made += _fitting(rollouts, held, weights, budget_tokens, call_tokens)
            held, tokens, more = [], 0, whole
        held.append(index)
        tokens, asked = tokens + more, each.uid
    return (*made, *_fitting(rollouts, held, weights, budget_tokens, call_tokens)) if held else tuple(made)


def _fitting(
    rollouts: Sequence[Rollout],
    chosen: Sequence[int],
    weights: Sequence[float],
    budget_tokens: int,
    call_tokens: int | None,
) -> list[RolloutBatch]:
    """One micro-batch; or two, where so little is shared that some of it had to be repeated and did not fit."""
    batch = _batch(rollouts, chosen, weights, call_tokens)
    if batch.num_tokens <= budget_tokens or len(chosen) == 1:
        return [batch]
    half = len(chosen) // 2
    parts = (chosen[:half], chosen[half:])
    return [each for part in parts for each in _fitting(rollouts, part, weights, budget_tokens, call_tokens)]


def _batch(
    rollouts: Sequence[Rollout], chosen: Sequence[int], weights: Sequence[float], call_tokens: int | None
) -> RolloutBatch:
    answers = [rollouts[index] for index in chosen]
    sequences = [each.computed for each in answers]
    stretches = prefix.apart(sequences) if call_tokens is None else prefix.shared(sequences, call_tokens)
    whole = pack.assemble([_rendered(number, each) for number, each in enumerate(answers)], stretches)
    parts = []
    reached = pack.rows_to(stretches, whole.segments.start, whole.segments.end)
    for stretch, rows in zip(stretches, reached, strict=True):
        for owner in stretch.ends:
            each = answers[owner]
            count = len(each.answer)
            own = rows[len(each.prompt) - 1 :]
            parts.append((own, each.answer.astype(np.int64), np.full(count, owner), np.arange(count)))
    rows, targets, owners, places = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((owners, rows))
    rows, targets, owners, places = (column[order] for column in (rows, targets, owners, places))
    scale = np.asarray([weights[index] for index in chosen], dtype=np.float32)
    fields = {field.name: getattr(whole, field.name) for field in dataclasses.fields(Batch)}
    fields |= {
        "rows": rows,
        "targets": targets,
        "row_owner": owners,
        "weights": {POLICY: scale[owners]},
        "uid": np.asarray([each.uid for each in answers], dtype=np.int64),
    }
    return RolloutBatch(**fields, rollout=np.asarray(chosen, dtype=np.int64), place=places)


def _rendered(number: int, each: Rollout) -> Rendered:
    weights = np.zeros(len(each.prompt) + len(each.answer), dtype=np.float32)
    weights[len(each.prompt) :] = 1
    return Rendered(number, np.concatenate([each.prompt, each.answer]), weights)


def largest(
    prompt: NDArray[np.int32], new_tokens: int, budget_tokens: int, samples: int, names: Sequence[str]
) -> RolloutBatch:
    """A micro-batch no smaller than any that comes: answers to the longest prompt, as long as they may be.

    Args:
        samples: most answers in a step.
        names: of what is known of each row.
    """
    answer = np.resize(prompt, new_tokens)
    logp = np.zeros(new_tokens, dtype=np.float32)
    whole = len(prompt) + new_tokens - 1
    count = max(min(samples, budget_tokens // whole), 1)
    rollouts = [Rollout(0, prompt, answer, logp, True)] * count
    batch = _batch(rollouts, range(count), [1.0] * count, None)
    ones = np.ones(len(batch.rows), dtype=np.float32)
    return dataclasses.replace(batch, known=dict.fromkeys(names, ones))
