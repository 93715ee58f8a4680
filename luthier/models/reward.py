"""Rewards of answers.

What goes in: a decoder with a scalar head, and conversations that end in an answer. What comes out: a number each,
higher for the better answer to one prompt. It is read off the last token that is learnt of an answer, its stop token,
as in training; prompts that answers share are computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from luthier.batch import Ints, Rendered
from luthier.data import pack
from luthier.data.examples import Message, Preference, parts
from luthier.data.renderer import RowRenderer
from luthier.data.store import computed_tokens
from luthier.errors import DataError, Problem
from luthier.models.decoder import Decoder, Want

BUDGET_TOKENS = 4096
"""Most tokens computed at once; as the planner's `CAP_TOKENS` on a CPU."""
Turns = Sequence[Message | Mapping[str, Any]]


class Judge:
    """A reward model.

    Args:
        adapter: the one that was trained for it; None where the decoder's own weights were.
    """

    def __init__(self, decoder: Decoder, renderer: RowRenderer, adapter: str | None) -> None:
        self.decoder, self.renderer, self.adapter = decoder, renderer, adapter

    def score(self, answered: Sequence[tuple[Turns, str]], budget_tokens: int = BUDGET_TOKENS) -> list[float]:
        """The reward of each (messages, answer).

        Raises:
            DataError: the template refuses a conversation.
        """
        return self.score_ids([self._ids(messages, answer) for messages, answer in answered], budget_tokens)

    @torch.no_grad()
    def score_ids(self, sequences: Sequence[Ints | Sequence[int]], budget_tokens: int = BUDGET_TOKENS) -> list[float]:
        """The reward of each token sequence, read off its last token."""
        found = np.zeros(len(sequences), dtype=np.float64)
        if not len(sequences):
            return []
        rows = [_ended(uid, ids) for uid, ids in enumerate(sequences)]
        call_tokens = pack.call_tokens(str(self.decoder.device))
        for batch in pack.microbatches(rows, budget_tokens, call_tokens):
            scores = self.decoder(batch, Want(None, value=True), adapter=self.adapter)
            found[batch.uid[batch.row_owner]] = scores.value.cpu().numpy()
        return [float(each) for each in found]

    def _ids(self, messages: Turns, answer: str) -> Ints:
        turns = tuple(each if isinstance(each, Message) else Message(**each) for each in messages)
        (chat, _), *_ = parts(Preference(turns, (Message("assistant", answer),), ()))
        made = self.renderer.train_many([chat])[0]
        if isinstance(made, Problem):
            raise DataError(made)
        ids, weights = made[-1]
        return np.asarray(ids[: computed_tokens(weights) + 1], dtype=np.int64)


def _ended(uid: int, ids: Ints | Sequence[int]) -> Rendered:
    """A sequence whose last token is looked at: what would follow it means nothing. Groups of their own keep equal
    sequences apart."""
    weights = np.zeros(len(ids) + 1, dtype=np.float32)
    weights[-1] = 1
    return Rendered(uid, np.append(np.asarray(ids, dtype=np.int32), np.int32(0)), weights, group=uid)
