"""Recipes for people to read: a commented file to start from, a short one, and the help of single fields.

What goes in: overrides for a new recipe, a recipe's text with changes to it, or the name of a field. What comes out:
YAML whose comments are the help of every field in the chosen language, and which loads as it is; YAML that says only
what differs from the defaults; or the help as lines and as plain values. Rank 1; imports no torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from luthier.config.complaints import ELSEWHERE
from luthier.config.fields import (
    BARE_KEYS,
    DEFAULT_KINDS,
    FIELDS,
    REQUIRED,
    SECTIONS,
    SOURCES,
    Field,
    keys_of,
    kind_of,
    of_kind,
    plain_name,
)
from luthier.config.load import Overrides, load, mend, put_overrides, resolved
from luthier.config.schema import RunConfig, Source, is_file
from luthier.config.tree import ODD_BREAKS, TEXT, Dumper, Tree, show_flow
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


# ---------------------------------------------------------------------------------------------------- a short recipe


class _Lines(dict[str, Any]):
    """A mapping of which each entry has its own line."""


class _Said(str):
    """A number or a switch as somebody spelt it."""


class _Writer(Dumper):
    """Writes sections over lines, what is in their fields on one line where it is short, and long texts as blocks."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _mapping(writer: _Writer, value: _Lines) -> yaml.Node:
    return writer.represent_mapping("tag:yaml.org,2002:map", value, flow_style=False)


def _said(writer: _Writer, value: _Said) -> yaml.Node:
    tag: str = writer.resolve(yaml.ScalarNode, str(value), (True, False))  # type: ignore[no-untyped-call]
    return writer.represent_scalar(tag, str(value))


def _text(writer: _Writer, value: str) -> yaml.Node:
    style = "|" if "\n" in value and not ODD_BREAKS.search(value) else None
    return writer.represent_scalar(TEXT, value, style=style) if style else writer.represent_text(value)


def _number(writer: _Writer, value: float) -> yaml.Node:
    """`2` and `0.05`; an exponent in the library's own way, which readers of YAML 1.1 take for a number too."""
    short = f"{value:g}"
    exact = short.lstrip("-").replace(".", "").isdigit() and float(short) == value
    return _said(writer, _Said(short)) if exact else writer.represent_float(value)


_Writer.add_representer(_Lines, _mapping)
_Writer.add_representer(_Said, _said)
_Writer.add_representer(str, _text)
_Writer.add_representer(float, _number)


def changed(text: str, changes: Overrides, where: str) -> tuple[str, tuple[Problem, ...]]:
    """A recipe's text with changes laid over it as overrides are, and which of them could not be. It says, in the order
    of the schema, what the text said and what differs from the defaults; comments are gone. A text that cannot be read
    comes back as it is, for `load.read` to say why.

    Args:
        changes: see `load.load`; None, or null, leaves a field open.
        where: what the text is called in messages.
    """
    tree = Tree()
    tree.read(text, where)
    if tree.problems:
        return text, ()
    try:
        put_overrides(tree, changes)
        mend(tree)
        return _written(tree), tuple(tree.problems)
    except RecursionError:
        return text, (Problem("config.yaml_syntax", where, values={"reason": "nested too deeply"}),)


def _written(tree: Tree) -> str:
    lines: dict[str, Any] = _Lines()
    for section in dict.fromkeys((*SECTIONS, *tree.data)):
        value = tree.data.get(section)
        if section in SECTIONS and isinstance(value, Mapping):
            kept = dict(_told(tree, section, value))
            bare = BARE_KEYS.get(section)
            value = kept[bare] if bare and kept.keys() == {bare} and isinstance(kept[bare], str) else _Lines(kept)
        if value is not None and value != {}:
            lines[section] = value
    if not lines:
        return ""
    how: dict[str, Any] = {"allow_unicode": True, "sort_keys": False, "default_flow_style": None, "width": WIDTH}
    return str(yaml.dump(lines, Dumper=_Writer, **how))


def _told(tree: Tree, section: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Fields that were written, or say something else than their default, and whatever is no field."""
    kind = kind_of(section, values)
    for key in dict.fromkeys((*keys_of(section, kind), *values)):
        value, path = values.get(key), (section, key)
        place = tree.places.get(path)
        is_written = place is not None and not place.later
        if f"{section}.{key}" in SOURCES:
            value = _plain_sources(value, is_written)
        if value is not None and (is_written or not _same(value, _default(f"{section}.{key}", kind))):
            as_typed = path in tree.raw and not isinstance(value, (str, list, dict))
            yield key, _Said(tree.raw[path]) if as_typed else value


def _default(name: str, kind: str) -> Any:
    """REQUIRED also where there is no such field."""
    section, _, key = name.partition(".")
    if key == "kind" and section in DEFAULT_KINDS:
        return DEFAULT_KINDS[section]
    try:
        return of_kind(name, kind).default
    except KeyError:
        return REQUIRED


def _plain_sources(value: Any, is_written: bool) -> Any:
    """Sources as people write them: one file by its name alone, and, where nobody wrote it, without what is as it would
    be anyway."""
    given = value if isinstance(value, list) else [value]
    made = [_plain_source(each, is_written) if isinstance(each, Mapping) else each for each in given]
    alone = not isinstance(value, list) or (len(made) == 1 and is_file(made[0]))
    return made[0] if alone else made


def _plain_source(source: Mapping[str, Any], is_written: bool) -> Any:
    defaults = {} if is_written else {key: info.get_default() for key, info in Source.model_fields.items()}
    kept = {key: value for key, value in source.items() if value is not None and not _same(value, defaults.get(key))}
    return kept["path"] if kept.keys() == {"path"} and isinstance(kept["path"], str) else kept


def _same(value: Any, default: Any) -> bool:
    """Python counts true as 1; a recipe does not."""
    plain = list(default) if isinstance(default, tuple) else default
    return bool(value == plain) and isinstance(value, bool) == isinstance(plain, bool)


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
    own = {kind: _facts(of_kind(field.name, kind)) for kind in field.kinds}
    shared = _facts(field)
    differ = {kind: {key: facts[key] for key in facts if facts[key] != shared[key]} for kind, facts in own.items()}
    return {
        "name": field.name,
        "help": field.help,
        "kinds": list(field.kinds),
        **shared,
        "by_kind": {kind: facts for kind, facts in differ.items() if facts},
    }


def _facts(field: Field) -> dict[str, Any]:
    """What may differ from kind to kind."""
    required = field.default is REQUIRED
    return {
        "takes": field.takes,
        "type": field.type,
        "choices": list(field.choices),
        "required": required,
        "default": None if required else field.default,
        **dataclasses.asdict(field.bounds),
        "unset": field.unset or None,
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
