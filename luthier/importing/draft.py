"""A recipe in the making, and the account of what became of every key of the file it is made from.

What goes in: another program's settings. What comes out: fields of ours with the key each came from, and a `Finding`
for every key that has no equal here, so that nothing is dropped without a word. Knows no program: the tables of
`trainer.py`, `llamafactory.py` and `axolotl.py` do. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from luthier.config.tree import show
from luthier.text import say

Kind = Literal["not yet", "unknown", "changed", "not needed"]
KINDS: tuple[Kind, ...] = ("not yet", "unknown", "changed", "not needed")
"""What can become of a key, the gravest first. changed: it is in the recipe, and means something else there."""

SECRET = re.compile(r"(hub|hf|ms|auth|access)_token$|api_key|secret|password|webhook", re.IGNORECASE)
"""Keys whose values are never repeated."""
NEEDED = ("model.path", "data.train")
"""Fields that no recipe can do without."""
OFF: tuple[Any, ...] = (False, 0, "", "none", "no", "false", "off", "False", (), [], {})
"""Values that switch a feature off."""

Convert = Callable[[Any], Any]
"""A value of theirs to a value of ours; raises ValueError where there is none."""
Translated = Mapping[str, tuple[str, Convert]]
"""Their key -> (our field, conversion)."""
Reasons = Mapping[str, tuple[Kind, str]]
"""Their key -> (what becomes of it, message below `importing.why.`)."""


@dataclass(frozen=True)
class Finding:
    """A key without an equal. reason: message id below `importing.why.`."""

    key: str
    value: str
    kind: Kind
    reason: str
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def why(self) -> str:
        return say(f"importing.why.{self.reason}", **self.values)

    def to_json(self) -> dict[str, str]:
        return {"key": self.key, "value": self.value, "kind": self.kind, "why": self.why}


class Draft:
    """Attributes:
    given: the file's settings that say something; a key without a value says nothing.
    settings: our dotted field -> value.
    origin: our field -> the keys of theirs that it is made of.
    findings: what has no equal.
    used: the keys that the recipe is made of.
    missed: whether the kind of training itself is one that we do not have, so that the recipe does something else.
    place: what stands before the keys in findings.
    """

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any], place: str = "") -> None:
        self.given = {str(key): value for key, value in given.items() if value is not None}
        self.settings: dict[str, Any] = {}
        self.origin: dict[str, tuple[str, ...]] = {}
        self.findings: list[Finding] = []
        self.used: set[str] = set()
        self.missed = False
        self.place = place
        self._defaults = defaults
        self._told: set[str] = set()
        self._noted: set[str] = set()

    def part(self, given: Mapping[str, Any], place: str) -> Draft:
        """A section of the file, with keys of its own; what is found there is told among the rest."""
        part = Draft(given, {}, f"{self.place}{place}.")
        part.findings = self.findings
        return part

    def has(self, key: str) -> bool:
        return key in self.given

    def dealt_with(self, key: str) -> bool:
        return key in self._told

    def take(self, key: str, convert: Convert | None = None) -> Any:
        """A key's value, or their default: from here on it is dealt with. A value that `convert` refuses is a finding,
        and their default stands in for it."""
        default = self._defaults.get(key)
        value = self.given.get(key, default)
        self._told.add(key)
        if convert is None or value is None:
            return value
        try:
            return convert(value)
        except (ValueError, TypeError):
            self.note(key, "unknown", "value")
            return default

    def put(self, name: str, value: Any, *keys: str) -> None:
        self.settings[name] = value
        self.origin[name] = keys
        self.used |= {*keys}

    def use(self, *keys: str) -> None:
        """Keys that are dealt with: the recipe is made of them, too."""
        self._told |= {*keys}
        self.used |= {*keys}

    def note(self, key: str, kind: Kind, reason: str, value: Any = None, **values: Any) -> None:
        """Tell of a key; `value` where it is not one of the file's own keys."""
        self._told.add(key)
        if value is None:
            value = self.given.get(key, self._defaults.get(key, ""))
        shown = "" if SECRET.search(key) else show(value)
        self._noted |= {key, key.partition(".")[0]}
        self.findings.append(Finding(f"{self.place}{key}", shown, kind, reason, values))

    def unless_off(self, key: str, kind: Kind, reason: str, value: Any = None) -> None:
        """Tell of a key, which says less where it only switches the feature off."""
        given = self.given.get(key) if value is None else value
        if kind == "not yet" and given in OFF:
            kind, reason = "not needed", "off"
        self.note(key, kind, reason, value)

    def leave(self, keys: Iterable[str], reason: str, **values: Any) -> None:
        """Tell of those keys that are given and were not dealt with that nothing needs them."""
        for key in keys:
            if self.has(key) and not self.dealt_with(key):
                self.note(key, "not needed", reason, **values)

    def miss(self, key: str, reason: str, **values: Any) -> None:
        """Tell of a kind of training that we do not have."""
        self.missed = True
        self.note(key, "not yet", reason, **values)

    def refuse(self, name: str, rule: str) -> bool:
        """Take a field out again that our own rules refuse, the whole of it where a part is wrong; says whether it was
        there."""
        while name and name not in self.settings:
            name = name.rpartition(".")[0]
        if not name or name in NEEDED:
            return False
        del self.settings[name]
        self.note(self.origin[name][0], "unknown", "refused", rule=rule)
        return True

    def translate(self, table: Translated) -> None:
        """Every key of the table that is given, or has a default of theirs."""
        for key, (name, convert) in table.items():
            if key in self._told or (key not in self.given and key not in self._defaults):
                continue
            value = self.take(key, convert)
            if value is not None:
                self.put(name, value, key)

    def explain(self, table: Reasons) -> None:
        """Tell of every key that is left: why, where the table knows it; and of those that were looked at and changed
        nothing."""
        for key in [key for key in self.given if key not in self._told]:
            kind, reason = table.get(key, ("unknown", "unknown"))
            self.unless_off(key, kind, reason)
        for key in [key for key in self.given if key not in self.used | self._noted]:
            self.note(key, "not needed", "off" if self.given[key] in OFF else "without_effect")


