"""The order of examples: every one as often as promised, the same for the same seed, from any step on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stores
import toy_tokenizers as toy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.config.schema import RunConfig
from luthier.data import pack
from luthier.data.formats import Chat, Message
from luthier.data.sequences import Sequences
from luthier.data.stream import Stream, mixed, split_from
from luthier.data.templates import load_renderer
from luthier.errors import DataError

Make = Callable[..., Sequences]


@pytest.fixture(scope="module")
def store_of(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`store_of(10, 5)`: ten rows of source 0 and five of source 1."""
    folder = toy.save(toy.chatml(), tmp_path_factory.mktemp("model"))
    config = RunConfig.model_validate({"model": "m", "data": {"train": "-"}})
    renderer = load_renderer(folder, config)
    cache = tmp_path_factory.mktemp("cache")
    made: dict[Any, Sequences] = {}

    def make(*rows: int, weight: float = 1.0) -> Sequences:
        if (rows, weight) not in made:
            below = cache / f"{rows}-{weight}"
            built = [
                stores.build(
                    [
                        Chat((Message("user", "Hello"), Message("assistant", "a" * (1 + number % 7), weight)))
                        for number in range(count)
                    ],
                    renderer,
                    below,
                    source=source,
                )
                for source, count in enumerate(rows)
            ]
            made[rows, weight] = stores.sequences(config, *built)
        return made[rows, weight]

    return make


def stream(store: Sequences, **settings_: Any) -> Stream:
    given_ = {"batch": 4, "epochs": 1.0, "steps": None, "seed": 0, "budget_tokens": 64, **settings_}
    return Stream(store, **given_)


def uids(stream_: Stream) -> list[int]:
    return [uid for index in range(stream_.num_steps) for uid in stream_.step_uids(index)[1]]


def test_an_epoch_holds_every_example_once_and_keeps_its_short_last_step(store_of: Make) -> None:
    made = stream(store_of(10), epochs=2.0)
    assert (made.steps_per_epoch, made.num_steps) == (3, 6)
    steps = [made.step(index) for index in range(6)]
    assert [len(step.uids) for step in steps] == [4, 4, 2, 4, 4, 2]
    assert [step.epoch for step in steps] == [0, 0, 0, 1, 1, 1]
    epochs = [[uid for step in steps[start : start + 3] for uid in step.uids] for start in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1] and epochs[0] != list(range(10))


def test_a_step_is_what_its_examples_are(store_of: Make) -> None:
    store = store_of(10, weight=0.3)
    made = stream(store).step(1)
    assert made.index == 1 and made.denom == {"nll": pytest.approx(sum(store.loss_weight[list(made.uids)]))}
    assert made.denom["nll"] == pytest.approx(sum(float(batch.weights["nll"].sum()) for batch in made.micro))
    assert sorted({int(uid) for batch in made.micro for uid in batch.uid}) == sorted(made.uids)
    assert made.tokens == sum(batch.num_tokens for batch in made.micro) == int(store.computed[list(made.uids)].sum())
    assert all(batch.num_tokens <= 64 for batch in made.micro) and len(made.micro) > 1


def test_any_step_can_be_asked_for_first(store_of: Make) -> None:
    """A resumed run makes the steps that the uninterrupted one would have made."""
    arguments = {"epochs": 3.0, "seed": 5, "source_weights": [1.0, 0.5]}
    straight = stream(store_of(10, 7), **arguments)
    order = [straight.step_uids(index) for index in range(straight.num_steps)]
    for index in reversed(range(straight.num_steps)):
        assert stream(store_of(10, 7), **arguments).step_uids(index) == order[index]
    with pytest.raises(AssertionError):
        straight.step_uids(straight.num_steps)


def test_the_seed_and_nothing_else_decides_the_order(store_of: Make) -> None:
    store = store_of(40)
    assert uids(stream(store, seed=1)) != uids(stream(store, seed=2))
    assert uids(stream(store, seed=1)) == uids(stream(store, seed=1, budget_tokens=9999, batch=7))
    # Raw Philox words are promised never to change; neither may this.
    assert uids(stream(store_of(10), seed=3)) == GOLDEN_ORDER


