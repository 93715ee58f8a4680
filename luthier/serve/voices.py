"""The names that clients choose from: the base, and adapters that come and go while it serves.

What goes in: runs and folders. What comes out: names with the adapter each stands for. An adapter of another base, or
trained with another template, is refused by fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.config.schema import ModelSection
from luthier.data.templates import Renderer
from luthier.errors import ModelError, Problem, RunError
from luthier.models import adapters
from luthier.runs import manifest
from luthier.runs.store import RunFolder
from luthier.session import Session, find_base, open_session, output_folder, run_base, run_path


class Voices:
    """Attributes: names: what clients ask for -> adapter on the decoder, None for the base."""

    def __init__(self, session: Session, base_folder: Path) -> None:
        self.session = session
        self._base_folder = base_folder
        self._base: Mapping[str, Any] | None = None
        self.names: dict[str, str | None] = {}
        self._made = 0
        if session.adapter is None:
            self.names[_public(session.label)] = None
        else:
            self.names[_public(session.base_label)] = None
            self.names[session.label] = session.adapter

    @classmethod
    def open(cls, target: str, **how: Any) -> Voices:
        """The first target: a run or a model."""
        session = open_session(target, **how)
        path = run_path(target)
        if path is None:
            return cls(session, find_base(ModelSection(path=target)).folder)
        run = RunFolder.open(path)
        with run.at_home():
            whole = (run.path / "model").is_dir()
            return cls(session, run.path / "model" if whole else run_base(run).folder)

    def load(self, target: str, name: str | None = None) -> str:
        """Put a further adapter on the decoder; the name that it answers to. On the thread that owns the model.

        Raises:
            ModelError, RunError: it is none, of another base, trained with another template, or the name is taken.
        """
        path = run_path(target)
        name = name or (Path(target).resolve().name if path is None else path.resolve().name)
        if name in self.names:
            raise RunError(Problem("serve.name_taken", value=name))
        folder = Path(target)
        if path is not None:
            run = RunFolder.open(path)
            folder = output_folder(run)
            if folder.name == "model":
                raise RunError(Problem("serve.whole_weights", where=str(path)))
            self._same_base(manifest.load(run).base, str(path))
        if path is not None or (folder / "tokenizer.json").is_file():
            ours, theirs = self.session.renderer.describe(), Renderer.load(folder).describe()
            parts = ("template_sha256", "stop_ids", "system", "fingerprint")
            changed = [part for part in parts if ours[part] != theirs[part]]
            if changed:
                values = {"part": changed[0], "ours": ours[changed[0]], "theirs": theirs[changed[0]]}
                raise ModelError(Problem("serve.other_template", where=target, values=values))
        self._made += 1
        adapter = f"served {self._made}"
        try:
            adapters.load_adapter(self.session.decoder, self.session.decoder.arch, folder, adapter)
        except BaseException:
            self.remove(adapter)
            raise
        self.names[name] = adapter
        return name

    def take_off(self, name: str) -> str:
        """Stop offering a name; the adapter that is to be removed when nobody speaks with it any more.

        Raises:
            KeyError: there is no adapter of this name.
        """
        adapter = self.names[name]
        if adapter is None:
            raise KeyError(name)
        del self.names[name]
        return adapter

    def remove(self, adapter: str) -> None:
        """Free what an adapter holds. On the thread that owns the model."""
        decoder = self.session.decoder
        for unit in decoder.units.values():
            _drop(unit.deltas, adapter)
        for weighted in decoder.weighted.values():
            _drop(weighted.copies, adapter)
            _drop(weighted.rows, adapter)

    def _same_base(self, theirs: Mapping[str, Any], where: str) -> None:
        if self._base is None:
            self._base = manifest.weights_fingerprint(self._base_folder)
        for part in ("sha256", "config_sha256"):
            if theirs.get(part) != self._base[part]:
                raise ModelError(Problem("serve.other_base", where=where, value=str(theirs.get("path"))))


def _drop(named: Any, adapter: str) -> None:
    if adapter in named:
        del named[adapter]


def _public(label: str) -> str:
    """A name for a base: of a folder only its own, not where it lies on this machine."""
    return Path(label).resolve().name if Path(label).is_dir() else label
