"""The names that clients choose from: the base, and adapters that come and go while it serves.

What goes in: a session, and runs or folders. What comes out: names with the adapter each stands for. What an adapter is
held to, its base and its template by fingerprint, is the session's business.
"""

from __future__ import annotations

from pathlib import Path

from luthier.errors import Problem, RunError
from luthier.session import Session, adapter_name


class Voices:
    """Attributes: names: what clients ask for -> adapter on the decoder, None for the decoder's own weights. `load` and
    `remove` are called on the thread that owns the model."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.names: dict[str, str | None] = {}
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

    def take_off(self, name: str) -> str:
        """Stop offering a name; its adapter, which is to be removed once nobody speaks with it any more.

        Raises:
            KeyError: there is no adapter of this name.
        """
        adapter = self.names[name]
        if adapter is None:
            raise KeyError(name)
        self.names = {each: other for each, other in self.names.items() if each != name}
        return adapter

    def remove(self, name: str) -> None:
        """Free what an adapter that was taken off holds."""
        self.session.unload(name)


def public(label: str) -> str:
    """A name for a base: of a folder only its own, not where it lies on this machine."""
    return Path(label).resolve().name if Path(label).is_dir() else label
