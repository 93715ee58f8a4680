"""Rendered conversations to ids and weights, word by word.

What goes in: layouts. What comes out: what `spans` makes of them through the tokenizer and its character places, at a
fraction of the time, or None where that way has to be gone: words that cannot be told, a prompt whose tokens are others
because of what follows it, an answer without a stop token.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Floats, Ints
from luthier.data.layout import Answer, Layout
from luthier.data.native import Told
from luthier.data.words import Split, Words

Weighted = tuple[NDArray[np.int32], Floats]
"""ids [T] and weights [T] of one training sequence (`luthier.batch.Rendered`)."""
Learnt = tuple[int, int]
"""First word and stop token's word of what is learnt."""
SHORT, REMEMBERED = 64, 1024
"""Stretches before answers whose words are remembered: their length in characters, and how many. Not tuned."""


class LearntByWords:
    """For one tokenizer and the texts of the tokens that end an answer."""

    def __init__(self, words: Words, stops: Collection[str]) -> None:
        self._words = words
        self._stops = frozenset(stops)
        self._stretches: dict[str, list[str] | None] = {}

    def sequences(self, layouts: Sequence[Layout]) -> list[Weighted | None]:
        """The sequence of each layout; its first token, which nothing precedes, is not learnt."""
        told = self._words.tell(
            [None if layout.marked else layout.text for layout in layouts],
            [[(each.start, each.bound, bool(each.weight)) for each in layout.answers] for layout in layouts],
            self._stops,
        ) or self._tell(layouts)
        ids, oks = told.ids, told.told.tolist()
        weights = np.zeros(len(ids), dtype=np.float32)
        spent = [
            answer.weight
            for layout, ok in zip(layouts, oks, strict=True)
            if ok
            for answer in layout.answers
            if answer.weight
        ]
        for (first, last), weight in zip(told.spans.tolist(), spent, strict=True):
            weights[first:last] = weight
        made: list[Weighted | None] = []
        begin = 0
        for ok, end in zip(oks, told.ends.tolist(), strict=True):
            weights[begin : begin + 1] = 0
            made.append((ids[begin:end], weights[begin:end]) if ok else None)
            begin = end
        return made

    def _tell(self, layouts: Sequence[Layout]) -> Told:
        """As `Words.tell`, in Python."""
        plans = [self._plan(layout) for layout in layouts]
        words = [word for plan in plans if plan is not None for word in plan[0].words]
        ids, ends = self._words.tokens(words)
        borders = np.concatenate([[0], ends])  # of the words, in tokens
        rows, spans = _places(plans)
        return Told(ids, borders[rows], np.asarray([plan is not None for plan in plans], np.bool_), borders[spans])

    def _plan(self, layout: Layout) -> tuple[Split, list[Learnt]] | None:
        split = None if layout.marked else self._words.split(layout.text)
        if split is None:
            return None
        learnt: list[Learnt] = []
        for answer in layout.answers:
            first = self._word_at(split, layout.text, answer.start)
            if first is None:
                return None
            if answer.weight:
                stop = self._stop(split, answer)
                if stop is None:
                    return None
                learnt.append((first, stop))
        return split, learnt

    def _word_at(self, split: Split, text: str, char: int) -> int | None:
        """The word that begins at a character, where the words before it are those of the text up to there alone.

        Words do not reach across an added token, so the stretch from the last one on decides.
        """
        begin = word = 0
        for _, end, number, _ in split.marks:
            if end > char:
                break
            begin, word = end, number + 1
        if begin == char:
            return word
        alone = self._alone(text[begin:char])
        if alone is None or split.words[word : word + len(alone)] != alone:
            return None
        return word + len(alone)

    def _alone(self, stretch: str) -> list[str] | None:
        if stretch in self._stretches:
            return self._stretches[stretch]
        split = self._words.split(stretch)
        words = None if split is None else split.words
        if len(stretch) <= SHORT and len(self._stretches) < REMEMBERED:
            self._stretches[stretch] = words
        return words

    def _stop(self, split: Split, answer: Answer) -> int | None:
        for start, end, word, text in split.marks:
            if start >= answer.start and end <= answer.bound and text in self._stops:
                return word
        return None


def _places(plans: Sequence[tuple[Split, list[Learnt]] | None]) -> tuple[Ints, Ints]:
    """In words: where plans in a row end [P], where what is learnt begins and ends [L, 2]."""
    ends: list[int] = []
    spans: list[tuple[int, int]] = []
    end = 0
    for plan in plans:
        if plan is not None:
            spans += [(end + first, end + stop + 1) for first, stop in plan[1]]
            end += len(plan[0].words)
        ends.append(end)
    return np.asarray(ends, np.int64), np.asarray(spans, np.int64).reshape(-1, 2)
