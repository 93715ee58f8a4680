"""What goes on, all in one: runs, devices, disk and jobs, looked at once for all who watch.

What goes in: the folder of runs, their logs, the jobs. What comes out: plain values, and a stream of them that says
something whenever something has changed.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

from luthier import disk, machine, queue
from luthier.errors import RunError, UserError
from luthier.runs import commands, turns
from luthier.runs.files import plain
from luthier.runs.store import RunFolder
from luthier.text import Language, language, speaking
from luthier.web.jobs import Jobs
from luthier.web.tail import KEEPALIVE, Bell, Stream, Tail, Tails

LOOK_S = 1.0
FIRST_READ_S = 0.5
"""Of one look, for logs that nobody has read yet: with hundreds of long ones the newest are shown at once, and the
others follow."""
GPUS_S = 5.0
"""Between two questions to the driver, each of which starts a program."""
SHARES = 200
"""Free room is told in so many parts of the whole: the last megabytes change all the time and say nothing."""
T = TypeVar("T")


class Board:
    def __init__(self, runs_dir: Path, tails: Tails, jobs: Jobs) -> None:
        self.runs_dir, self._tails, self._jobs = runs_dir, tails, jobs
        self._read: dict[tuple[str, str], tuple[int, Any]] = {}
        self._gpus: tuple[float, tuple[machine.Gpu, ...]] = (float("-inf"), ())
        self._watched: Counter[Language] = Counter()
        self._latest: dict[Language, bytes] = {}
        self._bell, self._closed = Bell(), False
        self._look: asyncio.Task[None] | None = None

    # --------------------------------------------------------------------------------------------- runs

    def runs(self, patience_s: float = math.inf) -> list[dict[str, Any]]:
        """All runs, the last one that did something first.

        Args:
            patience_s: for logs that were never read before; the runs of the rest, which are older, are left out.
        """
        try:
            names = [each.name for each in os.scandir(self.runs_dir) if (Path(each) / "recipe.yaml").is_file()]
        except OSError:
            names = []
        self._tails.forget_all_but(set(names))
        waiting, end_s, found = _places(), time.monotonic() + patience_s, []
        for tail in sorted(map(self._tails.of, names), key=Tail.written_s, reverse=True):
            if tail.is_read or time.monotonic() < end_s:
                found.append(self._run(tail.run.name, waiting))
        return sorted(found, key=lambda run: run["updated_s"] or 0.0, reverse=True)

    def run(self, name: str) -> dict[str, Any]:
        return self._run(name, _places())

    def _run(self, name: str, waiting: dict[Path, int]) -> dict[str, Any]:
        tail = self._tails.of(name)
        tail.refresh()
        recipe = self._as_of(tail.run, "recipe.yaml", _facts)
        numbers = tail.numbers()
        summary, state = numbers.summary, tail.run.state_of(numbers.summary.ended)
        damaged = isinstance(recipe, UserError)
        return {
            "name": name,
            "path": str(tail.run.path),
            "state": "damaged" if damaged else state,
            **({"model": "", "method": "", "tune": ""} if isinstance(recipe, UserError) else recipe),
            "step": summary.step,
            "num_steps": summary.num_steps,
            "loss": summary.loss,
            "best": summary.best,
            "eta_s": numbers.left_s if state == "running" else None,
            "tokens_per_s": summary.tokens_per_s,
            "started_s": summary.started_s,
            "updated_s": summary.updated_s,
            "seconds": summary.seconds,
            "spark": numbers.spark,
            "problem": _text(recipe) if isinstance(recipe, UserError) else _ending(tail, state),
            "place": waiting.get(tail.run.path) if state == "queued" else None,
            "stage": self._as_of(tail.run, turns.NAME, _stage),
        }

    def _as_of(self, run: RunFolder, file: str, read: Callable[[RunFolder], T]) -> T:
        """What is read from a file of a run; again when it has changed."""
        try:
            stamp = os.stat(run.path / file).st_mtime_ns
        except OSError:
            stamp = 0
        known = self._read.get((run.name, file))
        if known is None or known[0] != stamp:
            known = self._read[run.name, file] = stamp, read(run)
        found: T = known[1]
        return found

    # --------------------------------------------------------------------------------------------- the machine

    def devices(self) -> list[dict[str, Any]]:
        asked_s, gpus = self._gpus
        if time.monotonic() - asked_s > GPUS_S:
            gpus = machine.gpus()
            self._gpus = time.monotonic(), gpus
        found = [_device(gpu.name, "gpu", gpu.free_bytes, gpu.total_bytes) for gpu in gpus]
        total = machine.memory_limit_bytes()
        return [*found, _device(f"CPU × {os.cpu_count() or 1}", "cpu", machine.free_memory_bytes(), total)]

    def disk(self) -> dict[str, int]:
        free, total = disk.room(self.runs_dir)
        return {"free_bytes": _part(free, total), "total_bytes": total}

    # --------------------------------------------------------------------------------------------- all in one

    def overview(self) -> dict[str, Any]:
        jobs = [job.to_json() for job in self._jobs.listed()]
        return {"runs": self.runs(FIRST_READ_S), "devices": self.devices(), "disk": self.disk(), "jobs": jobs}

    def stream(self) -> Stream:
        return Stream(self._watch(language()))

    async def _watch(self, spoken: Language) -> AsyncIterator[bytes]:
        self._watched[spoken] += 1
        if self._look is None or self._look.done():
            self._look = self._bell.rung_at_the_end_of(self._keep_looking())
        told = b""
        try:
            while not self._closed:
                if self._look is not None and self._look.done():
                    self._look.result()  # a fault, which ends this stream too
                latest = self._latest.get(spoken, told)
                if latest is not told:
                    told = latest
                    yield told
                elif not await self._bell.wait():
                    yield KEEPALIVE
        finally:
            self._watched[spoken] -= 1
            if not self._watched.total() and self._look is not None:
                self._look.cancel()
                self._look = None
                self._latest.clear()

    async def _keep_looking(self) -> None:
        """While anybody watches."""
        while True:
            for spoken in [each for each, watchers in self._watched.items() if watchers]:
                with speaking(spoken):
                    value = await asyncio.to_thread(self.overview)
                said = b"data: %b\n\n" % json.dumps(plain(value), ensure_ascii=False).encode()
                if said != self._latest.get(spoken):
                    self._latest[spoken] = said
                    self._bell.ring()
            await asyncio.sleep(LOOK_S)

    def close(self) -> None:
        """End what is watched; in the loop's thread."""
        self._closed = True
        self._bell.ring()


