"""Rewards of answers: built-in checks, the user's functions, or a reward model, each with a weight.

What goes in: answers with the rows that asked for them. What comes out: a `Scored` each, in their order: the weighted
sum, or why there is none. A reward that fails or takes too long costs that one answer, never the run: whatever may not
end is computed in a process of its own, which is ended and begun anew.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.config.schema import JUDGE
from luthier.data import own
from luthier.errors import ConfigError, DataError, Problem, UserError
from luthier.scoring import verifiers
from luthier.scoring.verifiers import Asked, Unjudged, Verifier

START_SECONDS = 60.0
"""For a worker to import the user's module, which may load a library."""
MODEL = JUDGE.removesuffix(":")
FIELD = "method.rewards"


@dataclass(frozen=True)
class Answer:
    """An answer to judge."""

    text: str
    asked: Asked


@dataclass(frozen=True)
class Scored:
    """value: None where the reward failed, and `reason` says why. parts: of each reward by name, before weights."""

    value: float | None
    reason: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)


ScoreModel = Callable[[Sequence[Answer]], Sequence[float]]
"""A reward model: many answers at a time, in this process."""


class Rewards:
    """A weighted sum of rewards.

    Args:
        names: of `method.rewards`.
        weights: of each; empty: 1.
        seconds: for one reward of one answer.
        models: name (`model:RUN`) -> the reward model.

    Raises:
        ConfigError: one of them cannot be used; every problem is listed.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: Sequence[float] = (),
        seconds: float = 10.0,
        models: Mapping[str, ScoreModel] | None = None,
    ) -> None:
        self.names = tuple(names)
        self.weights = tuple(weights) or (1.0,) * len(self.names)
        self.seconds = seconds
        self._models = dict(models or {})
        self._pools: dict[str, _Workers] = {}
        self._plain: dict[str, Verifier] = {}
        self._threads = concurrent.futures.ThreadPoolExecutor(max_workers=_hands(), thread_name_prefix="rewards")
        problems = [problem for name in self.names for problem in self._open(name)]
        if problems:
            self.close()
            raise ConfigError(problems)

    def score(self, answers: Sequence[Answer]) -> list[Scored]:
        """Judge answers, several at a time."""
        columns = [self._column(name, answers) for name in self.names]
        return [self._sum([column[at] for column in columns]) for at in range(len(answers))]

    def close(self) -> None:
        """End the workers."""
        for pool in self._pools.values():
            pool.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------------------------------------ parts

    def _open(self, name: str) -> list[Problem]:
        kind = name.partition(":")[0]
        if kind == MODEL:
            return []
        try:
            if kind in verifiers.BUILT_IN:
                made = verifiers.make(name, self.seconds)
                if kind != "regex":  # a pattern may take for ever; the others are bounded, or bound themselves
                    self._plain[name] = made
                    return []
            else:
                own.load_function(name)
            self._pools[name] = _Workers(name, self.seconds)
            return []
        except DataError as error:
            return [Problem(each.id, each.where, FIELD, name, each.values) for each in error.problems]
        except (OSError, ValueError) as error:
            return [Problem("rewards.unusable", field=FIELD, value=name, values={"reason": str(error)})]

    def _column(self, name: str, answers: Sequence[Answer]) -> list[float | str]:
        """A reward of every answer; a text where it failed."""
        if name in self._models:
            try:
                return [float(each) for each in self._models[name](answers)]
            except (RuntimeError, ValueError, UserError) as error:  # one at a time says which are at fault
                return [self._by_model(name, answer, error) for answer in answers]
        judge = self._plain.get(name)
        if judge is not None:
            return list(self._threads.map(lambda answer: _directly(judge, answer), answers))
        return list(self._threads.map(self._pools[name].judge, answers))

    def _by_model(self, name: str, answer: Answer, error: Exception) -> float | str:
        try:
            (value,) = self._models[name]([answer])
            return float(value)
        except (RuntimeError, ValueError, UserError):
            return str(error)

    def _sum(self, values: Sequence[float | str]) -> Scored:
        failed = [f"{name}: {value}" for name, value in zip(self.names, values, strict=True) if isinstance(value, str)]
        if failed:
            return Scored(None, "; ".join(failed))
        parts = {name: float(value) for name, value in zip(self.names, values, strict=True)}
        total = sum(weight * parts[name] for name, weight in zip(self.names, self.weights, strict=True))
        return Scored(total, parts=parts)


def plugins(names: Sequence[str]) -> dict[str, Path]:
    """The user's own functions among the rewards, and the files they come from.

    Raises:
        ConfigError: no such module or function.
    """
    with own.named_by(FIELD):
        return {name: own.source_of(name) for name in names if is_own(name)}


def is_own(name: str) -> bool:
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind not in verifiers.BUILT_IN and kind != MODEL


def reasons(scored: Sequence[Scored]) -> dict[str, int]:
    """Why rewards failed, and how often, the most frequent first."""
    return dict(Counter(each.reason for each in scored if each.value is None).most_common(5))


def _directly(judge: Verifier, answer: Answer) -> float | str:
    try:
        return judge(answer.text, answer.asked)
    except Unjudged as error:
        return f"the row has no {error}"
    except Exception as error:  # noqa: BLE001  a check that fails costs one answer, whatever the reason
        return f"{type(error).__name__}: {error}"


def _hands() -> int:
    return max(min(os.cpu_count() or 1, 8), 1)


class _Workers:
    """Processes that compute one reward, as many as there are hands; each is begun when it is first needed."""

    def __init__(self, name: str, seconds: float) -> None:
        self._name, self._seconds = name, seconds
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(_hands()):
            self._idle.put(None)

    def judge(self, answer: Answer) -> float | str:
        worker = self._idle.get()
        try:
            if worker is None or not worker.alive:
                worker = _Worker(self._name, self._seconds)
            return worker.judge(answer)
        except _Failed as failure:
            if worker is not None:
                worker.kill()
            worker = None
            return str(failure)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                worker = self._idle.get_nowait()
                if worker is not None:
                    worker.kill()


class _Failed(Exception):
    """A worker that cannot be used any more; the text says why."""


class _Worker:
    """One process of `luthier.scoring.worker`."""

    def __init__(self, name: str, seconds: float) -> None:
        self._seconds = seconds
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "luthier.scoring.worker", name, str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._heard = b""
        told = self._told(START_SECONDS)
        if "error" in told:
            raise _Failed(told["error"])

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def judge(self, answer: Answer) -> float | str:
        asked = answer.asked
        row = {"prompt": list(asked.prompt), "reference": asked.reference, "columns": dict(asked.columns)}
        line = json.dumps({"text": answer.text, **row}, default=str) + "\n"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode(errors="replace"))
            self._process.stdin.flush()
        except OSError as error:
            raise _Failed("its process has ended") from error
        told = self._told(self._seconds)
        if "error" in told:
            return f"the row has no {told['error']}" if told.get("unjudged") else str(told["error"])
        return float(told["value"])

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _told(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        assert self._process.stdout is not None
        out = self._process.stdout.fileno()
        while b"\n" not in self._heard:
            left = end - time.monotonic()
            if left <= 0 or not select.select([out], [], [], left)[0]:
                raise _Failed(f"it took more than {seconds:g} s")
            piece = os.read(out, 65536)
            if not piece:
                raise _Failed("its process has ended")
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        return dict(json.loads(line))
