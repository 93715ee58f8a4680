"""Rendered conversations to ids and weights, word by word.

What goes in: layouts. What comes out: what `spans` makes of them through the tokenizer and its character places, at a
fraction of the time, or None where that way has to be gone: words that cannot be told, a prompt whose tokens are others
because of what follows it, an answer without a stop token.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Floats
from luthier.data.layout import Answer, Layout
from luthier.data.words import Split, Words

Weighted = tuple[NDArray[np.int32], Floats]
"""ids [T] and weights [T] of one training sequence (`luthier.batch.Rendered`)."""
Learnt = tuple[int, int, float]
"""First word, stop token's word, weight of the loss of every token from the one to the other."""
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
        plans = [self._plan(layout) for layout in layouts]
        words: list[str] = []
        for plan in plans:
            if plan is not None:
                words += plan[0].words
        ids, ends = self._words.tokens(words)
        weights = np.zeros(len(ids), dtype=np.float32)
        borders = [0, *ends.tolist()]  # of the words, in tokens
        made: list[Weighted | None] = []
        word = 0
        for plan in plans:
            if plan is None:
                made.append(None)
                continue
            split, learnt = plan
            for first, stop, weight in learnt:
                weights[borders[word + first] : borders[word + stop + 1]] = weight
            begin, word = borders[word], word + len(split.words)
            weights[begin : begin + 1] = 0
            made.append((ids[begin : borders[word]], weights[begin : borders[word]]))
        return made

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
                learnt.append((first, stop, answer.weight))
        return split, learnt

    def _word_at(self, split: Split, text: str, char: int) -> int | None:
        """The word that begins at a character, where the words before it are those of the text up to there alone.

        Words do not reach across an added token, so the stretch from the last one on decides.
        """
        begin = word = 0
        for mark in split.marks:
            if mark.end > char:
                break
            begin, word = mark.end, mark.word + 1
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
        for mark in split.marks:
            if mark.start >= answer.start and mark.end <= answer.bound and mark.text in self._stops:
                return mark.word
        return None
