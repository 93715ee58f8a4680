"""Every field of a recipe, by its dotted name.

What goes in: the sections of `schema.py`. What comes out: one table that knows of each field which kinds have it, what
values it takes, its default and its help; error messages, `luthier help` and the recipe writer read it, so that none of
them keeps a list of its own. Rank 1; imports no torch.
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
SOURCES = ("data.train", "data.validation")
"""Fields that hold sources, whose own fields are documented once, below data.train."""


@dataclass(frozen=True)
class Field:
    """One field.

    Attributes:
        name: dotted, as in an override: `tune.rank`, `data.train.weight`.
        kinds: kinds of its section that have it; empty where the section has no kinds.
        annotation: its type in the schema.
        default: REQUIRED where there is none.
    """

    name: str
    kinds: tuple[str, ...]
    annotation: Any
    default: Any

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
        return schema.FORMATS if self.key == "format" else tuple(_words(self.annotation))

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
    return Field(name, kinds, info.annotation, default)


def _of(prefix: str, section: type[schema.Section]) -> Iterator[tuple[str, FieldInfo]]:
    for key, info in section.model_fields.items():
        yield f"{prefix}.{info.alias or key}", info


def _all_fields() -> dict[str, Field]:
    table: dict[str, Field] = {}
    for section, kinds in SECTIONS.items():
        for kind, section_type in kinds.items():
            for name, info in _of(section, section_type):
                if name in table:
                    known = table[name]
                    takes = known.annotation | info.annotation
                    table[name] = Field(name, (*known.kinds, kind), takes, known.default)
                else:
                    table[name] = _field(name, (kind,) if kind else (), info)
                if name == "data.train":
                    table |= {part: _field(part, (), about) for part, about in _of(name, schema.Source)}
    return table


FIELDS: dict[str, Field] = _all_fields()
"""Dotted name -> field, in the order of the schema."""


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
