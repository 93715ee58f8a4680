"""Names of runs, and what differs between two recipes.

What goes in: recipes. What comes out: a folder name that is safe everywhere, and the list of fields in which an
unfinished run differs from what is asked now.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from luthier.config import load
from luthier.config.load import Reading
from luthier.config.schema import RunConfig
from luthier.errors import Problem, RunError

MAX_NAME_BYTES = 180
"""File systems allow 255 bytes; marks for unfinished work are added to names."""
FREE_FIELDS = frozenset(
    {
        "run.keep",
        "run.log_every",
        "run.save_every",
        "run.report",
        "run.samples",
        "run.sample_tokens",
        "run.devices",
        "optim.activations",
        "plan.activations",
        "plan.dense_layers",
    }
)
"""May change on an unfinished run: nothing that is learnt depends on them, but for the last digits of what another
number of devices adds up, which the plan's own entry tells (`plan.devices`)."""
IDENTITY_FIELDS = frozenset({"run.name", "run.dir", "run.on_change"})
"""Say where the run is and how to judge a change, not what it does."""
LENGTH_FIELDS = frozenset({"optim.steps", "optim.epochs"})


class Difference(NamedTuple):
    """A fact that differs between an unfinished run and what is asked now."""

    field: str
    old: Any
    new: Any

    @property
    def free(self) -> bool:
        return self.field in FREE_FIELDS


# ---------------------------------------------------------------------------------------------------- names


def run_name(config: RunConfig) -> str:
    """`run.name`, or one made from model, method and data file: `nano-sft-alpaca_en_demo`.

    Raises:
        RunError: the name holds characters that are unsafe in a folder's name, or would leave `run.dir`.
    """
    given = config.run.name
    if given is None:
        model = Path(config.model.path.rsplit(":", 1)[-1]).name
        data = Path(config.data.train[0].path).name.split(".")[0]
        return safe_name(f"{model}-{config.method.kind}-{data}")
    if given != safe_name(given):
        raise RunError(Problem("runs.name", field="run.name", value=given, values={"safe": safe_name(given)}))
    return given


def safe_name(text: str) -> str:
    """The nearest valid name: letters of any script, digits, `.`, `_` and `-`; neither hidden nor too long."""
    name = re.sub(r"[^\w.-]+", "-", text).lstrip(".-").rstrip(".-")
    while len(name.encode()) > MAX_NAME_BYTES:
        name = name[:-1]
    return name or "run"


def free_name(folder: Path) -> str:
    """The folder's name with the lowest number from 2 on that is not taken."""
    number = 2
    while folder.with_name(f"{folder.name}-{number}").exists():
        number += 1
    return f"{folder.name}-{number}"


def proposed_name(recipe: Reading, runs_dir: Path) -> str:
    """What a recipe's run can be called below this folder: as it says, with a number behind where that is taken. Of one
    with stages, what the names of their runs can begin with.

    Raises:
        RunError: as of `run_name`.
    """
    names = [run_name(config) for config in recipe.configs]
    if recipe.config is not None:
        folder = runs_dir / names[0]
        return free_name(folder) if folder.exists() else folder.name
    shared = recipe.shared_name
    ends = [name.removeprefix(shared) for name in names if name.startswith(f"{shared}-")]
    tries = (shared if number == 1 else f"{shared}-{number}" for number in itertools.count(1))
    return next(each for each in tries if not any((runs_dir / f"{each}{end}").exists() for end in ends))


# ---------------------------------------------------------------------------------------------------- recipes


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one dict of dotted names; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            flat.update(flatten(item, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def difference(old: RunConfig, new: RunConfig) -> list[Difference]:
    """Every field whose value differs, in the recipe's order; None stands for a field that one of them lacks."""
    before, after = (flatten(load.resolved(config)) for config in (old, new))
    fields = [*before, *(field for field in after if field not in before)]
    pairs = ((field, before.get(field), after.get(field)) for field in fields if field not in IDENTITY_FIELDS)
    return [Difference(*pair) for pair in pairs if pair[1] != pair[2]]
