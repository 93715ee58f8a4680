"""Sampling from a decoder with a key/value cache.

What goes in: prompts as token ids, and how to sample. What comes out: the ids each prompt is continued with, streamed
as they come if wanted. Greedy where the temperature is 0. Every prompt has its own random stream, so an answer does not
depend on what else is in the batch. Finished sequences leave the batch at once.

Shape legend: B sequences still running, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from luthier.models.decoder import Cache, Decoder


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    temperature: 0 is greedy. top_k: 0 is off. top_p: 1 is off. repetition_penalty: divides positive and multiplies
    negative logits of tokens already seen (Keskar et al. 2019, arXiv 1909.05858); 1 is off.
    """

    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(f"out of range: {self}")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be positive: {self.repetition_penalty}")


@dataclasses.dataclass(frozen=True)
class Generated:
    """ids: the continuation without its stop token; finish: `stop` or, at the token limit, `length`."""

    ids: list[int]
    finish: Literal["stop", "length"]


@torch.no_grad()
def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    sampling: Sampling | None = None,
    *,
    adapter: str | None = None,
    on_token: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """Continue each prompt until a stop token or `sampling.max_tokens`.

    Args:
        prompts: B lists of token ids, none empty.
        adapter: adapter to apply; None is the base.
        on_token: called with (prompt index, token id) for each token that is not a stop token.

    Returns:
        one `Generated` per prompt, in their order.
    """
    sampling = sampling or Sampling()
    if not prompts:
        return []
    assert all(len(prompt) for prompt in prompts), "every prompt needs at least one token"
    stops = frozenset(stop_ids)
    longest = max(len(prompt) for prompt in prompts) + sampling.max_tokens
    cache = Cache(decoder, len(prompts), longest)
    random = [torch.Generator().manual_seed(sampling.seed + index) for index in range(len(prompts))]
    written: list[list[int]] = [[] for _ in prompts]
    finish: list[Literal["stop", "length"]] = ["length" for _ in prompts]
    running = list(range(len(prompts)))
    logits_BV = decoder.prefill([list(prompt) for prompt in prompts], cache, adapter=adapter)
    while True:
        seen = [[*prompts[index], *written[index]] for index in running] if sampling.repetition_penalty != 1 else None
        chosen = _choose(logits_BV.float().cpu(), sampling, [random[index] for index in running], seen)
        kept = []
        for row, (index, token) in enumerate(zip(running, chosen, strict=True)):
            if token in stops:
                finish[index] = "stop"
                continue
            written[index].append(token)
            if on_token is not None:
                on_token(index, token)
            if len(written[index]) < sampling.max_tokens:
                kept.append(row)
        if not kept:
            return [Generated(ids, reason) for ids, reason in zip(written, finish, strict=True)]
        if len(kept) < len(running):
            cache.keep(kept)
        running = [running[row] for row in kept]
        logits_BV = decoder.decode([chosen[row] for row in kept], cache, adapter=adapter)


def _choose(
    logits_BV: Tensor, sampling: Sampling, random: list[torch.Generator], seen: list[list[int]] | None
) -> list[int]:
    """The next token of each sequence."""
    if seen is not None:
        for row, ids in zip(logits_BV, seen, strict=True):
            unique = torch.tensor(sorted(set(ids)))
            values = row[unique]
            penalty = sampling.repetition_penalty
            row[unique] = torch.where(values > 0, values / penalty, values * penalty)
    if sampling.temperature == 0:
        return [int(token) for token in logits_BV.argmax(-1)]
    probabilities_BV = _filtered(logits_BV / sampling.temperature, sampling).softmax(-1)
    return [
        int(torch.multinomial(row, 1, generator=generator))
        for row, generator in zip(probabilities_BV, random, strict=True)
    ]


def _filtered(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Set the logits that top-k and top-p (Holtzman et al. 2020, arXiv 1904.09751) leave out to -inf."""
    if sampling.top_k:
        kth = logits_BV.topk(min(sampling.top_k, logits_BV.shape[-1]), -1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < kth, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits_BV.sort(-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        out = torch.zeros_like(logits_BV, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
        logits_BV = logits_BV.masked_fill(out, -torch.inf)
    return logits_BV
