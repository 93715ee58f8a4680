"""The files that a source of the recipe stands for.

What goes in: a path, a folder, a pattern, or a data set of a hub. What comes out: its files in order, each to be read
on its own with the source's settings, and what there is to tell about those that are not read.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from luthier.config.schema import Source
from luthier.data import hub, opening, readers
from luthier.errors import DataError, Problem

DESCRIPTIONS = ("readme", "license", "licence", "dataset_info", "dataset_infos", "changelog", "datasheet")
"""Names, without their endings, of files that describe data sets and hold no rows."""
RUN = frozenset(["recipe.yaml", "events.jsonl"])
"""Files that every run folder holds."""
NAMES_SHOWN = 8
_PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class Found:
    """Attributes:
    notes: what should be known but stops nothing.
    problems: why there are no files.
    origin: where on a hub they come from; None for files that were given.
    """

    files: tuple[str, ...]
    notes: tuple[Problem, ...] = ()
    problems: tuple[Problem, ...] = ()
    origin: hub.Origin | None = None


def find(source: Source) -> Found:
    """The files of a source; a missing single file is found to be missing when it is read."""
    if hub.is_hub(source.path):
        try:
            made = hub.fetch(source.path, source.subset, source.split, source.revision)
        except DataError as error:
            return Found((), problems=error.problems)
        return Found(made.files, (made.note,), origin=made.origin)
    path = Path(source.path).expanduser()
    try:
        if path.is_dir():
            return _folder(path)
        if not path.exists() and _PATTERN & set(source.path):
            files = sorted(each for each in glob.glob(str(path), recursive=True) if not os.path.isdir(each))
            return Found(tuple(files)) if files else Found((), problems=(Problem("data.glob_empty", source.path),))
    except OSError as error:
        return Found((), problems=(opening.refused(path, error),))
    return Found((source.path,))


def _folder(folder: Path) -> Found:
    """Every data file below a folder, sorted by its path."""
    files: list[Path] = []
    others: list[Path] = []
    for path in sorted(_below(folder)):
        hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
        describes = path.name.partition(".")[0].lower() in DESCRIPTIONS or _is_state(path)
        wanted = path.is_file() and opening.ending(path) in readers.READERS and not hidden and not describes
        (files if wanted else others).append(path)
    names = ", ".join(str(each.relative_to(folder)) for each in others[:NAMES_SHOWN])
    names += ", …" if len(others) > NAMES_SHOWN else ""
    if not files:
        endings = ", ".join(readers.READERS)
        problem = Problem("data.folder_empty", str(folder), values={"names": names or "-", "endings": endings})
        return Found((), problems=(problem,))
    values = {"files": len(files), "skipped": len(others), "names": names or "-"}
    return Found(tuple(map(str, files)), (Problem("data.folder_read", str(folder), values=values),))


def _is_state(path: Path) -> bool:
    """Whether this is what the library `datasets` writes beside the Arrow files of a folder that it saves."""
    return path.name == "state.json" and (path.parent / "dataset_info.json").exists()


def _below(folder: Path) -> Iterator[Path]:
    """Files in a folder and its folders; links to folders are not followed. A run's folder is given itself and not
    gone into: what training wrote is no data to train on.

    Raises:
        OSError: one of the folders cannot be listed.
    """

    def give_up(error: OSError) -> None:
        raise error

    for parent, below, names in os.walk(folder, onerror=give_up):
        if RUN.issubset(names):
            below.clear()
            yield Path(parent)
            continue
        yield from (Path(parent) / name for name in names)