GOLDEN_ORDER = [4, 5, 0, 1, 3, 7, 2, 8, 9, 6]


def test_an_unrolled_conversation_stays_together(store_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences 3, 4, 5 and 7, 8 are of one conversation each; all rows come twice in an epoch, and in another order
    than the other time."""
    store = store_of(10)
    monkeypatch.setattr(store, "conversations", np.asarray([0, 1, 2, 3, 3, 3, 4, 5, 5, 6]))
    for seed in range(5):
        order = uids(stream(store, seed=seed, source_weights=[2.0]))
        assert sorted(order) == sorted([*range(10)] * 2)
        text = "".join(map(str, order))
        assert text.count("345") == text.count("78") == 2 and "345345" not in text
    assert len({tuple(uids(stream(store, seed=seed))) for seed in range(5)}) == 5
    # Those that stand alone are where they were.
    monkeypatch.setattr(store, "conversations", np.arange(10))
    assert uids(stream(store, seed=3)) == GOLDEN_ORDER


def test_steps_take_the_place_of_epochs(store_of: Make) -> None:
    made = stream(store_of(10), steps=8, epochs=1.0)
    assert made.num_steps == 8 and made.step(7).epoch == 2
    assert uids(made)[:10] == uids(stream(store_of(10)))


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 2), (0.01, 1), (1.5, 5), (2.0, 6), (0.1 + 0.2, 1)])
def test_parts_of_an_epoch(store_of: Make, epochs: float, steps: int) -> None:
    assert stream(store_of(10), epochs=epochs).num_steps == steps


# ------------------------------------------------------------------------------------------------ source weights


def epoch_counts(made: Stream, epochs: int) -> list[Counter[int]]:
    counts = [Counter[int]() for _ in range(epochs)]
    for index in range(made.num_steps):
        epoch, seen = made.step_uids(index)
        counts[epoch].update(seen)
    return counts


def test_weight_two_comes_twice_in_every_epoch(store_of: Make) -> None:
    for counts in epoch_counts(stream(store_of(6, 4), epochs=3.0, source_weights=[2.0, 1.0]), 3):
        assert [counts[uid] for uid in range(10)] == [2] * 6 + [1] * 4


def test_weight_a_half_comes_by_turns(store_of: Make) -> None:
    counts = epoch_counts(stream(store_of(6, 4), epochs=4.0, source_weights=[1.0, 0.5]), 4)
    for first, second in ((0, 1), (2, 3)):
        halves = [{uid for uid in range(6, 10) if counts[epoch][uid]} for epoch in (first, second)]
        assert len(halves[0]) == len(halves[1]) == 2 and halves[0] | halves[1] == {6, 7, 8, 9}
    assert all(counts[epoch][uid] == 1 for epoch in range(4) for uid in range(6))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.25]), min_size=2, max_size=2), st.integers(1, 5))
def test_rows_of_a_source_come_equally_often(store_of: Make, weights: list[float], epochs: int) -> None:
    """After any number of epochs two rows of one source differ by one appearance at most, and their number is exact."""
    made = stream(store_of(10, 20), epochs=float(epochs), source_weights=weights, batch=3)
    total = Counter(uids(made))
    for rows, weight in ((range(10), weights[0]), (range(10, 30), weights[1])):
        seen = [total[uid] for uid in rows]
        assert max(seen) - min(seen) <= 1
        assert abs(sum(seen) - weight * len(rows) * epochs) < 1
    assert made.per_source_counts == {
        0: sum(total[uid] for uid in range(10)),
        1: sum(total[uid] for uid in range(10, 30)),
    }


def test_counts_of_a_run_that_ends_within_an_epoch(store_of: Make) -> None:
    made = stream(store_of(10, 20), steps=5, source_weights={1: 0.5})
    total = Counter(0 if uid < 10 else 1 for uid in uids(made))
    assert made.per_source_counts == dict(total)


def test_epochs_that_draw_nothing_are_passed_over(store_of: Make) -> None:
    made = stream(store_of(10), steps=3, source_weights=[0.01], batch=1)
    assert [made.step_uids(index)[0] for index in range(3)] == [9, 19, 29]
    assert made.steps_per_epoch == 1


@pytest.mark.parametrize(
    ("rows", "weights", "temperature", "most", "often"),
    [
        ([100, 10], [1.0, 1.0], 1.0, None, [1.0, 1.0]),
        ([100, 10], [1.0, 3.0], 1.0, None, [1.0, 3.0]),
        ([100, 10], [1.0, 3.0], 1.0, 2.0, [1.0, 2.0]),
        # Shares 10 : 1 become sqrt(10) : 1, so 110 rows are 83.57 and 26.43, in whole rows.
        ([100, 10], [1.0, 1.0], 2.0, None, [0.84, 2.6]),
        ([100, 10], [1.0, 2.0], 2.0, 4.0, [0.74, 4.0]),
        ([100, 0, 10], [1.0, 5.0, 1.0], 1e9, None, [0.55, 1.0, 5.5]),
    ],
)
def test_temperature_evens_sources_out_and_repeats_have_a_limit(rows, weights, temperature, most, often) -> None:
    assert mixed(rows, weights, temperature, most) == pytest.approx(often, rel=1e-5)


def test_an_evened_epoch_with_weights_is_as_long_as_without_temperature() -> None:
    often = mixed([1000, 10], [1, 10], 2.0)
    assert 1000 * often[0] + 10 * often[1] == pytest.approx(1100, abs=1)


def test_an_evened_epoch_is_as_long_as_before(store_of: Make) -> None:
    plain, evened = stream(store_of(90, 10)), stream(store_of(90, 10), source_weights=mixed([90, 10], [1, 1], 2.0))
    assert plain.num_steps == evened.num_steps
    assert evened.per_source_counts == {0: 75, 1: 25}, "sqrt(90) : sqrt(10) is 3 : 1"


# ---------------------------------------------------------------------------------------------------- the rest


def test_the_recipe_decides(store_of: Make) -> None:
    recipe = {
        "model": "m",
        "data": {"train": ["a", {"path": "b", "weight": 2}]},
        "optim": {"batch": 5, "epochs": 2},
        "run": {"seed": 9},
    }
    made = Stream.of(store_of(10, 5), RunConfig.model_validate(recipe), 128)
    same = stream(store_of(10, 5), batch=5, epochs=2.0, seed=9, source_weights=[1.0, 2.0], budget_tokens=128)
    assert (made.num_steps, uids(made)) == (8, uids(same))


def test_a_step_without_weight_is_refused(store_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(10)
    monkeypatch.setattr(store, "loss_weight", np.zeros(10, dtype=np.float32))
    with pytest.raises(DataError, match="step 2"):
        stream(store).step(2)


def test_validation_batches_hold_the_store_once_and_can_be_read_again(store_of: Make, tmp_path: Path) -> None:
    store = store_of(30)
    made = pack.batches(store, 50)
    for _ in range(2):
        seen = sorted(int(uid) for batch in made for uid in batch.uid)
        assert seen == list(range(30))
    assert len(made) == len(list(made)) > 1 and len(made[1:3]) == 2
    assert all(batch.num_tokens <= 50 for batch in made)
    assert sum(float(batch.weights["nll"].sum()) for batch in made) == float(store.loss_weight.sum())


def test_the_largest_step_is_known_beforehand(store_of: Make) -> None:
    for settings_ in ({"epochs": 2.5}, {"steps": 7}, {"steps": 1}, {"batch": 100}):
        asked = stream(store_of(13, 6), source_weights=(1.0, 0.5), **settings_)
        steps = [asked.step(index) for index in range(asked.num_steps)]
        assert asked.most_tokens == max(step.tokens for step in steps)
        whole = stream(store_of(13, 6), source_weights=(1.0, 0.5), **settings_, budget_tokens=asked.most_tokens)
        assert all(len(whole.step(index).micro) == 1 for index in range(whole.num_steps))


@pytest.mark.parametrize("budget", [7, 20, 33, 64, 1000])
def test_no_micro_batch_is_larger_than_the_one_that_is_rehearsed(store_of: Make, budget: int) -> None:
    for batch in (1, 4, 100):
        asked = stream(store_of(13, 6), batch=batch, budget_tokens=budget)
        micro = [each for index in range(asked.num_steps) for each in asked.step(index).micro]
        rehearsed = asked.largest(2 % asked.num_steps, whole=False)
        (made,) = rehearsed.micro
        longest = np.sort(store_of(13, 6).computed)[::-1][:batch]
        assert max(each.num_tokens for each in micro) <= made.num_tokens == rehearsed.tokens
        assert made.num_tokens == min(int(longest.sum()), max(budget, int(longest[0])))
        assert rehearsed.denom["nll"] == pytest.approx(float(made.weights["nll"].sum())) and len(made.segments) <= batch
    whole = stream(store_of(13, 6), budget_tokens=1000)
    assert whole.largest(0, whole=True).tokens == whole.most_tokens


@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, 1.0), (1.0, 0.7), (1.0, 3.4)])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_no_step_has_more_than_is_planned_for(store_of: Make, batch: int, weights: tuple[float, ...]) -> None:
    """Rows that come several times in an epoch included."""
    store = store_of(13, 6)
    asked = stream(store, batch=batch, epochs=10.0, budget_tokens=10**6, source_weights=weights)
    tokens, scored = asked.fullest_tokens
    micro = [each for index in range(asked.num_steps) for each in asked.step(index).micro]
    most = max(each.num_tokens for each in micro)
    assert most <= tokens and max(len(each.rows) for each in micro) <= scored <= tokens
    rehearsed = asked.largest(0, whole=False)
    assert rehearsed.tokens == tokens and len(rehearsed.micro[0].rows) <= scored
    if weights == (1.0, 1.0):
        longest = np.sort(store.computed)[::-1][:batch]
        assert tokens == longest.sum()


def test_a_budget_holds_from_its_step_on(store_of: Make) -> None:
    assert split_from(((0, 64),), 2, 32) == ((0, 64), (2, 32))
    assert split_from(((0, 64), (2, 32)), 2, 16) == ((0, 64), (2, 16))
    assert split_from(((0, 64), (5, 32)), 2, 48) == ((0, 64), (2, 48), (5, 32)), "what is planned for later stands"
    assert split_from(((0, 64), (5, 32)), 0, 16) == ((0, 16),)
    large, small, both = (stream(store_of(24), budget_tokens=each) for each in (64, 20, ((0, 64), (3, 20))))
    for index in range(6):
        expected = (large if index < 3 else small).step(index)
        found = both.step(index)
        assert found.uids == expected.uids and found.denom == expected.denom
        assert [batch.ids.tolist() for batch in found.micro] == [batch.ids.tolist() for batch in expected.micro]
    assert len(large.step(4).micro) < len(small.step(4).micro)
    large.split(((0, 64), (3, 20)))
    assert len(large.step(4).micro) == len(small.step(4).micro)


def keys(batch: Any) -> list[tuple[int, int]]:
    """(key, position) of every token."""
    return list(zip(batch.key.tolist(), batch.positions.tolist(), strict=True))


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_order_and_denominators_do_not_depend_on_the_number_of_ranks(store_of: Make, ranks: int) -> None:
    """Each example of a step is computed by exactly one rank, and every rank makes as many micro-batches."""
    store = store_of(10, 5)
    alone = stream(store, batch=6, epochs=2.0)
    each = [stream(store, batch=6, epochs=2.0, share=(rank, ranks)) for rank in range(ranks)]
    assert {made.num_steps for made in each} == {alone.num_steps}
    for index in range(alone.num_steps):
        whole, steps = alone.step(index), [made.step(index) for made in each]
        assert {(step.uids, step.epoch, step.tokens, step.denom["nll"]) for step in steps} == {
            (whole.uids, whole.epoch, whole.tokens, whole.denom["nll"])
        }
        assert len({len(step.micro) for step in steps}) == 1
        real = [batch for step in steps for batch in step.micro if batch.weights["nll"].any()]
        computed = sorted(key for batch in real for key in keys(batch))
        expected = [key for batch in whole.micro for key in keys(batch)]
        assert computed == sorted(expected)
        fillers = [batch for step in steps for batch in step.micro if not batch.weights["nll"].any()]
        assert all(batch.num_tokens == 1 for batch in fillers)
