"""The thread that owns the model.

What goes in: jobs, from the thread of the event loop. What comes out: what each of them writes, as events in its own
queue there. One thread computes and changes adapters, so nothing of the model is ever shared; jobs come to it and
events leave it through queues.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import queue
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from luthier.generate import Generator, Request
from luthier.sampling import Chosen, Sampling, StopTexts
from luthier.session import Session

T = TypeVar("T")
IDLE_S = 0.5
"""How long the thread sleeps at most; whatever comes wakes it."""


class Piece(NamedTuple):
    """A token, and the text that can be shown since the one before. start: where its own text begins in the answer."""

    chosen: Chosen
    text: str
    start: int


class End(NamedTuple):
    """reason: of OpenAI, or `cancelled`, or `failed`; tokens: written, without the stop token."""

    text: str
    reason: Literal["stop", "length", "cancelled", "failed"]
    tokens: int


@dataclasses.dataclass(eq=False)
class Job:
    """One answer. tell: token -> text that it completes; finish_text: what is left at the end; failed: a fault ended
    it, or nobody listens any more."""

    request: Request
    events: asyncio.Queue[Piece | End]
    loop: asyncio.AbstractEventLoop
    tell: Callable[[int], str]
    finish_text: Callable[[], str]
    cutter: StopTexts
    failed: bool = False

    def put(self, event: Piece | End) -> None:
        try:
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self.failed = True


class Full(Exception):
    """As many answers are wanted as the server takes on."""


class Engine:
    """Everything but `start` and `close` may be called while it runs, from the event loop's thread."""

    def __init__(self, session: Session, *, sequences: int, most: int) -> None:
        self.session = session
        self._most = most
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._jobs: list[Job] = []
        self._count = 0
        self._lock = threading.Lock()
        self._ending = False
        self._generator = Generator(session.decoder, max_sequences=sequences)
        self._thread = threading.Thread(target=self._work, name="luthier-generate", daemon=True)
        self._leaving: list[tuple[frozenset[str], Callable[[], None]]] = []

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Cancel what runs and end the thread."""
        self._ending = True
        self._commands.put(lambda: None)
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def open_jobs(self) -> int:
        return self._count

    @property
    def figures(self) -> dict[str, float]:
        made = self._generator
        return {
            "running": made.running,
            "waiting": max(self._count - made.running, 0),
            "cached_tokens": made.cached_tokens,
            "cache_tokens": made.cache_tokens,
        }

    @property
    def cache_tokens(self) -> int:
        return self._generator.cache_tokens

    def submit(
        self,
        prompts: Sequence[Sequence[int]],
        samplings: Sequence[Sampling],
        *,
        adapter: str | None,
        stops: Sequence[str] = (),
        markers: frozenset[int] = frozenset(),
        allowed: Callable[[], Callable[[Sequence[int]], Any] | None] = lambda: None,
    ) -> list[Job]:
        """Put in answers, all or none. Raises Full."""
        with self._lock:
            if self._count + len(prompts) > self._most:
                raise Full
            self._count += len(prompts)
        loop = asyncio.get_running_loop()
        try:
            jobs = [
                self._job(prompt, sampling, adapter, stops, markers, allowed(), loop)
                for prompt, sampling in zip(prompts, samplings, strict=True)
            ]
        except BaseException:
            with self._lock:
                self._count -= len(prompts)
            raise

        def enter() -> None:
            self._jobs += jobs
            for job in jobs:
                try:
                    self._generator.add(job.request)
                except Exception:  # noqa: BLE001  it has no room, ever; the others of the request go on
                    traceback.print_exc()
                    job.failed, job.request.finish = True, "cancelled"

        self._commands.put(enter)
        return jobs

    def cancel(self, jobs: Sequence[Job]) -> None:
        def leave() -> None:
            for job in jobs:
                if job.request.finish is None:
                    self._generator.cancel(job.request)

        self._commands.put(leave)

    async def call(self, function: Callable[[], T]) -> T:
        """Do something with the model between two rounds."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._commands.put(lambda: _settle(future, function) if future.set_running_or_notify_cancel() else None)
        return await asyncio.wrap_future(future)

    def unload(self, adapters: frozenset[str], remove: Callable[[], T]) -> asyncio.Future[T]:
        """Take adapters off once no answer is written with any of them; the caller has taken their names off before."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._commands.put(lambda: self._leaving.append((adapters, lambda: _settle(future, remove))))
        # Whoever asked for it may go away; the adapters go all the same.
        return asyncio.shield(asyncio.wrap_future(future))

    # ------------------------------------------------------------------------------------------------ the thread

    def _job(self, prompt: Any, sampling: Any, adapter: Any, stops: Any, markers: Any, allowed: Any, loop: Any) -> Job:
        tell, flush = _teller(self.session, markers)
        job = Job(
            Request(list(prompt), frozenset(self.session.renderer.stop_ids), sampling, adapter),
            asyncio.Queue(),
            loop,
            tell,
            flush,
            StopTexts(stops),
        )
        said = 0

        def on_token(chosen: Chosen) -> bool:
            nonlocal said
            text = job.tell(chosen.id)
            start, said = said, said + len(text)
            job.put(Piece(chosen, job.cutter.push(text), start))
            return job.cutter.ended or job.failed

        def guided(ids: Sequence[int]) -> Any:
            try:
                return allowed(ids)
            except Exception:  # noqa: BLE001  whatever a grammar does, the other answers go on
                traceback.print_exc()
                job.failed = True
                return None

        job.request.on_token = on_token
        job.request.allowed = guided if allowed is not None else None
        return job

    def _work(self) -> None:
        while not self._ending:
            busy = bool(self._jobs)
            try:
                # With nothing to compute, wait for what comes; else take what is there and go on.
                command = self._commands.get(timeout=IDLE_S) if not busy else self._commands.get_nowait()
            except queue.Empty:
                command = None
            if command is not None:
                self._do(command)
                continue
            if busy:
                self._round()
            self._let_go()
        for job in self._jobs:
            self._generator.cancel(job.request)
        self._report()

    def _do(self, command: Callable[[], None]) -> None:
        try:
            command()
        except Exception:  # noqa: BLE001  one request's fault is not the server's
            traceback.print_exc()

    def _round(self) -> None:
        try:
            self._generator.step()
        except Exception:  # noqa: BLE001  a fault ends the answers that were being written, never the server
            traceback.print_exc()
            for job in self._jobs:
                job.failed = True
                job.request.finish = job.request.finish or "cancelled"
            self._generator.restart()
        self._report()

    def _report(self) -> None:
        """Tell the ends of answers."""
        left = []
        for job in self._jobs:
            reason = job.request.finish
            if reason is None:
                left.append(job)
                continue
            rest = self._rest(job)
            with self._lock:
                self._count -= 1
            reason = "stop" if job.cutter.ended else reason
            job.put(End(rest, "failed" if job.failed else reason, len(job.request.ids)))
        self._jobs = left

    def _rest(self, job: Job) -> str:
        try:
            return job.cutter.push(job.finish_text()) + job.cutter.flush()
        except Exception:  # noqa: BLE001  one answer's fault is not the thread's
            traceback.print_exc()
            job.failed = True
            return ""

    def _let_go(self) -> None:
        used = {job.request.adapter for job in self._jobs}
        for entry in [each for each in self._leaving if used.isdisjoint(each[0])]:
            self._leaving.remove(entry)
            entry[1]()
            # Another adapter of the same name must not go on from what this one has read.
            self._generator.forget()


def _settle(future: concurrent.futures.Future[T], function: Callable[[], T]) -> None:
    try:
        future.set_result(function())
    except Exception as error:  # noqa: BLE001  it is raised where it is waited for
        future.set_exception(error)


def _teller(session: Session, markers: frozenset[int]) -> tuple[Callable[[int], str], Callable[[], str]]:
    """Token -> text that it completes, and what is left at the end."""
    stream = session.renderer.stream_decoder()

    def tell(token: int) -> str:
        nonlocal stream
        if token not in markers:
            return stream.push(token)
        rest, stream = stream.flush(), session.renderer.stream_decoder()
        return rest + session.renderer.vocabulary.decode([token], skip_special=False)

    return tell, lambda: stream.flush()
