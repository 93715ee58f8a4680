"""Live trackers besides the run folder: TensorBoard, Weights & Biases, SwanLab.

What goes in: the events of a run. What comes out: the same numbers in a tracker, through one small interface. Trackers
are optional packages, imported here and nowhere else; one that fails is noted in the run and left alone from then on,
because a chart is never worth a training run. Without credentials they record offline, and nothing asks a question.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from luthier.config import load
from luthier.config.schema import RunConfig
from luthier.errors import ConfigError, Problem
from luthier.runs.events import FIRST_OF_ATTEMPT, Event
from luthier.runs.store import RunFolder
from luthier.text import say

PROJECT = "luthier"
CONNECT_SECONDS = 30
"""How long a tracker may try to reach its server before it records offline. Chosen, not tuned."""


class Reporter(Protocol):
    """A tracker. Both methods may raise anything; `Reporters` deals with it."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files for `tensorboard --logdir runs`; written without torch and without TensorFlow.

    Args:
        from_step: a resumed attempt hides what older ones logged after this step.
    """

    def __init__(self, folder: Path, name: str, identity: str, recipe: Mapping[str, Any], from_step: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._writer = EventFileWriter(str(folder))
        session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.add_event(self._event(wall_time=time.time(), step=from_step + 1, session_log=session))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._writer.add_event(
            self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)),
        )

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Online where `wandb login` was done (and WANDB_MODE does not say otherwise), offline elsewhere."""

    def __init__(self, folder: Path, name: str, identity: str, recipe: Mapping[str, Any], from_step: int) -> None:
        import wandb

        quiet: dict[str, Any] = {
            # The run belongs to Luthier: no console capture, no upload of the user's code or git remote.
            "silent": True,
            "console": "off",
            "disable_git": True,
            "disable_code": True,
            "init_timeout": CONNECT_SECONDS,
        }
        known = wandb.setup().settings.mode in ("offline", "disabled") or wandb.login(prompt=False)
        self._run = wandb.init(
            project=PROJECT,
            name=name,
            id=identity,
            dir=str(folder),
            config=dict(recipe),
            mode=None if known else "offline",
            resume="allow",
            settings=wandb.Settings(**quiet),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class SwanLab:
    """Online where `swanlab login` was done, offline elsewhere."""

    def __init__(self, folder: Path, name: str, identity: str, recipe: Mapping[str, Any], from_step: int) -> None:
        import swanlab

        settings = swanlab.Settings(interactive=False, terminal={"proxy_type": "none"}, probe={"git": False})
        options: dict[str, Any] = {
            "project": PROJECT,
            "name": name,
            "id": identity,
            "log_dir": str(folder),
            "config": dict(recipe),
            "resume": "allow",
            "settings": settings,
        }
        with _hooks_kept():
            try:
                self._run = swanlab.init(**options)
            except RuntimeError:  # no credentials, or no way to the server
                self._run = swanlab.init(mode="offline", **options)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class Tracker(Protocol):
    """A tracker's class. `identity` is stable over the attempts of one run."""

    def __call__(
        self, folder: Path, name: str, identity: str, recipe: Mapping[str, Any], from_step: int
    ) -> Reporter: ...


TRACKERS: dict[str, tuple[str, Tracker]] = {
    # run.report: (package, class)
    "tensorboard": ("tensorboard", TensorBoard),
    "wandb": ("wandb", WeightsAndBiases),
    "swanlab": ("swanlab", SwanLab),
}
METRICS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    # kind of event -> what a tracker gets of it
    "step": lambda data: {f"train/{key}": value for key, value in data.items() if key != "num_steps"},
    "validation": lambda data: {"validation/loss": data.get("loss")},
}


def require(names: Sequence[str]) -> None:
    """Find out before anything heavy is loaded whether the packages of these trackers are installed.

    Raises:
        ConfigError: the missing ones, each with the command that installs it.
    """
    missing = [name for name in names if importlib.util.find_spec(TRACKERS[name][0]) is None]
    if missing:
        raise ConfigError(
            Problem("runs.tracker_missing", field="run.report", value=name, values={"package": TRACKERS[name][0]})
            for name in missing
        )


@contextlib.contextmanager
def opened(config: RunConfig, run: RunFolder) -> Iterator[Reporters]:
    """The trackers that the recipe asks for; call the result with each event.

    Raises:
        ConfigError: a tracker's package is missing.
    """
    reporters = Reporters(run, config.run.report)
    try:
        yield reporters
    finally:
        reporters.close()


class Reporters:
    """The trackers of one attempt, fed with its events; they start with the first of these.

    Args:
        run: the writer's run folder; trackers keep their files in its `trackers`.
        names: `run.report`.

    Raises:
        ConfigError: a tracker's package is missing.
    """

    def __init__(self, run: RunFolder, names: Sequence[str]) -> None:
        require(names)
        self._run = run
        self._names = tuple(names)
        self._open: dict[str, Reporter] = {}

    def __call__(self, event: Event) -> None:
        """Pass on what trackers can show; other kinds are ignored."""
        if event.kind in FIRST_OF_ATTEMPT:
            for name in self._names:
                with self._guarded(name):
                    self._open[name] = self._start(name, int(event.data.get("from_step", 0)))
        if event.kind not in METRICS or event.step is None:
            return
        found = METRICS[event.kind](event.data)
        numbers = {key: float(value) for key, value in found.items() if isinstance(value, (int, float))}
        for name, reporter in list(self._open.items()):
            with self._guarded(name):
                reporter.log(event.step, numbers)

    def close(self) -> None:
        for name, reporter in list(self._open.items()):
            with self._guarded(name):
                reporter.close()
        self._open.clear()

    def _start(self, name: str, from_step: int) -> Reporter:
        folder = self._run.path / "trackers" / name
        folder.mkdir(parents=True, exist_ok=True)
        started = self._run.summary().started_s
        identity = hashlib.sha256(f"{self._run.name} {started}".encode()).hexdigest()[:16]
        recipe = load.resolved(self._run.config())
        return TRACKERS[name][1](folder, self._run.name, identity, recipe, from_step)

    @contextlib.contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Keep a tracker's output off the screen and its failures out of the run: the first one is noted, and the
        tracker is not used again."""
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield
        except Exception as error:  # noqa: BLE001 - foreign code can raise anything, and must not stop a run
            self._open.pop(name, None)
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self._run.emit("note", {"text": say("runs.tracker_failed", name=name, reason=reason)})


@contextlib.contextmanager
def _hooks_kept() -> Iterator[None]:
    """Put back the process's SIGINT handler and exception hook, which a tracker may have taken for itself: Ctrl-C must
    reach the training loop."""
    main = threading.current_thread() is threading.main_thread()
    handler, hook = signal.getsignal(signal.SIGINT), sys.excepthook
    try:
        yield
    finally:
        sys.excepthook = hook
        if main:
            signal.signal(signal.SIGINT, handler)
