"""Stages of one recipe in the queue: which run has to be finished before another one starts.

What goes in: the file `stage.json` of a run, which its queue writes. What comes out: what the run waits for. It lies in
the run's own folder and names its neighbour from there: nothing that holds an order has to be whole, and the folders
may be moved.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luthier.config import load
from luthier.config.schema import RunConfig
from luthier.errors import RunError
from luthier.runs import files
from luthier.runs.store import RunFolder, State

NAME = "stage.json"


@dataclass(frozen=True)
class Turn:
    """What the file says.

    name, start: of the stage, as in the recipe. after: folder of the run before it, as seen from where its own lies.
    recipe: resolved; with the model and the shape that are known before any stage is trained, for planning and for
    looking at rows.
    """

    name: str
    start: str
    after: str
    recipe: dict[str, Any]

    @property
    def planned(self) -> RunConfig:
        return load.load(self.recipe)


def follow(before: Path, run: Path) -> str:
    """How a run's `Turn` names the one before it."""
    return os.path.relpath(before, run.parent)


def of(run: Path) -> Turn | None:
    """None where the run follows no other."""
    try:
        value = files.read_json(run / NAME)
        return Turn(str(value["name"]), str(value["start"]), str(value["after"]), dict(value["recipe"]))
    except (RunError, KeyError, TypeError, ValueError):
        return None


def before(run: Path) -> RunFolder | None:
    """The run that has to be finished before this one, whether it is or not."""
    turn = of(run)
    return None if turn is None else RunFolder(Path(os.path.normpath(run.absolute().parent / turn.after)))


def waits_for(run: Path) -> RunFolder | None:
    """That run, where it is not finished."""
    first = before(run)
    return None if first is None or done(first) else first


def state(run: RunFolder) -> State | Literal["gone"]:
    """How far a run is that another one waits for."""
    return run.state if run.has("recipe.yaml") else "gone"


def done(run: RunFolder) -> bool:
    """Whether a run is finished, with its result there, and nobody is at it any more."""
    return not run.active and run.summary().ended == "finished" and not run.lost_outputs()
