"""Generation with continuous batching.

What goes in: requests, each a prompt with its own way of sampling, its own end and its own adapter. What comes out: the
tokens of each as they come. Requests may be added and cancelled at any time; in every round all that run move on by one
token in one pass through the model, while long prompts are read in pieces, so that nobody waits for another's prompt.
Each request has its own random stream, so an answer does not depend on what else runs (up to the rounding of products
of other sizes). Beginnings that were read before are not read again; see `luthier.models.cache`.

Shape legend: B sequences that want a token, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from luthier.engine.backend import free_memory_bytes
from luthier.models.cache import BLOCK, Cache, Place, bytes_per_token
from luthier.models.decoder import Decoder, Part
from luthier.sampling import Chosen, Sampling, choose

__all__ = ["Chosen", "Generated", "Generator", "Request", "Sampling", "generate"]

MAX_SEQUENCES = 64
"""Requests that run at once. Chosen, not tuned."""
READ_TOKENS = {"cpu": 512, "cuda": 4096}
"""Tokens of prompts that one round reads: enough for full matmuls, few enough that those who write wait a short while.
Chosen, not tuned."""
CACHE_SHARE = 0.5
"""Of free memory, where no size is given. Chosen, not tuned."""

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Generated:
    """ids: the continuation without its stop token; finish: `stop` or, at the token limit, `length`."""

    ids: list[int]
    finish: Finish


@dataclass(eq=False)
class Request:
    """A prompt to be continued, and what has come of it.

    Attributes:
        prompt: token ids, at least one.
        stop_ids: tokens that end the answer and are no part of it.
        adapter: what applies; None is the base.
        on_token: told each token of the answer; True ends it there, as a stop.
        allowed: given the ids of the answer so far, which tokens may come, bool [V] on the CPU; None for all.
        chosen: the answer so far. finish: why it ended; None while it has not. stopped: the token of `stop_ids` that
            ended it.
    """

    prompt: Sequence[int]
    stop_ids: frozenset[int]
    sampling: Sampling
    adapter: str | None = None
    on_token: Callable[[Chosen], bool | None] | None = None
    allowed: Callable[[Sequence[int]], Tensor | None] | None = None
    chosen: list[Chosen] = field(default_factory=list)
    finish: Finish | None = None
    stopped: Chosen | None = None

    @property
    def ids(self) -> list[int]:
        return [each.id for each in self.chosen]


class _Running:
    """A request that has a place in the cache. ids: prompt and answer; those from `place.length` on are still to be
    read."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.ids = [*request.prompt, *request.ids]
        self.place = Place()
        self.random = torch.Generator().manual_seed(request.sampling.seed)


