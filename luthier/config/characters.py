"""Characters to talk to: a small YAML file of names, each with a system prompt, a greeting and ways of sampling.

What goes in: a file, or `characters.yaml` of the current folder. What comes out: frozen characters. Torch-free.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import yaml

from luthier.config.load import text_of
from luthier.config.tree import AliasFound, Loader
from luthier.errors import ConfigError, Problem

FILE = "characters.yaml"
"""Looked for in the current folder where only a name is given."""


class Ways(pydantic.BaseModel):
    """Sampling, where it is to differ from the command line's defaults."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    max_tokens: int | None = pydantic.Field(default=None, ge=1)
    temperature: float | None = pydantic.Field(default=None, ge=0)
    top_p: float | None = pydantic.Field(default=None, gt=0, le=1)
    top_k: int | None = pydantic.Field(default=None, ge=0)
    min_p: float | None = pydantic.Field(default=None, ge=0, le=1)
    stop: tuple[str, ...] | None = None
    repetition_penalty: float | None = pydantic.Field(default=None, gt=0)
    seed: int | None = pydantic.Field(default=None, ge=0)


class Character(pydantic.BaseModel):
    """name: what it is called by; system: its standing instruction; greeting: what it says first; sampling: fields of
    `Sampling` that the command line does not set."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str
    system: str
    greeting: str = ""
    sampling: Ways = pydantic.Field(default_factory=Ways)


def known(folder: Path) -> list[Character]:
    """The characters of a folder's `characters.yaml`; none where there is no such file.

    Raises:
        ConfigError: the file is no list of characters.
    """
    file = folder / FILE
    return _read(file) if file.is_file() else []


def find(wanted: str) -> Character:
    """A character by name, from `characters.yaml` here; or the first of a file, or `FILE:NAME` of it.

    Raises:
        ConfigError: no such file or name, or the file is no list of characters.
    """
    file, name = Path(wanted), None
    if not file.is_file():
        before, _, after = wanted.rpartition(":")
        file, name = (Path(before), after) if before and Path(before).is_file() else (Path(FILE), wanted)
    listed = _read(file)
    found = next((each for each in listed if name is None or each.name == name), None)
    if found is None:
        there = ", ".join(each.name for each in listed)
        raise ConfigError(Problem("chat.no_character", str(file), value=name or "", values={"there": there}))
    return found


def _read(file: Path) -> list[Character]:
    text = text_of(file)
    try:
        rows: Any = yaml.load(text, Loader=Loader)
        if not isinstance(rows, list) or not rows:
            raise ValueError("a list with name and system of each is wanted")
        return [Character.model_validate(row) for row in rows]
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (yaml.YAMLError, AliasFound, ValueError) as error:
        reason = " ".join(str(error).split())
    raise ConfigError(Problem("chat.bad_characters", str(file), values={"reason": reason}))
