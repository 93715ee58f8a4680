"""Methods that learn from judged answers: one step comes out the same however it is shared, split and referred to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_decoder import VOCABULARY, decoder_of, everything
from tiny_models import build
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from luthier import methods
from luthier.arch.values import valued
from luthier.batch import EXAMPLES, TERM, Rendered, Step
from luthier.config.schema import Cpo, Dpo, Ipo, Judged, Kto, Lora, Orpo, Reward, Simpo
from luthier.data import pack
from luthier.engine import measures
from luthier.methods import preference
from luthier.models import adapters
from luthier.models.decoder import Decoder, Want


class Store:
    """As `Sequences`: pairs, or marked answers, of random tokens."""

    judged = True

    def __init__(self, examples: int, seed: int = 0, of: int = 2, ends: bool = False) -> None:
        random = np.random.default_rng(seed)
        self.rows: list[Rendered] = []
        for example in range(examples):
            prompt = random.integers(0, VOCABULARY, random.integers(20, 60))
            for side in range(of):
                answer = random.integers(0, VOCABULARY, random.integers(2, 25))
                # Answers begin alike as well, so that the two of a pair learn the same token in the same place.
                ids = np.concatenate([prompt, [7, 8], answer]).astype(np.int32)
                weights = np.zeros(len(ids), dtype=np.float32)
                weights[len(prompt) :] = 1
                if ends:
                    weights[:-1] = 0
                number = example * of
                sign = 1 - 2 * side if of == 2 else 1 - 2 * int(random.integers(2))
                self.rows.append(Rendered(number + side, ids, weights, number, sign, 0.5 * example))
        self.firsts = np.arange(0, len(self.rows), of)
        self.computed = np.asarray([len(row.ids) - 1 for row in self.rows])
        self.sides = np.asarray([row.side for row in self.rows])
        self._of = of

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, uid: int) -> Rendered:
        return self.rows[uid]

    def members(self, first: int) -> range:
        return range(first, first + self._of)

    def first_of(self, uid: int) -> int:
        return uid - uid % self._of

    def fingerprint(self) -> str:
        return "x"


def model() -> Decoder:
    decoder = decoder_of(build("llama"), "llama")
    adapters.attach(decoder, decoder.arch, Lora(rank=4), name="a", seed=1)
    with torch.no_grad():
        for unit in decoder.units.values():
            unit.deltas["a"].B.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(unit.weight)))
    return decoder


def given(store: Store, folder: Path, **more: Any) -> methods.Given:
    return methods.Given("a", 0, store, None, folder, folder / "cache", call_tokens=4, **more)  # type: ignore[arg-type]


def step_of(store: Store, budget: int, call_tokens: int | None = 4) -> Step:
    micro = pack.microbatches(store.rows, budget, call_tokens)
    chosen = sum(float(row.weights.sum()) for row in store.rows if row.side >= 0)
    denom = {TERM: chosen, EXAMPLES: float(len(store.firsts))}
    return Step(0, 0, tuple(range(len(store))), micro, denom, 0)


def taken(method: Any, decoder: Decoder, step: Step) -> tuple[float, dict[str, Tensor], list[Any]]:
    """Loss, gradients, and what the micro-batches say."""
    decoder.zero_grad()
    step = method.prepare(step, decoder)
    total, found = 0.0, []
    for batch in step.micro:
        loss = method.loss(decoder, batch, 0)
        objective = sum(value / step.denom[term] for term, value in loss.sums.items())
        objective.backward()  # type: ignore[union-attr]
        total += float(objective.detach())
        found.append(loss)
    return total, {n: p.grad.clone() for n, p in decoder.named_parameters() if p.grad is not None}, found


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys() and one
    for name, gradient in one.items():
        assert float((gradient - other[name]).abs().max()) <= 1e-5 * float(other[name].abs().max()), name


SECTIONS: list[Judged] = [
    Dpo(),
    Dpo(label_smoothing=0.1, sft_weight=0.5),
    Dpo(loss="hinge"),
    Dpo(loss="robust", label_smoothing=0.1),
    Dpo(length_normalised=True, beta=1.0),
    Ipo(),
    Simpo(),
    Orpo(),
    Cpo(),
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda each: f"{each.kind}-{getattr(each, 'loss', '')}")
def test_a_step_is_the_same_shared_or_doubled_whole_or_split_or_answer_by_answer(
    section: Judged, tmp_path: Path
) -> None:
    store, decoder = Store(5), model()
    method = methods.build(section, given(store, tmp_path))
    method.begin(decoder, 4096, 0)
    doubled = step_of(store, 10**6, None)
    shared = step_of(store, 10**6)
    assert shared.computed_tokens < 0.75 * doubled.computed_tokens, "prompts are there once"
    loss, gradients, _ = taken(method, decoder, doubled)
    # 150: whole pairs; 40: no pair fits, so that every answer comes by itself.
    for step in (shared, step_of(store, 150), step_of(store, 40)):
        other, found, said = taken(method, decoder, step)
        assert other == pytest.approx(loss, rel=1e-5)
        assert_same(found, gradients)
        values = sorted(x for each in said for x in each.each.get("margin", torch.zeros(0)).tolist())
        assert len(values) == 5
    assert len(step_of(store, 40).micro) == 10


def test_pairs_by_hand(tmp_path: Path) -> None:
    """The loss that autograd makes of the transformers model's own log-probabilities, answer by answer."""
    store, decoder, oracle = Store(3), model(), build("llama")
    method = methods.build(Dpo(beta=0.3), given(store, tmp_path))
    method.begin(decoder, 4096, 0)
    scores, references = [], []
    for row in store.rows:
        (batch,) = pack.microbatches([dataclasses.replace(row, group=-1)], 10**6)
        scores.append(float(decoder(batch, Want("unit"), adapter="a").logp.sum()))
        with torch.no_grad():
            ids = torch.from_numpy(row.ids.astype(np.int64))[None]
            logp = oracle(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            references.append(float(logp[torch.from_numpy(row.weights[1:]) > 0].sum()))
    ratio = np.asarray(scores) - np.asarray(references)
    expected = np.log1p(np.exp(-0.3 * (ratio[::2] - ratio[1::2]))).mean()
    loss, _, said = taken(method, decoder, step_of(store, 10**6))
    assert loss == pytest.approx(expected, rel=1e-4)
    assert said[0].each["accuracy"].tolist() == (ratio[::2] > ratio[1::2]).tolist()


def test_length_by_hand(tmp_path: Path) -> None:
    """Of each pair of two lengths whether the longer answer is worth more, and whether it is the better one; of none of
    one length; a half where both are worth the same."""
    store, decoder = Store(6), model()
    store.rows[3] = dataclasses.replace(store.rows[3], ids=store.rows[2].ids + 0, weights=store.rows[2].weights)
    learnt = np.asarray([float(row.weights.sum()) for row in store.rows])
    method = methods.build(Dpo(), given(store, tmp_path))
    method.begin(decoder, 4096, 0)
    (batch,) = step_of(store, 10**6).micro
    found = method.loss(decoder, batch, 0).each
    longer = learnt[::2] > learnt[1::2]
    differ = learnt[::2] != learnt[1::2]
    assert differ.sum() == 5
    order = batch.uid[np.unique(batch.group, return_index=True)[1]] // 2  # groups are pairs in the batch's order
    right = longer == (found["margin"].numpy()[np.argsort(order)] > 0)
    by_pair = order[differ[order]]
    assert found["longer_chosen"].tolist() == longer[by_pair].tolist()
    assert found["prefers_longer"].tolist() == right[by_pair].tolist()
    tied = preference.by_length(torch.zeros(6), learnt[batch.uid].astype(np.float32), batch)
    assert tied["prefers_longer"].tolist() == [0.5] * 5


def test_marked_answers_are_the_same_however_they_are_split(tmp_path: Path) -> None:
    store, decoder = Store(6, of=1), model()
    method = methods.build(Kto(wanted_weight=1.5), given(store, tmp_path))
    method.begin(decoder, 4096, 0)
    method._reference._tables["others"] -= 100  # so that z0 is not at its bound
    loss, gradients, said = taken(method, decoder, step_of(store, 10**6, None))
    state = method.state_dict()
    assert state["z0"] > 0
    for budget in (10**6, 100):
        other, found, _ = taken(method, decoder, step_of(store, budget))
        assert other == pytest.approx(loss, rel=1e-5)
        assert_same(found, gradients)
        assert method.state_dict()["z0"] == pytest.approx(state["z0"], rel=1e-4)
    assert said[0].each["reward_wanted"].numel() + said[0].each["reward_unwanted"].numel() == 6


def test_the_reference_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another beta, another loss and a restart find what is there; other weights do not, and a damaged file does not
    count."""
    store, decoder = Store(4), model()
    runs = [tmp_path / str(number) for number in range(5)]
    for run in runs:
        run.mkdir()
    cache = tmp_path / "cache"

    def made(section: Judged, run: Path, **facts: Any) -> Any:
        one = dataclasses.replace(given(store, run), cache=cache, facts={"base": "b", **facts})
        return methods.build(section, one)

    first = made(Dpo(), runs[0])
    assert first.begin(decoder, 4096, 0) == {"sequences": 8, "source": "computed"}
    expected, _, _ = taken(first, decoder, step_of(store, 10**6))
    again = made(Dpo(), runs[0])
    assert again.begin(decoder, 4096, 3)["source"] == "run"
    assert taken(again, decoder, step_of(store, 10**6))[0] == expected
    assert made(Ipo(beta=0.7), runs[1]).begin(decoder, 4096, 0)["source"] == "cache"
    assert made(Dpo(), runs[2], base="other").begin(decoder, 4096, 0)["source"] == "computed"
    for file in cache.rglob("*.npz"):
        file.write_bytes(file.read_bytes()[:-20])
    assert made(Dpo(), runs[3]).begin(decoder, 4096, 0)["source"] == "computed"
    assert made(Orpo(), runs[4]).begin(decoder, 4096, 0) is None and not any(runs[4].iterdir())


def test_the_reference_of_an_adapter_that_goes_on_is_that_adapter(tmp_path: Path) -> None:
    store, decoder = Store(3), model()
    method = methods.build(Dpo(), given(store, tmp_path, fresh=False))
    method.begin(decoder, 4096, 0)
    loss, _, said = taken(method, decoder, step_of(store, 10**6))
    assert loss == pytest.approx(np.log(2), abs=1e-5)
    assert said[0].each["margin"].abs().max() < 1e-4


def rewarded() -> Decoder:
    plain = decoder_of(build("llama"), "llama")
    decoder = Decoder(valued(plain.arch), torch.float32, "cpu")
    decoder.load_state_dict(plain.state_dict(), strict=False)
    decoder.get_parameter("score.weight").detach().zero_()
    adapters.attach(decoder, decoder.arch, Lora(rank=4, modules_to_save=("score",)), name="a", seed=1)
    with torch.no_grad():
        decoder.weighted["score"].copies["a"].weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(5))
    return decoder


def test_rewards_are_the_same_shared_or_doubled(tmp_path: Path) -> None:
    store, decoder = Store(5, ends=True), rewarded()
    method = methods.build(Reward(), given(store, tmp_path))
    loss, gradients, said = taken(method, decoder, step_of(store, 10**6, None))
    for step in (step_of(store, 10**6), step_of(store, 150)):
        other, found, _ = taken(method, decoder, step)
        assert other == pytest.approx(loss, rel=1e-5)
        assert_same(found, gradients)
    assert set(said[0].each) >= {"accuracy", "margin", "confidence"}


def test_rewards_by_hand(tmp_path: Path) -> None:
    """Of each pair log(1 + exp(worse + margin - better)) and the square of both, from each answer's own number."""
    store, decoder = Store(3, ends=True), rewarded()
    scores = []
    for row in store.rows:
        (batch,) = pack.microbatches([dataclasses.replace(row, group=-1)], 10**6)
        scores.append(float(decoder(batch, Want(None, value=True), adapter="a").value.detach()))
    better, worse = np.asarray(scores[::2]), np.asarray(scores[1::2])
    expected = np.log1p(np.exp(worse + 0.5 * np.arange(3) - better)) + 0.3 * (better + worse) ** 2
    loss, _, _ = taken(methods.build(Reward(centre=0.3), given(store, tmp_path)), decoder, step_of(store, 10**6))
    assert loss == pytest.approx(expected.mean(), rel=1e-5)


# ------------------------------------------------------------------------------------------------- against TRL


@pytest.mark.filterwarnings("ignore")
def test_twenty_steps_are_trl_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DPO on all weights in float32: the same model, pairs, order, rate and AdamW."""
    trl, datasets = (pytest.importorskip(name, exc_type=ImportError) for name in ("trl", "datasets"))
    store, steps, batch = Store(8), 20, 4
    rows = []
    for chosen, rejected in zip(store.rows[::2], store.rows[1::2], strict=True):
        asked = int(np.flatnonzero(chosen.weights)[0])
        ids = {"prompt_ids": chosen.ids[:asked], "chosen_ids": chosen.ids[asked:], "rejected_ids": rejected.ids[asked:]}
        rows.append({name: each.tolist() for name, each in ids.items()})
    monkeypatch.setattr(trl.DPOTrainer, "_prepare_dataset", lambda self, dataset, *_: dataset)
    settings = trl.DPOConfig(
        output_dir=str(tmp_path), max_steps=steps, per_device_train_batch_size=batch, learning_rate=1e-3, beta=0.1,
        lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, logging_steps=1, bf16=False,
        gradient_checkpointing=False, train_sampling_strategy="sequential", report_to=[], save_strategy="no",
        use_cpu=True, max_length=None, dataloader_pin_memory=False, logging_nan_inf_filter=False,
    )  # fmt: skip
    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    trainer = trl.DPOTrainer(
        model=build("llama"),
        ref_model=build("llama"),
        args=settings,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    decoder = decoder_of(build("llama"), "llama", trains=everything)
    whole = dataclasses.replace(given(store, tmp_path), adapter=None, fresh=False)
    method = methods.build(Dpo(), whole)
    method.begin(decoder, 4096, 0)
    weights = [each for each in decoder.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0)
    mine = []
    for index in range(steps):
        of_step = [row for row in store.rows if row.group // 2 // batch == index % 2]
        micro = pack.microbatches(of_step, 300, 4)
        loss, _, _ = taken(method, decoder, Step(index, 0, (), micro, {TERM: 1.0, EXAMPLES: float(batch)}, 0))
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        mine.append(loss)
    assert mine[0] == pytest.approx(np.log(2), abs=1e-6) and mine[-1] < 0.3
    np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_intervals_of_shares_and_of_numbers() -> None:
    """Wilson's of ten times yes: 10 / (10 + z^2) to 1. Numbers that are all 0 are no shares."""
    share = measures.of_examples([True] * 10)
    assert (share.mean, share.high) == (1, pytest.approx(1))
    assert share.low == pytest.approx(10 / (10 + measures.Z**2))
    assert measures.of_examples([0.0] * 10) == measures.Measure(0, 10, 0, 0)
