"""Several devices: one process for each, started from this one, which then only watches.

What goes in: a run that has passed every check. What comes out: the trained run, or the error that ended it, as if it
had been trained here. The processes (`luthier.worker`) are started with torchrun's own machinery; what has to pass
between them and this one lies in a temporary folder: the job, rank 0's events, and how each ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from luthier import errors
from luthier.config import load as config_load
from luthier.config.schema import RunConfig
from luthier.engine import loop
from luthier.engine.backend import Workers
from luthier.errors import Interrupted, LuthierError, Problem, RunError, TrainingFailed, UserError
from luthier.runs import events
from luthier.runs.events import Event
from luthier.runs.recipe import run_name
from luthier.runs.store import RunFolder
from luthier.text import Language, language, say

JOB, EVENTS, OUTCOME = "job.json", "events.jsonl", "outcome-{rank}.json"
POLL_S = 0.1
"""Between two looks at the processes; as torchrun's own monitor."""
GRACE_S = 20.0
"""For the others to end once one has told how the run ended: they wait at most for a step to be over."""
PEER_LOST = 75
"""Exit code of a process that could not go on because another one had ended (sysexits.h: a temporary failure)."""


BOOT = (
    "import json, sys; "
    f"sys.path[:] = json.load(open(sys.argv[1] + '/{JOB}', encoding='utf-8'))['path']; "
    "from luthier import worker; worker.main(sys.argv[1])"
)
"""What a process begins with: it finds modules, the user's own among them, where this one does."""


@dataclasses.dataclass(frozen=True)
class Order:
    """What the processes are to do. path: where they find modules; plan: the `plan.json` to obey; original: the run to
    repeat."""

    path: list[str]
    recipe: str
    plan: Mapping[str, Any] | None
    original: str | None
    language: Language

    @classmethod
    def load(cls, folder: Path) -> Order:
        return cls(**json.loads((folder / JOB).read_text(encoding="utf-8")))


def run(
    config: RunConfig,
    devices: int,
    on_event: Callable[[Event], None] | None,
    plan: Mapping[str, Any] | None,
    original: RunFolder | None,
) -> Path:
    """Train a run with a process per device; returns its folder.

    Raises:
        what training raises; TrainingFailed where a process died.
    """
    path = [os.path.abspath(each) for each in sys.path]
    order = Order(path, config_load.dump(config), plan, str(original.path) if original else None, language())
    folder = Path(tempfile.mkdtemp(prefix="luthier-ranks-"))
    (folder / JOB).write_text(json.dumps(dataclasses.asdict(order)), encoding="utf-8")
    run_path = Path(config.run.dir) / run_name(config)
    workers = Workers(["-c", BOOT, str(folder)], devices, folder)
    try:
        with loop.signals() as stop:
            _watch(workers, folder, stop, on_event)
    except BaseException:  # a second Ctrl-C, or whoever listens failed: nothing may run on unwatched
        workers.kill()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    error = _told(folder, devices)
    if error is None and workers.exit_codes and stop:  # asked to stop before there was anything to save
        shutil.rmtree(folder, ignore_errors=True)
        raise KeyboardInterrupt if stop[0] == signal.SIGINT else SystemExit(128 + stop[0])
    if error is None and workers.exit_codes:
        error = _died(workers, devices, run_path, folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    if error is not None:
        raise error
    return run_path


def _watch(workers: Workers, folder: Path, stop: list[int], on_event: Callable[[Event], None] | None) -> None:
    """Hand on the events as they come and the signals that arrive, until every process has ended."""
    passed_on, listen = False, on_event
    told_s: float | None = None

    def ended() -> bool:
        nonlocal passed_on, told_s
        if stop and not passed_on:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(workers.pids[0], stop[0])  # the ranks agree among themselves after which step
            passed_on = True
        if told_s is None and any(folder.glob(OUTCOME.format(rank="*"))):
            told_s = time.monotonic()
        if told_s is not None and time.monotonic() - told_s > GRACE_S:
            workers.kill()
        return workers.ended()

    for event in events.follow(folder / EVENTS, ended=ended, poll_s=POLL_S):
        if listen is not None:
            try:
                listen(event)
            except OSError:  # the terminal was closed, or the pipe: the run does not depend on who watches
                listen = None


# ---------------------------------------------------------------------------------------------------- how it ended


def tell(folder: Path, rank: int, error: LuthierError) -> None:
    """Write down what ended a process, for the one that watches."""
    told: dict[str, Any] = {"kind": type(error).__name__}
    if isinstance(error, UserError):
        told["problems"] = [dataclasses.asdict(each) for each in error.problems]
    elif isinstance(error, TrainingFailed):
        told["problems"] = [dataclasses.asdict(error.problem)]
    elif isinstance(error, Interrupted):
        told |= {"signal": error.exit_code - 128, "checkpoint": error.checkpoint}
    file = folder / OUTCOME.format(rank=rank)
    file.with_suffix(".new").write_text(json.dumps(told, default=str), encoding="utf-8")
    file.with_suffix(".new").replace(file)


def _told(folder: Path, devices: int) -> LuthierError | None:
    """What the processes say ended them, rank 0's word first."""
    files = (folder / OUTCOME.format(rank=rank) for rank in range(devices))
    file = next((each for each in files if each.exists()), None)
    if file is None:
        return None
    told = json.loads(file.read_text(encoding="utf-8"))
    if told["kind"] == Interrupted.__name__:
        return Interrupted(told["signal"], told["checkpoint"])
    problems = [Problem(**each) for each in told["problems"]]
    if told["kind"] == TrainingFailed.__name__:
        return TrainingFailed(problems[0])
    kind = getattr(errors, told["kind"])
    assert issubclass(kind, UserError)
    found: UserError = kind(problems)
    return found


def _died(workers: Workers, devices: int, path: Path, logs: Path) -> TrainingFailed:
    """A process ended without a word: which one and how, written into the run's log as well."""
    codes = workers.exit_codes
    # Of several that ended, those that were ended by us or by the loss of another are not to blame; a kill comes first.
    rank = min(codes, key=lambda each: (codes[each] in (PEER_LOST, -signal.SIGTERM), codes[each] > 0))
    code = codes[rank]
    how = say("engine.rank_died_code", code=code)
    if code < 0:
        how = say("engine.rank_died_signal", number=-code, name=signal.Signals(-code).name)
    said = workers.said(rank)
    values = {
        "rank": rank,
        "size": devices,
        "how": how,
        "said": f": {said}" if said else "",
        "command": f"luthier runs resume {path}",
        "logs": str(logs),
    }
    problem = Problem("engine.rank_died", where=str(path), values=values)
    # There may be no folder yet, or a full disk: the error itself is told in any case.
    with contextlib.suppress(RunError), RunFolder.open(path, write=True) as folder:
        folder.emit("failed", {"problem": problem.to_json()}, step=folder.summary().step)
    return TrainingFailed(problem)
