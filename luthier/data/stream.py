"""The order in which examples are learnt.

What goes in: a token store and the recipe's numbers. What comes out: optimizer steps, each a pure function of (seed,
step): a resumed run asks for the steps it has not made. Within an epoch every example of a source of weight 1 comes
exactly once; the last, short step of an epoch is kept. The sequences of a conversation that was unrolled stay together,
as they would in one sequence: they repeat what came before, and a step computes that once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from luthier.batch import EXAMPLES, TERM, Batch, Ints, Rendered, Step
from luthier.config.schema import RunConfig
from luthier.data import pack
from luthier.data.sequences import Sequences
from luthier.errors import DataError, Problem

Budgets = tuple[tuple[int, int], ...]
"""(step, tokens), steps ascending from 0: from that step on a micro-batch holds at most so many tokens."""
SHUFFLE, SOURCE = 1, 2
"""First words of the Philox keys, so that no two uses of one seed share a random stream."""


def mixed(
    rows: Sequence[int], weights: Sequence[float], temperature: float = 1.0, max_repeats: float | None = None
) -> list[Fraction]:
    """How often a row of each source comes per epoch: its weight, evened out by the temperature, at most `max_repeats`.

    With temperature T the sources' shares are proportional to rows^(1/T), and an epoch is as long as without.
    """
    if temperature == 1:
        often = [Fraction(repr(float(weight))) for weight in weights]  # decimal fractions as written
    else:
        evened = [count ** (1 / temperature) for count in rows]
        plain, even = (sum(w * n for w, n in zip(weights, each, strict=True)) for each in (rows, evened))
        scale = plain / max(even, 1e-30)
        # Whole rows per epoch.
        often = [
            Fraction(max(round(weight * scale * share), 1), max(count, 1))
            for weight, share, count in zip(weights, evened, rows, strict=True)
        ]
    return often if max_repeats is None else [min(each, Fraction(repr(float(max_repeats)))) for each in often]


def budget_at(budgets: Budgets, step: int) -> int:
    return next(tokens for first, tokens in reversed(budgets) if first <= step)


def split_from(budgets: Budgets, step: int, tokens: int) -> Budgets:
    """Another budget from a step on; what is planned for later stands where it is smaller."""
    before = [(first, most) for first, most in budgets if first < step]
    later = [(first, most) for first, most in budgets if first > step and most < tokens]
    return (*before, (step, tokens), *later)


def most_times(weights: Iterable[Fraction]) -> int:
    """How often a row comes in an epoch at most, by how often the rows of its source come on average. Where that is no
    whole number, an epoch has the end of one pass over the source and the beginning of another."""
    return max((int(each) if each.denominator == 1 else math.ceil(each) + 1 for each in weights), default=1) or 1


class Stream:
    """Optimizer steps over a store.

    Args:
        batch: examples per step (`Sequences.firsts`).
        epochs: passes over the data, fractions allowed; ignored where `steps` is given.
        source_weights: source index -> how often its rows come per epoch. 2: twice. 0.5: half of them in one epoch and
            the other half in the next. Absent: once.
        budget_tokens: tokens per micro-batch; or, where that changes on the way, `Budgets`.
        call_tokens: what has to be saved for examples to share their beginnings (`luthier.data.prefix.shared`).
        share: (rank, ranks): which of how many processes asks; each gets its own micro-batches of every step.
    """

    def __init__(  # noqa: PLR0913  one parameter for each thing that decides the steps
        self,
        store: Sequences,
        *,
        batch: int,
        epochs: float,
        steps: int | None,
        seed: int,
        source_weights: Sequence[Fraction | float] | Mapping[int, Fraction | float] = (),
        budget_tokens: int | Budgets,
        call_tokens: int | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self._store = store
        self._rank, self._ranks = share
        self._batch = batch
        self._seed = seed
        self._budgets: Budgets = ((0, budget_tokens),) if isinstance(budget_tokens, int) else budget_tokens
        self._call_tokens = call_tokens
        given = dict(source_weights) if isinstance(source_weights, Mapping) else dict(enumerate(source_weights))
        # Examples go by their first sequence.
        sources = store.sources[store.firsts]
        self._rows: dict[int, Ints] = {int(source): store.firsts[sources == source] for source in np.unique(sources)}
        # Decimal fractions as written: 0.1 of 30 rows is 3 in every epoch, not 3 or 2 by binary rounding.
        self._weights = {
            source: weight if isinstance(weight, Fraction) else Fraction(repr(float(weight)))
            for source in self._rows
            for weight in (given.get(source, 1.0),)
        }
        # Steps before each epoch, as far as they have been asked for.
        self._steps_before = [0]
        self._order: tuple[int, Ints] | None = None
        self.num_steps = steps if steps is not None else self._steps_in(Fraction(repr(float(epochs))))

    @classmethod
    def of(
        cls,
        store: Sequences,
        config: RunConfig,
        budget_tokens: int | Budgets,
        call_tokens: int | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> Stream:
        """The stream that a recipe asks for."""
        return cls(
            store,
            batch=config.optim.batch,
            epochs=config.optim.epochs,
            steps=config.optim.steps,
            seed=config.run.seed,
            source_weights=mixed(
                np.bincount(store.sources, minlength=len(config.data.train)).tolist(),
                [source.weight for source in config.data.train],
                config.data.temperature,
                config.data.max_repeats,
            ),
            budget_tokens=budget_tokens,
            call_tokens=call_tokens,
            share=share,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the first epoch; epochs differ by a step at most, where a source weight has a fraction."""
        return max(self._steps_of(0), 1)

    @property
    def most_tokens(self) -> int:
        """Tokens of the largest step, whatever its examples share."""
        return self._largest_step()[1]

    @property
    def fullest_tokens(self) -> tuple[int, int]:
        """No micro-batch has more, whatever the budget; nor more that carry loss."""
        fullest, store = self._fullest, self._store
        tokens, scored = (int(pack.largest(each, *fullest).sum()) for each in (store.computed, store.learnt))
        return tokens, scored

    @property
    def _fullest(self) -> tuple[int, int]:
        """Sequences of a step, and how often one of them comes, at most."""
        of_example = int(np.diff(self._store.firsts, append=len(self._store)).max())
        return max(of_example * self._batch, 1), most_times(self._weights.values())

    @property
    def per_source_counts(self) -> dict[int, int]:
        """Source index -> how many times one of its rows comes during the whole run."""
        counts = dict.fromkeys(self._rows, 0)
        for epoch in range(self._epoch_of(self.num_steps - 1) + 1):
            steps = min(self.num_steps, self._before(epoch + 1)) - self._before(epoch)
            seen = self._store.sources[self._epoch_order(epoch)[: steps * self._batch]]
            for source, count in zip(*np.unique(seen, return_counts=True), strict=True):
                counts[int(source)] += int(count)
        return counts

    def step(self, index: int) -> Step:
        """The step's examples, packed: this process's share of them, in as many micro-batches as every other has.

        Raises:
            DataError: nothing in the step has any weight.
        """
        epoch, firsts = self.step_uids(index)
        uids = tuple(uid for first in firsts for uid in self._members(first))
        weight = math.fsum(float(self._store.loss_weight[uid]) for uid in uids if self._store.sides[uid] >= 0)
        judged = {EXAMPLES: float(len(firsts))} if self._store.judged else {}
        if judged and not weight > 0:
            weight = 1.0  # of judged answers none is to be imitated
        if not weight > 0:
            raise DataError(Problem("tokens.empty_step", values={"step": index}))
        members = [[self._store[uid] for uid in self._members(first)] for first in firsts]
        lengths = self._computed(np.asarray(firsts))
        micro = self._micro(members, lengths, budget_at(self._budgets, index))
        denom = {TERM: weight, **judged}
        return Step(index=index, epoch=epoch, uids=uids, micro=micro, denom=denom, tokens=int(lengths.sum()))

    def _members(self, first: int) -> Sequence[int]:
        return self._store.members(first) if self._store.judged else (first,)

    def _computed(self, firsts: Ints) -> Ints:
        """Tokens that enter the model of each example, whatever its sequences share."""
        computed: Any = self._store.computed
        if not self._store.judged:
            return np.asarray(computed[firsts], dtype=np.int64)
        sums = [int(computed[list(self._members(int(each)))].sum()) for each in firsts]
        return np.asarray(sums, dtype=np.int64)

    def _micro(self, members: Sequence[Sequence[Rendered]], lengths: Ints, budget: int) -> tuple[Batch, ...]:
        shares = [[each for at in share for each in members[at]] for share in pack.shared_out(lengths, self._ranks)]
        own = shares[self._rank]
        micro = pack.microbatches(own, budget, self._call_tokens) if own else ()
        if self._ranks == 1:
            return micro
        others = [share for rank, share in enumerate(shares) if rank != self._rank]
        most = max(len(micro), *(pack.count(share, budget, self._call_tokens) for share in others))
        return (*micro, *[pack.filler(members[0][0])] * (most - len(micro)))

    def split(self, budgets: Budgets) -> None:
        """Pack steps by these budgets from now on. Which examples form a step does not change."""
        self._budgets = budgets

    def largest(self, index: int, whole: bool) -> Step:
        """One micro-batch, no smaller than any that comes from step `index` on. whole: steps are never split, so that
        it is the largest of them."""
        if whole:
            return self.step(self._largest_step()[0])
        batch = pack.fullest(self._store, budget_at(self._budgets, index), *self._fullest)
        uids = tuple(int(uid) for uid in np.unique(batch.uid))
        denom = {TERM: float(batch.weights[TERM].sum(dtype="float64"))}
        if self._store.judged:
            denom[EXAMPLES] = float(self._batch)
        return Step(index=index, epoch=0, uids=uids, micro=(batch,), denom=denom, tokens=batch.num_tokens)

    def step_uids(self, index: int) -> tuple[int, tuple[int, ...]]:
        """Epoch and examples of a step, in order, each by its first sequence."""
        assert 0 <= index < self.num_steps, f"step {index} of {self.num_steps}"
        epoch = self._epoch_of(index)
        start = (index - self._before(epoch)) * self._batch
        return epoch, tuple(int(uid) for uid in self._epoch_order(epoch)[start : start + self._batch])

    # ------------------------------------------------------------------------------------------------- epochs

    def _largest_step(self) -> tuple[int, int]:
        """Which step is the largest, and its computed tokens."""
        found = 0, 0
        for epoch in range(self._epoch_of(self.num_steps - 1) + 1):
            steps = min(self.num_steps, self._before(epoch + 1)) - self._before(epoch)
            tokens = self._computed(self._epoch_order(epoch)[: steps * self._batch])
            sums = np.add.reduceat(tokens, np.arange(0, len(tokens), self._batch))
            index = int(sums.argmax())
            if sums[index] > found[1]:
                found = self._before(epoch) + index, int(sums[index])
        return found

    def _drawn(self, source: int, epoch: int) -> int:
        """Rows drawn from a source before an epoch."""
        return math.floor(self._weights[source] * len(self._rows[source]) * epoch)

    def _steps_of(self, epoch: int) -> int:
        size = sum(self._drawn(source, epoch + 1) - self._drawn(source, epoch) for source in self._rows)
        return -(-size // self._batch)

    def _steps_in(self, epochs: Fraction) -> int:
        """Steps of that many epochs; a part of an epoch is rounded up to whole steps, and there is at least one."""
        whole = math.floor(epochs)
        return max(self._before(whole) + math.ceil((epochs - whole) * self._steps_of(whole)), 1)

    def _before(self, epoch: int) -> int:
        """Steps before an epoch."""
        while len(self._steps_before) <= epoch:
            self._steps_before.append(self._steps_before[-1] + self._steps_of(len(self._steps_before) - 1))
        return self._steps_before[epoch]

    def _epoch_of(self, index: int) -> int:
        epoch = 0
        while self._before(epoch + 1) <= index:
            epoch += 1
        return epoch

    def _epoch_order(self, epoch: int) -> Ints:
        """uids of an epoch, shuffled over all sources. The latest is kept."""
        if self._order is None or self._order[0] != epoch:
            drawn = np.concatenate([self._draw(source, epoch) for source in self._rows])
            self._order = epoch, self._shuffled(drawn, SHUFFLE, epoch)
        return self._order[1]

    def _draw(self, source: int, epoch: int) -> Ints:
        """A source's rows for one epoch: the next ones of an endless sequence of shuffled passes over the source."""
        rows = self._rows[source]
        first, end = self._drawn(source, epoch), self._drawn(source, epoch + 1)
        if first == end:
            return np.asarray(rows[:0], dtype=np.int64)
        passes = range(first // len(rows), (end - 1) // len(rows) + 1)
        shuffled = np.concatenate([self._shuffled(rows, SOURCE, source, each) for each in passes])
        offset = passes.start * len(rows)
        return shuffled[first - offset : end - offset]

    def _shuffled(self, rows: Ints, *key: int) -> Ints:
        """The rows ordered by Philox's raw words, keyed by the seed and what they are for.

        A counter-based generator needs no state to resume, and raw words, unlike numpy's `permutation`, are promised
        to stay the same in every version.
        """
        words = np.random.Philox(np.random.SeedSequence([self._seed, *key])).random_raw(len(rows))
        conversations = self._store.conversations
        if conversations is not None:
            # A word for each time that a conversation comes: that of its first sequence.
            times = _times(rows)
            coming = conversations[rows] * (times.max(initial=0) + 1) + times
            _, first, which = np.unique(coming, return_index=True, return_inverse=True)
            return rows[np.lexsort((rows, words[first][which]))]
        return rows[np.argsort(words, kind="stable")]


def _times(rows: Ints) -> Ints:
    """How often each has come before."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    new = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(rows)]
    places = np.arange(len(rows))
    times = np.empty_like(rows)
    times[order] = places - np.maximum.accumulate(np.where(new, places, 0))
    return times
