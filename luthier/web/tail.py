"""Logs of runs, each read once, however many watch.

What goes in: run folders. What comes out: for each run its `History`, kept up to date by reading what was added to its
log, and server-sent events that are framed once for all watchers; a watcher that is behind gets what it lacks from the
file. Nothing is kept that could not be read again, so a new server goes on where an old one was.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import operator
import os
import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from luthier.runs import files
from luthier.runs.events import TOLD_ENDS, Event, Stretch, parsed, skimmed
from luthier.runs.history import MEASURE, History, Summary, thinned
from luthier.runs.store import RunFolder

POLL_S = 0.5
"""Between two looks at a log that is watched: what came meanwhile goes out in one piece, which is what keeps many
watchers cheap."""
KEEPALIVE_S = 15.0
LAST_WORD_S = 3.0
"""After a run's process has gone without a word, the queue writes down how; watchers are told that too."""
PIECE_BYTES = 2**20
PIECE_EVENTS = 1000
"""Of one read, and of what a watcher that is behind gets at once."""
MOST_TOLD = 2000
"""Events other than steps that are shown at once."""
HEAD_BYTES = 256
"""By its beginning, which holds the time of its first event, a log is told apart from one that took its place."""
SHOWN = ("step", "loss", "lr", "grad_norm", "tokens_per_s", "memory_bytes", "epoch")
"""Columns of a history, before the measures."""
WHOLE = ("step", "memory_bytes")
SPARK_POINTS = 60
RESET = b"event: reset\ndata: {}\n\n"
"""Another log took the place of the one that was told; it follows from its beginning."""
END = b"event: end\ndata: {}\n\n"
"""The run is not active any more, and all is told."""
KEEPALIVE = b": here\n\n"
T = TypeVar("T")


