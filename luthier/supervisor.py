"""The small process that starts what the queue holds, as memory allows, and watches over it.

What goes in: the queue and the run folders. What comes out: a process for each run, in a session of its own, that needs
nobody: it goes on when this one ends, and the next supervisor finds it by its folder's lock. A run that died is told of
in its own event log with the last lines that it said; what a restart of the machine ended is started again. When
nothing waits and nothing runs, the supervisor ends. Torch-free.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from luthier import machine, queue
from luthier.config import load as config_load
from luthier.errors import LuthierError, Problem, RunError
from luthier.paper import outlook
from luthier.runs import files, lock, turns
from luthier.runs.events import FIRST_OF_ATTEMPT
from luthier.runs.store import RunFolder

POLL_S = 0.3
ROOM_S = 3.0
"""Between two looks for room where nothing has ended: on a machine with GPUs the driver is asked each time."""
IDLE_S = 3.0
"""Without work for so long, the supervisor ends."""
CORES_PER_RUN = 2
"""On a CPU one run more is started for each so many cores: beyond that they only slow each other down."""
SAID_LINES = 20
SAID_BYTES = 64 * 2**10
START_PATIENCE_S = 10.0


@dataclass
class Device:
    """free_bytes: that nobody uses now; promised_bytes: that runs have been given but do not hold yet."""

    free_bytes: int
    promised_bytes: int = 0

    @property
    def left(self) -> int:
        return self.free_bytes - self.promised_bytes


@dataclass
class Child:
    """A run that is being trained. process: None where an earlier supervisor started it; gpus: numbers of those that
    it was given; bytes: that it needs on each by the plan."""

    path: Path
    process: subprocess.Popen[bytes] | None
    gpus: tuple[int, ...] = ()
    bytes: int = 0


@dataclass
class Supervisor:
    """Holds no state that a new one could not find: what waits is in the queue, what runs holds its folder's lock."""

    children: dict[Path, Child] = field(default_factory=dict)
    _needed: dict[Path, int] = field(default_factory=dict)
    """By the plan, of runs that wait for room: it does not change while they do."""
    _seen: dict[Path, tuple[tuple[int, int] | None, bool]] = field(default_factory=dict)
    """Of runs that follow another one: how its log was when it was read last, and whether it said that it is finished.
    """
    _refused_s: float = -math.inf

    def look(self) -> bool:
        """One round; whether anything waits or runs."""
        for child in list(self.children.values()):
            if self._ended(child):
                del self.children[child.path]
                self._refused_s = -math.inf
                settle(child)
        waiting = queue.ordered()
        for path in waiting:
            run = RunFolder(path)
            if path in self.children or lock.held(path / "queued"):
                self._adopt(path)
            elif run.locked or self._waits(path):
                continue  # somebody is just putting it in; or it waits for another run, and what comes later does not
            elif not self._start(run):
                break  # in order: what comes later does not overtake
        return bool(waiting or self.children)

    def recover(self) -> None:
        """What an earlier supervisor left: runs that go on are watched; what the machine's restart ended is to go on;
        what died otherwise is told of."""
        boot = machine.boot()
        for place in queue.places():
            for path in sorted(each.parent for each in place.glob("*/recipe.yaml")):
                run, last = RunFolder(path), lock.last(path / "lock")
                if not last.get("detached"):
                    continue
                if run.locked:
                    self._adopt(path)
                elif run.state == "died" and not _told(run):
                    if last.get("boot") != boot:
                        _again(run, str(last.get("home") or path.parent))
                    else:
                        settle(Child(path, None))

    def _adopt(self, path: Path) -> None:
        if path not in self.children:
            self.children[path] = Child(path, None, bytes=_needed(RunFolder(path)))
        if not (path / "queued").exists():
            queue.forget(path)

    def _ended(self, child: Child) -> bool:
        if child.process is not None:
            return child.process.poll() is not None
        return not RunFolder(child.path).locked and not lock.held(child.path / "queued")

    def _waits(self, path: Path) -> bool:
        """Whether another run has to be finished first. Its log is read again only once it has changed."""
        first = turns.before(path)
        if first is None:
            return False
        if first.active:
            return True
        written = _written(first.path / "events.jsonl")
        if path not in self._seen or self._seen[path][0] != written:
            self._seen[path] = written, turns.done(first)
        return not self._seen[path][1]

    # --------------------------------------------------------------------------------------------- starting

    def _start(self, run: RunFolder) -> bool:
        """Start a run where there is room for it; with nothing else running there always is: what does not fit, the
        run itself says best."""
        mark = queue.Mark.of(run.path)
        if mark is None:
            return True
        if self.children and time.monotonic() - self._refused_s < ROOM_S:
            return False
        if run.path not in self._needed:
            self._needed[run.path] = _needed(run)
        needed = self._needed[run.path]
        given = self._room(needed, _wanted(run))
        if given is None and self.children:
            self._refused_s = time.monotonic()
            return False
        del self._needed[run.path]
        with contextlib.suppress(RunError):
            self.children[run.path] = _begin(run, mark, given or (), needed)
            return True
        queue.withdraw(run)  # the folder cannot be written: nobody can start it
        return True

    def _room(self, needed: int, wanted: int | None) -> tuple[int, ...] | None:
        """The GPUs for a run that asks for `wanted` of them (None: all); empty for one on the CPU; None without
        room."""
        gpus = machine.gpus() if wanted != 0 else ()
        if not gpus:
            host = Device(machine.free_memory_bytes(), sum(_still_to_come(each) for each in self._on_host()))
            cores = max((os.cpu_count() or 1) // CORES_PER_RUN, 1)
            return () if len(self._on_host()) < cores and needed <= host.left else None
        devices = [Device(gpu.free_bytes) for gpu in gpus]
        for child in self.children.values():
            for number in child.gpus:
                devices[number].promised_bytes += 0 if _rehearsed(child.path) else child.bytes
        order = sorted(range(len(devices)), key=lambda number: -devices[number].left)
        chosen = order[: len(gpus) if wanted is None else wanted]
        fits = all(devices[number].left >= needed for number in chosen)
        return tuple(sorted(chosen)) if fits else None

    def _on_host(self) -> list[Child]:
        return [child for child in self.children.values() if not child.gpus]


def _begin(run: RunFolder, mark: queue.Mark, gpus: Sequence[int], needed: int) -> Child:
    """The mark stays locked by the new process until it has the run's own lock: nobody starts a run twice."""
    with files.user_errors(run.path):
        held = os.open(run.path / "queued", os.O_RDWR)
        said = os.open(run.path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        command = [sys.executable, "-P", "-m", "luthier.detached", str(run.path.resolve())]
        with files.user_errors(run.path):
            process = subprocess.Popen(
                command,
                cwd=mark.home if Path(mark.home).is_dir() else run.path.parent,
                env=_environment(gpus),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                pass_fds=(held,),
            )
    finally:
        os.close(held)
        os.close(said)
    return Child(run.path, process, tuple(gpus), needed)


def _environment(gpus: Sequence[int]) -> dict[str, str]:
    chosen = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))} if gpus else {}
    return config_load.handed_on({**chosen, "LUTHIER_DETACHED": "1"})


