"""The lock of a run folder: one writer.

What goes in: the path of a lock file. What comes out: an open descriptor that holds it for as long as the process
lives, or a `RunError` that names the holder.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from luthier.config.load import environment
from luthier.errors import Problem, RunError
from luthier.machine import boot
from luthier.runs import files

LOCK_PATIENCE_S = 0.5
"""A reader that looks whether a run is going holds the lock for microseconds; a writer waits that out."""


def take(path: Path, name: str) -> int:
    """Hold the lock file exclusively and write who does.

    The lock belongs to the open file: it goes when the process ends, however it ends. It is not inherited by programs
    that the process starts; a forked child that outlives it keeps the run locked.
    """
    with files.user_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise RunError(Problem("runs.locked", where=str(path.parent), values=holder(path, name))) from error
            time.sleep(0.01)
    with files.user_errors(path):
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_self()).encode(), 0)
        except OSError:
            os.close(descriptor)
            raise
    return descriptor


def _self() -> dict[str, Any]:
    detached = environment().detached
    return {"pid": os.getpid(), "host": socket.gethostname(), "boot": boot(), "home": os.getcwd(), "detached": detached}


def holder(path: Path, name: str) -> dict[str, Any]:
    """Who holds the lock, as the holder wrote it; it may be just about to."""
    known = last(path)
    return {"pid": known.get("pid", "?"), "host": known.get("host", "?"), "name": name}


def last(path: Path) -> dict[str, Any]:
    """{pid, host, boot: which start of the machine, home: working folder, detached: whether the queue started it} of
    the process that holds the lock or held it last; empty where nobody did."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def held(path: Path) -> bool:
    """Whether a process, this one included, holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, PermissionError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
