"""What all routes share: names, the engine, limits, figures; answers within their time, and ended with their client.

What goes in: answers being written. What comes out: responses, whole or as server-sent events.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from luthier.serving.answers import Answering, Answers, events_of
from luthier.serving.client import Gone, Late, while_asked
from luthier.serving.engine import Engine, Job
from luthier.serving.limits import Limits
from luthier.serving.metrics import Metrics
from luthier.serving.protocol import Refused, error_of, refuse
from luthier.serving.voices import Voices

T = TypeVar("T")


class Desk:
    """What the routes of every engine share."""

    def __init__(self, limits: Limits, figures: Callable[[], Mapping[str, float]], *, keyed: bool) -> None:
        self.limits, self.keyed = limits, keyed
        self.metrics = Metrics(figures)
        self.began = int(time.time())

    def cancel(self, jobs: Sequence[Job]) -> None:
        """End answers that nobody waits for."""

    def count(self, route: str, status: int) -> None:
        known = route if route in ROUTES else "other"
        self.metrics.requests.labels(known, str(status or "gone")).inc()

    async def within(self, request: Request, work: Awaitable[T], jobs: Sequence[Job] = ()) -> T:
        """The result, unless the client goes away (then the work ends too) or the time is up."""
        try:
            return await while_asked(request, work, self.limits.time_s)
        except Gone:
            self.metrics.cancelled.inc()
            raise refuse("serve.gone", 499) from None
        except Late:
            raise refuse("serve.time_up", 504, limit=self.limits.time_s) from None
        finally:
            self.cancel(jobs)


class Front(Desk):
    """What the routes share that ask this program's own engine."""

    def __init__(self, voices: Voices, engine: Engine, limits: Limits, *, keyed: bool) -> None:
        super().__init__(limits, lambda: engine.figures, keyed=keyed)
        self.voices, self.engine = voices, engine
        self.answers = Answers(voices, engine, limits)

    def cancel(self, jobs: Sequence[Job]) -> None:
        self.engine.cancel(jobs)

    def done(self, began: float, answering: Answering, tokens: int) -> dict[str, int]:
        self.metrics.seconds.observe(time.monotonic() - began)
        self.metrics.prompt_tokens.inc(answering.prompt_tokens)
        self.metrics.generated_tokens.inc(tokens)
        prompt = answering.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}

    async def pieces(self, began: float, answering: Answering) -> AsyncIterator[tuple[int, Any]]:
        """Events of the answers, until the time is up."""
        first = True
        async for each in events_of(answering.jobs, began + self.limits.time_s):
            if each is None:
                raise refuse("serve.time_up", 504, limit=self.limits.time_s)
            if first:
                self.metrics.first_token.observe(time.monotonic() - began)
                first = False
            yield each


ROUTES = (
    "/v1/models",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/adapters",
    "/v1/mixes",
    "/health",
    "/metrics",
)


SLOW_S = 10.0
"""How much longer than an answer may take a client may take to read it. Chosen, not tuned."""


class Events(StreamingResponse):
    """Server-sent events; a fault on the way is told as one, as the status is out already. However it ends, also before
    its first line, the answers end with it."""

    def __init__(self, front: Desk, chunks: AsyncIterator[dict[str, Any]], jobs: Sequence[Job] = ()) -> None:
        self._front, self._chunks, self._jobs, self._whole = front, chunks, jobs, False
        super().__init__(self._lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._front.limits.time_s + SLOW_S):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            pass  # a client that does not read; its connection is closed, as the answer is not whole
        finally:
            self._front.cancel(self._jobs)
            with contextlib.suppress(RuntimeError):  # it is being ended already
                await self._chunks.aclose()  # type: ignore[attr-defined]
            if not self._whole:
                self._front.metrics.cancelled.inc()

    async def _lines(self) -> AsyncIterator[str]:
        try:
            async for chunk in self._chunks:
                yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
            self._whole = True
            yield "data: [DONE]\n\n"
        except Refused as fault:
            self._whole = True
            yield f"data: {json.dumps(error_of(fault), ensure_ascii=False)}\n\n"
