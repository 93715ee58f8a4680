"""Folders that appear complete or not at all: checkpoints, the best weights, results.

What goes in: a folder that something wrote files into. What comes out: the same folder under its final name, hashed and
forced to the disk; and for any such folder, what is wrong with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.disk import fsync_folder, fsync_tree
from luthier.errors import LuthierError, Problem, RunError
from luthier.runs import files
from luthier.runs.tables import size

HASHES = "hashes.json"
REPLACED = ".replaced"
"""Ends the hidden name under which the old folder waits while the new one takes its place."""


def begin(final: Path) -> Path:
    """An empty folder beside the final one, to write into; it counts for nothing until `commit`."""
    temp = files.temp_name(final)
    with files.user_errors(final):
        _remove(temp)
        temp.mkdir(parents=True)
    return temp


def commit(temp: Path, final: Path, hashed: bool) -> Path:
    """Force a folder to the disk and give it its final name; `hashed` leaves a list of its files' hashes in it.

    Raises:
        RunError: the disk is full or refuses; the unfinished folder is then removed and the old one untouched.
    """
    try:
        if hashed:
            listed = {"format": files.FORMAT, "files": files.fingerprints(temp, skip=(HASHES,))}
            (temp / HASHES).write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
        fsync_tree(temp)
        _swap_in(temp, final)
    except (OSError, RunError) as error:
        raise _abandon(temp, final, error, 0) from error
    return final


@contextlib.contextmanager
def replacing(final: Path, hashed: bool, expected_bytes: int = 0) -> Iterator[Path]:
    """`begin` and `commit` around a block that writes the files.

    Args:
        expected_bytes: how large the folder will become, where known; named when the disk is full.

    Raises:
        RunError: the disk is full or refuses, also where a library reports that in an exception of its own.
    """
    temp = begin(final)
    try:
        yield temp
    except Exception as error:
        raise _abandon(temp, final, error, expected_bytes) from error
    commit(temp, final, hashed)


@contextlib.contextmanager
def trying(final: Path) -> Iterator[Path]:
    """`replacing`, up to the moment the folder would get its name: it is then removed.

    Raises:
        RunError: the disk is full or refuses.
    """
    temp = begin(final)
    try:
        yield temp
        fsync_tree(temp)
    except Exception as error:
        raise _abandon(temp, final, error, 0) from error
    with files.user_errors(final):
        _remove(temp)


def _abandon(temp: Path, final: Path, error: Exception, expected_bytes: int) -> Exception:
    """Remove an unfinished folder; returns the error to raise. Free space is measured after the removal, so that it
    compares with what the next try needs."""
    needed = max(expected_bytes, folder_bytes(temp))
    _remove(temp)
    return error if isinstance(error, LuthierError) else files.trouble(error, final, needed) or error


def tidy(folder: Path) -> None:
    """Clear what a killed writer left half done in a folder. Only the lock's holder may."""
    with files.user_errors(folder):
        hidden = [path for path in folder.iterdir() if path.name.startswith(".")] if folder.is_dir() else []
        for path in hidden:
            if files.TEMP_MARK in path.name:
                _remove(path)
            elif path.name.endswith(REPLACED):
                _undo_or_drop(path)


def drop(folder: Path) -> None:
    """Delete a folder. Renamed first: a kill halfway leaves something to tidy up, not a torn folder."""
    temp = files.temp_name(folder)
    with files.user_errors(folder):
        os.rename(folder, temp)
        shutil.rmtree(temp)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def verify_folder(folder: Path) -> list[Problem]:
    """What is wrong with a folder against the hashes it was committed with; empty where nothing is."""
    try:
        listed: dict[str, dict[str, Any]] = files.read_json(folder / HASHES)["files"]
        expected = {name: (entry["sha256"], entry["bytes"]) for name, entry in listed.items()}
    except RunError as error:
        return list(error.problems)
    except (KeyError, TypeError, AttributeError):
        return [Problem("runs.file_damaged", where=str(folder / HASHES), values={"reason": "no list of files"})]
    return [
        problem
        for name, (digest, length) in expected.items()
        if (problem := _verify_file(folder / name, digest, length)) is not None
    ]


def _verify_file(path: Path, digest: str, length: int) -> Problem | None:
    if not path.is_file():
        return Problem("runs.file_missing", where=str(path))
    found = path.stat().st_size
    if found != length:
        return Problem("runs.file_torn", where=str(path), values={"expected": size(length), "found": size(found)})
    if files.fingerprint(path)["sha256"] != digest:
        return Problem("runs.file_altered", where=str(path))
    return None


def _swap_in(temp: Path, final: Path) -> None:
    """Give a finished folder its name. An older one of that name steps aside until then; should the process die in
    between, the next writer puts it back (`tidy`)."""
    aside = final.with_name(f".{final.name}{REPLACED}")
    if final.exists():
        _remove(aside)
        os.rename(final, aside)
    os.rename(temp, final)
    fsync_folder(final.parent)
    _remove(aside)


def _undo_or_drop(aside: Path) -> None:
    final = aside.with_name(aside.name[1:].removesuffix(REPLACED))
    if final.exists():
        _remove(aside)
    else:
        os.rename(aside, final)


def set_aside(folder: Path) -> None:
    """Move a damaged folder out of the way under the name `damaged-<name>`."""
    target, number = folder.with_name(f"damaged-{folder.name}"), 2
    while target.exists():
        target, number = folder.with_name(f"damaged-{folder.name}-{number}"), number + 1
    with files.user_errors(folder):
        os.rename(folder, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
