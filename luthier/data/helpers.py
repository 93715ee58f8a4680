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
import fcntl
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO

from luthier.data import own
from luthier.data.blocks import Block, BlockMaker
from luthier.data.readers import Raw
from luthier.text import language, set_language

START_AFTER_S = 1.0
"""Twice what a helper takes to start; files that are done before never have any. Chosen, not tuned."""
MOST_HELPERS = 6
"""One process reads for all; more would wait for it. Chosen from 20 us to read a row and 120 to make its tokens."""
PIPE_BYTES = 2**20
"""What Linux lets anybody have; a block of 512 rows of 700 bytes has about as much."""
TURN_S = 0.0005
"""Threads of this process take turns so often while there are helpers: an answer is read in many pieces."""
WAITING = 2
"""Blocks in the hands of a helper: the one it makes, and the next."""

GONE = (OSError, ValueError)
"""What a pipe raises whose other end is gone, or that was closed meanwhile."""

Rows = Sequence[Raw]
Asked = tuple[Future[Block | None], Rows]
"""What a helper was asked for, and of which rows."""


def made(raw: Iterable[Rows], maker: BlockMaker, skip: Callable[[], int]) -> Generator[Block]:
    """The blocks of raw rows, in order.

    Args:
        skip: examples that are still to be skipped (`BlockMaker.make`), asked before each block that is made here.
    """
    most = min(cores() - 1, MOST_HELPERS)
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
            asked = team.ask(rows)
            if asked is not None:
                pending.append((asked, rows))
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


def cores() -> int:
    """Those that this process may use."""
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
        self._helpers: list[_Helper] = []

    def __enter__(self) -> _Team:
        if not own.is_own(self._maker.taker.format):
            bare = dataclasses.replace(self._maker, renderer=self._maker.renderer.bare(), _seen=set())
            first = pickle.dumps((bare, language()))
            with contextlib.suppress(OSError):
                for _ in range(self._most):
                    self._helpers.append(_Helper(first))
        self._pool = ThreadPoolExecutor(max(WAITING * len(self._helpers), 1))
        self._turn_s = sys.getswitchinterval()
        sys.setswitchinterval(min(TURN_S, self._turn_s))
        return self

    def __exit__(self, *_: object) -> None:
        sys.setswitchinterval(self._turn_s)
        for helper in self._helpers:
            helper.end()
        self._pool.shutdown(cancel_futures=True)

    @property
    def most_pending(self) -> int:
        """Blocks that may wait for an earlier one."""
        return WAITING * (len(self._helpers) + 1)

    def ask(self, rows: Rows) -> Future[Block | None] | None:
        """The block, as soon as a helper has made it, which gives None where it could not; None where all are busy."""
        free = [each for each in self._helpers if each.alive and each.asked() < WAITING]
        if not free:
            return None
        helper = min(free, key=_Helper.asked)
        helper.open.append(self._pool.submit(helper.make, rows, self._maker.only_reads))
        return helper.open[-1]


class _Helper:
    """One process.

    Attributes:
        alive: until it has ended or failed to answer.
        open: blocks that it was asked for, as far as they are not done. The next one lies in its pipe while it makes
            one, so that it never waits for the threads of this process to be given their turn.
    """

    def __init__(self, first: bytes) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
        command = [sys.executable, "-c", code]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for pipe in (self._process.stdin, self._process.stdout):
            _widen(pipe)
        self.alive = True
        self.open: list[Future[Block | None]] = []
        self._first: bytes | None = first
        self._sending = threading.Lock()
        self._turns = threading.Condition()
        self._sent = self._answered = 0

    def asked(self) -> int:
        """Blocks in its hands."""
        self.open = [each for each in self.open if not each.done()]
        return len(self.open)

    def make(self, rows: Rows, only_reads: bool) -> Block | None:
        """The block; None where it could not."""
        try:
            answer = self._answer(pickle.dumps((rows, only_reads), pickle.HIGHEST_PROTOCOL))
        except GONE:
            answer = None
        if answer is None:
            self.alive = False
            return None
        found = pickle.loads(answer)
        assert found is None or isinstance(found, Block)
        return found

    def _answer(self, job: bytes) -> bytes | None:
        """Answers come in the order of the jobs."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._sending:
            turn, self._sent = self._sent, self._sent + 1
            try:
                if self._first is not None:
                    _send(self._process.stdin, self._first)
                    self._first = None
                _send(self._process.stdin, job)
            except GONE:
                self.alive = False
        with self._turns:
            self._turns.wait_for(lambda: self._answered == turn)
        try:
            return _receive(self._process.stdout) if self.alive else None
        finally:
            with self._turns:
                self._answered += 1
                self._turns.notify_all()

    def end(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _widen(pipe: IO[bytes] | None) -> None:
    """Room for a whole job or answer, where the system can: who writes it need not wait for who reads."""
    if pipe is not None and hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)


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
