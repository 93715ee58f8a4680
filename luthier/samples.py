"""What the model that trains answers to a few held-out examples, for people to read.

What goes in: the model as it is at a validation, and the sequences that are held out. What comes out: for each of the
first of them its prompt, the answer that the data gives, and the likeliest answer of the model, as texts for the event
log. The weights are those that train, not a copy, and nothing of the training state is touched: no random number is
drawn, nothing is dropped out, nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from luthier.batch import Rendered
from luthier.data.renderer import RowRenderer
from luthier.data.sequences import Sequences
from luthier.engine.ranks import Ranks
from luthier.generate import Sampling, generate, room_for
from luthier.models.cache import bytes_per_token
from luthier.models.decoder import Decoder
from luthier.runs import files

SHOWN_CHARACTERS = 2000
"""Of each text in an event: about what one screen holds. Chosen, not tuned."""
TEXT_TOKENS = 64
"""Most tokens of a plain text that are given to be continued. Chosen, not tuned."""
STEP_SHARE = 0.5
"""Of what a training step works with, which is free at a validation, for keys and values; the rest is for the passes
through the model. Chosen, not tuned."""

Sample = dict[str, str | None]
"""prompt: as the model was given it, control tokens included; reference: the answer that the data gives, None where it
gives none; answer: the model's own."""


def sample(renderer: RowRenderer, prompt: Sequence[int], reference: str | None, answer: str) -> Sample:
    """prompt: ids."""
    return {
        "prompt": shortened(renderer.vocabulary.decode(prompt, skip_special=False)),
        "reference": None if reference is None else shortened(reference),
        "answer": shortened(answer),
    }


def shortened(text: str) -> str:
    """The beginning and the end of a long text. Secrets are cut out first: half of one would not be known for one."""
    text = files.redact(text)
    left_out = len(text) - SHOWN_CHARACTERS
    if left_out <= 0:
        return text
    half = SHOWN_CHARACTERS // 2
    return f"{text[:half]} […{left_out}…] {text[-half:]}"


@dataclass(frozen=True)
class Question:
    """prompt: what an answer is to follow; answer: what the data has there, None where it has nothing that is wanted.
    Both are ids."""

    prompt: list[int]
    answer: list[int] | None


def questions(held_out: Sequences, count: int, max_tokens: int) -> list[Question]:
    """One each of the first examples: of a pair its better answer, of an unrolled conversation its first one."""
    firsts = held_out.firsts
    if held_out.conversations is not None:
        firsts = np.sort(np.unique(held_out.conversations, return_index=True)[1])
    return [_question(held_out, int(first), max_tokens) for first in firsts[:count]]


def _question(held_out: Sequences, first: int, max_tokens: int) -> Question:
    judged = [held_out[uid] for uid in held_out.members(first)]
    row = next((each for each in judged if each.side >= 0), judged[0])
    opening, ids = row.opening, [int(each) for each in row.ids]
    if row.weights[opening - 1]:  # a text all of which is learnt: any place is as good
        opening = min(opening, TEXT_TOKENS)
        return Question(ids[:opening], ids[opening : opening + max_tokens])
    return Question(ids[:opening], ids[opening : _end(row)] if row.side >= 0 else None)


def _end(row: Rendered) -> int:
    """Where the first stretch ends that is learnt."""
    behind = np.flatnonzero(row.weights[row.opening :] == 0)
    return row.opening + int(behind[0]) if len(behind) else len(row.ids)


class Sampler:
    """Answers this rank's share of the questions, by the weights as they are.

    Args:
        adapter: the one that trains; None where the weights themselves do.
        step_bytes: what a training step works with, as it is planned now.
    """

    def __init__(
        self,
        decoder: Decoder,
        adapter: str | None,
        renderer: RowRenderer,
        asked: Sequence[Question],
        max_tokens: int,
        step_bytes: Callable[[], int],
        ranks: Ranks,
    ) -> None:
        self._decoder, self._adapter, self._renderer = decoder, adapter, renderer
        self._asked = {place: asked[place] for place in range(ranks.index, len(asked), ranks.size)}
        self._max_tokens, self._step_bytes = max_tokens, step_bytes

    def __call__(self) -> dict[int, Sample]:
        """By the place of the question among all."""
        self._decoder.moved()
        prompts = [each.prompt for each in self._asked.values()]
        made = generate(
            self._decoder,
            prompts,
            self._renderer.stop_ids,
            Sampling(self._max_tokens),
            adapter=self._adapter,
            cache_tokens=self._room([len(prompt) + self._max_tokens for prompt in prompts]),
        )
        answers = [self._renderer.decode(each.ids) for each in made]
        return {place: self._told(each, text) for (place, each), text in zip(self._asked.items(), answers, strict=True)}

    def _room(self, lengths: Sequence[int]) -> int:
        """Tokens of cache: for all at once where a step takes as much, at least for the longest by itself."""
        token_bytes = bytes_per_token(self._decoder.spec, self._decoder.compute_dtype)
        spare = int(self._step_bytes() * STEP_SHARE) // token_bytes
        return min(room_for(lengths), max(spare, room_for([max(lengths, default=0)])))

    def _told(self, question: Question, answer: str) -> Sample:
        reference = None
        if question.answer is not None:
            ends = question.answer[-1:] and question.answer[-1] in self._renderer.stop_ids
            reference = self._renderer.decode(question.answer[:-1] if ends else question.answer)
        return sample(self._renderer, question.prompt, reference, answer)