def _places() -> dict[Path, int]:
    """Of the runs that wait. Where the order cannot be read, the runs are shown without their places."""
    try:
        return {path: place for place, path in enumerate(queue.ordered(), start=1)}
    except RunError:
        return {}


def _stage(run: RunFolder) -> dict[str, str] | None:
    """Of a run that is a later stage of a recipe: which, and the run that has to be finished before it."""
    turn, first = turns.of(run.path), turns.before(run.path)
    return None if turn is None or first is None else {"name": turn.name, "start": turn.start, "after": first.name}


def _facts(run: RunFolder) -> dict[str, Any] | UserError:
    """What a recipe says of itself in a list."""
    try:
        config = run.config()
    except UserError as error:
        return error
    return {"model": config.model.path, "method": config.method.kind, "tune": config.tune.kind}


def _text(error: UserError) -> str:
    return "\n".join(str(problem) for problem in error.problems)


def _ending(tail: Tail, state: str) -> str | None:
    """Why a run has ended before it was done."""
    last = tail.told[-1] if tail.told else None
    if last is None or state not in ("failed", "died") or last["kind"] not in ("failed", "died"):
        return None
    if last["kind"] == "died":
        return "\n".join(commands.how_it_died(last["data"]))
    problem = last["data"].get("problem")
    told = [problem.get(part) for part in ("rule", "remedy")] if isinstance(problem, dict) else []
    return "\n".join(str(part) for part in told if part) or None


def _device(name: str, kind: str, free: int, total: int) -> dict[str, Any]:
    return {"name": name, "kind": kind, "free_bytes": _part(free, total), "total_bytes": total}


def _part(free: int, total: int) -> int:
    part = max(total // SHARES, 1)
    return free // part * part
