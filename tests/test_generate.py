"""Generation against transformers', token for token, and what it promises of batches, stops and seeds."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from luthier import generate, sampling
from luthier.arch import families
from luthier.config.schema import Lora
from luthier.generate import Generator, Request, Sampling
from luthier.models import adapters, weights
from luthier.models.cache import BLOCK
from luthier.proof import next_token_logits

FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3"),
    *("gemma", "gemma2", "gemma3_text", "phi3", "olmo2", "granite"),
)
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


def ids_of(decoder, prompts=PROMPTS, stop_ids=(), adapter=None, **how) -> list[list[int]]:
    settings = Sampling(**{"max_tokens": NEW, **how})
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
        logits.append(torch.from_numpy(next_token_logits(decoder, PROMPTS, None)))
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
    assert torch.equal(sampling.filtered(LOGITS.clone(), Sampling(top_k=top_k)), expected)


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_top_p_as_in_transformers(top_p):
    expected = TopPLogitsWarper(top_p)(None, LOGITS.clone())
    assert torch.equal(sampling.filtered(LOGITS.clone(), Sampling(top_p=top_p)), expected)


def test_top_k_comes_before_top_p_and_the_temperature_before_both():
    how = Sampling(temperature=0.7, top_k=9, top_p=0.8)
    expected = TopPLogitsWarper(0.8)(
        None, TopKLogitsWarper(9)(None, TemperatureLogitsWarper(0.7)(None, LOGITS.clone()))
    )
    assert torch.equal(sampling.filtered(LOGITS / 0.7, how), expected)


@pytest.mark.parametrize("penalty", [0.5, 1.3, 100.0])
def test_the_repetition_penalty_as_in_transformers(penalty):
    seen = [[1, 1, 4, 9], [0, 3, 3, 3], [49, 2, 1, 0], [7, 7, 7, 7], [10, 11, 12, 13], [5, 4, 3, 2]]
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(seen), LOGITS.clone())
    for row, ids, want in zip(LOGITS, seen, expected, strict=True):
        assert torch.equal(sampling.penalised(row.clone(), penalty, ids), want)
        chosen = sampling.choose(row, Sampling(repetition_penalty=penalty), torch.Generator(), ids, None)
        assert chosen.id == int(want.argmax())


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
    drawn = [sampling.choose(logits[0], Sampling(temperature=2.0), generator, (), None).id for _ in range(2000)]
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
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"logprobs": -1},
        {"stop": ("a", "")},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(Sampling(), **wrong)


@pytest.mark.parametrize("min_p", [0.01, 0.1, 0.5, 1.0])
def test_min_p_as_in_transformers(min_p):
    expected = MinPLogitsWarper(min_p)(None, LOGITS.clone())
    assert torch.equal(sampling.filtered(LOGITS.clone(), Sampling(min_p=min_p)), expected)


def test_log_probabilities_are_those_of_the_model_s_own_logits():
    row = LOGITS[0]
    how = Sampling(temperature=0.3, top_k=3, repetition_penalty=2.0, logprobs=4)
    chosen = sampling.choose(row, how, torch.Generator().manual_seed(1), [1, 2], None)
    expected = row.double().log_softmax(-1)
    assert chosen.logprob == pytest.approx(float(expected[chosen.id]), abs=1e-5)
    assert [token for token, _ in chosen.top] == expected.topk(4).indices.tolist()
    assert [value for _, value in chosen.top] == pytest.approx(expected.topk(4).values.tolist(), abs=1e-5)


def test_only_allowed_tokens_are_chosen():
    allowed = torch.zeros(50, dtype=torch.bool)
    allowed[[3, 7]] = True
    best = 3 if LOGITS[0, 3] > LOGITS[0, 7] else 7
    assert sampling.choose(LOGITS[0], Sampling(), torch.Generator(), (), allowed).id == best
    drawn = {
        sampling.choose(LOGITS[0], Sampling(temperature=9.0), torch.Generator().manual_seed(seed), (), allowed).id
        for seed in range(30)
    }
    assert drawn == {3, 7}


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("one END two", ("END",), "one "),
        ("one EN two EEND", ("END",), "one EN two E"),
        ("abcabd!", ("abd", "zz"), "abc"),
        ("aab", ("ab", "aab"), ""),
        ("no stop at al", ("all",), "no stop at al"),
        ("nothing", (), "nothing"),
        ("END", ("END",), ""),
        ("aab", ("ab", "b"), "a"),
        ("aaa", ("aa",), ""),
        ("a\nb", ("\n",), "a"),
    ],
)
def test_texts_that_stop_are_cut_off_wherever_pieces_end(size, text, stops, shown):
    until = sampling.StopTexts(stops)
    said = ""
    for at in range(0, len(text), size):
        said += until.push(text[at : at + size])
        assert shown.startswith(said), "what is shown is never taken back"
    ended = until.ended
    assert said + until.flush() == shown and ended == (shown != text) and until.shown == len(shown)


# ---------------------------------------------------------------------------------------------- continuous batching


def finished(generator, requests):
    for each in requests:
        generator.add(each)
    while generator.step():
        pass
    return [each.ids for each in requests]


def asked(prompt, adapter=None, **how):
    return Request(prompt, frozenset(), Sampling(**{"max_tokens": NEW, **how}), adapter)


def alone(decoder, prompt, adapter=None, **how):
    return finished(Generator(decoder, cache_tokens=512), [asked(prompt, adapter, **how)])[0]


LONG = [[(7 * at + row) % 250 for at in range(BLOCK * 2 + 5 * row + 3)] for row in range(5)]


@pytest.mark.parametrize("family", FAMILIES)
def test_requests_that_come_and_go_are_answered_as_by_themselves(tiny_model, family, monkeypatch):
    """Prompts are read in pieces, requests come while others write, and have different ends and ways of sampling."""
    decoder = decoder_of(tiny_model(family))
    hows = [{}, {"temperature": 0.9, "seed": 4}, {"max_tokens": 3}, {"repetition_penalty": 1.4}, {"logprobs": 2}]
    expected = [alone(decoder, prompt, **how) for prompt, how in zip(LONG, hows, strict=True)]
    monkeypatch.setitem(generate.READ_TOKENS, "cpu", 21)
    generator = Generator(decoder, max_sequences=3, cache_tokens=1024)
    requests = [asked(prompt, **how) for prompt, how in zip(LONG, hows, strict=True)]
    for each in requests:
        generator.add(each)
        for _ in range(3):
            assert generator.step()
    assert generator.running <= 3
    while generator.step():
        pass
    assert [each.ids for each in requests] == expected
    assert [each.finish for each in requests] == ["length"] * 5
    assert (generator.running, generator.waiting, generator.cached_tokens) == (0, 0, 0)


def test_a_request_gives_its_room_back_and_goes_on_later(tiny_model):
    """Room for two prompts and little more: whoever came last waits, and ends with the same answer."""
    decoder = decoder_of(tiny_model("llama"))
    prompts = [row[: BLOCK - 2] for row in LONG[:3]]
    hows = [{"max_tokens": 40}, {"max_tokens": 40, "temperature": 1.0, "seed": 9}, {"max_tokens": 40}]
    expected = [alone(decoder, prompt, **how) for prompt, how in zip(prompts, hows, strict=True)]
    generator = Generator(decoder, cache_tokens=4 * BLOCK)
    waited, requests = 0, [asked(prompt, **how) for prompt, how in zip(prompts, hows, strict=True)]
    for each in requests:
        generator.add(each)
    while generator.step():
        gave_back = any(each.ids and each.finish is None for each in requests) and generator.waiting
        waited += bool(gave_back)
    assert [each.ids for each in requests] == expected
    assert waited


def test_a_request_that_could_never_have_room_is_refused(tiny_model):
    generator = Generator(decoder_of(tiny_model("llama")), cache_tokens=BLOCK)
    with pytest.raises(ValueError, match="33 tokens; there is room for 32"):
        generator.add(asked([1] * 21, max_tokens=12))
    assert len(finished(generator, [asked([1] * 20, max_tokens=12)])[0]) == 12


def test_a_cancelled_request_ends_where_it_is_and_disturbs_nobody(tiny_model):
    decoder = decoder_of(tiny_model("mistral"))
    expected = alone(decoder, LONG[0])
    generator = Generator(decoder, cache_tokens=1024, max_sequences=2)
    stays, leaves, never = asked(LONG[0]), asked(LONG[1]), asked(LONG[2])
    for each in (stays, leaves, never):
        generator.add(each)
    for _ in range(4):
        generator.step()
    generator.cancel(leaves)
    generator.cancel(never)
    written = list(leaves.ids)
    while generator.step():
        pass
    generator.cancel(stays)
    assert (leaves.finish, never.finish, stays.finish) == ("cancelled", "cancelled", "length")
    assert leaves.ids == written and 0 < len(written) < NEW and never.ids == [] and stays.ids == expected
    assert generator.cached_tokens == 0


def test_whoever_hears_a_token_may_end_the_answer(tiny_model):
    decoder = decoder_of(tiny_model("qwen2"))
    free = alone(decoder, LONG[0])
    heard = []
    request = asked(LONG[0])
    request.on_token = lambda chosen: heard.append(chosen.id) or len(heard) == 4
    finished(Generator(decoder, cache_tokens=512), [request])
    assert request.ids == heard == free[:4] and request.finish == "stop"


def test_beginnings_are_read_once(tiny_model, monkeypatch):
    """The second of two prompts that begin alike computes only what is new, and says the same."""
    decoder = decoder_of(tiny_model("qwen3"))
    prompts = [[*LONG[4], 1, 2], [*LONG[4], 3]]
    expected = [alone(decoder, prompt) for prompt in prompts]
    read = []
    extend = decoder.extend
    monkeypatch.setattr(decoder, "extend", lambda p, c: (read.append(sum(len(x.ids) for x in p)), extend(p, c))[1])
    generator = Generator(decoder, cache_tokens=512)
    assert [finished(generator, [asked(prompt)])[0] for prompt in prompts] == expected
    known = len(LONG[4]) // BLOCK * BLOCK
    assert sum(read) == sum(map(len, prompts)) - known + 2 * (NEW - 1)
    read.clear()
    generator.forget()
    finished(generator, [asked(prompts[1])])
    assert read[0] == len(prompts[1])


def test_adapters_do_not_share_what_they_read(tiny_model):
    decoder = decoder_of(tiny_model("llama"), adapter=True)
    expected = [alone(decoder, LONG[0], adapter) for adapter in (None, "default")]
    generator = Generator(decoder, cache_tokens=1024)
    assert [finished(generator, [asked(LONG[0], adapter)])[0] for adapter in (None, "default")] == expected
    together = [asked(LONG[0], adapter) for adapter in ("default", None)]
    assert finished(generator, together) == expected[::-1] and expected[0] != expected[1]
