"""Stages of one recipe: which of them are finished, and which run has to be before another one starts.

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
from luthier.config.stages import Stage
from luthier.errors import RunError
from luthier.runs import files, manifest
from luthier.runs.recipe import Difference, difference
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


def finished(stage: Stage) -> bool:
    """Whether the stage's run is finished, with its result there.

    Raises:
        RunError: it is, but of another recipe, data or parent than now, and `run.on_change` is stop; every difference
            is listed. With continue it counts as it is.
    """
    run = RunFolder(stage.folder)
    if not run.has("recipe.yaml") or run.summary().ended != "finished" or run.lost_outputs():
        return False
    changes = [*difference(run.config(), load.settle(stage.config)), *_material(run, stage)]
    if stage.config.run.on_change == "stop":
        run.settle([each for each in changes if not each.free], "stop")
    return True


def _material(run: RunFolder, stage: Stage) -> list[Difference]:
    """What went into a finished run and is not that any more; what is gone is nobody's concern by now."""
    if not run.has("manifest.json"):
        return []
    given = manifest.load(run)
    pairs: list[tuple[str, str | None, str | None]] = []
    for file in given.data:
        if file.origin is None and Path(file.path).is_file():
            pairs.append(
                (f"data.{file.role}: {file.path}", file.sha256, manifest.file_fingerprint(Path(file.path))["sha256"])
            )
    if given.parent is not None and stage.config.tune.kind in ("lora", "qlora"):
        came = Path(given.parent["path"])
        if (came / "recipe.yaml").is_file() and (came / "adapter").is_dir():
            now = manifest.parent_fingerprint(came / "adapter")
            pairs.append(("parent", given.parent["sha256"], now["sha256"]))
    return [Difference(field, (then or "")[:12], (now or "")[:12]) for field, then, now in pairs if then != now]
