"""What all routes share: names, the engine, limits, figures; answers within their time, and ended with their client.

What goes in: answers being written. What comes out: responses, whole or as server-sent events.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse

from luthier.serve.answers import Answering, Answers, events_of
from luthier.serve.engine import Engine
from luthier.serve.limits import Limits
from luthier.serve.metrics import Metrics
from luthier.serve.protocol import Refused, error_of, refuse
from luthier.serve.voices import Voices

T = TypeVar("T")


class Front:
    """What the routes share."""

    def __init__(self, voices: Voices, engine: Engine, limits: Limits, *, keyed: bool) -> None:
        self.voices, self.engine, self.limits, self.keyed = voices, engine, limits, keyed
        self.answers = Answers(voices, engine, limits)
        self.metrics = Metrics(lambda: engine.figures)
        self.began = int(time.time())

    def count(self, route: str, status: int) -> None:
        known = route if route in ROUTES else "other"
        self.metrics.requests.labels(known, str(status or "gone")).inc()

    async def within(self, request: Request, work: Awaitable[T], answering: Answering) -> T:
        """The result, unless the client goes away (then the work ends too) or the time is up."""
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({task, gone}, timeout=self.limits.time_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if gone.done():
                self.metrics.cancelled.inc()
                raise refuse("gone", 499)
            raise refuse("time_up", 504, limit=self.limits.time_s)
        finally:
            self.engine.cancel(answering.jobs)
            for each in (task, gone):
                each.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await each

    def done(self, began: float, answering: Answering, tokens: int) -> dict[str, int]:
        self.metrics.seconds.observe(time.monotonic() - began)
        self.metrics.prompt_tokens.inc(answering.prompt_tokens)
        self.metrics.generated_tokens.inc(tokens)
        prompt = answering.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}

    async def pieces(self, began: float, answering: Answering) -> AsyncIterator[tuple[int, Any]]:
        """Events of the answers; whatever ends this early, ends them."""
        first = True
        try:
            async for each in events_of(answering.jobs):
                if first:
                    self.metrics.first_token.observe(time.monotonic() - began)
                    first = False
                yield each
        finally:
            self.engine.cancel(answering.jobs)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


ROUTES = (
    "/v1/models",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/adapters",
    "/health",
    "/metrics",
)


def events(front: Front, request: Request, chunks: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    """Server-sent events; a fault on the way is told as one, as the status is out already."""

    async def lines() -> AsyncIterator[str]:
        try:
            async with asyncio.timeout(front.limits.time_s):
                async for chunk in chunks:
                    yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
                yield "data: [DONE]\n\n"
        except TimeoutError:
            yield f"data: {json.dumps(error_of(refuse('time_up', 504, limit=front.limits.time_s)))}\n\n"
        except Refused as fault:
            yield f"data: {json.dumps(error_of(fault))}\n\n"
        except asyncio.CancelledError:
            front.metrics.cancelled.inc()
            raise
        finally:
            with contextlib.suppress(RuntimeError):
                await chunks.aclose()  # type: ignore[attr-defined]

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})
