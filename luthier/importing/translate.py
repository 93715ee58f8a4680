"""Another program's recipe as one of ours.

What goes in: a LLaMA-Factory or axolotl file. What comes out: the text of a recipe that loads, what it says, and a
finding for every key that has no equal here. Data files need not exist. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.config import load
from luthier.config.fields import FIELDS, SECTIONS
from luthier.config.recipe import create, wrap
from luthier.config.schema import RunConfig
from luthier.config.tree import show_flow
from luthier.data import strict_json
from luthier.errors import ConfigError, Problem
from luthier.importing import axolotl, catalogue, llamafactory
from luthier.importing.draft import KINDS, Draft, Finding
from luthier.text import say

WIDTH = 110
REMOTE = "REMOTE:"
"""Beginning of a `dataset_dir` that is a repository of a hub."""


@dataclass(frozen=True)
class Imported:
    """program: whose recipe it was; settings: what the recipe states, by dotted name; text: the recipe; findings: the
    gravest kind first; missed: whether the kind of training itself is not here yet, so that the recipe does something
    else."""

    program: str
    config: RunConfig
    settings: Mapping[str, Any]
    text: str
    findings: tuple[Finding, ...]
    missed: bool


def bring(path: Path, output: Path, devices: int = 1) -> Imported:
    """Translate a file and write the recipe.

    Args:
        devices: how many devices the file was meant for: its batch is that of one.

    Raises:
        ConfigError: the file cannot be read or is neither program's, `output` is there already or cannot be written.
    """
    imported = translate(path, devices)
    create(output, imported.text)
    return imported


def translate(path: Path, devices: int = 1) -> Imported:
    """As `bring`, but writes nothing."""
    given = _settings(path)
    program = _program(given, path)
    if program == llamafactory.NAME:
        names, folder = _catalogue(path, str(given.get("dataset_dir") or "data"))
        draft = llamafactory.translate(given, names, folder, devices)
    else:
        draft = axolotl.translate(given, devices)
    missing = [key for key, field in _needed(program).items() if not draft.settings.get(field)]
    if missing:
        raise ConfigError(
            [Problem("importing.missing", str(path), key, values={"program": program}) for key in missing]
        )
    config = _settled(draft, path)
    found = tuple(sorted(draft.findings, key=lambda each: KINDS.index(each.kind)))
    text = _render(draft, program, path, found)
    return Imported(program, config, draft.settings, text, found, draft.missed)


# ---------------------------------------------------------------------------------------------------- reading


def _settings(path: Path) -> dict[str, Any]:
    if path.suffix != ".json":
        return load.settings_of(path)
    given = _json(path)
    if not isinstance(given, dict):
        raise ConfigError(Problem("importing.neither", str(path)))
    return given


def _json(path: Path) -> Any:
    try:
        return strict_json.loads(load.text_of(path))
    except strict_json.Invalid as error:
        raise ConfigError(Problem(error.id, str(path), values=error.values)) from error


def _program(given: Mapping[str, Any], path: Path) -> str:
    """Whose file it is, by the name of the key for the base model."""
    owners = {llamafactory.MODEL_KEY: llamafactory.NAME, axolotl.MODEL_KEY: axolotl.NAME}
    theirs = [name for key, name in owners.items() if key in given]
    if len(theirs) != 1:
        raise ConfigError(Problem("importing.neither", str(path)))
    return theirs[0]


def _needed(program: str) -> dict[str, str]:
    if program == llamafactory.NAME:
        return {llamafactory.MODEL_KEY: "model.path", llamafactory.DATA_KEY: "data.train"}
    return {axolotl.MODEL_KEY: "model.path", axolotl.DATA_KEY: "data.train"}


def _catalogue(path: Path, folder: str) -> tuple[dict[str, Any] | None, str]:
    """The catalogue of data sets, and its folder as file names need it: as `dataset_dir` says from here, from the
    recipe's folder or one above it, or beside the recipe. None where it is in none of them."""
    if folder == catalogue.ONLINE or folder.startswith(REMOTE):
        return None, folder if folder == catalogue.ONLINE else ""
    above = [parent / folder for parent in path.absolute().parents]
    for place in (Path(folder), *above, path.parent):
        if (place / catalogue.FILE).is_file():
            names = _json(place / catalogue.FILE)
            if not isinstance(names, dict):
                raise ConfigError(Problem("importing.catalogue", str(place / catalogue.FILE)))
            return names, place.as_posix()
    return None, folder


# ---------------------------------------------------------------------------------------------------- writing


def _settled(draft: Draft, path: Path) -> RunConfig:
    """The recipe as it loads; fields that our rules refuse are taken out, and told of."""
    while True:
        try:
            return load.loads(_yaml(draft.settings), str(path))
        except ConfigError as error:
            refused = [draft.refuse(problem.field, problem.rule) for problem in error.problems]
            if not any(refused):
                raise


def _yaml(settings: Mapping[str, Any]) -> str:
    lines: list[str] = []
    for section in SECTIONS:
        fields = [name for name in FIELDS if name.startswith(f"{section}.") and name in settings]
        lines += [f"{section}:"] if fields else []
        for name in fields:
            key, value = name.partition(".")[2], settings[name]
            if isinstance(value, list) and value and isinstance(value[0], dict):
                lines += [f"  {key}:", *(line for item in value for line in _item(item))]
            else:
                lines.append(f"  {key}: {show_flow(value)}")
    return "\n".join(lines) + "\n"


def _item(values: Mapping[str, Any]) -> list[str]:
    """An item of a list, with a line for each of its keys."""
    first, *rest = (f"{key}: {show_flow(value)}" for key, value in values.items())
    return [f"    - {first}", *(f"      {line}" for line in rest)]


def _render(draft: Draft, program: str, path: Path, found: tuple[Finding, ...]) -> str:
    head = [say("importing.intro", program=program, file=path.name)]
    if draft.missed:
        head.append(say("importing.missed"))
    comments = [f"# {line}" for text in head for line in wrap(text, WIDTH)]
    tail = [f"# {line}" for line in account(found)]
    return "\n".join([*comments, "", _yaml(draft.settings), *tail]).rstrip("\n") + "\n"


def account(found: tuple[Finding, ...]) -> list[str]:
    """What became of the keys that have no equal, in lines for people."""
    lines = []
    for kind in KINDS:
        of_kind = [each for each in found if each.kind == kind]
        if of_kind:
            lines.append(say(f"importing.kind.{kind.replace(' ', '_')}", count=len(of_kind)))
            lines += [f"  {each.key}: {each.value}  -- {each.why}" for each in of_kind]
    return lines