class Stream(StreamingResponse):
    """Server-sent events; however it ends, its source is closed with it."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = source
        # Proxies are asked to pass each event on at once.
        super().__init__(source, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with contextlib.suppress(RuntimeError):  # it is being closed already
                await self._source.aclose()  # type: ignore[attr-defined]


class Bell:
    """Wakes all who wait in one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def rung_at_the_end_of(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start the work; who waits is woken when it ends, too."""
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self.ring())
        return task

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> bool:
        """False where nothing rang for KEEPALIVE_S."""
        try:
            async with asyncio.timeout(KEEPALIVE_S):
                await self._event.wait()
        except TimeoutError:
            return False
        return True


@dataclass(frozen=True)
class Numbers:
    """A run in numbers. at: how far its log was read. left_s: until it is finished. spark: the course of its loss."""

    at: tuple[int, int]
    summary: Summary
    left_s: float | None
    spark: list[float]


class Tail:
    """One run's log.

    Attributes:
        history: what it comes to.
        told: its last MOST_TOLD events that are no steps, effective or not.
        is_read: whether anybody has read it yet.
    """

    def __init__(self, path: Path) -> None:
        self.run = RunFolder(path)
        self._log = path / "events.jsonl"
        self._lock = threading.Lock()
        self._bell = Bell()
        self._watchers = 0
        self._look: asyncio.Task[None] | None = None
        self.is_read = self._over = self._closed = False
        self._active_s = -math.inf
        self._generation = 0
        self._numbers: Numbers | None = None
        self._begin()

    def _begin(self) -> None:
        self.history, self.told = History(), deque[dict[str, Any]](maxlen=MOST_TOLD)
        self._position, self._head = 0, b""
        self._seqs, self._starts, self._ends = array("q"), array("q"), array("q")
        self._told_seqs = array("q")  # of all events that are no steps
        self._latest: tuple[tuple[int, int], bytes, int] = ((0, 0), b"", 0)
        self._generation += 1

    # --------------------------------------------------------------------------------------------- reading

    def refresh(self) -> None:
        """Read what was added. From any thread."""
        with self._lock:
            self.is_read = True
            try:
                with open(self._log, "rb") as file:
                    self._read(file)
            except FileNotFoundError:
                if self._position:
                    self._begin()
            except OSError:
                return  # a disk that does not answer now may do so later

    def written_s(self) -> float:
        """When something was last written; 0 where nothing was."""
        try:
            return os.stat(self._log).st_mtime
        except OSError:
            return 0.0

    def _read(self, file: BinaryIO) -> None:
        size = os.fstat(file.fileno()).st_size
        if self._position and (size < self._position or file.read(len(self._head)) != self._head):
            self._begin()  # a start that failed before its first step was cleared away, and another began
        file.seek(self._position)
        rest = b""
        while piece := file.read(PIECE_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            self._take(lines)
        if self._position and not self._head:
            file.seek(0)
            self._head = file.readline(HEAD_BYTES)

    def _take(self, lines: Sequence[bytes]) -> None:
        """Lines that are no events, or whose number is not a new one, are passed over."""
        self.history.add(self._good(lines))

    def _good(self, lines: Sequence[bytes]) -> Iterator[Event | Stretch]:
        """What lines hold; where each stands is written down."""
        pending = iter(lines)
        for told in skimmed(lines):
            some = list(itertools.islice(pending, len(told) if isinstance(told, Stretch) else 1))
            if isinstance(told, Stretch) and self._are_new(told.seq):
                self._place(some, told.seq)
                yield told
                continue
            for line, event in zip(some, parsed(some) if isinstance(told, Stretch) else (told,), strict=True):
                if event is None or not self._are_new((event.seq,)):
                    self._position += len(line) + 1
                    continue
                self._place((line,), (event.seq,))
                if event.kind != "step":
                    self.told.append(event.to_json())
                    self._told_seqs.append(event.seq)
                yield event

    def _are_new(self, seqs: Sequence[int]) -> bool:
        """Whether they rise, from behind the last one."""
        last = self._seqs[-1] if self._seqs else 0
        return all(map(operator.lt, (last, *seqs), (*seqs, 2**63)))

    def _place(self, lines: Sequence[bytes], seqs: Sequence[int]) -> None:
        lengths = np.fromiter(map(len, lines), np.int64, len(lines))
        ends = self._position + np.cumsum(lengths + 1) - 1
        self._seqs.extend(seqs)
        self._starts.frombytes((ends - lengths).tobytes())
        self._ends.frombytes(ends.tobytes())
        self._position = self._ends[-1] + 1

    def _piece(self, place: tuple[int, int]) -> tuple[bytes, int]:
        """Events from the place (generation, row) on, PIECE_EVENTS at most, as a stream has them, and the row behind
        them. Who asks for the same as the one before gets the same bytes."""
        with self._lock:
            known, framed, behind = self._latest
            if known == place:
                return framed, behind
            generation, first = place
            if generation != self._generation:
                return b"", first
            rows = range(first, min(first + PIECE_EVENTS, len(self._seqs)))
            base = self._starts[first]
            try:
                with open(self._log, "rb") as file:
                    file.seek(base)
                    content = file.read(self._ends[rows[-1]] - base)
            except OSError:
                return b"", rows.stop  # the run is being deleted
            lines = (content[self._starts[row] - base : self._ends[row] - base].strip() for row in rows)
            framed = b"".join(b"id: %d\ndata: %b\n\n" % (self._seqs[row], next(lines)) for row in rows)
            self._latest = (place, framed, rows.stop)
            return framed, rows.stop

    # --------------------------------------------------------------------------------------------- watching

    async def watch(self, after: int) -> AsyncIterator[bytes]:
        """Events with a higher number, each once, and new ones as they come, until the run has ended and all is told.
        A number that the log does not have yet is one of a log that this one took the place of: all is told anew."""
        self._seems_active()
        await asyncio.to_thread(self.refresh)
        generation, row = self._generation, bisect_right(self._seqs, after)
        if after > self.history.last_seq:
            generation = 0
        self._watchers += 1
        self._over = False
        if self._look is None or self._look.done():
            self._look = self._bell.rung_at_the_end_of(self._keep_looking())
        try:
            while not self._closed:
                if self._look is not None and self._look.done():
                    self._look.result()  # a fault, which ends this stream too
                if generation != self._generation:
                    generation, row = self._generation, 0
                    yield RESET
                while row < len(self._seqs) and generation == self._generation:
                    piece, row = self._piece((generation, row))
                    yield piece
                if self._over and generation == self._generation:
                    yield END
                    return
                if not await self._bell.wait():
                    yield KEEPALIVE
        finally:
            self._watchers -= 1
            if not self._watchers and self._look is not None:
                self._look.cancel()
                self._look = None

    async def _keep_looking(self) -> None:
        """While anybody watches."""
        told = self._generation, len(self._seqs)
        while True:
            active = self._seems_active()  # asked before reading: nothing that was written since is missed
            await self._look_once()
            now = self._generation, len(self._seqs)  # others may have read too
            last_word = self.history.ended in TOLD_ENDS or time.monotonic() - self._active_s > LAST_WORD_S
            self._over = not active and last_word
            if self._over or now != told:
                told = now
                self._bell.ring()
            await asyncio.sleep(POLL_S)

    def _seems_active(self) -> bool:
        active = self.run.active
        if active:
            self._active_s = time.monotonic()
        return active

    async def _look_once(self) -> None:
        try:
            size = os.stat(self._log).st_size
        except OSError:
            size = 0
        if abs(size - self._position) > PIECE_BYTES:
            await asyncio.to_thread(self.refresh)
        elif size != self._position:
            self.refresh()

    def close(self) -> None:
        """End what is watched; in the loop's thread."""
        self._closed = True
        self._bell.ring()

    # --------------------------------------------------------------------------------------------- as values

    def shown(self, points: int, first: int | None = None, last: int | None = None) -> dict[str, Any]:
        """The history for charts: rows of effective steps, thinned where there are more than `points`.

        Args:
            first, last: steps between which rows are wanted.
        """
        self.refresh()
        with self._lock:
            columns = {name: np.array(column) for name, column in self.history.steps.columns.items()}
            validation, rollouts = (self._all_of(kind) for kind in ("validation", "rollout"))
            events, last_seq = list(self.told), self.history.last_seq
            earlier = len(self._told_seqs) - len(events)
        step = columns["step"]
        rows = np.flatnonzero(
            (step >= (-np.inf if first is None else first)) & (step <= (np.inf if last is None else last))
        )
        kept = rows[thinned(columns["loss"][rows], points)]
        names = (*SHOWN, *(name for name in columns if name.startswith(MEASURE)))
        return {
            "last": last_seq,
            "series": {name: _values(columns[name][kept], name in WHOLE) for name in names},
            "validation": files.plain(validation),
            "rollouts": files.plain([rollouts[row] for row in thinned(_rewards(rollouts), points)]),
            "events": files.plain(events),
            "earlier": earlier,
            "steps_total": len(step),
            "thinned": len(kept) < len(rows),
        }

    def _all_of(self, kind: str) -> list[dict[str, Any]]:
        return [{"step": each.step, **each.data} for each in self.history.all_of(kind)]

    def before(self, seq: int) -> dict[str, Any]:
        """The last MOST_TOLD events that are no steps before the one of this number, effective or not, and how many
        there are before them."""
        self.refresh()
        with self._lock:
            end = bisect_left(self._told_seqs, seq)
            seqs = self._told_seqs[max(end - MOST_TOLD, 0) : end]
            rows = [bisect_left(self._seqs, each) for each in seqs]
            try:
                with open(self._log, "rb") as file:
                    lines = [self._line(file, row) for row in rows]
            except OSError:
                lines = []  # the run is being deleted
        events = [event.to_json() for event in parsed(lines) if event is not None]
        return {"events": files.plain(events), "earlier": end - len(seqs)}

    def _line(self, file: BinaryIO, row: int) -> bytes:
        file.seek(self._starts[row])
        return file.read(self._ends[row] - self._starts[row])

    def look(self, what: Callable[[History], T]) -> T:
        """What is made of the history as it is now; nothing is added to it meanwhile."""
        self.refresh()
        with self._lock:
            return what(self.history)

    def numbers(self) -> Numbers:
        """As of the last `refresh`; made anew only where something was read since."""
        with self._lock:
            at = self._generation, len(self._seqs)
            if self._numbers is None or self._numbers.at != at:
                history = self.history
                spark = _spark(np.array(history.steps.columns["loss"]))
                self._numbers = Numbers(at, history.summary(), history.seconds_left(), spark)
            return self._numbers


def _spark(losses: np.ndarray[Any, Any]) -> list[float]:
    """The course of the loss in a few points, each the mean of its share of the steps."""
    losses = losses[np.isfinite(losses)]
    return [float(part.mean()) for part in np.array_split(losses, min(SPARK_POINTS, len(losses)) or 1) if len(part)]


def _rewards(rollouts: Sequence[dict[str, Any]]) -> np.ndarray[Any, Any]:
    given = [each.get("reward") for each in rollouts]
    return np.array([each if isinstance(each, (int, float)) else math.nan for each in given], float)


def _values(column: np.ndarray[Any, Any], whole: bool) -> list[Any]:
    return [(int(value) if whole else value) if math.isfinite(value) else None for value in column.tolist()]


class Tails:
    """The logs of all runs below a folder."""

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir
        self._tails: dict[str, Tail] = {}

    def of(self, name: str) -> Tail:
        return self._tails.get(name) or self._tails.setdefault(name, Tail(self.runs_dir / name))

    def forget_all_but(self, names: set[str]) -> None:
        """Runs whose folders are gone."""
        for name in self._tails.keys() - names:
            self._tails.pop(name, None)  # others look too

    def stream(self, name: str, after: int) -> Stream:
        return Stream(self.of(name).watch(after))

    def close(self) -> None:
        """End all that is watched; in the loop's thread."""
        for tail in list(self._tails.values()):
            tail.close()