# ---------------------------------------------------------------------------------------------------- conversions


def text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(value)
    return value


def word(value: Any) -> str | None:
    """A text, or nothing where it is empty."""
    return None if value == "" else text(value)


def number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError(value)
    return value if isinstance(value, int) else float(value)


def whole(value: Any) -> int:
    exact = number(value)
    if exact != int(exact):
        raise ValueError(value)
    return int(exact)


def positive(value: Any) -> int:
    count = whole(value)
    if count < 1:
        raise ValueError(value)
    return count


def switch(value: Any) -> bool:
    """Also the words that YAML 1.1 takes for true and false."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if isinstance(value, str):
        value = words.get(value.lower())
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def names(value: Any) -> list[str]:
    """A list of names, or names with commas between them."""
    parts = value if isinstance(value, list) else text(value).split(",")
    return [text(part.strip() if isinstance(part, str) else part) for part in parts if part != ""]


def section(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(value)
    return {str(key): item for key, item in value.items()}


def numbers(value: Any) -> list[float]:
    if not isinstance(value, list):
        raise ValueError(value)
    return [number(each) for each in value]


def only(value: Any) -> str:
    """A text, or a list of a single one."""
    if isinstance(value, list) and len(value) != 1:
        raise ValueError(value)
    return text(value[0] if isinstance(value, list) else value)


def one_of(table: Mapping[Any, str]) -> Convert:
    """A value of theirs that a table has -> ours."""

    def convert(value: Any) -> str:
        if isinstance(value, (list, dict)) or value not in table:
            raise ValueError(value)
        return table[value]

    return convert
