"""Choosing the next token, and knowing where an answer ends.

What goes in: logits of what follows a sequence, and how to choose. What comes out: a token with, where asked for, its
log-probability and those of the likeliest. Greedy where the temperature is 0.

Shape legend: B sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    temperature: 0 is greedy. top_k: 0 is off. top_p: 1 is off. repetition_penalty: divides positive and multiplies
    negative logits of tokens already seen (Keskar et al. 2019, arXiv 1909.05858); 1 is off. min_p: tokens less likely
    than this share of the likeliest are left out (Nguyen et al. 2024, arXiv 2407.01082); 0 is off. logprobs: None for
    none; else log-probabilities, in nats, of the chosen token and of so many of the likeliest, by the model's own
    logits. stop: texts that end an answer and are no part of it.
    """

    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    min_p: float = 0.0
    logprobs: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(f"out of range: {self}")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be positive: {self.repetition_penalty}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must lie between 0 and 1: {self.min_p}")
        if self.logprobs is not None and self.logprobs < 0:
            raise ValueError(f"logprobs must not be negative: {self.logprobs}")
        if not all(self.stop):
            raise ValueError(f"stop must hold no empty text: {self.stop}")

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is all that is asked for."""
        return self.temperature == 0 and self.repetition_penalty == 1 and self.logprobs is None


class Chosen(NamedTuple):
    """One generated token. logprob: None unless asked for; top: (token, log-probability) of the likeliest."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def choose(
    logits_V: Tensor, sampling: Sampling, random: torch.Generator, seen: Collection[int], allowed_V: Tensor | None
) -> Chosen:
    """The next token of one sequence.

    Args:
        logits_V: float32, on the CPU; not changed.
        random: the sequence's own stream.
        seen: tokens that the repetition penalty is for.
        allowed_V: which tokens may come; None for all.
    """
    scores_V = logits_V
    if sampling.repetition_penalty != 1 and seen:
        scores_V = penalised(logits_V.clone(), sampling.repetition_penalty, seen)
    if allowed_V is not None:
        scores_V = scores_V.masked_fill(~allowed_V, -torch.inf)
    if sampling.temperature == 0:
        token = int(scores_V.argmax())
    else:
        probabilities_V = filtered(scores_V[None] / sampling.temperature, sampling)[0].softmax(-1)
        token = int(torch.multinomial(probabilities_V, 1, generator=random))
    if sampling.logprobs is None:
        return Chosen(token)
    logp_V = logits_V.log_softmax(-1)
    best = logp_V.topk(min(sampling.logprobs, len(logp_V)))
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Chosen(token, float(logp_V[token]), top)


def penalised(logits_V: Tensor, penalty: float, seen: Collection[int]) -> Tensor:
    """The logits, in place, with those of seen tokens made smaller (greater, for a penalty below 1)."""
    unique = torch.tensor(sorted(set(seen)))
    values = logits_V[unique]
    logits_V[unique] = torch.where(values > 0, values / penalty, values * penalty)
    return logits_V


def filtered(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Set the logits that top-k, top-p (Holtzman et al. 2020, arXiv 1904.09751) and min-p leave out to -inf."""
    if sampling.top_k:
        kth = logits_BV.topk(min(sampling.top_k, logits_BV.shape[-1]), -1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < kth, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits_BV.sort(-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        out = torch.zeros_like(logits_BV, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
        logits_BV = logits_BV.masked_fill(out, -torch.inf)
    if sampling.min_p:
        probabilities_BV = logits_BV.softmax(-1)
        least_B1 = sampling.min_p * probabilities_BV.max(-1, keepdim=True).values
        logits_BV = logits_BV.masked_fill(probabilities_BV < least_B1, -torch.inf)
    return logits_BV


class StopTexts:
    """Lets through a text that comes in pieces up to the first of some texts, and nothing of that one: an end that may
    become a stop is held back until it is known.

    ended: whether one has come; shown: characters let through.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.ended = False
        self.shown = 0

    def push(self, piece: str) -> str:
        """What may be shown now; nothing more once a stop has come."""
        told = "" if self.ended else self._certain(piece)
        self.shown += len(told)
        return told

    def flush(self) -> str:
        """What was held back, once nothing more comes."""
        held, self._held = self._held, ""
        self.shown += len(held)
        return held

    def _certain(self, piece: str) -> str:
        text = self._held + piece
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.ended, self._held = True, ""
            return text[: min(found)]
        most = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(most, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                self._held = text[-length:]
                return text[:-length]
        self._held = ""
        return text