def _needed(run: RunFolder) -> int:
    """Bytes on each device by the plan; 0 where it cannot be planned: then the run says best what is wrong."""
    try:
        turn = turns.of(run.path)
        with run.at_home() as there:
            return outlook.plan(there.config() if turn is None else turn.planned).memory.peak_bytes
    except (LuthierError, OSError):
        return 0


def _wanted(run: RunFolder) -> int | None:
    """How many GPUs a run asks for; None for all, 0 for one on the CPU."""
    try:
        asked = run.config().run
    except LuthierError:
        return 0
    if asked.device == "cpu":
        return 0
    return None if asked.devices == "auto" else asked.devices


def _still_to_come(child: Child) -> int:
    """What a run on the CPU has been promised and does not hold yet."""
    pid = RunFolder(child.path).holder()["pid"]
    return max(child.bytes - (machine.resident_bytes(pid) if isinstance(pid, int) else 0), 0)


def _written(path: Path) -> tuple[int, int] | None:
    """Tells apart a file that was written to in between; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _rehearsed(path: Path) -> bool:
    """Whether this attempt has its memory: the largest micro-batch comes before the plan is told."""
    begun = False
    for event in RunFolder(path).events():
        begun = event.kind == "plan" or (begun and event.kind not in (*FIRST_OF_ATTEMPT, "rehearsal"))
    return begun


# ------------------------------------------------------------------------------------------------- how it ended


def settle(child: Child) -> None:
    """Write down how a run ended, where it could not do so itself."""
    run = RunFolder(child.path)
    code = child.process.poll() if child.process is not None else None
    with contextlib.suppress(RunError):  # somebody else has it again, or the folder is gone
        if run.locked:
            return
        queue.withdraw(run)  # it may have ended before it was the run's writer
        if code == 0 or run.state in ("finished", "interrupted", "failed") or _told(run):
            return  # 0: or it was withdrawn before it had begun
        with RunFolder.open(child.path, write=True) as writer:
            facts = {"code": code, "signal": _signal(code), "said": last_lines(child.path)}
            writer.emit("died", facts, step=writer.summary().step)


def _told(run: RunFolder) -> bool:
    """Whether the log says already that the last attempt died."""
    return any(event.kind == "died" for event in run.events()[-1:])


def _signal(code: int | None) -> str | None:
    return signal.Signals(-code).name if code is not None and code < 0 else None


def _again(run: RunFolder, home: str) -> None:
    with contextlib.suppress(RunError, OSError), contextlib.chdir(home):
        queue.again(RunFolder(run.path.absolute()))


def last_lines(path: Path, most: int = SAID_LINES) -> list[str]:
    """What the run's processes said last."""
    return [line for line in last_words(path).splitlines() if line.strip()][-most:]