class Generator:
    """Runs requests. Not to be shared among threads: one owns it.

    Args:
        max_sequences: requests that run at once; others wait their turn.
        pack: whether weights may be laid out for few rows, which takes their bytes again where half of the free memory
            has room for them.
        cache_tokens: room for prompts and answers of all that run; None takes half of the free memory, or what
            `max_sequences` of the model's longest texts need.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        max_sequences: int = MAX_SEQUENCES,
        cache_tokens: int | None = None,
        pack: bool = True,
    ) -> None:
        if pack:
            decoder.pack(int(free_memory_bytes(decoder.device.type) * CACHE_SHARE))
        if cache_tokens is None:
            free_bytes = free_memory_bytes(decoder.device.type) * CACHE_SHARE
            most = int(free_bytes / bytes_per_token(decoder.spec, decoder.compute_dtype))
            cache_tokens = max(min(max_sequences * decoder.spec.max_positions, most), BLOCK)
        self.decoder = decoder
        self.max_sequences = max_sequences
        self._cache = Cache(decoder, cache_tokens)
        self._waiting: deque[_Running] = deque()
        self._running: list[_Running] = []
        self._read_tokens = READ_TOKENS.get(decoder.device.type, READ_TOKENS["cpu"])

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def cache_tokens(self) -> int:
        """Room in all."""
        return self._cache.tokens

    @property
    def cached_tokens(self) -> int:
        """Room that running requests hold."""
        return self._cache.used_tokens

    def add(self, request: Request) -> None:
        """Let a request take part from the next round on, or as soon as there is room.

        Raises:
            ValueError: it could never have room.
        """
        assert len(request.prompt), "every prompt needs at least one token"
        most = len(request.prompt) + request.sampling.max_tokens
        if most > self._cache.tokens:
            raise ValueError(f"a prompt and answer of {most} tokens; there is room for {self._cache.tokens}")
        self._waiting.append(_Running(request))

    def cancel(self, request: Request) -> None:
        """End a request, whether it runs, waits or has ended."""
        for each in [one for one in (*self._running, *self._waiting) if one.request is request]:
            self._end(each, "cancelled")

    def forget(self) -> None:
        """Read every beginning anew: weights or adapters have changed, none of which those that run depend on."""
        self._cache.forget()

    def restart(self) -> None:
        """As at first, in the same memory: after a round that was left in the middle, nobody knows what it did. What
        ran or waited is let go and stays without an end."""
        self._running.clear()
        self._waiting.clear()
        self._cache.clear()

    def step(self) -> bool:
        """One round: every request that runs reads on in its prompt, or gets a token. False where there is nothing to
        do."""
        self._admit()
        turn = self._turn()
        if not turn:
            return False
        parts = []
        for each, count in turn:
            first = each.place.length
            whole = first + count == len(each.ids)
            parts.append(Part(each.ids[first : first + count], each.place, each.request.adapter, whole))
        logits_BV = self.decoder.extend(parts, self._cache)
        for each, _ in turn:
            self._cache.learn(each.place, each.ids, each.request.adapter)
        self._tell([each for (each, _), part in zip(turn, parts, strict=True) if part.wanted], logits_BV)
        return True

    # ------------------------------------------------------------------------------------------------ parts

    def _admit(self) -> None:
        """Take in requests while there is room for what they are to read."""
        while self._waiting and len(self._running) < self.max_sequences:
            each = self._waiting[0]
            each.place = self._cache.begin(each.ids, each.request.adapter)
            if not self._cache.reserve(each.place, len(each.ids) + 1 - each.place.length):
                self._cache.release(each.place)
                return
            self._running.append(self._waiting.popleft())

    def _turn(self) -> list[tuple[_Running, int]]:
        """Who moves on by how many tokens. Where room runs out, those who came last give theirs back and wait."""
        turn: list[tuple[_Running, int]] = []
        left = self._read_tokens
        for each in list(self._running):
            if each not in self._running:
                continue  # gave its room back
            unread = len(each.ids) - each.place.length
            count = unread if unread == 1 else min(unread, left)
            if not count:
                continue
            while not self._cache.reserve(each.place, count):
                last = self._running.pop()
                self._cache.release(last.place)
                self._waiting.appendleft(last)
                if last is each:
                    break
            else:
                left -= count if unread > 1 else 0
                turn.append((each, count))
        return turn

    def _tell(self, turn: list[_Running], logits_BV: Tensor) -> None:
        """Give each its next token."""
        if not turn:
            return
        if all(each.request.sampling.plain and each.request.allowed is None for each in turn):
            chosen = [Chosen(token) for token in logits_BV.argmax(-1).tolist()]
        else:
            rows = logits_BV.cpu()
            chosen = [self._choose(each, row) for each, row in zip(turn, rows, strict=True)]
        for each, token in zip(turn, chosen, strict=True):
            request = each.request
            if request.finish is not None:
                continue  # cancelled by another's `on_token`
            if token.id in request.stop_ids:
                request.stopped = token
                self._end(each, "stop")
                continue
            request.chosen.append(token)
            each.ids.append(token.id)
            if request.on_token is not None and request.on_token(token):
                self._end(each, "stop")
            elif len(request.chosen) >= request.sampling.max_tokens:
                self._end(each, "length")

    def _choose(self, each: _Running, logits_V: Tensor) -> Chosen:
        request = each.request
        allowed_V = None if request.allowed is None else request.allowed(request.ids)
        seen = each.ids if request.sampling.repetition_penalty != 1 else ()
        return choose(logits_V, request.sampling, each.random, seen, allowed_V)

    def _end(self, each: _Running, finish: Finish) -> None:
        if each.request.finish is None:
            each.request.finish = finish
        self._cache.release(each.place)
        if each in self._running:
            self._running.remove(each)
        elif each in self._waiting:
            self._waiting.remove(each)


def room_for(lengths: Iterable[int]) -> int:
    """Tokens of cache with which none of some texts, prompt and answer together, has to wait for another's room."""
    return sum(-(-length // BLOCK) * BLOCK for length in sorted(lengths, reverse=True)[:MAX_SEQUENCES])


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    sampling: Sampling | None = None,
    *,
    adapter: str | None = None,
    on_token: Callable[[int, int], None] | None = None,
    cache_tokens: int | None = None,
) -> list[Generated]:
    """Continue each prompt until a stop token or `sampling.max_tokens`.

    Args:
        prompts: lists of token ids, none empty. The n-th draws with the seed `sampling.seed` + n.
        adapter: adapter to apply; None is the base.
        on_token: called with (prompt index, token id) for each token that is not a stop token.
        cache_tokens: room for prompts and answers; None has room for all that run at once.

    Returns:
        one `Generated` per prompt, in their order.
    """
    sampling = sampling or Sampling()
    assert not sampling.stop, "texts that stop are for whoever turns tokens into text"

    def told(index: int) -> Callable[[Chosen], None] | None:
        return None if on_token is None else lambda chosen: on_token(index, chosen.id)

    stops = frozenset(stop_ids)
    requests = [
        Request(prompt, stops, replace(sampling, seed=sampling.seed + index), adapter, told(index))
        for index, prompt in enumerate(prompts)
    ]
    if not requests:
        return []
    if cache_tokens is None:
        cache_tokens = room_for(len(prompt) + sampling.max_tokens for prompt in prompts)
    generator = Generator(
        decoder,
        cache_tokens=cache_tokens,
        pack=False,  # memory that a training run has not planned for
    )
    for request in requests:
        generator.add(request)
    while generator.step():
        pass
    return [Generated(request.ids, request.finish or "length") for request in requests]
