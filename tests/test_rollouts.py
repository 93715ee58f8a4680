"""Answers as micro-batches: scores and gradients equal to those of each answer by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import build, difference, save

from luthier.arch import families
from luthier.data import rollouts as pack_rollouts
from luthier.data.rollouts import POLICY, Rollout, RolloutBatch, packed
from luthier.models import weights
from luthier.models.decoder import Decoder, Want


def rollout(uid: int, prompt: list[int], answer: list[int]) -> Rollout:
    ids = np.asarray(answer, dtype=np.int32)
    return Rollout(uid, np.asarray(prompt, dtype=np.int32), ids, np.zeros(len(ids), np.float32), True)


GIVEN = [
    rollout(3, [5, 6, 7, 8, 9, 10], [11, 12, 13]),
    rollout(3, [5, 6, 7, 8, 9, 10], [11, 12, 13]),  # the same again: weighed apart
    rollout(3, [5, 6, 7, 8, 9, 10], [11]),
    rollout(3, [5, 6, 7, 8, 9, 10], [14, 15, 16, 17]),
    rollout(1, [5, 6], [7, 8, 2]),
    rollout(1, [5, 6], [9]),
]
VOCABULARY = 48


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = tmp_path_factory.mktemp("tiny")
    save("qwen3", folder)
    return weights.load(folder, families.read(folder), dtype=torch.float32, trainable=lambda name: True)


def coefficient(rollout: int, place: int) -> float:
    """Any number that two equal answers differ by."""
    return 0.3 + rollout - 0.25 * place


def by_answer(
    decoder: Decoder, batches: tuple[RolloutBatch, ...]
) -> tuple[dict[tuple[int, int], float], list[torch.Tensor]]:
    """Log-probability of each token of each answer, and the gradients of their weighted sum."""
    found, total = {}, torch.zeros(())
    for batch in batches:
        logp = decoder(batch, Want("recompute")).logp
        for rollout, place, value in zip(batch.row_rollout, batch.place, logp, strict=True):
            assert (int(rollout), int(place)) not in found
            found[int(rollout), int(place)] = float(value.detach())
            total = total + coefficient(int(rollout), int(place)) * value
    parameters = list(decoder.parameters())
    return found, list(torch.autograd.grad(total, parameters))


@pytest.mark.parametrize(("budget", "call_tokens"), [(1000, 0), (1000, None), (12, 0), (1, 0), (1000, 24)])
def test_answers_are_scored_as_each_by_itself(decoder: Decoder, budget: int, call_tokens: int | None) -> None:
    """However they are packed; the oracle is transformers, one answer at a time without any packing."""
    torch.manual_seed(0)
    model = build("qwen3")
    model.load_state_dict(dict(decoder.named_parameters()), strict=False)
    total = torch.zeros(())
    expected = {}
    for number, each in enumerate(GIVEN):
        ids = torch.from_numpy(np.concatenate([each.prompt, each.answer]).astype(np.int64))[None]
        logp = model(ids).logits[0].float().log_softmax(-1)
        for place, token in enumerate(each.answer.tolist()):
            value = logp[len(each.prompt) - 1 + place, token]
            expected[number, place] = float(value.detach())
            total = total + coefficient(number, place) * value
    names = [name for name, _ in decoder.named_parameters()]
    theirs = torch.autograd.grad(total, [model.get_parameter(name) for name in names])
    batches = packed(GIVEN, range(len(GIVEN)), [1.0] * len(GIVEN), budget, call_tokens)
    found, gradients = by_answer(decoder, batches)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-5)
    for name, ours, other in zip(names, gradients, theirs, strict=True):
        assert difference(ours, other) <= 1e-5, name


def test_a_prompt_is_there_once() -> None:
    (batch,) = packed(GIVEN, range(len(GIVEN)), [1.0] * len(GIVEN), 1000, 0)
    apart = sum(len(each.computed) for each in GIVEN)
    assert batch.num_tokens < apart
    # One prompt is the other's beginning and goes on as it does; [11, 12] stands for two answers and [11].
    assert batch.num_tokens == 6 + 2 + 3
    assert list(batch.uid) == [3, 3, 3, 3, 1, 1]


def test_budgets_are_kept_and_nothing_is_lost() -> None:
    for budget in range(1, 40):
        for call_tokens in (None, 0, 4):
            batches = packed(GIVEN, range(len(GIVEN)), [1.0] * len(GIVEN), budget, call_tokens)
            assert sorted(int(each) for batch in batches for each in batch.rollout) == list(range(len(GIVEN)))
            assert all(batch.num_tokens <= budget or len(batch.rollout) == 1 for batch in batches)


def test_weights_and_what_is_known_go_to_their_own_tokens() -> None:
    weights_ = [float(number) for number in range(len(GIVEN))]
    (batch,) = packed(GIVEN, range(len(GIVEN)), weights_, 1000, 0)
    assert batch.weights[POLICY].tolist() == [float(each) for each in batch.row_rollout]
    table = [
        np.asarray([coefficient(n, p) for p in range(len(each.answer))], np.float32) for n, each in enumerate(GIVEN)
    ]
    known = batch.knowing({"x": table}).known["x"]
    back = [np.zeros_like(each) for each in table]
    batch.spread(known, back)
    assert all(np.array_equal(one, other) for one, other in zip(table, back, strict=True))


def test_the_largest_is_no_smaller() -> None:
    prompt = np.arange(6, dtype=np.int32)
    batch = pack_rollouts.largest(prompt, 5, 32, 100, ["advantage"])
    assert batch.num_tokens == 30 and len(batch.known["advantage"]) == 15
    assert pack_rollouts.largest(prompt, 5, 3, 100, []).num_tokens == 10
