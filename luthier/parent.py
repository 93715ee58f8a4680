"""What a run goes on from: an adapter (`tune.from`), or a model that a run left.

What goes in: the name or folder of a run, or any folder in PEFT's format. What comes out: the adapter's own folder, the
run that made it where one did, its template, and the certainty, or a note on the lack of it, that it was trained on the
base it is now put on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.arch import adapter_config
from luthier.arch.count import AnyTune
from luthier.config.schema import Lora, RunConfig
from luthier.data import template_files
from luthier.errors import ModelError, Problem
from luthier.runs import manifest
from luthier.runs.store import RunFolder
from luthier.session import output_folder, run_path


@dataclasses.dataclass(frozen=True)
class Parent:
    """asked: as the recipe names it; folder: holds the adapter's files; run: whose result it is, if any run's."""

    asked: str
    folder: Path
    run: RunFolder | None


def find(tune: AnyTune) -> Parent | None:
    """The parent that a recipe asks for; None where training starts from the base.

    Raises:
        RunError: the run that is meant has no result yet; ModelError: its result is no adapter.
    """
    if not isinstance(tune, Lora) or tune.from_ is None:
        return None
    path = run_path(tune.from_)
    if path is None:
        folder = Path(tune.from_)
        home = folder.absolute().parent
        own = folder.name == "adapter" and (home / "recipe.yaml").is_file()
        return Parent(tune.from_, folder, RunFolder(home) if own else None)
    run = RunFolder(path)
    folder = output_folder(run)
    if folder.name != "adapter":
        values = {"folder": str(folder)}
        raise ModelError(Problem("engine.parent_whole", field="tune.from", value=tune.from_, values=values))
    return Parent(tune.from_, folder, run)


def placed(tune: AnyTune, parent: Parent | None) -> AnyTune:
    """The tuning section with the adapter's own folder in `from`."""
    return tune if parent is None else tune.model_copy(update={"from_": str(parent.folder)})


def with_template(config: RunConfig, parent: Parent | None, base: Path) -> RunConfig:
    """The recipe to render with: `data.template: model` means the template that the model comes with, and an adapter
    that was trained with another one than its base's brings that."""
    if parent is None or config.data.template != "model" or _template(parent.folder) in ("", _template(base)):
        return config
    file = str(parent.folder / template_files.TEMPLATE_FILE)
    return config.model_copy(update={"data": config.data.model_copy(update={"template": file})})


def _template(folder: Path) -> str:
    """The template that a folder brings, empty where it has none."""
    file = folder / template_files.TEMPLATE_FILE
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    return str(template_files.read_json(folder / template_files.CONFIG_FILE).get("chat_template") or "")


def notes(parent: Parent | None, base: Mapping[str, Any], template: str) -> list[Problem]:
    """What should be known about going on from the parent.

    Args:
        base: as in the manifest of the run to be.
        template: `data.template` as it is rendered with.

    Raises:
        ModelError: the parent was trained on another base.
    """
    if parent is None:
        return []
    about = {"where": str(parent.folder), "field": "tune.from", "value": parent.asked}
    found = []
    if Path(template).parent == parent.folder:
        found.append(Problem("engine.parent_template", where=template, field="data.template"))
    if parent.run is None or not parent.run.has("manifest.json"):
        named = template_files.read_json(parent.folder / adapter_config.CONFIG_FILE).get("base_model_name_or_path")
        values = {"then": named or "?", "now": base["path"]}
        return [*found, Problem("engine.parent_unchecked", **about, values=values)]
    then = manifest.load(parent.run).base
    if any(then.get(part) != base.get(part) for part in ("sha256", "config_sha256")):
        values = {"then": then["path"], "now": base["path"]}
        raise ModelError(Problem("engine.parent_base", **about, values=values))
    return found


def behind(folder: Path) -> dict[str, Any] | None:
    """What made a model's folder, for the manifest of what is trained on it: {run, base, adapters} of a merge, {run}
    of the model that a run tuned in full; None where the folder does not tell."""
    made = template_files.read_json(folder / "receipt.json")
    if made.get("kind") == "merge":
        return {part: made.get(part) for part in ("run", "base", "adapters")}
    of_run = folder.name == "model" and (folder.absolute().parent / "manifest.json").is_file()
    return {"run": folder.absolute().parent.name} if of_run else None
