"""Other processes that make blocks: a large file is tokenised on every core.

What goes in: raw blocks, in order. What comes out: the blocks made of them, in the same order. The first are made here;
a build that goes on for a while gets helpers, and who reads the file makes blocks too whenever they are all busy. A
helper that dies, or cannot be started, only costs time: its block is made here.

A helper is a process of its own and no fork: forks of a process with threads, of which torch and tokenizers have many,
may wait for ever for a lock that nobody holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import pickle
import queue
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO

from luthier.data import own
from luthier.data.blocks import Block, BlockMaker
from luthier.data.readers import Fault, Row
from luthier.text import language, set_language

START_AFTER_S = 1.0
"""Twice what a helper takes to start; files that are done before never have any. Chosen, not tuned."""
MOST_HELPERS = 6
"""One process reads for all; more would wait for it. Chosen from 20 us to read a row and 120 to make its tokens."""
WAITING = 2
"""Blocks in the hands of a helper: the one it makes, and the next."""

Rows = Sequence[Row | Fault]
Asked = tuple[Future[Block | None], Rows]
"""What a helper was asked for, and of which rows."""


def made(
    raw: Iterable[Rows], maker: BlockMaker, skip: Callable[[], int], *, most: int | None = None
) -> Generator[Block]:
    """The blocks of raw rows, in order.

    Args:
        skip: examples that are still to be skipped (`BlockMaker.make`), asked before each block that is made here.
        most: helpers; as many as there are cores beside this one's where not given.
    """
    most = min(_cores() - 1, MOST_HELPERS) if most is None else most
    started_s = time.monotonic()
    team: _Team | None = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(_young_garbage_only())
        pending: deque[Block | Asked] = deque()
        for rows in raw:
            if team is None and most > 0 and not skip() and time.monotonic() - started_s >= START_AFTER_S:
                team = stack.enter_context(_Team(maker, most))
            if team is None:
                yield maker.make(rows, skip())
                gc.collect(1)
                continue
            if team.is_free:
                pending.append((team.ask(rows), rows))
            else:
                pending.append(maker.make(rows))
                gc.collect(1)
            while pending and (len(pending) > team.most_pending or _is_ready(pending[0])):
                yield _taken(pending.popleft(), maker)
        while pending:
            yield _taken(pending.popleft(), maker)


def _is_ready(each: Block | Asked) -> bool:
    return isinstance(each, Block) or each[0].done()


def _taken(each: Block | Asked, maker: BlockMaker) -> Block:
    """The block; made here where nobody else could."""
    if isinstance(each, Block):
        return each
    asked, rows = each
    found = asked.result()
    return maker.make(rows) if found is None else found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _young_garbage_only() -> Iterator[None]:
    """Millions of short-lived values make the collector go through all that lives again and again, which takes a third
    of the time; within, it only runs when asked."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Team:
    """Helpers, and the threads that speak with them."""

    def __init__(self, maker: BlockMaker, most: int) -> None:
        self._maker = maker
        self._most = most
        self._asked = 0
        self._idle: queue.SimpleQueue[_Helper] = queue.SimpleQueue()
        self._helpers: list[_Helper] = []

    def __enter__(self) -> _Team:
        if not own.is_own(self._maker.taker.format):
            bare = dataclasses.replace(self._maker, renderer=self._maker.renderer.bare(), _seen=set())
            first = pickle.dumps((bare, language()))
            with contextlib.suppress(OSError):
                for _ in range(self._most):
                    self._helpers.append(_Helper(first))
        for helper in self._helpers:
            self._idle.put(helper)
        self._pool = ThreadPoolExecutor(max(len(self._helpers), 1))
        self._futures: deque[Future[Block | None]] = deque()
        return self

    def __exit__(self, *_: object) -> None:
        for helper in self._helpers:
            helper.end()
        self._pool.shutdown(cancel_futures=True)

    @property
    def most_pending(self) -> int:
        """Blocks that may wait for an earlier one."""
        return WAITING * (len(self._helpers) + 1)

    @property
    def is_free(self) -> bool:
        """Whether another block can be asked for without waiting long."""
        while self._futures and self._futures[0].done():
            self._futures.popleft()
        busy = sum(not each.done() for each in self._futures)
        return busy < WAITING * sum(each.alive for each in self._helpers)

    def ask(self, rows: Rows) -> Future[Block | None]:
        """The block, as soon as a helper has made it; None where it could not."""
        asked = self._pool.submit(self._ask, rows, self._maker.only_reads)
        self._futures.append(asked)
        return asked

    def _ask(self, rows: Rows, only_reads: bool) -> Block | None:
        helper = self._idle.get()
        try:
            return helper.make(rows, only_reads)
        finally:
            self._idle.put(helper)


class _Helper:
    """One process. `alive`: until it has ended or failed to answer."""

    def __init__(self, first: bytes) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
        command = [sys.executable, "-c", code]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.alive = True
        self._first: bytes | None = first

    def make(self, rows: Rows, only_reads: bool) -> Block | None:
        if not self.alive:
            return None
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            if self._first is not None:
                _send(self._process.stdin, self._first)
                self._first = None
            _send(self._process.stdin, pickle.dumps((rows, only_reads), pickle.HIGHEST_PROTOCOL))
            answer = _receive(self._process.stdout)
        except OSError:
            answer = None
        self.alive = answer is not None
        found = None if answer is None else pickle.loads(answer)
        assert found is None or isinstance(found, Block)
        return found

    def end(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(len(data).to_bytes(8, "little"))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """None where the other side is gone."""
    head = pipe.read(8)
    size = int.from_bytes(head, "little")
    data = pipe.read(size) if len(head) == 8 else b""
    return data if head and len(data) == size else None


def serve() -> None:
    """What a helper does: make blocks until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks decides what an interruption means
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library may print is no answer
    first = _receive(sys.stdin.buffer)
    if first is None:
        return
    maker, tongue = pickle.loads(first)
    set_language(tongue)
    gc.disable()
    with contextlib.suppress(BrokenPipeError):
        while (job := _receive(sys.stdin.buffer)) is not None:
            rows, maker.only_reads = pickle.loads(job)
            try:
                block = maker.make(rows)
            except Exception:  # noqa: BLE001 - who asked makes the block, and meets it where it can be told
                block = None
            _send(answers, pickle.dumps(block, pickle.HIGHEST_PROTOCOL))
            gc.collect(1)
