"""A recipe as it was written: plain values, and where each of them stands.

What goes in: YAML text, mappings and overrides. What comes out: a `Tree` of plain dicts, lists and scalars with the
line (or the command line) of every value, later layers merged over earlier ones. It knows which fields are sections
and which strings stand for one, but checks no value: that is the schema's work. Rank 1; imports no torch.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from luthier.config.fields import BARE_KEYS, DEFAULT_KINDS, FIELDS, SECTIONS, kind_of, plain_name
from luthier.config.rules import ADAPTER_SHAPE
from luthier.config.schema import is_file
from luthier.errors import Problem

Path = tuple[str | int, ...]

SUPERSEDES: dict[str, tuple[str, ...]] = {
    "model.path": ("model.revision",),
    "tune.from": tuple(f"tune.{key}" for key in ADAPTER_SHAPE),
    "optim.steps": ("optim.epochs",),
    "optim.epochs": ("optim.steps",),
    "optim.kind": ("optim.betas", "optim.eps", "optim.momentum"),
    "optim.schedule": ("optim.power",),
}
"""An override of the left changes what is meant, so it takes the recipe's words on the right with it: they spoke of
what it replaced. Words of the same layer are never taken: there, a contradiction is an error."""


class Loader(yaml.SafeLoader):
    """Reads YAML 1.2's core types: `no` and `on` are text, 3e-4 is a number, dates are text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """No aliases: a recipe needs none, and `*` at the start of a value is nearly always meant as text."""
        if self.check_event(yaml.AliasEvent):
            event: yaml.AliasEvent = self.peek_event()  # type: ignore[no-untyped-call]
            raise AliasFound(f"*{event.anchor}", event.start_mark.line + 1 if event.start_mark else 1)
        return super().compose_node(parent, index)


class AliasFound(Exception):
    """An alias in a recipe."""

    def __init__(self, name: str, line: int) -> None:
        self.name, self.line = name, line
        super().__init__(name)


class Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads back as the same value."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, value: str) -> yaml.Node:
        """In quotes where it holds a mark that YAML 1.1 takes for the end of a line, and that the library would write
        as it is."""
        return self.represent_scalar(TEXT, value, style='"' if ODD_BREAKS.search(value) else None)


ODD_BREAKS = re.compile("[\x85\u2028\u2029]")
NULL, BOOL, INT, FLOAT, TEXT = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))

