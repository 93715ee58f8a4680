"""Generation against transformers', token for token, and what it promises of batches, stops and seeds."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from luthier import generate
from luthier.arch import families
from luthier.config.schema import Lora
from luthier.generate import Sampling
from luthier.models import adapters, weights

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
PROMPTS = [[5], [7, 9, 200], [*range(30, 50)], [*range(100, 111)]]
"""One token; three; more than Mistral's window of eight, by more than a block; eleven."""
NEW = 12


def decoder_of(folder, *, adapter: bool = False):
    arch = families.read(folder)
    decoder = weights.load(folder, arch, dtype=torch.float32)
    if adapter:
        adapters.attach(decoder, arch, Lora(rank=4, alpha=64), name="default", seed=0)
        with torch.no_grad():
            for name, tensor in decoder.named_parameters():
                if name.endswith(".B"):
                    draw = torch.Generator().manual_seed(tensor.shape[0])
                    tensor.copy_(torch.randn(tensor.shape, generator=draw) * 0.1)
    return decoder


def ids_of(decoder, prompts=PROMPTS, stop_ids=(), adapter=None, **sampling) -> list[list[int]]:
    settings = Sampling(**{"max_tokens": NEW, **sampling})
    return [each.ids for each in generate.generate(decoder, prompts, stop_ids, settings, adapter=adapter)]


def theirs(model, prompt: list[int], stop_ids=()) -> list[int]:
    """transformers' greedy continuation, its stop token left out."""
    with torch.no_grad():
        out = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=list(stop_ids) or None,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
    return out[:-1] if out and out[-1] in stop_ids else out


# --------------------------------------------------------------------------------------------------------- greedy


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_continues_as_transformers_does(tiny_model, family):
    folder = tiny_model(family)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    expected = [theirs(model, prompt) for prompt in PROMPTS]
    assert ids_of(decoder_of(folder)) == expected
    assert len({tuple(each) for each in expected}) == len(PROMPTS), "the prompts must lead to different answers"


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_with_an_adapter_continues_as_peft_does(tiny_model, family, tmp_path):
    peft = pytest.importorskip("peft")
    folder = tiny_model(family)
    decoder = decoder_of(folder, adapter=True)
    adapters.save_adapter(decoder, tmp_path, Lora(rank=4, alpha=64), str(folder))
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    base.generation_config.eos_token_id = None
    model = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        expected = [
            model.generate(input_ids=torch.tensor([p]), max_new_tokens=NEW, do_sample=False, pad_token_id=0)[
                0, len(p) :
            ].tolist()
            for p in PROMPTS
        ]
    tuned = ids_of(decoder, adapter="default")
    assert tuned == expected
    assert tuned != ids_of(decoder)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_attached_adapter_that_is_off_changes_no_bit(tiny_model, family):
    folder = tiny_model(family)
    plain, adapted = decoder_of(folder), decoder_of(folder, adapter=True)
    logits = []
    for decoder in (plain, adapted):
        cache = generate.Cache(decoder, len(PROMPTS), 64)
        first = decoder.prefill(PROMPTS, cache, adapter=None)
        logits.append(torch.stack([first, decoder.decode([1, 2, 3, 4], cache, adapter=None)]))
    assert torch.equal(*logits)


# -------------------------------------------------------------------------------------------------- stops, batches


def test_a_stop_token_ends_an_answer_and_is_not_part_of_it(tiny_model):
    folder = tiny_model("llama")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    free = ids_of(decoder_of(folder))
    stops = (free[0][4], free[2][1])
    found = generate.generate(decoder_of(folder), PROMPTS, stops, Sampling(max_tokens=NEW))
    assert [each.ids for each in found] == [theirs(model, prompt, stops) for prompt in PROMPTS]
    for each, unstopped in zip(found, free, strict=True):
        assert not set(each.ids) & set(stops)
        assert each.finish == ("stop" if len(each.ids) < NEW else "length")
        assert each.ids == unstopped[: len(each.ids)]
    assert {each.finish for each in found} >= {"stop"}


def test_an_answer_may_be_empty(tiny_model):
    decoder = decoder_of(tiny_model("llama"))
    first = ids_of(decoder, [PROMPTS[1]], max_tokens=1)[0][0]
    (found,) = generate.generate(decoder, [PROMPTS[1]], (first,))
    assert found == generate.Generated([], "stop")


def test_the_last_token_may_be_the_stop(tiny_model):
    decoder = decoder_of(tiny_model("llama"))
    (free,) = ids_of(decoder, [PROMPTS[0]])
    place = next(at for at in range(1, NEW) if free[at] not in free[:at])
    (found,) = generate.generate(decoder, [PROMPTS[0]], (free[place],), Sampling(max_tokens=place + 1))
    assert found == generate.Generated(free[:place], "stop")


def test_unused_room_of_the_cache_never_reaches_an_answer(tiny_model, monkeypatch):
    """Fresh memory may hold anything, and a weight of 0 on nan is nan."""
    decoder = decoder_of(tiny_model("llama"))
    expected = ids_of(decoder)
    clean = torch.empty

    def dirty(*size, **how):
        made = clean(*size, **how)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", dirty)
    assert ids_of(decoder) == expected


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_no_answer_is_longer_than_asked(tiny_model, limit):
    assert [len(each) for each in ids_of(decoder_of(tiny_model("qwen2")), max_tokens=limit)] == [limit] * len(PROMPTS)


