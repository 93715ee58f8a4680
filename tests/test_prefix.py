"""Beginnings that examples share are computed once, and nothing but the arithmetic is less."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decoder import (
    FAMILY_CASES,
    SETTINGS,
    VOCABULARY,
    _setting,
    assert_same,
    decoder_of,
    everything,
    flop_counter,
    gradients,
    nll,
)
from tiny_models import build
from torch import Tensor

from luthier.arch import flops
from luthier.batch import Batch, Rendered
from luthier.config.schema import Lora
from luthier.data import pack, prefix
from luthier.models.decoder import Decoder

FEW = st.lists(st.integers(0, 1), min_size=1, max_size=8)
"""Of two tokens, so that they have much in common."""
SEQUENCES = st.lists(FEW, min_size=1, max_size=20).map(lambda each: [np.asarray(ids, np.int32) for ids in each])


def rendered(uid: int, ids: list[int], weights: list[float] | None = None) -> Rendered:
    weights = [1.0] * (len(ids) - 1) if weights is None else weights
    return Rendered(uid, np.asarray(ids, np.int32), np.asarray([0.0, *weights], np.float32))


LEARNT = st.lists(
    st.tuples(FEW, st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=9, max_size=9)), min_size=1, max_size=16
).map(
    lambda rows: [rendered(uid, [*ids, 0], [*weights[: len(ids) - 1], 1.0]) for uid, (ids, weights) in enumerate(rows)]
)


# ------------------------------------------------------------------------------------------------------- the tree


@settings(max_examples=300, deadline=None)
@given(SEQUENCES, st.sampled_from([0, 1, 2, 5]))
def test_stretches_make_up_every_example_and_hold_each_beginning_once(sequences: list[Any], call_tokens: int) -> None:
    stretches = prefix.shared(sequences, call_tokens)
    texts: list[tuple[int, ...]] = []
    ended = []
    for index, each in enumerate(stretches):
        assert each.parent < index and each.start < each.end
        assert each.start == (stretches[each.parent].end if each.parent >= 0 else 0)
        before = texts[each.parent] if each.parent >= 0 else ()
        texts.append((*before, *sequences[each.example][each.start : each.end].tolist()))
        for example in each.ends:
            assert texts[-1] == tuple(sequences[example].tolist())
        ended += each.ends
    assert sorted(ended) == list(range(len(sequences)))
    computed = sum(each.end - each.start for each in stretches)
    beginnings = {tuple(ids[:n].tolist()) for ids in sequences for n in range(1, len(ids) + 1)}
    if call_tokens == 0:
        assert computed == len(beginnings)
    assert len(beginnings) <= computed <= sum(map(len, sequences))


def test_a_stretch_has_to_be_worth_its_calls() -> None:
    """Two calls follow and one comes first: three, of ten tokens each, for the tokens that one of two saves."""
    tails = [[1] * 5, [2] * 5]
    for common, separate in ((29, True), (30, False)):
        sequences = [np.asarray([7] * common + tail, np.int32) for tail in tails]
        made = prefix.shared(sequences, 10)
        assert made == (prefix.apart(sequences) if separate else [
            prefix.Stretch(0, 30, 0, -1, ()),
            prefix.Stretch(30, 35, 0, 0, (0,)),
            prefix.Stretch(30, 35, 1, 0, (1,)),
        ])  # fmt: skip


def test_what_is_not_worth_it_at_the_beginning_may_be_further_on() -> None:
    """Eight tokens shared by all three, then 22 more by two of them."""
    ids = [[7] * 8 + [8] * 22 + [1], [7] * 8 + [8] * 22 + [2], [7] * 8 + [3] * 4]
    made = prefix.shared([np.asarray(each, np.int32) for each in ids], 10)
    assert [each[:2] for each in made] == [(0, 30), (30, 31), (30, 31), (0, 12)]
    assert [each.parent for each in made] == [-1, 0, 0, -1]


def test_an_example_that_another_goes_on_from_costs_nothing() -> None:
    made = prefix.shared([np.arange(50, dtype=np.int32), np.arange(40, dtype=np.int32)], 10)
    assert made == [prefix.Stretch(0, 40, 0, -1, (1,)), prefix.Stretch(40, 50, 0, 0, (0,))]


def test_a_deep_chain_needs_no_deep_stack() -> None:
    sequences = [np.arange(n, dtype=np.int32) for n in range(1, 3001)]
    made = prefix.shared(sequences, 0)
    assert len(made) == 3000 and made[-1].parent == 2998
    assert len(prefix.only(made, [0, 2999])) == 2
    examples = [rendered(uid, list(range(n + 1))) for uid, n in enumerate((5, 9, 2000))]
    assert pack.microbatches(examples, 9999, 0)[0].num_tokens == 2000


@settings(max_examples=100, deadline=None)
@given(SEQUENCES)
def test_keys_are_the_same_exactly_where_all_before_is(sequences: list[Any]) -> None:
    by_key: dict[int, tuple[int, ...]] = {}
    for ids in sequences:
        for place, key in enumerate(prefix.keys(ids).tolist()):
            assert by_key.setdefault(key, tuple(ids[: place + 1].tolist())) == tuple(ids[: place + 1].tolist())
    assert len(set(by_key.values())) == len(by_key)


# -------------------------------------------------------------------------------------------------------- packing


def learnt(batch: Batch) -> Counter[tuple[tuple[int, ...], int]]:
    """(all tokens before, target) -> weight; read off the batch by following each row back."""
    found: Counter[tuple[tuple[int, ...], int]] = Counter()
    for row, target, weight in zip(batch.rows.tolist(), batch.targets.tolist(), batch.weights["nll"], strict=True):
        before = []
        while row >= 0:
            before.append(int(batch.ids[row]))
            row = int(batch.prev[row])
        found[tuple(before[::-1]), target] += float(weight)
    return found


@settings(max_examples=300, deadline=None)
@given(LEARNT, st.integers(1, 40), st.sampled_from([0, 1, 3]))
def test_the_union_of_micro_batches_is_the_step(examples: list[Rendered], budget: int, call_tokens: int) -> None:
    expected: Counter[tuple[tuple[int, ...], int]] = Counter()
    for e in examples:
        for t in np.flatnonzero(e.weights):
            expected[tuple(e.ids[:t].tolist()), int(e.ids[t])] += float(e.weights[t])
    found: Counter[tuple[tuple[int, ...], int]] = Counter()
    uids: list[int] = []
    for batch in pack.microbatches(examples, budget, call_tokens):
        found.update(learnt(batch))
        uids += batch.uid.tolist()
        assert batch.num_tokens <= max(budget, *(len(e.ids) - 1 for e in examples))
        pairs = list(zip(batch.rows.tolist(), batch.targets.tolist(), strict=True))
        assert pairs == sorted(set(pairs)), "ascending, and what several examples learn only once"
    assert found == expected
    assert sorted(uids) == [e.uid for e in examples]


@settings(max_examples=200, deadline=None)
@given(LEARNT, st.integers(1, 40), st.sampled_from([0, 1, 3]))
def test_each_micro_batch_is_well_formed(examples: list[Rendered], budget: int, call_tokens: int) -> None:
    whole = {e.uid: prefix.keys(e.ids) for e in examples}
    for batch in pack.microbatches(examples, budget, call_tokens):
        segments = batch.segments
        assert segments.start[0] == 0 and segments.end[-1] == batch.num_tokens
        assert (segments.start[1:] == segments.end[:-1]).all() and (segments.start < segments.end).all()
        assert (segments.parent < np.arange(len(segments))).all()
        later = batch.prev >= 0
        assert (batch.positions[later] == batch.positions[batch.prev[later]] + 1).all()
        assert (batch.positions[~later] == 0).all()
        firsts = np.where(segments.parent >= 0, segments.end[segments.parent] - 1, -1)
        assert (batch.prev[segments.start] == firsts).all()
        for start, end, owner in zip(segments.start, segments.end, segments.owner, strict=True):
            keys = whole[int(batch.uid[owner])]
            assert (batch.key[start:end] == keys[batch.positions[start:end]]).all()


def test_what_shares_a_beginning_goes_into_one_micro_batch() -> None:
    """Two families of three; by length alone they would be mixed."""
    examples = [rendered(uid, [uid % 2] * 40 + [uid] * (5 + uid)) for uid in range(6)]
    micro = pack.microbatches(examples, 70, 0)
    assert sorted(sorted(batch.uid.tolist()) for batch in micro) == [[0, 2, 4], [1, 3, 5]]
    assert sum(batch.num_tokens for batch in micro) == 2 * 40 + sum(4 + uid for uid in range(6))


def test_a_family_beyond_the_budget_is_parted_and_pays_for_its_beginning_again() -> None:
    examples = [rendered(uid, [9] * 40 + [uid] * 11) for uid in range(6)]
    micro = pack.microbatches(examples, 61, 0)
    assert [batch.num_tokens for batch in micro] == [60, 60, 60]


def test_without_anything_in_common_nothing_changes() -> None:
    examples = [rendered(uid, list(range(100 * uid, 100 * uid + 5 + uid % 3))) for uid in range(9)]
    for one, other in zip(pack.microbatches(examples, 20), pack.microbatches(examples, 20, 0), strict=True):
        for name, value in vars(one).items():
            if isinstance(value, np.ndarray):
                assert np.array_equal(value, getattr(other, name)), name


def test_a_row_that_comes_twice_is_learnt_once_with_both_weights() -> None:
    (batch,) = pack.microbatches([rendered(3, [5, 6, 7], [0.5, 1.0]), rendered(3, [5, 6, 7], [0.5, 1.0])], 99, 0)
    assert batch.num_tokens == 2 and batch.uid.tolist() == [3, 3]
    assert batch.rows.tolist() == [0, 1] and batch.weights["nll"].tolist() == [1.0, 2.0]


def test_one_place_may_lead_to_several_tokens() -> None:
    (batch,) = pack.microbatches([rendered(0, [5, 6, 8]), rendered(1, [5, 6, 7]), rendered(2, [5, 9])], 99, 0)
    assert batch.ids.tolist() == [5, 6]
    assert (batch.rows.tolist(), batch.targets.tolist()) == ([0, 0, 1, 1], [6, 9, 7, 8])
    assert batch.weights["nll"].tolist() == [2, 1, 1, 1] and batch.row_owner.tolist() == [0, 2, 1, 0]


# -------------------------------------------------------------------------------------------------- the same step


def family() -> list[Rendered]:
    """Ten examples: two system prompts, a question asked twice, a conversation turn by turn, one row that comes twice.
    Most learn tokens within what they share, with different weights."""
    random = np.random.default_rng(5)

    def draw(n: int) -> list[int]:
        return [int(token) for token in random.integers(0, VOCABULARY, n)]

    first, second, question, turns = draw(12), draw(7), draw(6), [draw(5) for _ in range(4)]
    ids = [
        first + question + draw(8),
        first + question + draw(3),
        first + draw(9),
        *(second + [token for turn in turns[: n + 1] for token in turn] for n in range(4)),
        second + turns[0] + draw(4),
        draw(15),
    ]
    ids.append(ids[2])
    return [
        rendered(uid, each, [float(w) for w in random.choice([0.0, 0.5, 1.0], len(each) - 2)] + [1.0])
        for uid, each in enumerate(ids)
    ]


def results(decoder: Decoder, micro: Sequence[Batch], **options: Any) -> dict[str, Tensor]:
    total = torch.zeros(())
    for batch in micro:
        loss = nll(decoder, batch, **options)
        loss.backward()
        total = total + loss.detach()
    return {"loss": total, **gradients(decoder)}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", [*FAMILY_CASES, "qwen2_window"])
def test_loss_and_gradients_are_those_of_the_examples_apart(name: str, setting: str) -> None:
    """Whatever the split, with dropout and under windows shorter than what is shared."""
    decoder, options = _setting(setting, name)
    apart = results(decoder, pack.microbatches(family(), 30), **options)
    for budget in (999, 45, 30):
        micro = pack.microbatches(family(), budget, 0)
        assert any((batch.segments.parent >= 0).any() for batch in micro)
        assert_same(results(decoder, micro, **options), apart)


@pytest.mark.parametrize("policy", ["drop_mlp", "drop_layer"])
def test_layers_that_keep_less_change_no_bit(policy: Any) -> None:
    decoder, options = _setting("lora with dropout", "qwen3")
    micro = pack.microbatches(family(), 999, 0)
    kept, less = (results(decoder, micro, policies=(each,) * 3, **options) for each in ("keep", policy))
    assert all(torch.equal(kept[key], less[key]) for key in kept)


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_loss_and_every_gradient_equal_transformers(name: str) -> None:
    """One document at a time there."""
    model = build(name)
    decoder = decoder_of(model, name, trains=everything)
    ours = results(decoder, pack.microbatches(family(), 999, 0))
    total = torch.zeros(())
    for each in family():
        ids = torch.from_numpy(each.ids.astype(np.int64))
        logp = model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
        total = total - (torch.from_numpy(each.weights[1:]) * logp[:-1].gather(1, ids[1:, None])[:, 0]).sum()
    total.backward()
    theirs = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert_same(ours, {"loss": total.detach(), **theirs})


def rows_of(batch: Batch) -> flops.Rows:
    segments = batch.segments
    lengths = (segments.end - segments.start).tolist()
    before = batch.positions[segments.start].tolist()
    return flops.Rows(lengths, len(batch.rows), len(np.unique(batch.rows)), before)


def test_a_shared_token_is_computed_once() -> None:
    """torch's own count of the matmuls is that of the stretches."""
    decoder, options = _setting("lora", "llama")
    made = []
    for call_tokens in (None, 0):
        (batch,) = pack.microbatches(family(), 999, call_tokens)
        with flop_counter() as counter:
            nll(decoder, batch, **options).backward()
        made.append(flops.step(decoder.arch, Lora(rank=4), rows_of(batch)))
        # Attention is a kernel of its own, whose products torch's counter does not see.
        assert counter.get_total_flops() == dataclasses.replace(made[-1], attention=0).total
    apart, shared = made
    assert shared.linear < 0.6 * apart.linear and shared.head < apart.head and shared.attention < apart.attention


def test_attention_counts_the_keys_that_come_before() -> None:
    mixer = decoder_of(build("llama"), "llama").spec.layers[0].mixer
    once = 4 * mixer.heads * mixer.head_dim
    assert flops.attention_flops(mixer, 2, before=3) == (4 + 5) * once
    assert flops.attention_flops(dataclasses.replace(mixer, window=4), 3, before=2) == (3 + 4 + 4) * once