CORE_TYPES: dict[str, tuple[re.Pattern[str], str]] = {
    NULL: (re.compile(r"^(?:~|null|Null|NULL|)$"), "~nN\0"),
    BOOL: (re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    # 18 digits fit every whole number that a recipe can hold.
    INT: (re.compile(r"^[-+]?[0-9][0-9_]{0,17}$"), "-+0123456789"),
    FLOAT: (
        re.compile(
            r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        "-+.0123456789",
    ),
}
"""Tag -> (what it looks like, the characters it may begin with; NUL stands for nothing at all)."""

Dumper.add_representer(str, Dumper.represent_text)
Loader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first) in CORE_TYPES.items():
    Loader.add_implicit_resolver(_tag, _pattern, ["" if each == "\0" else each for each in _first])
    # On top of YAML 1.1's, so that other tools read the same text as we do.
    Dumper.add_implicit_resolver(_tag, _pattern, ["" if each == "\0" else each for each in _first])


@dataclass(frozen=True, order=True)
class Place:
    """Where a value stands. later: given over the recipe, by an override; line: of the file, or
    how many-th override; 0 where there is neither."""

    later: bool
    line: int
    text: str


@dataclass
class Tree:
    """Attributes:
    data: plain values, as far as they could be read.
    places: path -> place of everything that was written; what lies below inherits the nearest one above.
    raw: path -> the text of scalars that are not text, for fields that want it as written.
    problems: what could not be read at all.
    """

    data: dict[str, Any] = field(default_factory=dict)
    places: dict[Path, Place] = field(default_factory=dict)
    raw: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    # ------------------------------------------------------------------------------------------------ looking

    def at(self, path: Path) -> Any:
        """The value at a path; None where there is none."""
        node: Any = self.data
        for part in path:
            if not has(node, part):
                return None
            node = node[part]
        return node

    def replace(self, path: Path, value: Any) -> None:
        """Put a value where one is already, leaving its place."""
        holder: Any = self.at(path[:-1])
        holder[path[-1]] = value

    def place(self, path: Path) -> Place | None:
        """Place of the value, or of the nearest thing around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return None

    # ------------------------------------------------------------------------------------------------ reading YAML

    def read(self, text: str, file: str) -> None:
        """Take a recipe's text as the first layer."""
        self.read_mapping(text, file)
        for name in BARE_KEYS:
            self._open(tuple(name.split(".")))

    def read_mapping(self, text: str, file: str) -> None:
        """Take the settings in a YAML file as they stand there, a recipe or not."""
        node = _compose(text, file, self.problems)
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            self.problems.append(Problem("config.not_a_mapping", f"{file}:1", value=show(text.strip())))
            return
        self.data = self._plain(node, (), file)

    def _plain(self, node: yaml.Node, path: Path, file: str) -> Any:
        if path:
            self.places.setdefault(path, Place(False, node.start_mark.line + 1, f"{file}:{node.start_mark.line + 1}"))
        if isinstance(node, yaml.MappingNode):
            return self._plain_mapping(node, path, file)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*path, index), file) for index, item in enumerate(node.value)]
        value = _scalar(node)
        if value is _UNREADABLE:
            self.problems.append(
                Problem("config.yaml_tag", self.places[path].text, ".".join(map(str, path)), node.value)
            )
            return node.value
        if not isinstance(value, str):
            self.raw[path] = node.value
        return value

    def _plain_mapping(self, node: yaml.MappingNode, path: Path, file: str) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = str(key_node.value)
            inner = (*path, key)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem("config.yaml_key", f"{file}:{line}", ".".join(map(str, path))))
            elif key in mapping:
                name, first = ".".join(map(str, inner)), {"line": lines[key]}
                self.problems.append(Problem("config.duplicate_key", f"{file}:{line}", name, values=first))
            else:
                lines[key] = line
                self.places[inner] = Place(False, line, f"{file}:{line}")
                mapping[key] = self._plain(value_node, inner, file)
        return mapping

    # ------------------------------------------------------------------------------------------------ merging

    def put(self, path: Path, value: Any, place: Place) -> None:
        """Lay a value over what is there.

        Sections merge field by field, everything else is replaced. A bare string for a section sets the field that it
        stands for (`tune=full` sets `tune.kind`) and leaves the others. A change of kind takes along the recipe's
        fields that the new kind does not have; see also `SUPERSEDES`.
        """
        name = ".".join(map(str, path))
        if name in SECTIONS and isinstance(value, str):
            path, name = (*path, BARE_KEYS.get(name, "")), f"{name}.{BARE_KEYS.get(name, '')}"
        if (not path or name in SECTIONS) and isinstance(value, Mapping):
            # The kind first: it decides which of the recipe's fields stay.
            for key in sorted(value, key=lambda key: key != "kind"):
                self.put((*path, *_parts(str(key))), value[key], place)
            return
        self._supersede(name, value)
        self._insert(path, name, _plain_value(value), place)

    def put_text(self, name: str, text: str, place: Place) -> None:
        """Lay an override over what is there; its value is read as YAML, or taken as text where it is none."""
        path = _parts(name)
        scratch = Tree()
        node = _compose(text, "", scratch.problems)
        value = scratch._plain(node, path, "") if node is not None else None
        if scratch.problems:
            value = text
        self.put(path, value, place)
        self.raw |= {**scratch.raw, path: text}

    def _insert(self, path: Path, name: str, value: Any, place: Place) -> None:
        node: Any = self.data
        for length, part in enumerate(path[:-1], start=1):
            if isinstance(node, dict):
                node.setdefault(part, {})
                self.places.setdefault(path[:length], place)
            self._open(path[:length])
            node = self.at(path[:length])
        if isinstance(node, dict) or has(node, path[-1]):
            self.places = {inner: at for inner, at in self.places.items() if inner[: len(path)] != path}
            self.raw = {inner: raw for inner, raw in self.raw.items() if inner[: len(path)] != path}
            node[path[-1]] = value
            self.places[path] = place
        else:
            around = ".".join(map(str, path[:-1]))
            self.problems.append(Problem("config.no_parts", place.text, name, show(value), {"around": around}))

    def _open(self, path: Path) -> None:
        """Spell out a bare string that stands for a section, so that fields can be laid beside it."""
        name = plain_name(path)
        key, value = BARE_KEYS.get(name), self.at(path)
        if key is None or not isinstance(value, str) or (name == "data.validation" and not is_file(value)):
            return
        self.replace(path, {key: value})
        self.places[(*path, key)] = self.places[path]

    def _supersede(self, name: str, value: Any) -> None:
        section, _, key = name.partition(".")
        if key == "kind" and section in DEFAULT_KINDS:
            self._change_kind(section, value)
        elif name in SUPERSEDES and value is not None:
            old = self.at(tuple(name.split(".")))
            if value != (FIELDS[name].default if old is None else old):
                for loser in SUPERSEDES[name]:
                    self._drop(tuple(loser.split(".")))

    def _change_kind(self, section: str, new: Any) -> None:
        given = self.at((section,))
        old, kinds = kind_of(section, given or {}), SECTIONS[section]
        if not isinstance(given, dict) or not isinstance(new, str) or new == old or new not in kinds:
            return
        before = (
            {info.alias or key: info.annotation for key, info in kinds[old].model_fields.items()}
            if old in kinds
            else {}
        )
        after = {info.alias or key: info.annotation for key, info in kinds[new].model_fields.items()}
        for key in list(given):
            if key != "kind" and (key not in after or before.get(key) != after[key]):
                self._drop((section, key))

    def _drop(self, path: Path) -> None:
        """Forget a field if it is the recipe's word; an override's word stays and is judged as written."""
        holder, place = self.at(path[:-1]), self.places.get(path)
        if isinstance(holder, dict) and place is not None and not place.later:
            del holder[path[-1]], self.places[path]


