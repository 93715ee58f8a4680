"""A generator that takes its requests in turns, one token of each per round.

Goes away as soon as `luthier.generate` batches continuously: names and meaning are that one's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from luthier import generate
from luthier.models.decoder import Cache, Decoder


@dataclasses.dataclass(frozen=True)
class Sampling(generate.Sampling):
    min_p: float = 0.0
    logprobs: int | None = None
    stop: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Chosen:
    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(eq=False)
class Request:
    prompt: Sequence[int]
    stop_ids: frozenset[int]
    sampling: Sampling
    adapter: str | None = None
    on_token: Callable[[Chosen], bool | None] | None = None
    allowed: Callable[[Sequence[int]], Tensor | None] | None = None
    chosen: list[Chosen] = dataclasses.field(default_factory=list)
    finish: Literal["stop", "length", "cancelled"] | None = None

    @property
    def ids(self) -> list[int]:
        return [each.id for each in self.chosen]


class Generator:
    def __init__(self, decoder: Decoder, *, max_sequences: int = 64, cache_tokens: int | None = None) -> None:
        self._decoder, self._most = decoder, max_sequences
        self._waiting: list[Request] = []
        self._running: list[tuple[Request, Cache, torch.Generator]] = []
        self.cache_tokens = cache_tokens or 2**20

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def cached_tokens(self) -> int:
        return sum(int(cache.lengths.sum()) for _, cache, _ in self._running)

    def add(self, request: Request) -> None:
        self._waiting.append(request)

    def cancel(self, request: Request) -> None:
        if request.finish is None:
            request.finish = "cancelled"
        self._waiting = [each for each in self._waiting if each is not request]
        self._running = [each for each in self._running if each[0] is not request]

    @torch.no_grad()
    def step(self) -> bool:
        while self._waiting and len(self._running) < self._most:
            request = self._waiting.pop(0)
            cache = Cache(self._decoder, 1, len(request.prompt) + request.sampling.max_tokens)
            self._running.append((request, cache, torch.Generator().manual_seed(request.sampling.seed)))
        for request, cache, random in list(self._running):
            fresh = not request.chosen
            if fresh:
                logits = self._decoder.prefill([list(request.prompt)], cache, adapter=request.adapter)
            else:
                logits = self._decoder.decode([request.chosen[-1].id], cache, adapter=request.adapter)
            self._take(request, logits.float().cpu(), random)
        self._running = [each for each in self._running if each[0].finish is None]
        return bool(self._running or self._waiting)

    def _take(self, request: Request, logits_1V: Tensor, random: torch.Generator) -> None:
        sampling = request.sampling
        mask = request.allowed(request.ids) if request.allowed else None
        if mask is not None:
            logits_1V = logits_1V.masked_fill(~mask, -torch.inf)
        scores = logits_1V[0].log_softmax(-1)
        seen = [[*request.prompt, *request.ids]] if sampling.repetition_penalty != 1 else None
        (token,) = generate._choose(logits_1V, sampling, [random], seen)
        if token in request.stop_ids:
            request.finish = "stop"
            return
        top = scores.topk(sampling.logprobs) if sampling.logprobs else None
        best = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)) if top else ()
        request.chosen.append(Chosen(token, None if sampling.logprobs is None else float(scores[token]), best))
        if request.on_token is not None and request.on_token(request.chosen[-1]):
            request.finish = "stop"
        elif len(request.chosen) >= sampling.max_tokens:
            request.finish = "length"
