"""Every field of a recipe, by its dotted name.

What goes in: the sections of `schema.py`. What comes out: one table that knows of each field which kinds have it, what
values it takes and between which bounds, its default and its help; error messages, `luthier help`, the recipe writer
and the web page read it, so that none of them keeps a list of its own. Rank 1; imports no torch.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from luthier.config import schema
from luthier.text import say

REQUIRED = object()
"""Stands for the default of a field that has none."""

SECTIONS: dict[str, dict[str, type[schema.Section]]] = {
    "model": {"": schema.ModelSection},
    "data": {"": schema.DataSection},
    "method": {
        "sft": schema.Sft,
        "pretrain": schema.Pretrain,
        "distill": schema.Distill,
        "dpo": schema.Dpo,
        "ipo": schema.Ipo,
        "simpo": schema.Simpo,
        "orpo": schema.Orpo,
        "cpo": schema.Cpo,
        "kto": schema.Kto,
        "reward": schema.Reward,
        "grpo": schema.Grpo,
        "ppo": schema.Ppo,
    },
    "tune": {"lora": schema.Lora, "qlora": schema.Qlora, "full": schema.Full, "freeze": schema.Freeze},
    "optim": {"": schema.OptimSection},
    "run": {"": schema.RunSection},
}
"""Section -> kind -> its class; sections without kinds have one nameless kind. Recommended kinds come first."""

DEFAULT_KINDS = {"method": "sft", "tune": "lora"}
BARE_KEYS = {"model": "path", "method": "kind", "tune": "kind", "data.train": "path", "data.validation": "path"}
"""Where a bare string stands for a section: the field it fills."""
WORDS = {"format": schema.FORMATS, "template": schema.TEMPLATES, "rewards": schema.REWARDS}
"""Keys of fields that take these words besides others that the schema cannot list: files, the user's own."""
SOURCES = ("data.train", "data.validation")
"""Fields that hold sources, whose own fields are documented once, below data.train."""


Type = Literal["switch", "whole", "number", "text", "choice", "list", "source", "other"]


@dataclass(frozen=True)
class Bounds:
    """What a number, or each number of a list, lies between; None: no bound. exclusive: the bound itself is out."""

    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: bool = False
    exclusive_maximum: bool = False

    def union(self, other: Bounds) -> Bounds:
        """What one of the two allows."""
        lows = [(each.minimum, each.exclusive_minimum) for each in (self, other) if each.minimum is not None]
        highs = [(each.maximum, not each.exclusive_maximum) for each in (self, other) if each.maximum is not None]
        low, above = min(lows) if len(lows) == 2 else (None, False)
        high, allowed = max(highs) if len(highs) == 2 else (None, True)
        return Bounds(low, high, above, not allowed)


