"""What the disk is asked for below the run folder: room, folders and trees forced to it, and JSON as model folders have
it.

What goes in: paths and plain values. What comes out: nothing; what the operating system refuses is an `OSError`, which
each caller tells in its own words.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Indented, in UTF-8, with a line break at the end."""
    path.write_bytes((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def free_bytes(where: Path) -> int:
    """Of the disk that a file or folder, which may not be there yet, will lie on."""
    return room(where)[0]


def room(where: Path) -> tuple[int, int]:
    """Bytes free, and in all, of that disk."""
    # `os.path.isdir` is False, not an error, for what may not be looked at.
    folder = next(parent for parent in (where, *where.absolute().parents) if os.path.isdir(parent))
    found = shutil.disk_usage(folder)
    return found.free, found.total


def fsync_file(path: Path) -> None:
    """Force a file's content to the disk."""
    _fsync(path)


def fsync_folder(folder: Path) -> None:
    """Force a folder's entries (a rename, a new file) to the disk."""
    try:
        _fsync(folder)
    except OSError as error:
        # Some network file systems know no fsync of folders; they order renames by themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def fsync_tree(folder: Path) -> None:
    """Force every file below a folder, and the folders, to the disk."""
    for path in folder.rglob("*"):
        if path.is_dir():
            fsync_folder(path)
        else:
            fsync_file(path)
    fsync_folder(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
