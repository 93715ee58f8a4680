"""The compiled part cuts as the `regex` library does, and is left out where it cannot."""

from __future__ import annotations

import itertools
import random
import threading
from pathlib import Path
from typing import Any

import compiled
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from test_words import PATTERNS

from luthier.data import expressions, native
from luthier.data.expressions import Unsaid
from luthier.data.native import NativeWords
from luthier.data.words import GPT2

pytestmark = pytest.mark.skipif(compiled.library() is None, reason="no C compiler here")

KNOWN = {
    **{name: [pattern or GPT2] for name, pattern in PATTERNS.items()},
    "nano": [r"\p{N}", GPT2],
    "gpt2 of old": [r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"],
    "cl100k": [
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
        r"|\s+(?!\S)|\s+"
    ],
    "qwen3.5": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ],
    "deepseek": [
        r"\p{N}{1,3}",
        r"[一-龥぀-ゟ゠-ヿ]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ],
}
"""Published expressions of the models named, each list cutting one after the other."""


def made(patterns: list[str], added: dict[str, int] | None = None) -> NativeWords:
    library = compiled.library()
    assert library is not None
    return NativeWords(library, expressions.tables(patterns), added or {})


def by_regex(patterns: list[str], text: str) -> list[str]:
    pieces = [text]
    for pattern in patterns:
        pieces = [word for piece in pieces for word in regex.split(f"({pattern})", piece) if word]
    return pieces


MADE: dict[str, NativeWords] = {}


def native_pieces(kind: str, text: str) -> list[str] | None:
    table = MADE.setdefault(kind, made(KNOWN[kind]))
    for character in set(text):
        table.meet(character)
    return table.pieces(text)


NEIGHBOURS = "aZſKéß ñ09²Ⅷ'’slt.,-!/\n\r\t\x0b\x1c\u0085\u00a0\u2003\u3000_<|>é\u0301日語ー가👍\U0001d54f"


@pytest.mark.parametrize("kind", KNOWN)
def test_words_are_those_of_the_expression(kind: str) -> None:
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choices(NEIGHBOURS, k=rng.randrange(30)))
        assert native_pieces(kind, text) == by_regex(KNOWN[kind], text), repr(text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.sampled_from(sorted(KNOWN)))