@dataclass(frozen=True)
class Field:
    """One field.

    Attributes:
        name: dotted, as in an override: `tune.rank`, `data.train.weight`.
        kinds: kinds of its section that have it; empty where the section has no kinds.
        annotation: its type in the schema.
        default: REQUIRED where there is none. Where kinds differ in it, of the first of them; see `of_kind`.
    """

    name: str
    kinds: tuple[str, ...]
    annotation: Any
    default: Any
    bounds: Bounds

    @property
    def section(self) -> str:
        return self.name.partition(".")[0]

    @property
    def key(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def help(self) -> str:
        """Plain words for people who have never fine-tuned."""
        return say(f"config.help.{self.name}")

    @property
    def choices(self) -> tuple[str, ...]:
        """The fixed words it takes; empty where any text or number will do."""
        if self.key == "kind" and self.section in DEFAULT_KINDS:
            return tuple(SECTIONS[self.section])
        return WORDS.get(self.key) or tuple(_words(self.annotation))

    @property
    def type(self) -> Type:
        """What an input for it is to be; `choice` where nothing but `choices` will do, `other` where it takes several
        shapes. Where words may stand for a value of another type they are `choices` too: auto, or a number."""
        found = dict.fromkeys(_types(self.annotation))
        if not found:
            return "choice"
        return next(iter(found)) if len(found) == 1 else "other"

    @property
    def optional(self) -> bool:
        """Whether it may be left open: null, or nothing at all."""
        return type(None) in _members(self.annotation)

    @property
    def unset(self) -> str:
        """What it means to leave it open; empty where it cannot be."""
        return say("config.unset." + self.name) if self.optional else ""

    @property
    def takes(self) -> str:
        """What a value looks like, in words: `whole number`, `auto | cpu | cuda`."""
        own = self.key == "format" or self.name == "method.loss"
        shapes = ("module:function",) if own else _shapes(self.annotation)
        return " | ".join(dict.fromkeys([*self.choices, *shapes]))


def _words(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (Union, types.UnionType, Annotated, tuple):
        for part in get_args(annotation):
            yield from _words(part)


def _shapes(annotation: Any) -> Iterator[str]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _shapes(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _shapes(part)
    elif origin is tuple:
        inner = " | ".join(dict.fromkeys(shape for part in get_args(annotation) for shape in _shapes(part)))
        if inner:
            yield f"[{inner}, ...]"
    elif origin is dict:
        key, value = (next(_shapes(part)) for part in get_args(annotation))
        yield f"{{{key}: {value}}}"
    elif annotation in SHAPES:
        yield say(SHAPES[annotation])


def _members(annotation: Any) -> Iterator[Any]:
    """The types that a union is of."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _members(part)
    else:
        yield annotation


TYPES: dict[Any, Type] = {bool: "switch", int: "whole", float: "number", str: "text"}


def _types(annotation: Any) -> Iterator[Type]:
    """Of everything that it takes besides single words and nothing."""
    for member in _members(annotation):
        if get_origin(member) is tuple:
            yield "source" if get_args(member)[0] is schema.Source else "list"
        elif member is not type(None) and get_origin(member) is not Literal:
            yield TYPES.get(member, "other")


def _limits(annotation: Any) -> Iterator[Any]:
    """Bounds within a type: of a number beside a word, of the items of a list."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *facts = get_args(annotation)
        for fact in facts:
            yield from fact.metadata if isinstance(fact, FieldInfo) else [fact]
        yield from _limits(inner)
    elif origin in (Union, types.UnionType, tuple):
        for part in get_args(annotation):
            yield from _limits(part)


def _bounds(info: FieldInfo) -> Bounds:
    found: dict[str, Any] = {}
    for fact in (*info.metadata, *_limits(info.annotation)):
        for name, word in (("ge", "minimum"), ("gt", "minimum"), ("le", "maximum"), ("lt", "maximum")):
            if (limit := getattr(fact, name, None)) is not None:
                found |= {word: limit, f"exclusive_{word}": name in ("gt", "lt")}
    return Bounds(**found)


SHAPES: dict[Any, str] = {
    bool: "config.takes.switch",
    int: "config.takes.whole",
    float: "config.takes.number",
    str: "config.takes.text",
    type(None): "config.takes.nothing",
    schema.Source: "config.takes.source",
}


def _field(name: str, kinds: tuple[str, ...], info: FieldInfo) -> Field:
    default = REQUIRED if info.is_required() else info.get_default(call_default_factory=True)
    return Field(name, kinds, info.annotation, default, _bounds(info))


def _of(prefix: str, section: type[schema.Section]) -> Iterator[tuple[str, FieldInfo]]:
    for key, info in section.model_fields.items():
        yield f"{prefix}.{info.alias or key}", info


def _all_fields() -> dict[str, Field]:
    table: dict[str, Field] = {}
    for section, kinds in SECTIONS.items():
        for kind, section_type in kinds.items():
            for name, info in _of(section, section_type):
                found = _field(name, (kind,) if kind else (), info)
                if known := table.get(name):
                    takes, bounds = known.annotation | found.annotation, known.bounds.union(found.bounds)
                    found = Field(name, (*known.kinds, kind), takes, known.default, bounds)
                table[name] = found
                if name == "data.train":
                    table |= {part: _field(part, (), about) for part, about in _of(name, schema.Source)}
    return table


FIELDS: dict[str, Field] = _all_fields()
"""Dotted name -> field, in the order of the schema."""


def of_kind(name: str, kind: str) -> Field:
    """A field as one kind of its section has it.

    Raises:
        KeyError: it does not have it.
    """
    section = name.partition(".")[0]
    for found, info in _of(section, SECTIONS[section][kind]):
        if found == name:
            return _field(name, (kind,), info)
    raise KeyError(name)


def plain_name(path: tuple[str | int, ...]) -> str:
    """The documented name of a place in a recipe: (data, validation, 0, weight) -> `data.train.weight`."""
    name = ".".join(part for part in map(str, path) if not part.isdigit())
    return name.replace("data.validation.", "data.train.", 1)


def kind_of(section: str, value: Any) -> str:
    """The kind that a section as written chooses, valid or not; empty for sections without kinds."""
    if isinstance(value, dict):
        value = value.get("kind", DEFAULT_KINDS.get(section, ""))
    return str(value) if section in DEFAULT_KINDS and isinstance(value, str) else ""


def keys_of(name: str, kind: str = "") -> tuple[str, ...]:
    """Valid keys below a dotted name, for one kind of section; all kinds where the kind is unknown."""
    if not name:
        return tuple(SECTIONS)
    if name in SOURCES:
        return tuple(schema.Source.model_fields)
    kinds = SECTIONS.get(name, {})
    chosen = [kinds[kind]] if kind in kinds else list(kinds.values())
    return tuple(dict.fromkeys(info.alias or key for section in chosen for key, info in section.model_fields.items()))
