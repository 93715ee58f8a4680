"""The border types of a training step: what flows from data through the engine into models and methods.

All of it lives on the host as numpy arrays: lengths, positions and denominators are known before anything reaches a
device, so that nothing has to be read back from one. Rank 1; imports no torch.

Shape legend: N flat tokens of a micro-batch, S segments, M scored rows, Q owners (examples) in a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
TERM = "nll"
"""The loss term that the weights of token sequences belong to: next-token likelihood."""
EXAMPLES = "examples"
"""Among a step's denominators: how many judged examples (pairs, say) it has."""
SIDE, MARGIN = "side", "margin"
"""Names in `Batch.per_owner`: see `Rendered`."""


@dataclass(frozen=True)
class Rendered:
    """One training sequence.

    Attributes:
        uid: the example's stable number (position in the token store); the order of examples is keyed by it.
        ids: token ids, int32 [T].
        weights: weight of the loss of *predicting* ids[t] from the tokens before it, float32 [T]; weights[0] is 0
            because nothing precedes the first token. 0 means context only.
        group: number of the example that it belongs to, where that may have several sequences and is judged (a pair:
            its first sequence's uid); -1 where it is an example by itself.
        side: 1 for an answer that is wanted (the better one of a pair), -1 for one that is not, 0 where nobody judged.
        margin: by how much the better answer of the pair is better, where the data says so.
    """

    uid: int
    ids: NDArray[np.int32]
    weights: Floats
    group: int = -1
    side: int = 0
    margin: float = 0.0

    @property
    def opening(self) -> int:
        """Tokens that an answer follows: those before the first learnt one; of a plain text, which is learnt from its
        second token on, half of it."""
        learnt = np.flatnonzero(self.weights)
        return int(learnt[0]) if len(learnt) and learnt[0] > 1 else max(len(self.ids) // 2, 1)


@dataclass(frozen=True)
class Segments:
    """The stretches of a flat batch that attend among themselves.

    Attributes (all int64 [S]; rows of segment s are start[s]:end[s], segments tile 0:N in order):
        start, end: half-open row range.
        parent: index of the segment whose tokens precede this one (a shared prompt), -1 for none. Parents come first
            and may nest. A token attends to its own segment up to itself and to all of its ancestors.
        owner: index 0..Q-1 of the example within the micro-batch; of a shared segment the first that goes through it.
        group: pair or rollout group; equals owner where there is none.
        adapter: index of the adapter that applies; 0 where there is one.
    """

    start: Ints
    end: Ints
    parent: Ints
    owner: Ints
    group: Ints
    adapter: Ints

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class Batch:
    """One flat micro-batch, without padding.

    Attributes:
        ids: token ids, int64 [N].
        positions: rotary positions, int64 [N] (a segment with a parent goes on where the parent ended).
        prev: row of the token before, int64 [N], -1 at the start of an example.
        key: what dropout is drawn from, int64 [N]: the same for two tokens exactly where they and all before them are
            the same, so that it makes no difference whether a beginning that examples share is computed once or often.
        segments: see Segments.
        rows: rows whose next token is scored, int64 [M], ascending.
        targets: the token ids they must predict, int64 [M].
        row_owner: owner of each scored row, int64 [M]; the first one, where several learn the same token there. A row
            stands here again for each further token that is learnt after it.
        weights: term name -> float32 [M] weight of each scored row.
        per_owner: name -> float32 [Q] (sides, margins, reference log-probabilities...).
        uid: of each owner's row, int64 [Q].
        group: which pair or rollout group each owner belongs to, 0..G-1, int64 [Q]; None where there are none. Where
            there are, each scored row belongs to one owner, so that owners have sums of their own.
        inject: reserved for embeddings that do not come from the token table (multimodal); None.
    """

    ids: Ints
    positions: Ints
    prev: Ints
    key: Ints
    segments: Segments
    rows: Ints
    targets: Ints
    row_owner: Ints
    weights: dict[str, Floats]
    per_owner: dict[str, Floats]
    uid: Ints
    group: Ints | None = None
    inject: Any = None

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Step:
    """One optimizer step: which examples form it, how they are split, and what each loss term is divided by.

    Attributes:
        index: optimizer step, from 0.
        epoch: 0-based epoch that its first example belongs to.
        uids: examples of the step, in order.
        micro: the flat micro-batches of this rank; over all ranks their union is exactly `uids`, and every rank has as
            many (some may be fillers, whose weights are 0).
        denom: term -> denominator over the whole step and all ranks, computed on the host before the first backward.
        tokens: of its examples, as far as anything is learnt from them; those that examples share count in each.
    """

    index: int
    epoch: int
    uids: tuple[int, ...]
    micro: tuple[Batch, ...]
    denom: dict[str, float]
    tokens: int

    @property
    def computed_tokens(self) -> int:
        """Tokens that go through the model of this rank."""
        return sum(batch.num_tokens for batch in self.micro)
