"""The run folder: everything a run is, on disk, with one writer.

What goes in: a recipe, files of the engine's making, events. What comes out: a folder that any process can read at any
moment, that a killed run can be resumed from, and that loses nothing to a crash or a full disk. The layout is in the
table FILES; readers never write.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from luthier.config import load
from luthier.config.schema import RunConfig
from luthier.errors import LuthierError, Problem, RunError, UserError
from luthier.runs import files, lock, slots
from luthier.runs.events import FIRST_OF_ATTEMPT, Event, EventLog, read, skim
from luthier.runs.history import History, Summary
from luthier.runs.recipe import LENGTH_FIELDS, Difference, difference, free_name, run_name

FILES: dict[str, str] = {
    "recipe.yaml": "the recipe, resolved, as run",
    "plan.json": "dtype, kernels, policies, budget, threads: what the bits depend on",
    "manifest.json": "fingerprints of everything that went in",
    "events.jsonl": "what happened",
    "excluded.jsonl": "rows left out, with reasons",
    "probe.npz": "prompts with the base's and the tuned model's logits, for the checks",
    "reference.npz": "what the reference thinks of every answer: log-probabilities",
    "checks.json": "results of checks, for the receipt",
    "receipt.json": "the receipt",
    "receipt.md": "the receipt for people",
    "checkpoints": "step-N: what a resume needs",
    "best": "step-N: weights with the lowest validation loss",
    "adapter": "the result, in PEFT's format",
    "model": "the result, as a model folder",
    "trackers": "files of TensorBoard and its like",
    "lock": "held by the one writer",
    "stop": "asks the writer to save and stop",
    "queued": "waits for its turn: since when, and where its relative paths start from",
    "stage.json": "of a stage in the queue: the run that has to be finished before it",
    "log": "what its processes said, where the queue started them",
}
State = Literal["new", "queued", "running", "finished", "interrupted", "failed", "died"]

# ---------------------------------------------------------------------------------------------------- the folder


class RunFolder:
    """A run on disk. Made by `claim`, `create` or `open`; the writer is a context manager that gives up its lock."""

    def __init__(self, path: Path, held: int | None = None) -> None:
        self.path = path
        self._lock = held
        self._log: EventLog | None = None

    # ------------------------------------------------------------------------------------------ opening

    @classmethod
    def create(cls, config: RunConfig, text: str) -> Self:
        """A new run, locked for writing. `text` is the resolved recipe (`config.load.dump`).

        Raises:
            RunError: the name is unsafe, taken, or its folder holds something else.
        """
        run = cls._lock_folder(config)
        try:
            if (run.path / "recipe.yaml").exists():
                values = {"name": run.name, "free": free_name(run.path)}
                raise RunError(Problem("runs.exists", where=str(run.path), field="run.name", values=values))
            run._fill(config, text)
        except LuthierError:
            run.close()
            raise
        return run

    @classmethod
    def claim(cls, config: RunConfig, text: str) -> Self:
        """What `train` does with a recipe: a new run, or the unfinished one of that name to go on with.

        Raises:
            RunError: another process is writing it; it is finished; or its recipe differs and `run.on_change` is stop.
        """
        run = cls._lock_folder(config)
        try:
            if (run.path / "recipe.yaml").exists():
                run._readmit(config, text)
            else:
                run._fill(config, text)
            with files.user_errors(run.path):
                (run.path / "queued").unlink(missing_ok=True)
        except LuthierError:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: Path | str, *, write: bool = False) -> Self:
        """An existing run, to read or (one process at a time) to write.

        Raises:
            RunError: no run is there, or another process is writing it.
        """
        path = Path(path)
        if not (path / "recipe.yaml").is_file():
            raise RunError(Problem("runs.not_a_run", where=str(path)))
        if not write:
            return cls(path)
        return cls._take(path)

    @classmethod
    def _take(cls, path: Path) -> Self:
        """Lock a folder and clear what a killed writer left half done in it, and an old request to stop."""
        run = cls(path, lock.take(path / "lock", path.name))
        try:
            slots.tidy(path)
            slots.tidy(path / "checkpoints")
            slots.tidy(path / "best")
            with files.user_errors(path):
                (path / "stop").unlink(missing_ok=True)
        except RunError:
            run.close()
            raise
        return run

    @classmethod
    def _lock_folder(cls, config: RunConfig) -> Self:
        path = Path(config.run.dir) / run_name(config)
        with files.user_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}
        if "recipe.yaml" not in names and not names <= FILES.keys():
            values = {"files": ", ".join(sorted(names - FILES.keys())[:5])}
            raise RunError(Problem("runs.occupied", where=str(path), field="run.name", values=values))
        return cls._take(path)

    def _fill(self, config: RunConfig, text: str) -> None:
        read_back = load.resolved(load.loads(text, "recipe.yaml"))
        assert read_back == load.resolved(config), "the recipe's text must say what was resolved"
        with files.user_errors(self.path):
            (self.path / "checkpoints").mkdir(exist_ok=True)
        self.write_text("recipe.yaml", text)

    @classmethod
    def refuse_finished(cls, config: RunConfig) -> None:
        """Say at once, before any data is read, that a recipe's run is finished; `claim` decides under the lock. One
        whose result is gone is not: going on from its last checkpoint writes the result again.

        Raises:
            RunError: the run is finished.
        """
        run = cls(Path(config.run.dir) / run_name(config))
        if run.summary().ended == "finished" and not run.lost_outputs():
            values = {"name": run.name, "free": free_name(run.path)}
            raise RunError(Problem("runs.finished", where=str(run.path), field="run.name", values=values))

    @classmethod
    def begun(cls, config: RunConfig) -> Self | None:
        """The run that `claim` would go on with, to read; None where it would start a new one."""
        run = cls(Path(config.run.dir) / run_name(config))
        return run if run.has("recipe.yaml") and run.has_begun else None

    def _readmit(self, config: RunConfig, text: str) -> None:
        if not self.has_begun:
            self._clear()
            self._fill(config, text)
            return
        self.refuse_finished(config)
        new = load.loads(files.redact(text), "recipe.yaml")
        if self.settle(difference(self.config(), new), config.run.on_change):
            self.write_text("recipe.yaml", text)

    def _clear(self) -> None:
        """Take away what a start that failed before its first step wrote: nothing in it binds the next one. What it
        has to wait for is the queue's to say."""
        with files.user_errors(self.path):
            for name in FILES.keys() - {"lock", "log", "stage.json"}:
                if (self.path / name).is_file():
                    (self.path / name).unlink()

    def close(self) -> None:
        """Give up the lock. Reading goes on working."""
        if self._log is not None:
            self._log.close()
        if self._lock is not None:
            os.close(self._lock)
        self._log = self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------ facts

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def writable(self) -> bool:
        return self._lock is not None

    @property
    def locked(self) -> bool:
        """Whether a process is writing the run."""
        return self.writable or lock.held(self.path / "lock")

    @property
    def state(self) -> State:
        """Derived from lock, mark and events: died means that no process has it and none said how it ended,
        new that none has looked at its rows yet."""
        return self.state_of(self.summary().ended)

    @property
    def active(self) -> bool:
        """Whether it is going, or waits for its turn; what has been written says nothing about that."""
        return self.locked or self.has("queued")

    def state_of(self, ended: str | None) -> State:
        """`state`, where the summary is at hand."""
        if ended == "finished":
            return "finished"
        if self.locked:
            return "running"
        if self.has("queued"):
            return "queued"
        if ended is None and not self.has("manifest.json"):
            return "new"
        return "interrupted" if ended == "interrupted" else "failed" if ended == "failed" else "died"

    def config(self) -> RunConfig:
        """The recipe as run.

        Raises:
            ConfigError: it is damaged, or of a version that knows other fields.
        """
        return load.load(self.path / "recipe.yaml")

    def placed(self, directory: str | None = None) -> RunConfig:
        """`config`, aimed at the folder that it lies in, which may have been moved; or at a run of the same name in
        another one."""
        config = self.config()
        place = {"name": self.name, "dir": directory or str(self.path.parent)}
        return config.model_copy(update={"run": config.run.model_copy(update=place)})

    @property
    def home(self) -> Path:
        """The folder that the run was started from, which the recipe's relative paths start from. It is known where
        `run.dir` is relative: it lies that far above the run, also after the whole project has been moved; else it is
        taken to be the working folder."""
        path, below = self.path.absolute(), Path(self.config().run.dir)
        home = path.parents[len(below.parts)] if len(below.parts) < len(path.parents) else path
        # An absolute `run.dir`, one with `..`, or a run that was moved alone says nothing.
        return Path.cwd() if below.is_absolute() or home / below != path.parent else home

    @property
    def base(self) -> str:
        """The base as the recipe names it; of a folder its path, whatever the working folder is."""
        path = self.config().model.path
        local = self.home / Path(path).expanduser()
        return str(local) if path != "nano" and local.exists() else path

    @contextlib.contextmanager
    def at_home(self) -> Iterator[Self]:
        """Work in the run's `home`, so that relative paths and the user's own modules are found, wherever the command
        was given; yields the run as seen from there. Changes the working directory of the process meanwhile."""
        home, path = self.home, self.path.absolute()
        if home == Path.cwd():
            yield self
            return
        with contextlib.chdir(home):
            yield type(self)(path)

    @property
    def has_begun(self) -> bool:
        """Whether an attempt got as far as its first step: from then on its recipe and what went in are settled."""
        made = self.checkpoints() or self.has("adapter") or self.has("model")
        return bool(made) or any(event.kind in FIRST_OF_ATTEMPT for event in self.events())

    def lost_outputs(self) -> list[str]:
        """Results that the run had when it was finished and that are gone."""
        made = [event.data.get("outputs", []) for event in self.events() if event.kind == "finished"]
        return [name for name in (made[-1] if made else []) if not (self.path / name).is_dir()]

    def holder(self) -> dict[str, Any]:
        """{pid, host, name} of the process that holds, or last held, the lock."""
        return lock.holder(self.path / "lock", self.name)

    def settle(self, differences: Sequence[Difference], on_change: Literal["stop", "continue"]) -> bool:
        """Judge what differs from the unfinished run: nothing (False), or recorded as a revision (True).

        Raises:
            RunError: something that matters differs, and `run.on_change` is stop; every difference is listed.
        """
        binding = [each for each in differences if not each.free]
        if binding and on_change == "stop":
            raise RunError([self._changed(each) for each in binding])
        if differences:
            reason = "run.on_change=continue" if binding else "free fields"
            self.emit("revised", {"changes": [list(each) for each in differences], "reason": reason})
        return bool(differences)

    def _changed(self, each: Difference) -> Problem:
        values = {"old": each.old, "new": each.new, "name": self.name, "free": free_name(self.path)}
        kind = "runs.changed_length" if each.field in LENGTH_FIELDS else "runs.changed"
        return Problem(kind, where=str(self.path), field=each.field, values=values)

    # ------------------------------------------------------------------------------------------ files

    def write_text(self, name: str, text: str) -> None:
        """Replace a file of the run as a whole (see `files.write_text`)."""
        assert self.writable and name in FILES, name
        files.write_text(self.path / name, text)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """`write_text` of a JSON object; the format's version is added."""
        assert self.writable and name in FILES, name
        files.write_json(self.path / name, value)

    def write_jsonl(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        assert self.writable and name in FILES, name
        files.write_jsonl(self.path / name, rows)

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run.

        Raises:
            RunError: missing, damaged, or written by a newer Luthier.
        """
        return files.read_json(self.path / name)

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    # ------------------------------------------------------------------------------------------ events

    def emit(self, kind: str, data: Mapping[str, Any] | None = None, step: int | None = None) -> Event:
        """Append an event (kinds: `events.KINDS`). Only the writer may."""
        assert self.writable, "only the holder of the lock writes events"
        if self._log is None:
            self._log = EventLog(self.path / "events.jsonl", self.name)
        return self._log.emit(kind, data, step)

    def events(self) -> list[Event]:
        """All events of all attempts; `events.effective` leaves out what was superseded."""
        with files.user_errors(self.path / "events.jsonl"):
            return read(self.path / "events.jsonl")

    def history(self) -> History:
        """What its log comes to."""
        history = History()
        with files.user_errors(self.path / "events.jsonl"):
            history.add(skim(self.path / "events.jsonl"))
        return history

    def summary(self) -> Summary:
        """The run in numbers."""
        return self.history().summary()

    def request_stop(self) -> None:
        """Ask the writer to save and stop; any process may. The request is gone when the next attempt opens the run."""
        with files.user_errors(self.path / "stop"):
            (self.path / "stop").touch()

    def stop_requested(self) -> bool:
        return (self.path / "stop").exists()

    # ------------------------------------------------------------------------------------------ checkpoints

    def checkpoint_dir(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step}"

    def checkpoints(self) -> list[int]:
        """Steps that have a checkpoint under its final name, ascending."""
        return _steps_in(self.path / "checkpoints")

    def checkpoint(self, step: int) -> contextlib.AbstractContextManager[Path]:
        """An empty folder to write a checkpoint into. When the block ends well, every file is hashed, everything is
        forced to the disk, and the folder gets its final name; until then it counts for nothing.

        Raises:
            RunError: the disk is full or refuses. The unfinished folder is removed; older checkpoints are untouched.
        """
        assert self.writable
        return slots.replacing(self.checkpoint_dir(step), hashed=True, expected_bytes=self._expected_bytes())

    def trial_checkpoint(self, step: int) -> contextlib.AbstractContextManager[Path]:
        """`checkpoint`, of which nothing is left in the end: it shows whether there is room for one."""
        assert self.writable
        return slots.trying(self.checkpoint_dir(step))

    def best_dir(self, step: int) -> Path:
        """Where the best weights of a step are."""
        return self.path / "best" / f"step-{step}"

    def bests(self) -> list[int]:
        """Steps whose weights were the best when they were made, and which a checkpoint may still refer to."""
        return _steps_in(self.path / "best")

    def save_best(self, step: int) -> contextlib.AbstractContextManager[Path]:
        """`checkpoint`, for the best weights so far. Those before them stay, outside the rotation, until `prune_best`:
        a run that is resumed from an older checkpoint goes on with the best of that time."""
        assert self.writable
        return slots.replacing(self.best_dir(step), hashed=True)

    def prune_best(self, keep: Collection[int]) -> None:
        """Delete the best weights of all steps but these."""
        assert self.writable
        for step in self.bests():
            if step not in keep:
                slots.drop(self.best_dir(step))

    def replace(self, name: Literal["adapter", "model"]) -> contextlib.AbstractContextManager[Path]:
        """`checkpoint`, for a result in the ecosystem's own format: nothing is added to it."""
        assert self.writable
        return slots.replacing(self.path / name, hashed=False)

    def newest_valid_checkpoint(self) -> tuple[Path | None, list[Problem]]:
        """The newest checkpoint whose files all have the hashes they were written with.

        Damaged ones that are newer are named as problems; nothing is deleted. The writer moves them aside
        (`damaged-step-N`), so that rotation does not count them.
        """
        problems: list[Problem] = []
        for step in reversed(self.checkpoints()):
            folder = self.checkpoint_dir(step)
            found = slots.verify_folder(folder)
            if not found:
                return folder, problems
            problems.extend(found)
            if self.writable:
                slots.set_aside(folder)
        return None, problems

    def prune(self, keep: int, protect: Sequence[int] = ()) -> list[int]:
        """Delete all but the newest `keep` checkpoints and those of the steps in `protect`; returns the deleted."""
        assert self.writable and keep >= 1
        doomed = [step for step in self.checkpoints()[:-keep] if step not in protect]
        for step in doomed:
            slots.drop(self.checkpoint_dir(step))
        return doomed

    def _expected_bytes(self) -> int:
        """Size of the largest checkpoint there is: the next one is as large."""
        return max((slots.folder_bytes(self.checkpoint_dir(step)) for step in self.checkpoints()), default=0)


def _steps_in(folder: Path) -> list[int]:
    """N of every `step-N` in a folder, ascending."""
    names = (re.fullmatch(r"step-(\d+)", path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(match[1]) for match in names if match)


# ---------------------------------------------------------------------------------------------------- the index


@dataclass(frozen=True)
class RunInfo:
    """One line of a list of runs. `problem`: why the folder cannot be read; everything else is then empty."""

    name: str
    path: str
    state: State | Literal["damaged"]
    model: str
    method: str
    tune: str
    summary: Summary | None
    problem: str = ""


def index(runs_dir: Path | str) -> list[RunInfo]:
    """All runs below a folder, the last one that did something first. Nothing but the folders themselves is read, so
    there is no list that could be out of date."""
    folder = Path(runs_dir)
    paths = sorted(p for p in folder.iterdir() if (p / "recipe.yaml").is_file()) if folder.is_dir() else []
    return sorted((_info(path) for path in paths), key=_last_seen, reverse=True)


def _last_seen(info: RunInfo) -> float:
    return (info.summary.updated_s if info.summary else None) or 0.0


def _info(path: Path) -> RunInfo:
    run = RunFolder(path)
    try:
        config, summary = run.config(), run.summary()
    except UserError as error:
        return RunInfo(path.name, str(path), "damaged", "", "", "", None, str(error))
    state = run.state_of(summary.ended)
    return RunInfo(path.name, str(path), state, config.model.path, config.method.kind, config.tune.kind, summary)
