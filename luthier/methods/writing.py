"""Answers of the model that trains, written by its own weights.

What goes in: prompts, each with a seed of its own. What comes out: a `Rollout` each, in their order, with the
log-probability of each token as the sampler saw it. The weights are those that train, not a copy: nothing has to be
kept in step. Which answers are written together depends on nothing but the prompts, so that they come out with the same
bits again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.data.rollouts import Rollout
from luthier.generate import Generator, Request, Sampling, room_for
from luthier.models.decoder import Decoder


@dataclass(frozen=True)
class Ask:
    """uid: of the row; seed: of this answer."""

    uid: int
    prompt: NDArray[np.int32]
    seed: int


def write(
    decoder: Decoder,
    adapter: str | None,
    asks: Sequence[Ask],
    stop_ids: Collection[int],
    max_tokens: int,
    *,
    texts: int,
    greedy: bool = False,
) -> list[Rollout]:
    """Answer every prompt; those to one prompt that follow each other read it once.

    Args:
        texts: most that are written at once.
    """
    requests = [
        Request(
            each.prompt.tolist(),
            frozenset(stop_ids),
            Sampling(max_tokens, temperature=0.0 if greedy else 1.0, seed=each.seed, logprobs=0),
        )
        for each in asks
    ]
    for request in requests:
        request.adapter = adapter
    decoder.moved()
    longest = sorted((len(each.prompt) + max_tokens for each in asks), reverse=True)[:texts]
    generator = Generator(decoder, max_sequences=texts, cache_tokens=room_for(longest), pack=False)
    first = [at == 0 or asks[at - 1].uid != each.uid for at, each in enumerate(asks)]
    _run(generator, [request for request, new in zip(requests, first, strict=True) if new], until_begun=True)
    _run(generator, [request for request, new in zip(requests, first, strict=True) if not new])
    return [_rollout(ask, request, stop_ids) for ask, request in zip(asks, requests, strict=True)]


def _run(generator: Generator, requests: Sequence[Request], until_begun: bool = False) -> None:
    for request in requests:
        generator.add(request)
    while generator.step():
        if until_begun and all(each.chosen or each.finish for each in requests):
            return


def _rollout(ask: Ask, request: Request, stop_ids: Collection[int]) -> Rollout:
    chosen = [*request.chosen]
    ended = request.finish == "stop"
    if ended:
        assert request.stopped is not None, "the generator says by which token an answer ended"
        chosen.append(request.stopped)
    answer = np.asarray([each.id for each in chosen], dtype=np.int32)
    logp = np.asarray([each.logprob for each in chosen], dtype=np.float32)
    return Rollout(ask.uid, ask.prompt, answer, logp, ended)
