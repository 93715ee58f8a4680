"""Work for a client that may go away.

What goes in: a request, and what computes its answer. What comes out: the answer, or why nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request

T = TypeVar("T")


class Gone(Exception):
    """The client has gone away."""


class Late(Exception):
    """The time that it was given is up."""


async def while_asked(request: Request, work: Awaitable[T], limit_s: float | None = None) -> T:
    """The result of the work, which ends where nobody waits for it any more.

    Raises:
        Gone, Late: see there.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone if gone.done() else Late
    finally:
        for each in (task, gone):
            each.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await each


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
