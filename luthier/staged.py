"""A recipe's stages, one after the other: each is a run of its own.

What goes in: the stages of a recipe, and what trains one. What comes out: their runs. Killed at any point, the same
command goes on: finished stages are passed over, unless what they were made of has changed; the one under way resumes.
A stage that starts from a merged one has that folder written beside the earlier run, as `luthier merge` does.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from luthier.config import load as config_load
from luthier.config.schema import RunConfig
from luthier.config.stages import MERGED, Stage
from luthier.errors import Problem, RunError
from luthier.export import merge as merging
from luthier.parent import behind
from luthier.run import Run
from luthier.runs import manifest
from luthier.runs.recipe import Difference, difference
from luthier.runs.store import RunFolder
from luthier.session import output_folder


class At(NamedTuple):
    """Which stage it is, of how many; done: it was finished before."""

    number: int
    of: int
    stage: Stage
    done: bool


def carry_out(
    stages: Sequence[Stage],
    train: Callable[[RunConfig], Run],
    look: Callable[[RunConfig], object],
    on_stage: Callable[[At], None] | None = None,
) -> dict[str, Run]:
    """Train every stage that is not finished; the runs by the stages' names, in order.

    Args:
        train: makes a run of a settled recipe.
        look: reads and checks a recipe's data. All stages' are looked at before the first one trains: a wrong row of
            the last stage is found in the first minute.
        on_stage: told before each.

    Raises:
        RunError: a finished stage was made of something else than is given now.
    """
    done = {stage.name for stage in stages if finished(stage)}
    for stage in stages:
        if stage.name not in done:
            look(config_load.settle(stage.planned))
    runs: dict[str, Run] = {}
    for number, stage in enumerate(stages, start=1):
        if on_stage is not None:
            on_stage(At(number, len(stages), stage, stage.name in done))
        if stage.name not in done:
            if stage.start == "merge":
                _merge(runs[str(stage.from_)], stage)
            train(config_load.settle(stage.config))
        runs[stage.name] = Run(stage.folder)
    runs[stages[-1].name].stages = runs
    return runs


def finished(stage: Stage) -> bool:
    """Whether the stage's run is finished, with its result there.

    Raises:
        RunError: it is, but of another recipe, data or parent than now, and `run.on_change` is stop; every difference
            is listed. With continue it counts as it is.
    """
    run = RunFolder(stage.folder)
    if not run.has("recipe.yaml") or run.summary().ended != "finished" or run.lost_outputs():
        return False
    changes = [*difference(run.config(), config_load.settle(stage.config)), *_material(run, stage)]
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
    if given.parent is not None and stage.config.tune.kind in ("lora", "qlora") and _result(given.parent["path"]):
        now = manifest.parent_fingerprint(output_folder(RunFolder(Path(given.parent["path"]))))
        pairs.append(("parent", given.parent["sha256"], now["sha256"]))
    return [Difference(field, (then or "")[:12], (now or "")[:12]) for field, then, now in pairs if then != now]


def _result(path: str) -> bool:
    return (Path(path) / "recipe.yaml").is_file() and (Path(path) / "adapter").is_dir()


def _merge(before: Run, stage: Stage) -> None:
    """The folder that the stage trains on: adapter and base of the run before as one model.

    Raises:
        RunError: such a folder is there, made of something else, and `run.on_change` is stop.
    """
    folder = before.path.with_name(f"{before.path.name}{MERGED}")
    if folder.is_dir() and any(folder.iterdir()):
        now = manifest.parent_fingerprint(output_folder(before.folder))["sha256"]
        made = behind(folder) or {}
        if [each["sha256"] for each in made.get("adapters", ())] == [now]:
            return
        if stage.config.run.on_change == "stop" or not made:
            values = {"run": str(before.path)}
            raise RunError(Problem("runs.merged_stale", where=str(folder), field=f"{stage.name}.start", values=values))
        shutil.rmtree(folder)
    merging.merge(before.path, folder, device=stage.config.run.device)
