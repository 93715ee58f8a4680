"""Micro-batches: nothing lost, nothing mixed, nothing computed that is not learnt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.batch import Batch, Rendered
from luthier.data import pack


def sequence(uid: int, weights: list[float]) -> Rendered:
    values = np.asarray([0.0, *weights], dtype=np.float32)
    return Rendered(uid, np.arange(1000 * uid, 1000 * uid + len(values), dtype=np.int32), values)


WEIGHTS = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.0]), min_size=1, max_size=20).filter(any)
EXAMPLES = st.lists(WEIGHTS, min_size=1, max_size=25).map(lambda all_: [sequence(u, w) for u, w in enumerate(all_)])


def test_one_batch_by_hand() -> None:
    """Two sequences; the first learns its tokens 1 and 3 of 5, the second its token 2 of 3."""
    first = Rendered(7, np.asarray([10, 11, 12, 13, 14], np.int32), np.asarray([0, 1, 0, 0.5, 0], np.float32))
    second = Rendered(4, np.asarray([20, 21, 22], np.int32), np.asarray([0, 0, 2], np.float32))
    batch = pack.assemble([first, second])
    assert batch.ids.tolist() == [10, 11, 12, 20, 21], "13 and 22 are targets only, 14 is behind the last learnt token"
    assert batch.positions.tolist() == [0, 1, 2, 0, 1]
    assert batch.prev.tolist() == [-1, 0, 1, -1, 3]
    assert batch.uid.tolist() == [7, 4] and len(set(batch.key.tolist())) == 5
    assert (batch.segments.start.tolist(), batch.segments.end.tolist()) == ([0, 3], [3, 5])
    assert batch.segments.parent.tolist() == [-1, -1] and batch.segments.adapter.tolist() == [0, 0]
    assert batch.segments.owner.tolist() == batch.segments.group.tolist() == [0, 1]
    assert batch.rows.tolist() == [0, 2, 4] and batch.targets.tolist() == [11, 13, 22]
    assert batch.row_owner.tolist() == [0, 0, 1]
    assert batch.weights["nll"].tolist() == [1.0, 0.5, 2.0]
    assert batch.per_owner == {} and batch.inject is None and batch.num_tokens == 5
    for array in (batch.ids, batch.positions, batch.prev, batch.key, batch.rows, batch.targets, batch.row_owner):
        assert array.dtype == np.int64
    assert batch.weights["nll"].dtype == np.float32


def learnt(batch: Batch) -> list[tuple[int, int, int, float, tuple[int, ...]]]:
    """(uid, position, target, weight, everything before it) of each scored row, read off the batch alone."""
    found = []
    for row, target, weight, owner in zip(
        batch.rows, batch.targets, batch.weights["nll"], batch.row_owner, strict=True
    ):
        segment = int(np.searchsorted(batch.segments.end, row, side="right"))
        assert batch.segments.owner[segment] == owner
        before = tuple(batch.ids[batch.segments.start[segment] : row + 1].tolist())
        found.append((int(batch.uid[owner]), int(batch.positions[row]), int(target), float(weight), before))
    return found


@settings(max_examples=150, deadline=None)
@given(EXAMPLES, st.integers(1, 80))
def test_the_union_of_micro_batches_is_the_step(examples: list[Rendered], budget: int) -> None:
    micro = pack.microbatches(examples, budget)
    expected = [
        (e.uid, t - 1, int(e.ids[t]), float(e.weights[t]), tuple(e.ids[:t].tolist()))
        for e in examples
        for t in np.flatnonzero(e.weights)
    ]
    assert sorted(each for batch in micro for each in learnt(batch)) == sorted(expected)
    assert sum(batch.weights["nll"].sum() for batch in micro) == sum(e.weights.sum() for e in examples)


@settings(max_examples=150, deadline=None)
@given(EXAMPLES, st.integers(1, 80))
def test_each_micro_batch_is_well_formed(examples: list[Rendered], budget: int) -> None:
    seen: list[int] = []
    for batch in pack.microbatches(examples, budget):
        segments = batch.segments
        assert batch.num_tokens <= budget or len(segments) == 1, "only a single long example may exceed the budget"
        assert segments.start[0] == 0 and segments.end[-1] == batch.num_tokens
        assert (segments.start[1:] == segments.end[:-1]).all()
        lengths = segments.end - segments.start
        assert (np.diff(lengths) <= 0).all(), "equal lengths stand side by side"
        assert (np.diff(batch.rows) > 0).all()
        assert (batch.prev[batch.positions > 0] == np.flatnonzero(batch.positions > 0) - 1).all()
        assert (batch.prev[batch.positions == 0] == -1).all()
        seen += batch.uid.tolist()
    assert sorted(seen) == [example.uid for example in examples]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 60))
def test_grouping_is_first_fit_decreasing(lengths: list[int], budget: int) -> None:
    """Against the textbook algorithm, group by group."""
    bins: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        for bin_ in bins:
            if sum(bin_) + length <= budget:
                bin_.append(length)
                break
        else:
            bins.append([length])
    made = pack.groups(np.asarray(lengths, dtype=np.int64), budget)
    assert [[lengths[index] for index in group] for group in made] == bins
    assert sorted(index for group in made for index in group) == list(range(len(lengths)))


def test_grouping_is_deterministic_and_stable() -> None:
    lengths = np.asarray([5, 3, 5, 3, 5, 3], dtype=np.int64)
    assert pack.groups(lengths, 8) == pack.groups(lengths, 8) == [[0, 1], [2, 3], [4, 5]]
    assert pack.groups(lengths, 100) == [[0, 2, 4, 1, 3, 5]]
    assert pack.groups(lengths, 1) == [[0], [2], [4], [1], [3], [5]]


def test_many_sequences_are_grouped_quickly_enough_to_be_no_matter() -> None:
    lengths = np.random.default_rng(0).integers(1, 2048, 20_000)
    made = pack.groups(lengths, 4096)
    assert sum(map(len, made)) == 20_000
    assert len(made) <= 1.01 * lengths.sum() / 4096 + 1


def test_a_sequence_without_learnt_token_is_our_own_fault() -> None:
    with pytest.raises(AssertionError):
        pack.microbatches([sequence(0, [0.0, 0.0])], 10)
