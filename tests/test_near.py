"""Near duplicates, held against the exact Jaccard index of every pair.

What goes in: made rows, some of them changed copies of others. What comes out: which pairs are found; precision and
recall are stated where they are asserted.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from luthier.data import near
from luthier.data.near import NearIndex, Pairs, evened, families, settled


def made_words(rng: random.Random, count: int = 3000) -> list[str]:
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(count)]


def made_texts(seed: int, chinese: bool) -> list[str]:
    """200 texts of 8 to 80 words, each followed by two copies with up to an eighth of its words changed."""
    rng = random.Random(seed)
    words, joint = made_words(rng), " "
    if chinese:
        words, joint = ["".join(chr(0x4E00 + rng.randrange(2000)) for _ in range(4)) for _ in range(3000)], ""
    texts = []
    for _ in range(200):
        first = rng.choices(words, k=rng.randint(8, 80))
        texts.append(joint.join(first))
        for _ in range(2):
            copy = list(first)
            for _ in range(rng.randint(0, max(1, len(first) // 8))):
                copy[rng.randrange(len(copy))] = rng.choice(words)
            texts.append(joint.join(copy))
    return list(dict.fromkeys(texts))


def indexed(texts: list[str], **arguments: Any) -> NearIndex:
    index = NearIndex(**arguments)
    contents = [hash_of(text) for text in texts]
    for row, (content, text) in enumerate(zip(contents, texts, strict=True)):
        index.add(row, content, text)
    return settled(index, contents, texts)


def hash_of(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def found_pairs(pairs: Pairs) -> set[tuple[int, int]]:
    return set(zip(pairs.earlier.tolist(), pairs.later.tolist(), strict=True))


def pieces(text: str) -> set[str]:
    even = evened(text)
    return {even[at : at + near.RUN] for at in range(len(even) - near.RUN + 1)}


def jaccard(texts: list[str]) -> dict[tuple[int, int], float]:
    """The oracle: every pair that has anything in common."""
    sets = [pieces(text) for text in texts]
    pairs = itertools.combinations(range(len(texts)), 2)
    return {(a, b): len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in pairs}


@pytest.mark.parametrize("chinese", [False, True])
def test_against_every_pair(chinese: bool) -> None:
    """Of up to 600 rows. Recall by row: all of those with an earlier row of 0.9 or more, 95 % of those of 0.85, 85 %
    of those of 0.8 (the bound, where chance decides). Precision: no pair below 0.7, 90 % at 0.77 or more."""
    texts = made_texts(1, chinese)
    exact = jaccard(texts)
    found = found_pairs(indexed(texts).pairs())
    rows = {later for _, later in found}
    for bound, recall in ((0.9, 1.0), (0.85, 0.95), (0.8, 0.85)):
        due = {later for (_, later), value in exact.items() if value >= bound}
        assert len(due) >= 40
        assert len(due & rows) >= recall * len(due), bound
    values = np.asarray([exact[pair] for pair in found])
    assert values.min() >= 0.7
    assert (values >= 0.77).mean() >= 0.9


def test_case_and_white_space_make_no_difference() -> None:
    texts = ["The old boats pass the green hills.", "the  OLD boats\npass the green hills. "]
    assert found_pairs(indexed(texts).pairs()) == {(0, 1)}


def test_equal_rows_are_compared_once() -> None:
    pairs = indexed(["The old boats pass the green hills."] * 50).pairs()
    assert pairs.compared == 1 and not len(pairs.later)


@pytest.mark.parametrize("text", ["", "a", "五个字以下", "🙂", "\x00" * 3, "\ud83d" * 9, "x" * 100_000])
def test_texts_of_any_kind(text: str) -> None:
    texts = [text, "something else entirely", text + " and more than that, which is of its own"]
    assert (0, 1) not in found_pairs(indexed(texts).pairs())


def test_no_rows() -> None:
    assert NearIndex().pairs().compared == 0


def test_a_long_instruction_before_every_question_makes_no_duplicates() -> None:
    """And real near duplicates below the same instruction are found all the same."""
    rng = random.Random(2)
    words = made_words(rng)
    instruction = " ".join(rng.choices(words, k=300)) + ": "
    reviews = [" ".join(rng.choices(words, k=25)) for _ in range(300)]
    assert found_pairs(indexed([instruction + each for each in reviews]).pairs()) == set()
    reviews.append(reviews[7] + " indeed")
    assert found_pairs(indexed([instruction + each for each in reviews]).pairs()) == {(7, 300)}


def with_headers(rng: random.Random) -> list[str]:
    """Rows as three sources left them: 1,000 of the first, then 300 of each other below a header of 120 words of its
    own, one of each source a near duplicate of another."""
    words = made_words(rng)
    texts = [" ".join(rng.choices(words, k=25)) for _ in range(1000)]
    for _ in range(2):
        header = " ".join(rng.choices(words, k=120)) + ": "
        texts += [header + " ".join(rng.choices(words, k=12)) for _ in range(300)]
    for row in (1000, 1300):
        texts.append(texts[row] + " indeed")
    return texts


def test_what_many_rows_share_is_learnt_wherever_it_stands() -> None:
    """Below such a header two unrelated rows are more than 0.8 alike."""
    texts = with_headers(random.Random(4))
    assert jaccard([texts[1001], texts[1002]])[0, 1] > near.SIMILAR
    assert found_pairs(indexed(texts).pairs()) == {(1000, 1600), (1300, 1601)}


def test_the_order_of_rows_changes_nothing() -> None:
    rng = random.Random(5)
    texts = with_headers(rng) + made_texts(6, False)

    def found(order: list[str]) -> set[frozenset[str]]:
        pairs = indexed(order).pairs()
        return {frozenset((order[a], order[b])) for a, b in found_pairs(pairs)}

    first = found(texts)
    assert len(first) > 200
    for _ in range(2):
        rng.shuffle(texts)
        assert found(texts) == first


def test_a_group_of_near_duplicates_is_no_form() -> None:
    """A hundred copies of 60 words, each with a word changed (not at an end, where short stretches of the others count
    as its own too), among 400 rows: what they share stands in a fifth."""
    texts = with_copies(random.Random(7))
    assert near._frame([evened(text) for text in texts]).any()
    found = families(indexed(texts).pairs(), len(texts))
    assert np.array_equal(found[:400], np.arange(400)) and set(found[400:]) == {400}


def with_copies(rng: random.Random) -> list[str]:
    words = made_words(rng)
    texts = [" ".join(rng.choices(words, k=60)) for _ in range(400)]
    first = rng.choices(words, k=60)
    for number in range(100):
        at = 5 + number % 50
        texts.append(" ".join([*first[:at], f"{rng.choice(words)}{number}", *first[at + 1 :]]))
    return texts


def test_rows_with_a_tenth_of_their_own_below_a_form_are_not_alike() -> None:
    rng = random.Random(10)
    words = made_words(rng)
    form = " ".join(rng.choices(words, k=180))
    texts = [f"{form} {' '.join(rng.choices(words, k=20))}" for _ in range(200)]
    assert jaccard(texts[:2])[0, 1] > near.SIMILAR
    assert found_pairs(indexed(texts).pairs()) == set()


def test_a_second_look_is_taken_only_where_it_is_needed() -> None:
    """Where no stretch is shared, nothing is asked for again."""

    def unasked() -> Iterator[str]:
        raise AssertionError
        yield ""

    texts = made_texts(8, False)
    index = indexed(texts)
    assert settled(index, map(hash_of, texts), unasked()) is index


def test_too_many_rows_are_given_up_rather_than_sampled() -> None:
    texts = made_texts(9, False)
    pairs = indexed(texts, sample_rows=len(texts) - 1, gives_up=True).pairs()
    assert pairs.sampled and not pairs.compared and not len(pairs.later)
    assert len(indexed(texts, sample_rows=len(texts), gives_up=True).pairs().later) > 100


def test_families_are_joined_by_way_of_others() -> None:
    pairs = Pairs(np.asarray([4, 2, 0]), np.asarray([5, 4, 3]), 7, False)
    assert families(pairs, 7).tolist() == [0, 1, 2, 0, 2, 2, 6]


def test_rows_set_apart_count_as_later() -> None:
    """So that a row for validation is held against those that are trained, wherever it stands."""
    texts = ["The old boats pass the green hills.", "The old boats pass the green hills!"]
    assert found_pairs(indexed(texts).pairs(frozenset({0}))) == {(1, 0)}


def test_a_sample_keeps_pairs_together_and_memory_bounded() -> None:
    """A fair coin per row would keep a quarter of the pairs in a half; here the share of pairs kept is near that of
    the rows kept."""
    rng = random.Random(3)
    words = made_words(rng)
    texts = []
    for _ in range(1500):
        text = " ".join(rng.choices(words, k=60))
        texts += [text, text + " again"]
    index = indexed(texts, sample_rows=1000)
    pairs = index.pairs()
    assert pairs.sampled and 400 <= pairs.compared <= 1000
    assert len(index._signatures) == pairs.compared == len(index._known)
    whole = len(indexed(texts).pairs().later)
    assert whole == 1500
    assert len(pairs.later) / whole > 0.85 * pairs.compared / len(texts)


def test_what_is_found_is_the_same_everywhere() -> None:
    """No use of Python's own hashes, which differ from process to process."""
    hashes, owners, _ = near._pieces(["the old boats pass"], None)
    signature = near._signatures(hashes, owners, 1)
    assert int(signature.astype(np.int64).sum()) == 4284126
