"""The queue: runs that wait for their turn, and belong to nobody's terminal.

What goes in: recipes. What comes out: run folders that hold a mark, `queued`, and their order. Only the order is kept
here, in a small SQLite file of the user's cache, one for the machine, because its devices are what runs wait for; all
else is in the run folders, and the order of what waits can be read from their marks again. `luthier.supervisor` starts
what is due. Torch-free.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from luthier.config import load as config_load
from luthier.config.schema import RunConfig
from luthier.config.stages import Stage
from luthier.errors import Problem, RunError
from luthier.runs import files, turns
from luthier.runs.recipe import difference
from luthier.runs.store import RunFolder
from luthier.runs.turns import Turn

TABLES = """
CREATE TABLE IF NOT EXISTS waiting (run TEXT PRIMARY KEY, place REAL NOT NULL);
CREATE TABLE IF NOT EXISTS folders (path TEXT PRIMARY KEY);
"""
"""run: its folder; place: what comes earlier has the smaller one. folders: of runs, where marks are looked for."""
PATIENCE_S = 10.0
"""For the file to be free: another process's change takes milliseconds."""


@dataclass(frozen=True)
class Mark:
    """What the file `queued` of a run says.

    asked_s: since 1970, when it was asked for. home: the folder that the recipe's relative paths start from.
    """

    asked_s: float
    home: str

    @classmethod
    def of(cls, run: Path) -> Mark | None:
        """None where the run does not wait."""
        try:
            value = files.read_json(run / "queued")
            return cls(float(value["asked_s"]), str(value["home"]))
        except (RunError, KeyError, TypeError, ValueError):
            return None


def folder() -> Path:
    """Where the order, the supervisor's lock and its log lie."""
    return config_load.environment().cache_dir / "queue"


# ------------------------------------------------------------------------------------------------- putting in


def submit(config: RunConfig, home: Path | None = None, turn: Turn | None = None) -> RunFolder:
    """Make the run's folder, or take the unfinished one of that name, and put it at the end of the queue. One that
    waits already keeps its place.

    Args:
        home: where the recipe's relative paths start from; the working folder.
        turn: of a stage that follows another one.

    Raises:
        RunError: somebody is writing the run, it is finished, or its recipe differs and `run.on_change` is stop.
    """
    with RunFolder.claim(config, config_load.dump(config)) as run:
        if turn is not None:
            run.write_json(turns.NAME, asdict(turn))
        else:
            with files.user_errors(run.path):
                (run.path / turns.NAME).unlink(missing_ok=True)
        _mark(run, home or Path.cwd())
    return RunFolder(run.path)


def submit_stages(stages: Sequence[Stage], home: Path | None = None) -> list[RunFolder]:
    """Put every stage that is not finished at the end of the queue, to start once the one before it is finished. One
    that waits keeps its place, one that is being trained goes on. The runs of all stages, in order.

    Args:
        home: as of `submit`.

    Raises:
        RunError: a stage was begun with another recipe, or finished and made of something else; nothing was changed.
    """
    done = {stage.name for stage in stages if turns.finished(stage)}
    for stage in stages:
        begun = RunFolder.begun(stage.config)
        if begun is not None and stage.name not in done and stage.config.run.on_change == "stop":
            changes = difference(begun.config(), config_load.settle(stage.config))
            begun.settle([each for each in changes if not each.free], "stop")
    for before, stage in zip([None, *stages], stages, strict=False):
        if stage.name in done or RunFolder(stage.folder).locked:
            continue
        turn = None
        if before is not None:
            after, planned = turns.follow(before.folder, stage.folder), config_load.resolved(stage.planned)
            turn = Turn(stage.name, stage.start, after, planned)
        submit(config_load.settle(stage.config), home, turn)
    return [RunFolder(stage.folder) for stage in stages]


def again(run: RunFolder) -> RunFolder:
    """Put an unfinished run at the end of the queue, to go on where it stopped.

    Raises:
        RunError: somebody is writing it, or it is finished.
    """
    there = RunFolder(run.path.absolute())
    RunFolder.refuse_finished(there.placed())
    with RunFolder.open(there.path, write=True) as writer:
        _mark(writer, there.home)
    return run


def _mark(run: RunFolder, home: Path) -> None:
    """In the folder first: an order that has it and a folder that does not would start nothing."""
    run.write_json("queued", {"asked_s": round(time.time(), 3), "home": str(home)})
    _insert(run.path.resolve())