def test_words_of_any_text_are_those_of_the_expression(text: str, kind: str) -> None:
    assert native_pieces(kind, text) == by_regex(KNOWN[kind], text)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", r"\s", "[ab]", "[^a]", r"\p{L}", r"(?i:'s|ab)", "(?:b|ab)"]),
            st.sampled_from(["", "", "?", "*", "+", "{2}", "{1,3}", "{2,}", "?+", "*+", "++"]),
            st.sampled_from(["", "", "", "|", r"(?!\S)", "(?:a|bb)?|"]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.lists(st.text("abAB's \n", max_size=12), max_size=8),
)
def test_expressions_are_followed_or_refused(parts: list[tuple[str, str, str]], texts: list[str]) -> None:
    pattern = "".join(itertools.chain.from_iterable(parts)).rstrip("|")
    try:
        table = made([pattern])
    except Unsaid:
        return
    for character in "abAB's \n":
        table.meet(character)
    for text in texts:
        assert table.pieces(text) == by_regex([pattern], text), (pattern, text)


@pytest.mark.parametrize(
    "pattern",
    [r"(?:ab)+", r"a+?", r"a*", r"^a", r"a$", r"(a)b", r"(?<=a)b", r"(?=a)b", r"a+(?:b|ab)c", r"(?:b)?c",
     r"\bA", r"a{2000}",
     r"[a", r"(?:a", r"a)", r"\p{L", r"[]a]", r"[a[b]]", r"[a&&b]", r"(?s:a)", r"a{2,1}", "|a", r"\1",
     r"(?:a|b)?+"],
)  # fmt: skip
def test_what_the_tables_cannot_say_is_refused(pattern: str) -> None:
    with pytest.raises(Unsaid):
        expressions.tables([pattern])


def test_many_sets_are_refused() -> None:
    with pytest.raises(Unsaid):
        expressions.tables(["|".join("abcdefghijklmnopqrstuvwxyzABCDEFG")])


def told(table: NativeWords, text: str, *answers: tuple[int, int, bool], stops: Any = ("<e>",)) -> Any:
    """ids, each word's own number, and spans; None where it is not told."""
    found = table.tell([text], [answers], stops, lambda words: [[len(word)] * len(word) for word in words])
    return (found.ids.tolist(), found.spans.tolist()) if found.told[0] else None


def with_added() -> NativeWords:
    table = made([GPT2], {"<e>": 100, "<e><e>": 101, "日<": 102})
    for character in map(chr, range(128)):
        table.meet(character)
    for character in "日本é":
        table.meet(character)
    return table


def test_added_tokens_stand_for_themselves_the_longest_first() -> None:
    table = with_added()
    assert told(table, "ab<e>") == ([2, 2, 100], [])
    assert told(table, "<e><e><e>x") == ([101, 100, 1], [])
    assert told(table, "日本日<e>") == ([2, 2, 102, 1, 1], [])
    assert told(table, "") == ([], [])


def test_answers_are_found_by_character() -> None:
    table = with_added()
    # é本 are two characters, and one word of two ids.
    assert told(table, "<e>é本<e>ok<e>", (8, 13, True)) == ([100, 2, 2, 100, 2, 2, 100], [[4, 7]])
    assert told(table, "<e>é本<e>ok<e>", (8, 13, False)) == ([100, 2, 2, 100, 2, 2, 100], [])
    assert told(table, "<e>é本<e>ok<e>", (8, 12, True)) is None, "its stop lies behind its bound"
    assert told(table, "<e>é本<e>ok<e>", (8, 13, True), stops=()) is None
    assert told(table, "a b<e>", (1, 6, True)) == ([1, 2, 2, 100], [[1, 4]])
    assert told(table, "a b<e>", (2, 6, True)) is None, "within a word"
    assert told(table, "a<e>b<e>", (2, 8, True)) is None, "within an added token"


def test_a_character_that_was_not_met_makes_its_text_untold() -> None:
    table = with_added()
    found = table.tell(["ab", "a語", "日"], [(), (), ()], (), lambda words: [[len(word)] for word in words])
    assert found.told.tolist() == [True, False, True] and found.ends.tolist() == [1, 1, 2]
    table.meet("語")
    assert told(table, "a語") == ([2, 2], [])
    table.meet("語", known=False)
    assert told(table, "a語") is None and table.pieces("語") is None


def test_many_words_and_long_ones() -> None:
    table = with_added()
    words = [f" {'abcdefghij'[number % 10] * (number % 40 + 1)}{number}" for number in range(30_000)]
    numbers: dict[str, int] = {}

    def ids_of(new: list[str]) -> list[list[int]]:
        assert not numbers.keys() & set(new), "each once"
        numbers.update((word, len(numbers) + each) for each, word in enumerate(new))
        return [[numbers[word]] for word in new]

    text = "".join(words) + "x" * 1_000_000
    for _ in range(2):
        found = table.tell([text], [()], (), ids_of)
        assert found.ids.tolist() == [numbers[word] for word in table.pieces(text) or ()]
    table.forget()
    assert table.count == 3 and table.is_whole
    numbers.clear()
    assert table.tell([text], [()], (), ids_of).told.all()


def test_threads_take_turns() -> None:
    table = with_added()
    wrong: list[str] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(200):
            text = " ".join("x" * rng.randint(1, 9) + str(seed) for _ in range(rng.randint(1, 30)))
            if told(table, text) != ([len(word) for word in by_regex([GPT2], text) for _ in word], []):
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_nothing_is_loaded_that_was_built_of_another_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled.installed(tmp_path) is None, "nothing was built"
    (tmp_path / "_native.so").write_bytes(b"no library")
    assert compiled.installed(tmp_path / ".") is None
    other = tmp_path / "native.c"
    other.write_bytes(native.SOURCE.read_bytes() + b"\n")
    monkeypatch.setattr(native, "SOURCE", other)
    built = next(native.Path(native.__file__).parent.glob("_native*"), None)
    if built is not None:
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / built.name).write_bytes(built.read_bytes())
        assert compiled.installed(tmp_path / "b") is None
