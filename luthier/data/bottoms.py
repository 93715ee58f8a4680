"""What the frozen bottom of a model makes of token sequences, on disk.

What goes in: a folder named by all that the values depend on, and per sequence its token ids and a row of bytes for
each token. What comes out: the same rows, mapped from the disk, for every later epoch and run. A sequence is found by
the hash of its ids. Rows lie in files that one process each wrote and published whole, by renaming: a kill leaves
nothing torn, and several runs may share a folder. What is torn, flipped or taken away is not there, no more: it is
computed again. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.disk import fsync_file, fsync_folder, write_json

FORMAT = 1
"""Version of the layout, part of the folder's name."""
META, SUFFIX, WRITING = "meta.json", ".rows", ".writing-"
FILE_BYTES = 1 << 24
"""Rows that wait in memory before they make a file: a kill loses no more than that, and 50 GB are 3,000 files. Chosen,
not tuned."""
KEY_BYTES = 16
INDEX = np.dtype([("key", f"|V{KEY_BYTES}"), ("offset", "<i8"), ("tokens", "<i8"), ("checksum", "<u4")])
"""An entry per sequence, behind the rows; behind them the end."""
END = np.dtype([("entries", "<i8"), ("checksum", "<u4"), ("magic", "|V8")])
MAGIC = b"LUTHIERB"
LEFT_BEHIND_S = 3600.0
"""A file that was begun an hour ago is of a process that was killed: writing one takes a second."""

Rows = NDArray[np.uint8]


class Place(NamedTuple):
    """Where the rows of a sequence lie."""

    path: Path
    offset: int
    tokens: int
    checksum: int


