"""The manifest: fingerprints of everything that went into a run.

What goes in: the model folder, facts about tokenizer and data that their own modules found, the user's plug-ins. What
comes out: `manifest.json`, from which anyone can tell whether two runs started from the same things. Paths stand as the
user gave them; environment variables never enter.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luthier.errors import Problem, RunError
from luthier.runs.files import fingerprint, fingerprints
from luthier.runs.recipe import Difference
from luthier.runs.store import RunFolder

PACKAGES = ("luthier", "torch", "transformers", "tokenizers", "safetensors", "numpy", "bitsandbytes")
"""Whose versions can change a result."""
GIT_SECONDS = 5.0
"""A slow disk must not hold up a run for a fact that is only nice to have."""


def file_fingerprint(path: Path) -> dict[str, Any]:
    """{sha256, bytes} of a file of any size, read in pieces.

    Raises:
        RunError: it cannot be read.
    """
    return fingerprint(path)


def weights_fingerprint(folder: Path) -> dict[str, Any]:
    """{config_sha256, files {name: {sha256, bytes}}, sha256} of a model folder; the last is one hash over all weights.

    Raises:
        RunError: a file cannot be read.
    """
    listed = {name: entry for name, entry in fingerprints(folder, "*.safetensors").items() if "/" not in name}
    config = folder / "config.json"
    return {
        "config_sha256": fingerprint(config)["sha256"] if config.is_file() else None,
        "files": listed,
        "sha256": _one_hash(listed) if listed else None,
    }


def parent_fingerprint(folder: Path) -> dict[str, Any]:
    """{files {name: {sha256, bytes}}, sha256} of an adapter's folder; the last is one hash over all of them.

    Raises:
        RunError: a file cannot be read.
    """
    listed = fingerprints(folder)
    return {"files": listed, "sha256": _one_hash(listed)}


def _one_hash(listed: Mapping[str, Mapping[str, Any]]) -> str:
    return hashlib.sha256("".join(f"{name} {entry['sha256']}\n" for name, entry in listed.items()).encode()).hexdigest()


def source_fingerprint(folder: Path) -> str:
    """One hash over all Python files below a folder, names included."""
    return _one_hash(fingerprints(folder, "*.py"))


@functools.cache
def versions() -> dict[str, str]:
    """Of Python, the platform, and each package in PACKAGES that is installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def code_revision() -> dict[str, Any]:
    """{source_sha256, commit, modified}: the package's own source, and its git commit where it runs from a checkout
    (None elsewhere, also when git is absent or refuses). Looked up once: what a process runs, it has imported."""
    package = Path(__file__).resolve().parents[1]
    top = _git(package.parent, "rev-parse", "--show-toplevel")
    # A virtual environment inside somebody's repository is not a checkout of Luthier.
    own = top is not None and Path(top).resolve() == package.parent
    status = _git(package.parent, "status", "--porcelain", "--", package.name) if own else None
    return {
        "source_sha256": source_fingerprint(package),
        "commit": _git(package.parent, "rev-parse", "HEAD") if own else None,
        "modified": bool(status) if status is not None else None,
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ("git", "-C", str(folder), *arguments), capture_output=True, timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()


@dataclass(frozen=True)
class DataFile:
    """A data file as it went in: `read` rows, of which `kept` trained or validated and the others were left out, by
    reason. origin: {source, subset, split, revision, commit} of rows from a hub; None for a file that was given."""

    path: str
    role: Literal["train", "validation"]
    sha256: str
    bytes: int
    read: int
    kept: int
    excluded: Mapping[str, int]
    origin: Mapping[str, Any] | None = None

    @property
    def commit(self) -> str | None:
        """Of the hub's data set."""
        return self.origin["commit"] if self.origin is not None else None


@dataclass(frozen=True)
class Manifest:
    """What went into a run.

    Attributes:
        run: its name.
        base: {path, revision, commit, init} as asked for and resolved, with `weights_fingerprint` of the folder.
        tokenizer: {fingerprint, template, template_sha256, stop_ids, stop_token...} as the renderer tells.
        data: every file, see DataFile.
        plugins: `module:function` -> {path, sha256} of the source file of each of the user's functions.
        seeds: {run: seed}.
        parent: {path, sha256, files} of the adapter it goes on from; None starts from the base.
        versions, code: see the functions of these names.
        teacher: {path, commit, sha256, config_sha256, adapter} of the model that is learnt from.
    """

    run: str
    base: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    data: tuple[DataFile, ...]
    plugins: Mapping[str, Mapping[str, Any]]
    seeds: Mapping[str, int]
    parent: Mapping[str, Any] | None
    versions: Mapping[str, str]
    code: Mapping[str, Any]
    teacher: Mapping[str, Any] | None = None

    @property
    def read(self) -> int:
        return sum(file.read for file in self.data)

    @property
    def kept(self) -> int:
        return sum(file.kept for file in self.data)

    @property
    def excluded(self) -> dict[str, int]:
        """Rows left out over all files, by reason."""
        reasons: dict[str, int] = {}
        for file in self.data:
            for reason, rows in file.excluded.items():
                reasons[reason] = reasons.get(reason, 0) + rows
        return reasons

    def to_json(self) -> dict[str, Any]:
        made = dataclasses.asdict(self)
        # As older versions wrote it, where there is nothing to tell.
        data = [{name: value for name, value in file.items() if name != "origin" or value} for file in made["data"]]
        whole = {name: value for name, value in made.items() if name != "teacher" or value}
        return {**whole, "data": data}

    def save(self, run: RunFolder) -> None:
        """Write it into the run folder, under that run's name; secrets in addresses are cut out."""
        run.write_json("manifest.json", {**self.to_json(), "run": run.name})


def build(
    run: str,
    *,
    base: Mapping[str, Any],
    model_folder: Path,
    tokenizer: Mapping[str, Any],
    data: Sequence[DataFile],
    plugins: Mapping[str, Path],
    seed: int,
    parent: tuple[str, Path] | None = None,
) -> Manifest:
    """Hash what has to be hashed and put the rest beside it.

    Args:
        base: {path, revision, commit, init} of the model as asked for and resolved.
        model_folder: where its files are.
        plugins: `module:function` -> its source file.
        parent: the adapter that training goes on from, as asked for, and its folder.

    Raises:
        RunError: a file cannot be read.
    """
    return Manifest(
        run=run,
        base={**base, **weights_fingerprint(model_folder)},
        tokenizer=dict(tokenizer),
        data=tuple(data),
        plugins={name: {"path": _near(path), **fingerprint(path)} for name, path in plugins.items()},
        seeds={"run": seed},
        parent={"path": parent[0], **parent_fingerprint(parent[1])} if parent is not None else None,
        versions=versions(),
        code=code_revision(),
    )


def load(run: RunFolder) -> Manifest:
    """The manifest of a run.

    Raises:
        RunError: missing or damaged.
    """
    fields = run.read_json("manifest.json")
    fields.pop("format")
    try:
        return Manifest(**{**fields, "data": tuple(DataFile(**file) for file in fields["data"])})
    except (TypeError, KeyError) as error:
        where = str(run.path / "manifest.json")
        raise RunError(Problem("runs.file_damaged", where=where, values={"reason": str(error)})) from error


def differences(old: Manifest, new: Manifest) -> list[Difference]:
    """What an unfinished run was given and what it would be given now, where that changes what is learnt: base
    weights, tokenizer and template, data, plug-ins, parent. Versions and code are not among them (`environment`)."""
    pairs: list[tuple[str, Any, Any]] = [
        ("base.config", old.base.get("config_sha256"), new.base.get("config_sha256")),
        ("base.weights", old.base.get("sha256"), new.base.get("sha256")),
        ("tokenizer", old.tokenizer.get("fingerprint"), new.tokenizer.get("fingerprint")),
        ("parent", (old.parent or {}).get("sha256"), (new.parent or {}).get("sha256")),
        *(
            (f"teacher.{part}", (old.teacher or {}).get(part), (new.teacher or {}).get(part))
            for part in ("sha256", "config_sha256", "adapter")
        ),
    ]
    before, after = ({(f.role, i): f for i, f in enumerate(m.data)} for m in (old, new))
    for key in [*before, *(key for key in after if key not in before)]:
        one, other = before.get(key), after.get(key)
        path = (one or other).path  # type: ignore[union-attr]
        pairs.append((f"data.{key[0]}: {path}", one and one.sha256, other and other.sha256))
        pairs.append((f"data.{key[0]}: {path} (rows kept)", one and one.kept, other and other.kept))
        if one and other and one.sha256 != other.sha256:  # another commit may well hold the same rows
            pairs.append((f"data.{key[0]}: {path} (commit)", one.commit, other.commit))
    for name in [*old.plugins, *(name for name in new.plugins if name not in old.plugins)]:
        one_hash, other_hash = (m.plugins.get(name, {}).get("sha256") for m in (old, new))
        pairs.append((f"plugin {name}", one_hash, other_hash))
    return [Difference(field, _brief(a), _brief(b)) for field, a, b in pairs if a != b]


def environment(old: Manifest, new: Manifest) -> list[Difference]:
    """Versions and source that differ: the same bits are then no longer promised, but the run may go on."""
    pairs = [(f"versions.{k}", old.versions.get(k), new.versions.get(k)) for k in {**old.versions, **new.versions}]
    pairs.append(("code", old.code.get("source_sha256"), new.code.get("source_sha256")))
    return [Difference(field, _brief(a), _brief(b)) for field, a, b in pairs if a != b]


def _near(path: Path) -> str:
    """A path as seen from the working directory where it lies below it: whose home it is in is nobody's business."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _brief(value: Any) -> Any:
    """A hash is told by its first 12 characters."""
    return value[:12] if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else value
