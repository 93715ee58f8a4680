"""Columns and roles under other names.

What goes in: a row as it stands in the file, and the source's `columns` and `roles`. What comes out: the row with the
names that the formats read; a column that is moved is gone from its old place. Nothing else is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.data import guesses
from luthier.data.examples import RowFault
from luthier.data.formats import FORMATS
from luthier.data.strict_json import shorten
from luthier.data.turns import ROLES, TURN_KEYS, structure_of
from luthier.errors import Problem
from luthier.text import say

OF_TURNS = TURN_KEYS | {"human", "assistant"}
TARGETS = OF_TURNS | frozenset(
    key for form in FORMATS.values() for keys in (*form.required, form.optional) for key in keys
)
"""Names that a column can be given: those of rows, and those of turns, which are then renamed in each turn."""
TOOLS = "tools"
"""A list of objects that are no turns: schemas keep their own names."""
_ABSENT = object()


@dataclass(frozen=True)
class Renaming:
    """Attributes:
    columns: name that a format reads -> column of the file, dotted where it lies within an object.
    roles: role name in the file -> role.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.columns or self.roles)

    @property
    def key(self) -> list[list[tuple[str, str]]]:
        """Equal for equal names only, as JSON can hold it."""
        return [sorted(self.columns.items()), sorted(self.roles.items())]

    def apply(self, row: Any) -> Any:
        """The row under the names that the formats read; a row that is no object but turns has turns renamed only."""
        if not self:
            return row
        of_row = {target: column for target, column in self.columns.items() if target not in OF_TURNS}
        of_turn = {target: column for target, column in self.columns.items() if target in OF_TURNS}
        if isinstance(row, dict):
            row = _moved(row, of_row)
            if of_turn or self.roles:
                row = {key: value if key == TOOLS else self._turns(value, of_turn) for key, value in row.items()}
        elif isinstance(row, list):
            row = self._turns(row, of_turn)
        return row

    def _turns(self, value: Any, of_turn: Mapping[str, str]) -> Any:
        """A turn, or a list of turns, that may be written as JSON text in a table; anything else as it is."""
        if isinstance(value, str) and value.startswith(("[{", '{"')):
            try:
                made = structure_of(value, "")
            except RowFault:
                return value
            changed = self._turns(made, of_turn)
            return value if changed == made else changed
        if isinstance(value, list):
            return [self._turns(each, of_turn) if isinstance(each, dict) else each for each in value]
        if not isinstance(value, dict):
            return value
        turn = _moved(value, of_turn)
        for key in ("role", "from"):
            name = turn.get(key)
            if isinstance(name, str) and name in self.roles:
                turn = {**turn, key: self.roles[name]}
        return turn

    @property
    def opened(self) -> frozenset[str]:
        """Columns of which a part is read: `answer` where `answer.text` is named."""
        return frozenset(column.partition(".")[0] for column in self.columns.values() if "." in column)

    def shadowed(self, row: Any) -> Iterator[str]:
        """Columns of the row whose name another column takes, so that they are not read."""
        if isinstance(row, dict):
            moved = set(self.columns.values())
            yield from (key for key in self.columns if row.get(key) is not None and key not in moved)

    def problems(self, rows: Sequence[Any], path: str) -> Iterator[Problem]:
        """What is wrong with the names, given the first rows of the file."""
        for target, column in self.columns.items():
            if target not in TARGETS:
                near = guesses.column(target, sorted(TARGETS))
                hint = say("data.hint_near", near=near) if near else ""
                yield Problem("data.column_target", path, "columns", target, {"hint": hint})
            elif target not in OF_TURNS and all(_at(row, column) is _ABSENT for row in rows):
                keys = list(dict.fromkeys(str(key) for row in rows if isinstance(row, dict) for key in row))
                near = guesses.column(column, keys) or guesses.column(target, keys)
                hint = say("data.hint_near", near=near) if near else ""
                present = shorten(", ".join(keys), 200) or "-"
                yield Problem(
                    "data.column_absent", path, f"columns.{target}", column, {"present": present, "hint": hint}
                )
        for name, role in self.roles.items():
            if role not in ROLES:
                near = guesses.role(role, ROLES)
                hint = say("data.hint_near", near=near) if near else ""
                yield Problem("data.role_target", path, f"roles.{name}", role, {"hint": hint})


def _at(row: Any, column: str) -> Any:
    """The value of a column: under that very name, or at that dotted path."""
    if not isinstance(row, dict):
        return _ABSENT
    if column in row:
        return row[column]
    for part in column.split("."):
        if not isinstance(row, dict) or part not in row:
            return _ABSENT
        row = row[part]
    return row


def _moved(row: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """The row with values under their new names; they are gone from the old ones, except out of objects."""
    found = {target: _at(row, column) for target, column in columns.items()}
    if not found:
        return row
    left = {key: value for key, value in row.items() if key not in columns.values()}
    return {**left, **{target: value for target, value in found.items() if value is not _ABSENT}}
