"""A recipe's stages, one after the other: each is a run of its own.

What goes in: the stages of a recipe, and what trains one. What comes out: their runs. Killed at any point, the same
command goes on: finished stages are passed over, unless what they were made of has changed; the one under way resumes.
A stage that starts from a merged one has that folder written beside the earlier run, as `luthier merge` does. In the
queue each stage is trained in a process of its own, which is started once the stage before it is finished.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from luthier import queue
from luthier.config import load as config_load
from luthier.config.schema import RunConfig
from luthier.config.stages import MERGED, Stage
from luthier.errors import Problem, RunError, UserError
from luthier.export import merge as merging
from luthier.parent import behind
from luthier.run import Run
from luthier.runs import manifest, turns
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
    done = {stage.name for stage in stages if turns.finished(stage)}
    for stage in stages:
        if RunFolder(stage.folder).has("queued"):  # what is trained here waits for no turn
            queue.withdraw(RunFolder(stage.folder))
        if stage.name not in done:
            look(config_load.settle(stage.planned))
    runs: dict[str, Run] = {}
    for number, stage in enumerate(stages, start=1):
        if on_stage is not None:
            on_stage(At(number, len(stages), stage, stage.name in done))
        if stage.name not in done:
            if stage.start == "merge":
                _merge(stage.name, stage.config)
            train(config_load.settle(stage.config))
        runs[stage.name] = Run(stage.folder)
    runs[stages[-1].name].stages = runs
    return runs


# ---------------------------------------------------------------------------------------------------- in the queue


def make_ready(run: RunFolder) -> None:
    """Write the folder that a stage from the queue trains on, where that is a merged model and not there yet.

    Raises:
        RunError: as of `carry_out`. ModelError: the merge fails.
    """
    turn = turns.of(run.path)
    if turn is not None and turn.start == "merge":
        with run.at_home() as there:
            _merge(turn.name, there.config())


def look_ahead(run: RunFolder, look: Callable[[RunConfig], object]) -> None:
    """Look at the rows of the stages that wait behind this one. What is wrong with them is told in the first minute, in
    the log of the stage that it is wrong with, which leaves the queue; those before it are trained all the same."""
    for path in queue.behind(run.path):
        behind, turn = RunFolder(path), turns.of(path)
        assert turn is not None, "what waits behind a run has a turn"
        try:
            with behind.at_home():
                look(turn.planned)
        except UserError as error:
            with contextlib.suppress(RunError), RunFolder.open(path, write=True) as writer:
                writer.emit("failed", {"problem": error.problems[0].to_json()})
            queue.withdraw(behind)
        look_ahead(behind, look)


# ---------------------------------------------------------------------------------------------------- merging


def _merge(name: str, config: RunConfig) -> None:
    """The folder that a stage trains on: adapter and base of an earlier stage's run as one model.

    Raises:
        RunError: such a folder is there, made of something else, and `run.on_change` is stop.
    """
    folder = Path(config.model.path)
    before = Run(folder.with_name(folder.name.removesuffix(MERGED)))
    if folder.is_dir() and any(folder.iterdir()):
        now = manifest.parent_fingerprint(output_folder(before.folder))["sha256"]
        made = behind(folder) or {}
        if [each["sha256"] for each in made.get("adapters", ())] == [now]:
            return
        if config.run.on_change == "stop" or not made:
            values = {"run": str(before.path)}
            raise RunError(Problem("runs.merged_stale", where=str(folder), field=f"{name}.start", values=values))
        shutil.rmtree(folder)
    merging.merge(before.path, folder, device=config.run.device)
