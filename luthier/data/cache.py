"""The cache, of token stores and of what frozen layers make of them: what is in it, and keeping it within bounds.

What goes in: the cache folder. What comes out: the stores there, with what they hold and when they were last used;
fewer of them after `clear` or `trim`. Taking a store away harms no run that reads it: what is mapped stays readable
until it is let go, and any store is built again from its data.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from luthier.data import bottoms
from luthier.data.store import META, read_meta
from luthier.data.tokens import BUILDING
from luthier.errors import DataError, Problem
from luthier.text import say

YOUNG_S = 3600.0
"""A store used within the last hour is not trimmed: the run that asked for it may be about to open it again."""


@dataclass(frozen=True)
class Entry:
    """A store, or (`whole` False) the beginning of one.

    Attributes:
        path: its folder; data: the file that it was made from, as it was named then; or the model.
        sequences, tokens: what it holds; bytes: on the disk; used_s: when it was last asked for, seconds since 1970.
        layers: how many frozen layers the sequences went through; 0: a token store.
    """

    path: Path
    whole: bool
    data: str
    sequences: int
    tokens: int
    bytes: int
    used_s: float
    layers: int = 0

    @property
    def key(self) -> str:
        return self.path.name.removeprefix(BUILDING)[:12]


def entries(cache_dir: Path) -> list[Entry]:
    """Every store below the cache folder, the latest used first."""
    found: list[Entry] = []
    for name, read in (("tokens", _entry), ("bottoms", _bottom)):
        folder = cache_dir / name
        for path in folder.iterdir() if folder.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):  # another process has renamed it, or taken it away
                if path.is_dir():
                    found.append(read(path))
    return sorted(found, key=lambda entry: -entry.used_s)


def _entry(path: Path) -> Entry:
    sizes = {file.name: file.stat().st_size for file in path.iterdir() if file.is_file()}
    total = sum(sizes.values())
    if path.name.startswith(BUILDING):
        return Entry(path, False, "", 0, 0, total, path.stat().st_mtime)
    try:
        meta = read_meta(path)
        ends = meta["files"]["ends.bin"][0] // 8
        tokens = meta["files"]["ids.bin"][0] // 4
        return Entry(path, True, meta["account"]["path"], ends, tokens, total, (path / META).stat().st_mtime)
    except (OSError, ValueError, KeyError, TypeError):
        return Entry(path, False, "", 0, 0, total, path.stat().st_mtime)


def _bottom(path: Path) -> Entry:
    total = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    try:
        about, sequences, tokens = bottoms.contents(path)
        used_s = (path / bottoms.META).stat().st_mtime
        return Entry(path, True, about["model"], sequences, tokens, total, used_s, int(about["layers"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Entry(path, False, "", 0, 0, total, path.stat().st_mtime)


def clear(cache_dir: Path, keys: Sequence[str] = ()) -> list[Entry]:
    """Take stores away: those whose key begins with one of `keys`, or all of them. One that is being built stays.

    Raises:
        DataError: a key that no store has.
    """
    every = entries(cache_dir)
    unknown = [key for key in keys if not any(entry.key.startswith(key[:12]) for entry in every)]
    if unknown:
        values = {"keys": ", ".join(entry.key for entry in every) or "-"}
        raise DataError([Problem("tokens.no_such_store", str(cache_dir), value=key, values=values) for key in unknown])
    chosen = [entry for entry in every if not keys or any(entry.key.startswith(key[:12]) for key in keys)]
    return [entry for entry in chosen if _take_away(entry)]


def trim(cache_dir: Path, limit_bytes: int) -> list[Entry]:
    """Take the stores away that were not used for longest, until the rest keeps to the bound."""
    every = entries(cache_dir)
    total = sum(entry.bytes for entry in every)
    gone = []
    for entry in reversed(every):
        if total <= limit_bytes:
            break
        if time.time() - entry.used_s > YOUNG_S and _take_away(entry):
            total -= entry.bytes
            gone.append(entry)
    return gone


def room(cache_dir: Path, limit_bytes: int, folder: Path, need_bytes: int) -> int:
    """Make room for an entry of so many bytes, of which some may be there; the bytes that may still come."""
    there = sum(entry.bytes for entry in entries(cache_dir) if entry.path == folder)
    trim(cache_dir, limit_bytes - max(need_bytes - there, 0))
    return max(limit_bytes - sum(entry.bytes for entry in entries(cache_dir)), 0)


def lines(found: list[Entry]) -> list[str]:
    """A line per store for people, and what they come to."""
    shown = []
    for entry in found:
        values = {"key": entry.key, "size": entry.bytes / 1e6, "days": (time.time() - entry.used_s) / 86400}
        values |= {"sequences": entry.sequences, "tokens": entry.tokens, "data": entry.data, "layers": entry.layers}
        kind = (
            "tokens.cache_begun" if not entry.whole else "tokens.cache_bottom" if entry.layers else "tokens.cache_store"
        )
        shown.append(say(kind, **values))
    total = sum(entry.bytes for entry in found) / 1e6
    return [*shown, say("tokens.cache_total", stores=len(found), size=total)]


def _take_away(entry: Entry) -> bool:
    """Whether it is gone; one that a process is building stays."""
    if entry.whole or not entry.path.name.startswith(BUILDING):
        shutil.rmtree(entry.path, ignore_errors=True)
        return not entry.path.exists()
    lock = entry.path.with_name(f"{entry.path.name}.lock")
    with open(lock, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        shutil.rmtree(entry.path, ignore_errors=True)
        lock.unlink(missing_ok=True)
    return not entry.path.exists()
