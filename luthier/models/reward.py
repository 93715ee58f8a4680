"""Rewards of answers.

What goes in: a decoder with a scalar head, and conversations that end in an answer. What comes out: a number each,
higher for the better answer to one prompt. It is read off the last token that is learnt of an answer, its stop token,
as in training; prompts that answers share are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from luthier.batch import Ints, Rendered
from luthier.data import pack
from luthier.data.examples import Chat, Labelled, Message, parts
from luthier.data.renderer import RowRenderer
from luthier.data.store import computed_tokens
from luthier.errors import DataError, Problem
from luthier.models.decoder import Decoder, Want

BUDGET_TOKENS = 4096
"""Most tokens computed at once; as the planner's `CAP_TOKENS` on a CPU."""
Asked = Chat | Sequence[Message | Mapping[str, Any]]
"""What was asked: turns, or a `Chat`, which has tools too."""


class Judge:
    """A reward model.

    Args:
        adapter: the one that was trained for it; None where the decoder's own weights were.
        fingerprint: gives one hash of all that its numbers come from.
    """

    def __init__(
        self, decoder: Decoder, renderer: RowRenderer, adapter: str | None, fingerprint: Callable[[], str]
    ) -> None:
        self.decoder, self.renderer, self.adapter = decoder, renderer, adapter
        self.fingerprint = fingerprint

    def score(self, answered: Sequence[tuple[Asked, str]], budget_tokens: int = BUDGET_TOKENS) -> list[float]:
        """The reward of each answer: of (the conversation before it, the answer).

        Raises:
            DataError: the template refuses a conversation.
        """
        sequences = [self.ids(conversation, answer) for conversation, answer in answered]
        return scores(self.decoder, self.adapter, sequences, budget_tokens)

    def ids(self, conversation: Asked, answer: str) -> Ints:
        """The tokens of a conversation and its answer, up to the one that ends it, where the reward is read.

        Raises:
            DataError: the template refuses it.
        """
        asked = conversation if isinstance(conversation, Chat) else Chat(tuple(map(_turn, conversation)))
        given = Labelled(asked.messages, (Message("assistant", answer),), True, asked.tools)
        ((chat, _),) = parts(given)
        made = self.renderer.train_many([chat])[0]
        if isinstance(made, Problem):
            raise DataError(made)
        ((ids, weights),) = made  # one answer is learnt, so that no template makes several sequences of it
        return np.asarray(ids[: computed_tokens(weights) + 1], dtype=np.int64)


@torch.no_grad()
def scores(
    decoder: Decoder,
    adapter: str | None,
    sequences: Sequence[Ints | Sequence[int]],
    budget_tokens: int = BUDGET_TOKENS,
) -> list[float]:
    """What the scalar head says of each token sequence, at its last token."""
    found = np.zeros(len(sequences), dtype=np.float64)
    if not len(sequences):
        return []
    rows = [_ended(uid, ids) for uid, ids in enumerate(sequences)]
    call_tokens = pack.call_tokens(str(decoder.device))
    for batch in pack.microbatches(rows, budget_tokens, call_tokens):
        value_M = decoder(batch, Want(None, value=True), adapter=adapter).value
        found[batch.uid[batch.row_owner]] = value_M.cpu().numpy()
    return [float(each) for each in found]


def _turn(given: Message | Mapping[str, Any]) -> Message:
    return given if isinstance(given, Message) else Message(**given)


def _ended(uid: int, ids: Ints | Sequence[int]) -> Rendered:
    """A sequence whose last token is looked at: what would follow it means nothing. Groups of their own keep equal
    sequences apart."""
    weights = np.zeros(len(ids) + 1, dtype=np.float32)
    weights[-1] = 1
    return Rendered(uid, np.append(np.asarray(ids, dtype=np.int32), np.int32(0)), weights, group=uid)
