"""Recipes for people to read: a commented file to start from, and the help of single fields.

What goes in: overrides for a new recipe, or the name of a field. What comes out: YAML whose comments are the help of
every field in the chosen language, and which loads as it is; or the help as lines and as plain values. Rank 1; imports
no torch.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from luthier.config.complaints import ELSEWHERE
from luthier.config.fields import FIELDS, REQUIRED, SECTIONS, Field, plain_name
from luthier.config.load import load, resolved
from luthier.config.schema import RunConfig, Source
from luthier.config.tree import show_flow
from luthier.errors import ConfigError, Problem
from luthier.text import say

STARTER = {
    "model": "nano",
    "data.train": "data.json",
    "method": "sft",
    "tune": "lora",
    "tune.rank": 16,
    "optim.epochs": 3,
}
"""What a new recipe states; everything else stands in it as a comment."""
WIDTH = 100
"""Columns of comments and help: comfortable to read, and narrower than most terminals."""
NO_BREAK_BEFORE = frozenset("，。；：、！？）”》")
"""Chinese punctuation that must not begin a line."""


# ---------------------------------------------------------------------------------------------------- a new recipe


def write(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Write a commented recipe and return what it says.

    Raises:
        ConfigError: an override is wrong, the file is already there, or it cannot be written.
    """
    config = load(STARTER, overrides)
    create(path, render(config, str(path)))
    return config


def create(path: Path, text: str) -> None:
    """Write a new recipe's text.

    Raises:
        ConfigError: the file is already there, or it cannot be written.
    """
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(Problem("config.recipe_exists", str(path))) from error
    except OSError as error:
        values = {"reason": error.strerror or type(error).__name__}
        raise ConfigError(Problem("config.unwritable", str(path), values=values)) from error


def render(config: RunConfig, file: str) -> str:
    """The recipe as commented YAML: what was given as settings, all other fields as `#name: default`."""
    plain = resolved(config)
    lines = [*_comment(say("config.recipe.intro", file=file), 0)]
    for section in SECTIONS:
        lines += ["", *_comment(say(f"config.help.{section}"), 0), f"{section}:"]
        lines += _section_lines(config, section, plain[section])
    return "\n".join(lines) + "\n"


def _section_lines(config: RunConfig, section: str, plain: dict[str, Any]) -> Iterator[str]:
    settings = getattr(config, section)
    for key, info in type(settings).model_fields.items():
        name = f"{section}.{info.alias or key}"
        yield from _comment(FIELDS[name].help, 2)
        given = key in settings.model_fields_set or key == "kind"
        value = _short(getattr(settings, key)) if given else plain.get(info.alias or key, getattr(settings, key))
        yield f"  {'' if given else '#'}{info.alias or key}: {show_flow(value)}"


def _short(value: Any) -> Any:
    """Sources as people write them: one file by its name alone."""
    if isinstance(value, tuple) and value and all(isinstance(each, Source) for each in value):
        sources = [each.model_dump(mode="json", exclude_unset=True) for each in value]
        names = [each["path"] if set(each) == {"path"} else each for each in sources]
        return names[0] if len(names) == 1 else names
    return value


def _comment(text: str, indent: int) -> list[str]:
    return [f"{' ' * indent}# {line}" for line in wrap(text, WIDTH - indent - 2)]


# ---------------------------------------------------------------------------------------------------- help


def find(name: str) -> list[Field]:
    """The fields that a name means: one field, a whole section, or a key that needs no section (`rank`).

    Raises:
        ConfigError: there is no such field; the nearest ones are named.
    """
    plain = plain_name(tuple(name.split(".")))
    if plain in SECTIONS:
        return [field for field in FIELDS.values() if field.section == plain]
    plain = ELSEWHERE.get(plain.lower(), plain)
    found = [FIELDS[plain]] if plain in FIELDS else [field for field in FIELDS.values() if field.key == plain]
    if found:
        return found
    keys = {each: field.name for each, field in FIELDS.items()} | {field.key: field.name for field in FIELDS.values()}
    near = difflib.get_close_matches(plain, keys, n=3, cutoff=0.4)
    raise ConfigError(
        Problem(
            "config.unknown_field", field=name, values={"near": ", ".join(dict.fromkeys(keys[each] for each in near))}
        )
    )


def listing() -> list[str]:
    """Every field in a line, by section."""
    lines = []
    for section in SECTIONS:
        lines += ["", f"{section}: {say(f'config.help.{section}')}"]
        lines += [f"  {field.name:<24} {field.takes}" for field in FIELDS.values() if field.section == section]
    return lines[1:]


def lines(field: Field) -> list[str]:
    """The help of one field, for people."""
    facts = [say("config.guide.takes", takes=field.takes)]
    if field.default is REQUIRED:
        facts.append(say("config.guide.required"))
    else:
        facts.append(say("config.guide.default", default=show_flow(field.default)))
    if field.kinds and set(field.kinds) != set(SECTIONS[field.section]):
        facts.append(say("config.guide.kinds", section=field.section, kinds=", ".join(field.kinds)))
    return [field.name, *(f"  {line}" for line in wrap(field.help, WIDTH - 2)), *(f"  {fact}" for fact in facts)]


def values(field: Field) -> dict[str, Any]:
    """The help of one field, for programs."""
    required = field.default is REQUIRED
    return {
        "name": field.name,
        "help": field.help,
        "takes": field.takes,
        "choices": list(field.choices),
        "required": required,
        "default": None if required else field.default,
        "kinds": list(field.kinds),
    }


# ---------------------------------------------------------------------------------------------------- lines


def wrap(text: str, width: int) -> list[str]:
    """Break text into lines of at most `width` columns: at spaces, and between Chinese characters, which take two
    columns each."""
    lines, line = [], ""
    for piece in _pieces(text):
        if line and columns(line + piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece
    return [*lines, line.rstrip()]


def columns(text: str) -> int:
    """Terminal columns that a text takes."""
    return sum(2 if _is_wide(char) else 1 for char in text)


def _pieces(text: str) -> Iterator[str]:
    piece = ""
    for char, following in zip(text, f"{text[1:]} ", strict=True):
        piece += char
        if (char == " " or _is_wide(char)) and following not in NO_BREAK_BEFORE:
            yield piece
            piece = ""
    if piece:
        yield piece


def _is_wide(char: str) -> bool:
    return unicodedata.east_asian_width(char) in ("W", "F")