class Bottoms:
    """Rows of bytes by token sequence.

    Args:
        folder: one for everything that the values depend on besides the sequence; it need not be there yet.
        token_bytes: of a row.
        room_bytes: the most that this process may add.
        about: what `luthier cache list` says of it: model, layers.
    """

    def __init__(self, folder: Path, token_bytes: int, room_bytes: int, about: Mapping[str, Any]) -> None:
        self._folder, self._token_bytes, self._about = folder, token_bytes, dict(about)
        self._room_bytes = room_bytes
        self._places: dict[bytes, list[Place]] = {}
        self._waiting: dict[bytes, Rows] = {}
        self._waiting_bytes = 0
        self._known: set[str] = set()
        self._looked = 0
        _sweep(folder)
        if (folder / META).is_file():
            os.utime(folder / META)

    def get(self, ids: NDArray[Any], count: int | None = None) -> Rows | None:
        """[T, token_bytes], not to be written to; None where they are not there.

        Args:
            count: of rows, where `ids` say more than which token each of them is of.
        """
        key, count = _key(ids), len(ids) if count is None else count
        if key in self._waiting:
            return self._waiting[key]
        if not self._places.get(key):
            self._look()
        places = self._places.get(key, [])
        while places:
            rows = self._read(places[-1])
            if rows is not None and len(rows) == count:
                return rows
            places.pop()  # another process may have made it again
        return None

    def put(self, ids: NDArray[Any], rows: Rows, count: int | None = None) -> None:
        """Keep rows, as far as there is room."""
        assert rows.shape == (len(ids) if count is None else count, self._token_bytes), "a row per token"
        key = _key(ids)
        need_bytes = rows.nbytes + INDEX.itemsize
        if key in self._waiting or need_bytes > self._room_bytes:
            return
        self._waiting[key] = np.ascontiguousarray(rows)
        self._room_bytes -= need_bytes
        self._waiting_bytes += rows.nbytes
        if self._waiting_bytes >= FILE_BYTES:
            self.close()

    def close(self) -> None:
        """Publish what waits. A disk that takes no more is no harm: values are computed instead."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        if not waiting:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not (self._folder / META).is_file():
                self._describe()
            path = _publish(self._folder, waiting)
        except OSError:
            self._room_bytes = 0
            return
        self._learn(path)

    def _describe(self) -> None:
        temp = self._folder / f"{WRITING}{uuid.uuid4().hex}"
        write_json(temp, {"format": FORMAT, "token_bytes": self._token_bytes, **self._about})
        temp.replace(self._folder / META)

    def _look(self) -> None:
        """Learn of files that other processes have published since."""
        try:
            changed = self._folder.stat().st_mtime_ns
        except OSError:
            return
        if changed == self._looked:
            return
        self._looked = changed
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            if path.name not in self._known:
                self._learn(path)

    def _learn(self, path: Path) -> None:
        self._known.add(path.name)
        for entry in index(path):
            offset, tokens = int(entry["offset"]), int(entry["tokens"])
            place = Place(path, offset, tokens, int(entry["checksum"]))
            self._places.setdefault(entry["key"].tobytes(), []).append(place)

    def _read(self, place: Place) -> Rows | None:
        """Rows as they were written; None where they were taken away, cut off, or changed."""
        try:
            rows = np.memmap(place.path, np.uint8, "r", place.offset, (place.tokens, self._token_bytes))
        except (OSError, ValueError):
            return None
        return rows if zlib.crc32(rows.data) == place.checksum else None


def index(path: Path) -> NDArray[Any]:
    """The entries of a file; none where it is torn or gone."""
    nothing = np.zeros(0, dtype=INDEX)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            file.seek(max(size - END.itemsize, 0))
            found = np.frombuffer(file.read(), dtype=END)
            if len(found) != 1 or found["magic"][0].tobytes() != MAGIC:
                return nothing
            length = int(found["entries"][0]) * INDEX.itemsize
            file.seek(size - END.itemsize - length)
            written = file.read(length)
    except (OSError, ValueError):
        return nothing
    if len(written) != length or zlib.crc32(written) != int(found["checksum"][0]):
        return nothing
    return np.frombuffer(written, dtype=INDEX)


def contents(folder: Path) -> tuple[dict[str, Any], int, int]:
    """What a folder says of itself, and the sequences and tokens that it holds.

    Raises:
        OSError, ValueError: it is none, or of another version.
    """
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ValueError("another version")
    entries = [index(path) for path in folder.glob(f"*{SUFFIX}")]
    return meta, sum(map(len, entries)), sum(int(each["tokens"].sum()) for each in entries)


def folder_of(cache_dir: Path, facts: Mapping[str, Any]) -> Path:
    """Where the values that depend on `facts`, plain values, lie."""
    named = json.dumps({"format": FORMAT, **facts}, sort_keys=True)
    return cache_dir / "bottoms" / hashlib.sha256(named.encode()).hexdigest()


def _key(ids: NDArray[Any]) -> bytes:
    """Two sequences agree by chance once in 2^128."""
    return hashlib.blake2b(ids.astype("<i4").tobytes(), digest_size=KEY_BYTES).digest()


def _publish(folder: Path, waiting: Mapping[bytes, Rows]) -> Path:
    """A file of rows, there whole or not at all.

    Raises:
        OSError: the disk refuses it.
    """
    name = uuid.uuid4().hex
    temp, path = folder / f"{WRITING}{name}", folder / f"{name}{SUFFIX}"
    entries = np.fromiter(_entries(waiting), dtype=INDEX, count=len(waiting))
    end = np.array([(len(entries), zlib.crc32(entries.tobytes()), MAGIC)], dtype=END)
    try:
        with open(temp, "wb") as file:
            for part in (*waiting.values(), entries, end):
                file.write(part.tobytes())
        fsync_file(temp)
        temp.rename(path)
    finally:
        temp.unlink(missing_ok=True)
    fsync_folder(folder)
    return path


def _entries(waiting: Mapping[bytes, Rows]) -> Iterator[tuple[bytes, int, int, int]]:
    offset = 0
    for key, rows in waiting.items():
        yield key, offset, len(rows), zlib.crc32(rows.data)
        offset += rows.nbytes


def _sweep(folder: Path) -> None:
    """Take away what killed processes left half written."""
    for path in folder.glob(f"{WRITING}*"):
        try:
            if time.time() - path.stat().st_mtime > LEFT_BEHIND_S:
                path.unlink()
        except OSError:  # it has just been finished, or the folder is not ours
            continue