def _insert(path: Path, first: bool = False) -> None:
    with opened() as order:
        there = order.execute("SELECT 1 FROM waiting WHERE run = ?", (str(path),)).fetchone()
        if there is None or first:
            which = "MIN(place) - 1" if first else "MAX(place) + 1"
            (place,) = order.execute(f"SELECT COALESCE({which}, 0) FROM waiting").fetchone()
            order.execute("INSERT OR REPLACE INTO waiting VALUES (?, ?)", (str(path), place))
        order.execute("INSERT OR IGNORE INTO folders VALUES (?)", (str(path.parent),))


def first(run: RunFolder) -> None:
    """Bring a run that waits to the front.

    Raises:
        RunError: it does not wait.
    """
    if Mark.of(run.path) is None:
        raise RunError(Problem("queue.not_waiting", where=str(run.path), values={"run": run.path}))
    _insert(run.path.resolve(), first=True)


def withdraw(run: RunFolder) -> bool:
    """Take a run out of the queue; whether it waited. Its folder stays."""
    waited = Mark.of(run.path) is not None
    with files.user_errors(run.path):
        (run.path / "queued").unlink(missing_ok=True)
    forget(run.path)
    return waited


def forget(path: Path) -> None:
    """A run has left the queue: it is being trained, or is no longer asked for."""
    with opened() as order:
        order.execute("DELETE FROM waiting WHERE run = ?", (str(path.resolve()),))


# ------------------------------------------------------------------------------------------------- reading


def ordered() -> list[Path]:
    """Folders of the runs that the order knows of and that still wait."""
    return [path for path in _known() if Mark.of(path) is not None]


def _known() -> list[Path]:
    with opened() as order:
        return [Path(path) for (path,) in order.execute("SELECT run FROM waiting ORDER BY place")]


def waiting() -> list[Path]:
    """Folders of all runs that wait, in order; what was lost of the order is found by the marks, in every folder of
    runs, as they were asked for, behind the rest."""
    there = ordered()
    for path in set(_known()) - set(there):
        forget(path)
    marked = {path: mark for place in places() for path in _runs_in(place) if (mark := Mark.of(path)) is not None}
    lost = sorted(marked.keys() - set(there), key=lambda path: marked[path].asked_s)
    for path in lost:
        _insert(path)
    return [*there, *lost]


def places() -> list[Path]:
    """Folders in which runs of the queue lie."""
    with opened() as order:
        return [Path(path) for (path,) in order.execute("SELECT path FROM folders ORDER BY path")]


def watch_over(runs_dir: Path) -> None:
    """Look for runs below this folder too, from now on."""
    with opened() as order:
        order.execute("INSERT OR IGNORE INTO folders VALUES (?)", (str(runs_dir.resolve()),))


def _runs_in(place: Path) -> list[Path]:
    try:
        return [path for path in place.iterdir() if (path / "queued").is_file()]
    except OSError:
        return []


def behind(run: Path) -> list[Path]:
    """Folders of the runs in the queue that wait for this one to be finished."""
    here = run.resolve()
    return [path for path in waiting() if (first := turns.before(path)) is not None and first.path.resolve() == here]


def listing() -> list[dict[str, Any]]:
    """[{run, name, asked_s, after}] of what waits, in order; after: {run, name, state} of the run that has to be
    finished first, None where the turn alone counts."""
    found = []
    for path in waiting():
        mark, first = Mark.of(path), turns.waits_for(path)
        if mark is not None:
            after = None if first is None else {"run": str(first.path), "name": first.name, "state": turns.state(first)}
            found.append({"run": str(path), "name": path.name, "asked_s": mark.asked_s, "after": after})
    return found


@contextmanager
def opened() -> Iterator[sqlite3.Connection]:
    """The order, in one transaction. A file that is no order any more is set aside and made anew from the marks of the
    folder that is worked in.

    Raises:
        RunError: the system refuses.
    """
    path = folder() / "order.sqlite"
    with files.user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(_connected(path)) as order, order:
            order.execute("BEGIN IMMEDIATE")
            yield order
    except sqlite3.OperationalError as error:
        raise RunError(Problem("runs.refused", where=str(path), values={"reason": str(error)})) from error


def _connected(path: Path) -> sqlite3.Connection:
    for last in (False, True):
        order = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)
        try:
            order.executescript(TABLES)
            return order
        except sqlite3.OperationalError:
            order.close()
            raise
        except sqlite3.DatabaseError:
            order.close()
            if last:
                raise
            with contextlib.suppress(OSError):
                os.replace(path, path.with_name(f"damaged-{path.name}"))
    raise AssertionError("the second file is a new one")
