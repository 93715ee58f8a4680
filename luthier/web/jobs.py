"""Jobs: commands of the command line in processes of their own, which outlive the server.

What goes in: a kind and a command's arguments. What comes out: a folder for each job, from which any server can tell
how far it is, and end it. Two requests with the same key, and two for what is under way already, are one job.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from luthier.config.load import handed_on
from luthier.errors import Problem, RunError
from luthier.runs import files, lock
from luthier.supervisor import last_lines
from luthier.text import Language, language
from luthier.web.refusals import Missing

LOG_LINES = 40
KEPT = 50
"""Ended jobs that are remembered."""
LOCALES: dict[Language, str] = {"en": "C.UTF-8", "zh": "zh_CN.UTF-8"}

ID = re.compile("[0-9a-f]{16}")
State = Literal["running", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class Job:
    """A job as it is now.

    Attributes:
        arguments: as the request gave them. run: name of the run that it is about, or makes.
        state: done says that the command came to a result; what that is, `code` and the result tell.
        code: the command's exit code, None while it runs and where nobody saw it.
        log: the last lines that it said.
    """

    id: str
    kind: str
    arguments: dict[str, Any]
    state: State
    started_s: float
    ended_s: float | None
    code: int | None
    result: Any
    problems: list[dict[str, Any]]
    log: list[str]
    run: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Jobs:
    """Args:
    folder: that holds theirs. home: that they work in. runs_dir: where one that makes a run makes it.
    """

    def __init__(self, folder: Path, home: Path, runs_dir: Path) -> None:
        self.folder, self.home, self.runs_dir = folder, home, runs_dir
        self._guard = threading.Lock()
        self._children: list[subprocess.Popen[bytes]] = []
        self._ended: dict[str, Job] = {}

    # --------------------------------------------------------------------------------------------- starting

    def start(
        self,
        kind: str,
        key: str,
        arguments: Mapping[str, Any],
        argv: Callable[[Path], Sequence[str]],
        inputs: Mapping[str, str],
        run: str | None,
    ) -> Job:
        """Start a job, or take the one that this key, or the same order, has started.

        Args:
            argv: the command's arguments, given the job's folder.
            inputs: what that holds from the beginning: names and texts of files.

        Raises:
            RunError: the system refuses.
        """
        id = hashlib.sha256(key.encode()).hexdigest()[:16]
        folder = self.folder / id
        with self._guard:
            if folder.is_dir():
                return self.one(id)
            for each in self.listed():
                if each.state == "running" and (each.kind, each.arguments) == (kind, dict(arguments)):
                    return each
            self._prune()
            asked = {"kind": kind, "arguments": arguments, "run": run, "argv": list(argv(folder))}
            with files.user_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                made = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
                for name, text in inputs.items():
                    (made / name).write_text(text, encoding="utf-8")
                files.write_json(made / "asked.json", {**asked, "started_s": round(time.time(), 3)})
                held = os.open(made / "lock", os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX)  # before anybody can see it: one that nobody holds has ended
                    made.rename(folder)
                    self._spawn(folder, held)
                finally:
                    os.close(held)
        return self.one(id)

    def _spawn(self, folder: Path, held: int) -> None:
        spoken = {"LC_ALL": LOCALES[language()], "PYTHONUTF8": "1"}
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "luthier.web.errand", str(folder), str(held)],
            cwd=self.home,
            env=handed_on(spoken),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(held,),
        )
        self._children = [each for each in self._children if each.poll() is None]
        self._children.append(child)

    def _prune(self) -> None:
        for job in [each for each in self.listed() if each.state != "running"][KEPT:]:
            shutil.rmtree(self.folder / job.id, ignore_errors=True)
            self._ended.pop(job.id, None)

    # --------------------------------------------------------------------------------------------- reading

    def listed(self, *, whole: bool = False) -> list[Job]:
        """All, the last one first; without their results and logs unless they are wanted whole."""
        names = [path.parent.name for path in self.folder.glob("*/asked.json") if ID.fullmatch(path.parent.name)]
        found = []
        for name in names:
            with contextlib.suppress(RunError):  # being deleted
                found.append(self._read(name, whole=whole))
        return sorted(found, key=lambda job: job.started_s, reverse=True)

    def one(self, id: str) -> Job:
        """Raises Missing where there is none."""
        if not ID.fullmatch(id) or not (self.folder / id / "asked.json").is_file():
            raise Missing(Problem("web.no_job", value=id[:100]))
        return self._read(id, whole=True)

    def _read(self, id: str, *, whole: bool) -> Job:
        if not whole and id in self._ended:
            return self._ended[id]
        folder = self.folder / id
        running = lock.held(folder / "lock")  # asked first: what has ended since is then told as under way
        asked, ended = files.read_json(folder / "asked.json"), _json_of(folder / "ended.json") or {}
        value, problems = self._outcome(folder, ended.get("code")) if not running else (None, [])
        state: State = "running" if running else "done" if value is not None else "failed"
        if state == "failed" and (folder / "cancelled").exists():
            state, problems = "cancelled", []
        job = Job(
            id=id,
            kind=asked["kind"],
            arguments=asked["arguments"],
            state=state,
            started_s=asked["started_s"],
            ended_s=ended.get("ended_s"),
            code=ended.get("code"),
            result=value if whole else None,
            problems=problems,
            log=last_lines(folder, LOG_LINES) if whole else [],
            run=asked["run"] or self._made(folder, asked["kind"], value),
        )
        if not running and not whole:
            self._ended[id] = job
        return job

    def _outcome(self, folder: Path, code: int | None) -> tuple[Any, list[dict[str, Any]]]:
        """What the command found, or its problems. Places in the job's own folder are named without it."""
        try:
            text = (folder / "out").read_text(encoding="utf-8")
            value = json.loads(text.replace(json.dumps(str(folder))[1:-1] + "/", ""))
        except (OSError, ValueError):
            return None, [Problem("web.job_died", values={"code": "?" if code is None else code}).to_json()]
        if isinstance(value, dict) and isinstance(value.get("error"), dict):
            return None, value["error"]["problems"]
        return value, []

    def _made(self, folder: Path, kind: str, value: Any) -> str | None:
        """The run that a demo has made, or makes: one whose writer is of the job's session."""
        if kind != "demo":
            return None
        if isinstance(value, dict):
            return Path(value["run"]).name
        session = _group(folder)
        for path in sorted(self.runs_dir.glob("demo*")):
            writer = lock.last(path / "lock").get("pid")
            with contextlib.suppress(OSError):  # it has ended
                if isinstance(writer, int) and os.getsid(writer) == session:
                    return path.name
        return None

    # --------------------------------------------------------------------------------------------- ending

    def cancel(self, id: str) -> Job:
        """Ask a job to end, as Ctrl-C does; asked a second time it is ended at once.

        Raises:
            Missing: there is none.
        """
        job = self.one(id)
        if job.state == "running":
            folder, group = self.folder / id, _group(self.folder / id)
            asked = (folder / "cancelled").exists()
            (folder / "cancelled").touch()
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                if group is not None:
                    os.killpg(group, signal.SIGKILL if asked else signal.SIGINT)
        return self.one(id)


def _json_of(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _group(folder: Path) -> int | None:
    """The number of the job's session and group of processes; None before it has begun."""
    try:
        return int((folder / "pid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
