"""Text that notices when a template looks into it.

What goes in: stand-ins for words that are not known yet. What comes out: the text in which a template wrote them, and
whether it did anything with them but write them, join them to other text, trim them, or ask whether there are any.
Whatever is joined to traced text is traced too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any


class Traced(str):
    """Attributes:
    seen: names of the operations that looked into this text, or into any other of the same rendering.
    """

    seen: list[str]

    def __new__(cls, text: str, seen: list[str]) -> Traced:
        made = super().__new__(cls, text)
        made.seen = seen
        return made

    def __str__(self) -> str:
        return self

    def __bool__(self) -> bool:
        return str.__len__(self) > 0

    def __add__(self, other: str) -> Traced:
        return Traced(str.__add__(self, other), self.seen)

    def __radd__(self, other: str) -> Traced:
        return Traced(str.__add__(other, self), self.seen)

    def __iter__(self) -> Iterator[str]:
        """Asking whether it can be iterated is free; doing it is not."""

        def walk() -> Iterator[str]:
            self.seen.append("__iter__")
            yield from plain(self)

        return walk()

    def __eq__(self, other: object) -> bool:
        """Asking whether there is nothing is free."""
        if other != "":
            self.seen.append("__eq__")
        return str.__eq__(self, other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        self.seen.append("__hash__")
        return str.__hash__(self)


class StandIn(Traced):
    """The words of a message that are not known yet.

    Args:
        number: of the message; trim: what was done to them: strip, lstrip, rstrip, or nothing; empty: there are none.
    """

    number: int
    trim: str

    def __new__(cls, number: int, trim: str, empty: bool, seen: list[str]) -> StandIn:
        made = super().__new__(cls, "" if empty else f"{OPEN}{number}{AWKWARD}{trim}{CLOSE}", seen)
        assert isinstance(made, StandIn)
        made.number, made.trim = number, trim
        return made

    def _trimmed(self, how: str, chars: str | None) -> StandIn:
        if chars is not None or self.trim not in ("", how):
            self.seen.append(how)
        return StandIn(self.number, how, not self, self.seen)

    def strip(self, chars: str | None = None, /) -> StandIn:
        return self._trimmed("strip", chars)

    def lstrip(self, chars: str | None = None, /) -> StandIn:
        return self._trimmed("lstrip", chars)

    def rstrip(self, chars: str | None = None, /) -> StandIn:
        return self._trimmed("rstrip", chars)


OPEN, CLOSE = "\ue0f0", "\ue0f1"
"""Private-use characters around a stand-in's number."""
AWKWARD = "aZ <&\"'\\\n\t"
"""Between them: characters that every way of escaping or folding text changes, so that it shows."""
OWN = frozenset(
    ["__new__", "__init__", "__init_subclass__", "__subclasshook__", "__class__", "__doc__", "__dir__", "__sizeof__"]
) | frozenset(
    ["__getattribute__", "__setattr__", "__delattr__", "__reduce__", "__reduce_ex__", "__getstate__", "__repr__"]
)  # fmt: skip
"""What says nothing of the text; everything else that a string can do is noted, or has its own method above."""


def _noted(name: str) -> Callable[..., Any]:
    method = getattr(str, name)

    def noted(self: Traced, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(name)
        return method(plain(self), *args, **kwargs)

    return noted


for _name in set(dir(str)) - OWN - vars(Traced).keys():
    if callable(getattr(str, _name)):
        setattr(Traced, _name, _noted(_name))


def plain(text: str) -> str:
    """The same text, no longer traced."""
    return str.__str__(text)


def joined(parts: Iterable[str]) -> str:
    """`"".join`, which C does without asking: what is joined to traced text is traced."""
    listed = list(parts)
    seen = next((part.seen for part in listed if isinstance(part, Traced)), None)
    text = "".join(listed)
    return text if seen is None else Traced(text, seen)


def note(value: Any, operation: str) -> None:
    """Say that something which is done outside of Python's methods looks into the traced text in a value."""
    if isinstance(value, Traced):
        value.seen.append(operation)
    elif isinstance(value, Mapping):
        note([*value.keys(), *value.values()], operation)
    elif isinstance(value, (list, tuple)):
        for each in value:
            note(each, operation)
