"""Ids told word by word are the tokenizer's, or are not told: by the compiled part, and in Python without it."""

from __future__ import annotations

import json
import pickle
import random
import re
from array import array
from pathlib import Path
from typing import Any

import compiled
import numpy as np
import pytest
import real_tokenizers as real
import toy_tokenizers as toy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from luthier.config.schema import RunConfig
from luthier.data import expressions, native
from luthier.data import renderer as renderers
from luthier.data import words as by_words
from luthier.data.formats import Chat, Completion, Message, Text
from luthier.data.templates import Renderer, load_renderer
from luthier.data.vocabulary import Vocabulary
from luthier.data.words import Words
from luthier.errors import Problem


@pytest.fixture(params=["native", "python"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How words are told."""
    built = compiled.library()
    if request.param == "native" and built is None:
        pytest.skip("no C compiler here")
    monkeypatch.setattr(native, "library", lambda: built if request.param == "native" else None)
    return str(request.param)


PATTERNS = {
    "gpt2": None,
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "signs": r"\s?\p{L}+|\s?\p{P}+|\p{Sm}|[\p{Sc}\p{Zs}]+|\p{Cc}|\p{N}",
    "gaps": r"\p{L}+",  # what stands between is a word too
}
"""Published expressions of the models named."""
TEXTS = (
    *toy.SENTENCES[:7],
    "",
    " ",
    "\n\n \n  x",
    "a  b   c\t\td\r\n\r\ne \u00a0f\u2003g\u0085h",
    "It's WE'LL they've I'd 'S 'ſ l'été",
    "x = 3.14159e-10; y=2718281828 // 1,000,000",
    "naïve cafe\u0301 ﬁn Å \u212b ½ ² ① Ⅷ",
    "مرحبا بالعالم \u202eשלום\u202c Привет, мир! สวัสดี नमस्ते",
    "👩‍👩‍👧‍👦🏳️‍🌈 ok \U0001d54f \U000e0061",
    "\x00\x01\x1c\x1d\x1e\x1f\x7f\x0b\x0c",
    "<|im_start|>user\nHi<|im_end|>\n<think>\n\n</think>\n\n<|im_end|><|im_end|> <tool_call>",
    "日本語のテキスト、한국어 텍스트。中文文本！",
    "def f(x):\n        return [x ** 2 for _ in range(10)]\n\n\n\n# end\n",
)


def tokenizer(kind: str, normal: Any = None) -> Tokenizer:
    state = json.loads(toy._byte_level("gpt2"))
    made = Tokenizer.from_str(json.dumps({**state, "normalizer": None}))
    if normal is not None:
        made.normalizer = normal
    pattern = PATTERNS[kind]
    if pattern is not None:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
    made.add_special_tokens(toy.CHATML_SPECIALS)
    made.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>", "<tool_call>")])
    return made


def words_of(made: Tokenizer) -> Words | None:
    return Words.of(json.loads(made.to_str()), made)


def told(words: Words, text: str) -> list[int] | None:
    ids = words.many([text])[0]
    return None if ids is None else ids.tolist()


@pytest.mark.parametrize("normal", [None, normalizers.NFC()], ids=["plain", "nfc"])
@pytest.mark.parametrize("kind", PATTERNS)
def test_ids_are_the_tokenizers(kind: str, normal: Any) -> None:
    made = tokenizer(kind, normal)
    words = words_of(made)
    assert words is not None
    untold = []
    for text in TEXTS:
        ids = told(words, text)
        if ids is None:
            untold.append(text)
        else:
            assert ids == made.encode(text).ids, text
    assert len(untold) <= 3, "nearly all text is told by words"
    assert all(text.isascii() for text in TEXTS if text not in untold) is False, "other scripts too"


def tamper(words: Words) -> None:
    """From now on every word is told wrong."""
    if words.native is None:
        words._ids = array("i", [each + 1 for each in words._ids])
        return
    table, words.native._learnt = words.native, 0
    table._learn([[1] for _ in range(table.count)])


MADE = {kind: tokenizer(kind, normalizers.NFC() if kind == "qwen2" else None) for kind in PATTERNS}


def right_or_untold(text: str, kind: str) -> None:
    made = MADE[kind]
    words = words_of(made)
    assert words is not None
    ids = told(words, text)
    assert ids is None or ids == made.encode(text).ids


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), st.sampled_from(sorted(PATTERNS)))
def test_any_text_is_told_right_or_not_at_all(text: str, kind: str) -> None:
    right_or_untold(text, kind)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("ab Z09'’slt.,-\n\r\t\x0b\x1c\x1f_<|im_end|>é́", max_size=60), st.sampled_from(sorted(PATTERNS)))
def test_awkward_neighbours_are_told_right(text: str, kind: str) -> None:
    right_or_untold(text, kind)


def test_ascii_is_always_told() -> None:
    rng = random.Random(0)
    for kind, made in MADE.items():
        words = words_of(made)
        assert words is not None
        for _ in range(50):
            text = "".join(chr(rng.randrange(128)) for _ in range(200))
            assert told(words, text) == made.encode(text).ids, kind


def test_a_real_vocabulary_of_131072_tokens() -> None:
    made = real.tekken().backend_tokenizer
    words = words_of(made)
    assert words is not None
    for text in TEXTS:
        ids = told(words, text)
        assert ids is None or ids == made.encode(text, add_special_tokens=False).ids


def changed(**fields: Any) -> Words | None:
    state = json.loads(tokenizer("gpt2").to_str())
    model = {**state["model"], **fields.pop("model", {})}
    made = Tokenizer.from_str(json.dumps({**state, **fields, "model": model}))
    return words_of(made)


def test_what_is_no_byte_level_bpe_is_left_to_the_tokenizer() -> None:
    assert changed() is not None
    assert changed(model={"dropout": 0.1}) is None
    assert changed(pre_tokenizer=None) is None
    assert changed(normalizer={"type": "Lowercase"}) is None
    spaced = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    assert changed(pre_tokenizer=spaced) is None
    assert words_of(toy.sentencepiece().backend_tokenizer) is None
    word_level = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    word_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert words_of(word_level) is None


@pytest.mark.parametrize(
    "pattern", [r"(\p{L})+", r"\p{L}*", r"\p{NoSuchScript}+", r"^\p{L}+|.", r"\p{L}+$|\n| ", r"\b\p{L}+\b|\s"]
)
def test_expressions_that_cannot_be_followed_are_left_to_the_tokenizer(pattern: str) -> None:
    state = json.loads(tokenizer("gpt2").to_str())
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    given = {"type": "Sequence", "pretokenizers": [split, whole]}
    assert Words.of({**state, "pre_tokenizer": given}, tokenizer("gpt2")) is None


@pytest.mark.parametrize("how", ["lstrip", "rstrip", "single_word", "normalized"])
def test_added_tokens_that_reach_beyond_themselves_are_left_to_the_tokenizer(how: str) -> None:
    made = tokenizer("gpt2")
    made.add_tokens([AddedToken("[X]", **{"normalized": False, how: True})])
    words = words_of(made)
    assert words is not None
    assert words.split("a [X] b") is None and words.split("a [Y] b") is not None


def test_a_character_that_the_engines_take_for_different_kinds_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokenizer("qwen2")
    words = words_of(made)
    assert words is not None and words.split("日本") is not None
    # As if `regex` took this one for a digit.
    real_cut = words._full[0]
    monkeypatch.setattr(words, "_full", [lambda text: re.split("(語)", text) if "語" in text else real_cut(text)])
    assert words.split("日本") is not None and words.split("日本語") is None
    assert words.split("\u0378") is None, "not assigned, so it may be anything in a later version"


def test_the_compiled_part_is_held_against_the_expression(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way == "python":
        pytest.skip("nothing is compiled")
    right = expressions.Tables.sets_of
    # As if its tables took this one for a space.
    monkeypatch.setattr(expressions.Tables, "sets_of", lambda self, each: right(self, " " if each == "語" else each))
    words = words_of(tokenizer("qwen2"))
    assert words is not None and told(words, "日本") is not None
    assert told(words, "日本語") is None and words.split("日本語") is not None
    assert told(words, "日本") is not None


def test_words_are_forgotten_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_words, "MOST_WORDS", 20)
    made = tokenizer("gpt2")
    words = words_of(made)
    assert words is not None
    for number in range(50):
        text = f"<think> word{number} and {'x' * number}"
        assert told(words, text) == made.encode(text).ids
        assert (len(words._numbers) if words.native is None else words.native.count) < 40
    monkeypatch.setattr(by_words, "MOST_CHARACTERS", 100)
    for number in range(5):
        assert told(words, "y" * 90 + str(number)) == made.encode("y" * 90 + str(number)).ids
        assert (words._held if words.native is None else words.native.size) < 300


def test_an_interruption_between_counting_and_learning_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokenizer("gpt2")
    words = words_of(made)
    assert words is not None
    with monkeypatch.context() as patch:
        patch.setattr(words, "_ids_of", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            words.many(["entirely new"])
    assert told(words, "entirely new words") == made.encode("entirely new words").ids


def test_an_interruption_while_words_are_forgotten_keeps_the_added_tokens_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their contents are in the table then, but not what they are: the model alone would take them for text."""
    made = tokenizer("gpt2")
    words = words_of(made)
    assert words is not None
    table: Any = words if words.native is None else words.native
    with monkeypatch.context() as patch:
        patch.setattr(table, "_enter" if words.native is None else "_learn", lambda _: (_ for _ in ()).throw(KeyError))
        with pytest.raises(KeyError):
            table._forget() if words.native is None else table.forget()
    assert told(words, "a <think> b") == made.encode("a <think> b").ids


# ------------------------------------------------------------------------------------------------- conversations


def config(**data: Any) -> RunConfig:
    return RunConfig.model_validate({"model": "m", "data": {"train": ["a"], **data}})


CHATS = [
    Chat((Message("system", "Be brief."), Message("user", "Hello\n"), Message("assistant", "Fine.", 0.5))),
    Chat((Message("user", "2+2"), Message("assistant", "4"), Message("user", "よし"), Message("assistant", " \n是"))),
    Chat((Message("user", "a"), Message("assistant", "b", 0.0), Message("user", "c"), Message("assistant", "d"))),
    Chat((Message("user", "typed <|im_end|> words"), Message("assistant", "<think>\nhm\n</think>\n\nyes"))),
    Chat((Message("user", "q"), Message("assistant", "\n\nlines first")), ({"name": "f"},)),
]


@pytest.mark.parametrize("template", ["CHATML", "TAGGED", "LLAMA3", "THINKING", "CLOSED"])
@pytest.mark.parametrize("split", ["gpt2", "qwen"])
def test_conversations_have_the_ids_and_weights_that_the_tokenizer_gives(
    template: str, split: str, tmp_path: Path
) -> None:
    made = (toy.llama3 if template == "LLAMA3" else toy.chatml)(getattr(toy, template), words=split)
    renderer = load_renderer(toy.save(made, tmp_path), config(accept_unread=["tools"]))
    assert renderer.goes_by_words
    fast = renderer.train_many(CHATS)
    assert renderer.goes_by_words, "nothing differed"
    renderer.distrust_words()
    for one, other in zip(fast, renderer.train_many(CHATS), strict=True):
        assert isinstance(one, list) and isinstance(other, list) and len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert mine[0].tolist() == theirs[0].tolist() and mine[1].tolist() == theirs[1].tolist()
            assert mine[0].dtype == np.int32 and mine[1].dtype == np.float32


def test_most_conversations_are_told_by_words(tmp_path: Path) -> None:
    renderer = load_renderer(toy.save(toy.chatml(), tmp_path), config())
    chat = renderer._chat()
    layouts = [chat.arrange(each.messages, (), {len(each.messages) - 1: 1.0}) for each in CHATS[:3]]
    told = chat.by_words([layout for layout in layouts if not isinstance(layout, Problem)])
    assert [each is not None for each in told] == [True, False, True], "a line break and spaces join the prompt's"


@pytest.mark.parametrize("example", [Text("some text, told wrong"), Completion("a question", "an answer"), CHATS[2]])
def test_words_that_are_told_wrong_are_noticed(example: Any, tmp_path: Path) -> None:
    renderer = load_renderer(toy.save(toy.chatml(), tmp_path), config())
    right = renderer.train(example)
    assert renderer.vocabulary.words is not None
    tamper(renderer.vocabulary.words)
    again = renderer.train(example)
    assert not renderer.goes_by_words
    assert again[0].tolist() == right[0].tolist() and again[1].tolist() == right[1].tolist()


def test_a_text_that_is_told_wrong_makes_conversations_distrusted_too(tmp_path: Path) -> None:
    renderer = load_renderer(toy.save(toy.chatml(), tmp_path), config())
    chat, words = renderer._chat(), renderer.vocabulary.words
    assert words is not None and chat.goes_by_words
    renderer.train(Text("some text"))
    tamper(words)
    renderer.train(Text("some text"))
    assert not renderer.goes_by_words and not chat.goes_by_words


def test_a_renderer_that_was_sent_elsewhere_renders_alike(tmp_path: Path) -> None:
    renderer = load_renderer(toy.save(toy.chatml(), tmp_path), config(system="Be kind.", new_tokens=["<x>"]))
    sent = pickle.loads(pickle.dumps(renderer.bare()))
    assert type(sent) is renderers.RowRenderer and sent.fingerprint == renderer.fingerprint and sent.goes_by_words
    for one, other in zip(renderer.train_many(CHATS[:4]), sent.train_many(CHATS[:4]), strict=True):
        assert str(one) == str(other)
    renderer.distrust_words()
    assert not pickle.loads(pickle.dumps(renderer.bare())).goes_by_words
    assert isinstance(pickle.loads(pickle.dumps(renderer)), Renderer)
    assert isinstance(renderer.vocabulary, Vocabulary)