def last_words(path: Path, most_bytes: int = SAID_BYTES) -> str:
    """The end of the run's log, in whole lines, without what is secret."""
    try:
        with open(path / "log", "rb") as file:
            start = max(file.seek(0, os.SEEK_END) - most_bytes, 0)
            file.seek(start)
            content = file.read()
    except OSError:
        return ""
    lines = content.decode("utf-8", errors="replace").splitlines(keepends=True)
    return files.redact("".join(lines[1 if start and len(lines) > 1 else 0 :]))


# ------------------------------------------------------------------------------------------------- the process


def ensure(runs_dir: Path | None = None) -> None:
    """Start a supervisor unless there is one.

    Args:
        runs_dir: also looked through for runs that wait or died.

    Raises:
        RunError: it does not start; its log is named.
    """
    if runs_dir is not None:
        queue.watch_over(runs_dir)
    place = queue.folder()
    if lock.held(place / "lock"):
        return
    with files.user_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        said = os.open(place / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "luthier.supervisor"],
            cwd=place,
            env=config_load.handed_on(),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    finally:
        os.close(said)
    deadline = time.monotonic() + START_PATIENCE_S
    while not lock.held(place / "lock") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if process.poll() not in (None, 0):
        raise RunError(Problem("queue.no_supervisor", where=str(place / "log")))


def main() -> None:
    """Until nothing is left to do. A second supervisor ends at once."""
    while True:
        try:
            held = lock.take(queue.folder() / "lock", "supervisor")
        except RunError:
            return
        supervise()
        os.close(held)
        # What was put in after the last look found the lock held, and started nobody.
        if not queue.waiting():
            return


def supervise() -> None:
    supervisor, idle_since = Supervisor(), math.inf
    supervisor.recover()
    queue.waiting()  # what was lost of the order is in it from here on
    while True:
        now = time.monotonic()
        idle_since = math.inf if supervisor.look() else min(idle_since, now)
        if now - idle_since > IDLE_S:
            return
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()
