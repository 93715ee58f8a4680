"""Python's way into the queue.

What goes in: a recipe and overrides, as for `train`. What comes out: the `Run`, which waits for its turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier import queue, supervisor
from luthier.config import load
from luthier.config.schema import RunConfig
from luthier.run import Run


def submit(
    recipe: str | Path | Mapping[str, Any] | RunConfig | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> Run:
    """Put a run into the queue and return at once; it starts when there is room, in a process of its own that goes on
    when this one ends. `luthier runs watch` follows it, `Run.state` says how far it is. Of a recipe with stages, every
    one that is not finished: each starts once the one before it is; the last one's run is returned, and all are its
    `stages`.

    Raises:
        ConfigError: the recipe cannot be used. RunError: somebody is writing the run, or it is finished.
    """
    if stages := load.stages(recipe, overrides):
        folders = queue.submit_stages(stages)
    else:
        folders = [queue.submit(load.settle(load.load(recipe, overrides)))]
    for place in {folder.path.parent for folder in folders}:
        supervisor.ensure(place)
    runs = [Run(folder.path) for folder in folders]
    runs[-1].stages = {stage.name: run for stage, run in zip(stages, runs, strict=False)}
    return runs[-1]
