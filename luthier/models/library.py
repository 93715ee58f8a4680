"""Base models that are on this machine, and what there is to know of one before its weights are.

What goes in: folders in which models may lie, or the name of one. What comes out: an `About` for each, from
`config.json` and the tokenizer's files alone. Torch-free.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luthier.arch import families
from luthier.config.load import Environment
from luthier.config.stages import MERGED
from luthier.errors import ModelError, Problem
from luthier.models import hub

Source = Literal["shipped", "folder", "hub_cache", "run"]
DEPTH, MOST_FOLDERS = 4, 2_000
"""How far below a folder models are looked for, and in how many folders at most; chosen, not tuned."""
PASSED_BY = frozenset({"node_modules", "site-packages", "__pycache__"})
NANO_LICENCE = "apache-2.0"
"""It is a part of this package."""
CARD, CARD_BYTES = "README.md", 2**16
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*\n", re.DOTALL)
_LICENCE = re.compile(r"^license: *[\"']?([\w.+-]+)", re.MULTILINE)


@dataclass(frozen=True)
class About:
    """Attributes:
    path: what a recipe calls it; name: what people do.
    family, parameters, context: None where its configuration cannot be read. context: tokens that it was trained for.
    bytes: of its weights; None where they are not here, and no hub says.
    licence: as its page or its README names it.
    template: whether it brings a chat template.
    problem: why it cannot be trained.
    """

    path: str
    name: str
    source: Source
    family: str | None
    parameters: int | None
    bytes: int | None
    context: int | None
    licence: str | None
    template: bool
    problem: Problem | None

    def to_json(self) -> dict[str, Any]:
        problem = self.problem.to_json() if self.problem else None
        return {**self.__dict__, "supported": self.problem is None, "problem": problem}


def find(home: Path, runs_dir: Path, environment: Environment) -> list[About]:
    """The model that is shipped, those that runs left, those below `home`, and those in the hub's cache."""
    found = [about(hub.NANO, environment, home)]
    for folder in _of_runs(runs_dir):
        name = folder.parent.name if folder.name == "model" else folder.name
        found.append(_about(folder, _path(folder, home), name, "run"))
    for folder in sorted(_below(home, runs_dir)):
        found.append(_about(folder, _path(folder, home), folder.name, "folder"))
    for name, folder in sorted(_cached(environment.hf_hub_cache)):
        found.append(_about(folder, name, name, "hub_cache"))
    return found


def about(path: str, environment: Environment, home: Path = Path(), runs_dir: Path | None = None) -> About:
    """One model by what a recipe calls it; of one on a hub the configuration and the tokenizer are fetched.

    Raises:
        ModelError: there is no such model, or no hub gives it.
    """
    folder = hub.resolve(path, None, environment, weights=False, home=home).folder
    if path == hub.NANO:
        return _about(folder, path, path, "shipped", NANO_LICENCE)
    if (home / path).exists():
        of_run = runs_dir is not None and folder.is_relative_to(runs_dir.resolve())
        return _about(
            folder, path, folder.parent.name if folder.name == "model" else folder.name, "run" if of_run else "folder"
        )
    size, licence = hub.card(path, environment)
    return _about(folder, path, path, "hub_cache", licence, size)


def _about(
    folder: Path, path: str, name: str, source: Source, licence: str | None = None, size: int | None = None
) -> About:
    family = parameters = context = problem = None
    try:
        family = families.read_config(folder).get("model_type")
        arch = families.read(folder)
        parameters, context = arch.num_parameters, arch.spec.max_positions
    except ModelError as error:
        problem = error.problems[0]
    return About(
        path=path,
        name=name,
        source=source,
        family=family if isinstance(family, str) else None,
        parameters=parameters,
        bytes=size or _weight_bytes(folder),
        context=context,
        licence=licence or _licence(folder),
        template=_has_template(folder),
        problem=problem,
    )


def _path(folder: Path, home: Path) -> str:
    """As a recipe says it: from `home` where it lies below."""
    return folder.relative_to(home).as_posix() if folder.is_relative_to(home) else str(folder)


def _weight_bytes(folder: Path) -> int | None:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors") if file.is_file()) or None


def _has_template(folder: Path) -> bool:
    """A file of its own, or a word in the tokenizer's settings; whether it is valid is for who renders with it."""
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))


def _licence(folder: Path) -> str | None:
    try:
        with open(folder / CARD, encoding="utf-8", errors="replace") as file:
            front = _FRONT.match(file.read(CARD_BYTES))
    except OSError:
        return None
    found = _LICENCE.search(front[1]) if front else None
    return found[1] if found else None


# ---------------------------------------------------------------------------------------------------- places


def _of_runs(runs_dir: Path) -> Iterator[Path]:
    """What runs made that is a whole model: tuned in full, or merged."""
    for run in sorted(_folders(runs_dir)):
        for folder in (run / "model", run):
            is_result = folder != run or run.name.endswith(MERGED)
            if is_result and (folder / "config.json").is_file():
                yield folder


def _below(home: Path, runs_dir: Path) -> Iterator[Path]:
    """Folders with a model's configuration and its weights; links are followed, because large models often lie on
    another disk."""
    waiting = [(home, 0)]
    seen = {runs_dir.resolve()}
    while waiting and len(seen) < MOST_FOLDERS:
        folder, depth = waiting.pop(0)
        if folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        if (folder / "config.json").is_file() and _weight_bytes(folder) is not None:
            yield folder
        elif depth < DEPTH:
            waiting += [
                (each, depth + 1)
                for each in sorted(_folders(folder))
                if not each.name.startswith(".") and each.name not in PASSED_BY
            ]


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir()]
    except OSError:
        return []


def _cached(cache: Path) -> Iterator[tuple[str, Path]]:
    """Name and newest folder of the models in the hub's cache, in the layout of its own client."""
    for storage in _folders(cache):
        kind, _, name = storage.name.partition("--")
        if kind != "models":
            continue
        try:
            commit = (storage / "refs" / "main").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            continue
        folder = storage / "snapshots" / commit
        if (folder / "config.json").is_file():
            yield name.replace("--", "/"), folder
