"""The names that clients choose from: the base, adapters that come and go while it serves, and mixes of them.

What goes in: a session, and runs or folders. What comes out: names with the adapter each stands for. What an adapter is
held to, its base and its template by fingerprint, is the session's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from luthier.errors import Problem, RunError
from luthier.session import Session, adapter_name

MIXES = 32
"""That are kept, so that clients who try strengths out fill no memory; the one that was asked for longest ago goes."""


class Voices:
    """Attributes: names: what clients ask for -> adapter on the decoder, None for the decoder's own weights. Whatever
    changes them is called on the thread that owns the model."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.names: dict[str, str | None] = {}
        self._mixes: dict[str, frozenset[str]] = {}
        for label, adapter in session.voices.items():
            self.names[public(label) if adapter is None else label] = adapter

    def load(self, target: str, name: str | None = None) -> str:
        """Put a further adapter beside those that are there; the name that it answers to.

        Raises:
            ModelError, RunError: as `Session.load`.
        """
        name = name or adapter_name(target)
        if name in self.names:
            raise RunError(Problem("serve.name_taken", value=name))
        name = self.session.load(target, name)
        # A new table each time: another thread may be reading the one before.
        self.names = {**self.names, name: self.session.voices[name]}
        return name

    def mix(self, strengths: Mapping[str, float]) -> tuple[str, dict[str, frozenset[str]]]:
        """A voice that is the weighted sum of adapters.

        Returns:
            the name that it answers to, the same for the same strengths; mixes that were taken off for it, as
            `take_off` gives them.

        Raises:
            RunError: there is no such name, or it is no adapter.
        """
        for each in strengths:
            if each not in self.names:  # one that leaves is still there
                raise RunError(Problem("chat.no_voice", value=each, values={"there": ", ".join(self.names)}))
            if self.names[each] is None or each in self._mixes:
                raise RunError(Problem("chat.voice_no_adapter", value=each))
        name = self.session.mix(strengths)
        self._mixes.pop(name, None)
        self._mixes[name] = frozenset(strengths)
        self.names = {**self.names, name: self.session.voices[name]}
        return name, {old: self.take_off(old) for old in list(self._mixes)[:-MIXES]}

    def take_off(self, name: str) -> frozenset[str]:
        """Stop offering an adapter or a mix, and what is mixed from it. What `remove` frees is still spoken with for as
        long as answers are written.

        Returns:
            the adapters on the decoder that are to be let go.

        Raises:
            KeyError: there is neither of this name.
        """
        if self.names[name] is None and name not in self._mixes:
            raise KeyError(name)
        leaving = {name, *(mix for mix, parts in self._mixes.items() if name in parts)}
        adapters = frozenset(adapter for each in leaving if (adapter := self.names[each]) is not None)
        self.names = {each: adapter for each, adapter in self.names.items() if each not in leaving}
        self._mixes = {each: parts for each, parts in self._mixes.items() if each not in leaving}
        return adapters

    def remove(self, name: str) -> None:
        """Free what was taken off under a name."""
        self.session.unload(name)


def public(label: str) -> str:
    """A name for a base: of a folder only its own, not where it lies on this machine."""
    return Path(label).resolve().name if Path(label).is_dir() else label
