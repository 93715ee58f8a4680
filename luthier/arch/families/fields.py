"""Typed reading of a checkpoint's `config.json`.

What goes in: the parsed file and its path. What comes out: numbers and flags of the right type, and one `ModelError`
that names every field that is missing, of the wrong type, out of range or asks for something Luthier does not do.
Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from luthier.errors import ModelError, Problem

Number = TypeVar("Number", int, float)
MAX_VALUE_CHARS = 60
"""How much of an offending value is shown; enough to recognise it."""
MOST = 2**31
"""No number of a model comes near it; what is beyond would only fill the memory."""


def shown(value: Any) -> str:
    """A value as an error message shows it."""
    text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 3] + "..."


class Fields:
    """Reads fields and collects what is wrong with them.

    A read never raises: it notes the problem and returns a stand-in of the right type, so that one report holds them
    all; `finish` raises. Nested objects (`rope_scaling`) are read by another `Fields` that shares the list of problems.
    """

    def __init__(
        self, config: Mapping[str, Any], where: str, prefix: str = "", problems: list[Problem] | None = None
    ) -> None:
        self.config = config
        self.where = where
        self.prefix = prefix
        self.problems: list[Problem] = [] if problems is None else problems

    def nested(self, name: str, config: Mapping[str, Any]) -> Fields:
        """The same reader for an object inside the file."""
        return Fields(config, self.where, f"{self.prefix}{name}.", self.problems)

    def refuse(self, message: str, name: str, **values: Any) -> None:
        """Note a problem with a field."""
        value = shown(self.config[name]) if name in self.config else ""
        self.problems.append(Problem(message, self.where, self.prefix + name, value, values))

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.config.get(name) is not None

    def integer(self, name: str, default: int | None = None, least: int = 1, most: int = MOST) -> int:
        """A whole number from `least` to `most`; null counts as absent; without a default the field is required."""
        value = self.config.get(name)
        if value is None:
            return self._absent(name, default, stand_in=least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.refuse("models.config_integer", name, least=least)
            return least
        if value > most:
            self.refuse("models.config_most", name, most=most)
            return least
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above zero; null counts as absent; without a default the field is required."""
        value = self.config.get(name)
        if value is None:
            return self._absent(name, default, stand_in=1.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
            self.refuse("models.config_number", name)
            return 1.0
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.config.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse("models.config_flag", name)
            return default
        return value

    def finish(self) -> None:
        """Raise what was found.

        Raises:
            ModelError: at least one field cannot be used.
        """
        if self.problems:
            raise ModelError(self.problems)

    def _absent(self, name: str, default: Number | None, stand_in: Number) -> Number:
        if default is not None:
            return default
        self.refuse("models.config_missing_field", name)
        return stand_in