# ---------------------------------------------------------------------------------------------------- helpers

_UNREADABLE = object()

SECRET = re.compile(r"\b(?:hf_|ms-|sk-)[A-Za-z0-9_-]{20,}")
"""Tokens of hubs and services."""


@functools.lru_cache(maxsize=128)
def _nodes(text: str) -> yaml.Node | None:
    """What a text is composed of, for looking at. A run reads its recipe half a dozen times, 20 ms each."""
    node: yaml.Node | None = Loader(text).get_single_node()
    return node


def _compose(text: str, file: str, problems: list[Problem]) -> yaml.Node | None:
    try:
        return _nodes(text)
    except AliasFound as error:
        problems.append(Problem("config.yaml_alias", f"{file}:{error.line}", value=error.name))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        reason = error.problem or error.context or ""
        problems.append(Problem("config.yaml_syntax", f"{file}:{line}", values={"reason": reason}))
    except yaml.YAMLError as error:
        # A byte that no YAML may hold; the reader counts characters, not lines.
        problems.append(Problem("config.yaml_syntax", file, values={"reason": str(error).splitlines()[0]}))
    except RecursionError:
        problems.append(Problem("config.yaml_syntax", file, values={"reason": "nested too deeply"}))
    return None


def _scalar(node: yaml.Node) -> Any:
    """The value of a scalar; `_UNREADABLE` for tags that recipes do not use."""
    text = str(node.value)
    if node.tag == TEXT:
        return text
    pattern = CORE_TYPES.get(node.tag)
    if pattern is None or not pattern[0].match(text):
        return _UNREADABLE
    if node.tag == NULL:
        return None
    if node.tag == BOOL:
        return text.lower() == "true"
    if node.tag == INT:
        return int(text.replace("_", ""))
    return float(text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))


def has_comment(text: str) -> bool:
    """Whether a recipe's text holds a comment; False where it is no YAML."""
    try:
        within = {
            place
            for token in yaml.scan(text, Loader=Loader)
            if isinstance(token, yaml.ScalarToken)
            for place in range(token.start_mark.index, token.end_mark.index)
        }
    except yaml.YAMLError:
        return False
    return any(found.start(1) not in within for found in re.finditer(r"(?:^|\s)(#)", text))


def has(node: Any, part: str | int) -> bool:
    """Whether a dict or list has an entry of this key or index."""
    if isinstance(node, list):
        return isinstance(part, int) and part < len(node)
    return isinstance(node, dict) and part in node


def _plain_value(value: Any) -> Any:
    """Values from Python as YAML would have given them: paths are text, tuples lists, functions `module:function`."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if inspect.isfunction(value):
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, Mapping):
        return {str(key): _plain_value(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain_value(item) for item in value]
    return value


def _parts(name: str) -> Path:
    return tuple(int(part) if part.isdigit() else part for part in name.split("."))


def show(value: Any) -> str:
    """A value for a message: one line, at most 60 characters, without anything that looks like a token."""
    text = value if isinstance(value, str) else show_flow(value)
    line = " ".join(SECRET.sub("***", text).split())
    return line if len(line) <= 60 else line[:57] + "..."


def show_flow(value: Any) -> str:
    """A value in YAML's notation, on one line."""
    text = yaml.dump(_plain_value(value), Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=2**20)
    return text.removesuffix("...\n").strip()