def test_no_prompts_give_no_answers(tiny_model):
    assert generate.generate(decoder_of(tiny_model("llama")), [], ()) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_does_not_depend_on_its_batch_mates(tiny_model, family):
    decoder = decoder_of(tiny_model(family))
    stops = (ids_of(decoder)[1][3],)  # mates that leave early move the others' rows
    together = ids_of(decoder, stop_ids=stops)
    assert together == [ids_of(decoder, [prompt], stops)[0] for prompt in PROMPTS]
    assert together[::-1] == ids_of(decoder, PROMPTS[::-1], stops)


def test_a_sampled_answer_depends_on_its_place_only(tiny_model):
    decoder = decoder_of(tiny_model("qwen3"))
    drawn = ids_of(decoder, temperature=1.0, seed=3)
    others = [[250, 251], PROMPTS[1], [1] * 30, PROMPTS[3]]
    mixed = ids_of(decoder, others, temperature=1.0, seed=3)
    assert (mixed[1], mixed[3]) == (drawn[1], drawn[3])


def test_tokens_are_told_as_they_come(tiny_model):
    told: list[tuple[int, int]] = []
    decoder = decoder_of(tiny_model("mistral"))
    stops = (ids_of(decoder)[0][2],)
    found = generate.generate(
        decoder, PROMPTS, stops, Sampling(max_tokens=5), on_token=lambda index, token: told.append((index, token))
    )
    for index, each in enumerate(found):
        assert [token for at, token in told if at == index] == each.ids
    assert [index for index, _ in told[:4]] == [0, 1, 2, 3][: len(told)]


# -------------------------------------------------------------------------------------------------------- sampling


def test_a_seed_gives_the_same_answer_again_and_another_seed_another(tiny_model):
    decoder = decoder_of(tiny_model("llama"))
    torch.manual_seed(1)
    first = ids_of(decoder, temperature=1.5, seed=11)
    torch.manual_seed(2)
    assert ids_of(decoder, temperature=1.5, seed=11) == first
    assert ids_of(decoder, temperature=1.5, seed=12) != first


def test_equal_prompts_in_a_batch_get_draws_of_their_own(tiny_model):
    one, other = ids_of(decoder_of(tiny_model("llama")), [PROMPTS[1]] * 2, temperature=2.0)
    assert one != other


@pytest.mark.parametrize("setting", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}])
def test_the_narrowest_sampling_is_greedy(tiny_model, setting):
    decoder = decoder_of(tiny_model("qwen2"))
    assert ids_of(decoder, **{"temperature": 1.0, **setting}) == ids_of(decoder)


LOGITS = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("top_k", [1, 2, 7, 49, 50, 400])
def test_top_k_as_in_transformers(top_k):
    expected = TopKLogitsWarper(top_k)(None, LOGITS.clone())
    assert torch.equal(generate._filtered(LOGITS.clone(), Sampling(top_k=top_k)), expected)


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_top_p_as_in_transformers(top_p):
    expected = TopPLogitsWarper(top_p)(None, LOGITS.clone())
    assert torch.equal(generate._filtered(LOGITS.clone(), Sampling(top_p=top_p)), expected)


def test_top_k_comes_before_top_p_and_the_temperature_before_both():
    sampling = Sampling(temperature=0.7, top_k=9, top_p=0.8)
    expected = TopPLogitsWarper(0.8)(
        None, TopKLogitsWarper(9)(None, TemperatureLogitsWarper(0.7)(None, LOGITS.clone()))
    )
    assert torch.equal(generate._filtered(LOGITS / 0.7, sampling), expected)


@pytest.mark.parametrize("penalty", [0.5, 1.3, 100.0])
def test_the_repetition_penalty_as_in_transformers(penalty):
    seen = [[1, 1, 4, 9], [0, 3, 3, 3], [49, 2, 1, 0], [7, 7, 7, 7], [10, 11, 12, 13], [5, 4, 3, 2]]
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(seen), LOGITS.clone())
    given = LOGITS.clone()
    chosen = generate._choose(given, Sampling(repetition_penalty=penalty), [], seen)
    assert torch.equal(given, expected) and chosen == expected.argmax(-1).tolist()


def test_the_penalty_sees_the_prompt_and_what_was_written(tiny_model):
    folder = tiny_model("llama")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        expected = [
            model.generate(
                torch.tensor([p]), max_new_tokens=NEW, do_sample=False, repetition_penalty=1.5, pad_token_id=0
            )[0, len(p) :].tolist()
            for p in PROMPTS
        ]
    decoder = decoder_of(folder)
    assert ids_of(decoder, repetition_penalty=1.5) == expected != ids_of(decoder)


def test_draws_follow_the_probabilities():
    """2000 draws of five tokens: each share within five standard errors."""
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -30.0]])
    generator = torch.Generator().manual_seed(0)
    drawn = [generate._choose(logits, Sampling(temperature=2.0), [generator], None)[0] for _ in range(2000)]
    for token, share in enumerate((logits[0] / 2).softmax(-1).tolist()):
        error = max((share * (1 - share) / 2000) ** 0.5, 1e-9)
        assert abs(drawn.count(token) / 2000 - share) <= 5 * error + 1e-9


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"repetition_penalty": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(Sampling(), **wrong)
