"""The folder that somebody works in from afar: what is in it, what is put into it, what is taken out of it.

What goes in: folders, names and bytes as strangers may send them. What comes out: entries to choose from; files under
safe names, whole or not at all, that never take the place of others; folders as ZIP, made while they are sent.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import re
import secrets
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from luthier.data.opening import ending
from luthier.data.readers import READERS
from luthier.disk import free_bytes
from luthier.errors import Problem, RunError
from luthier.runs import lock
from luthier.runs.files import NO_ROOM
from luthier.runs.tables import size

MOST_ENTRIES = 5_000
NAME_BYTES = 200
"""File systems allow 255; a number and an ending may be added."""
UNFINISHED = ".unfinished-"
"""What the names of files that are still coming begin with."""
FORBIDDEN = re.compile(r'[<>:"|?*]')
"""In names on Windows, where the folder may be opened too; so are these stems, whatever ending follows."""
RESERVED = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?:\.|$)")
UNSEEN = frozenset({"Cc", "Cs", "Cn", "Co", "Zl", "Zp"})
"""Categories of characters that no name needs; so are those that turn the direction of what follows."""
TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
PIECE_BYTES = 2**20


# --------------------------------------------------------------------------------------------------- what is in it


@dataclass(frozen=True)
class Entry:
    """path: from the home folder, as a recipe says it; data: whether it is a file that rows can be read from."""

    name: str
    path: str
    folder: bool
    bytes: int
    modified_s: float
    data: bool


def entries(folder: Path, home: Path) -> tuple[list[Entry], bool]:
    """What a folder holds, folders first, and whether that is all. Hidden are dot-files, what is neither a file nor a
    folder, links that lead out of `home`, and names that are no text.

    Raises:
        OSError: it cannot be listed.
    """
    found: list[Entry] = []
    with os.scandir(folder) as there:
        for each in itertools.islice(there, MOST_ENTRIES + 1):
            entry = _entry(each, home)
            if entry is not None:
                found.append(entry)
    found.sort(key=lambda each: (not each.folder, each.name.casefold(), each.name))
    return found[:MOST_ENTRIES], len(found) <= MOST_ENTRIES


def _entry(each: os.DirEntry[str], home: Path) -> Entry | None:
    if each.name.startswith(".") or not _is_text(each.name):
        return None
    path = Path(each.path)
    try:
        if each.is_symlink() and not path.resolve().is_relative_to(home):
            return None
        is_folder, known = each.is_dir(), each.stat()
    except (OSError, RuntimeError):  # a link to nothing, or in a circle
        return None
    if not is_folder and not each.is_file():
        return None
    bytes_ = 0 if is_folder else known.st_size
    data = not is_folder and ending(path) in READERS
    return Entry(each.name, path.relative_to(home).as_posix(), is_folder, bytes_, known.st_mtime, data)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


# --------------------------------------------------------------------------------------------------- what is put in


def safe_name(given: str) -> str:
    """The nearest name that is one everywhere: letters of any script and spaces are kept; folders before it, what hides
    it, and what Windows refuses are not."""
    name = unicodedata.normalize("NFC", re.split(r"[/\\]", given)[-1])
    name = "".join(each for each in name if unicodedata.category(each) not in UNSEEN and each not in TURNING)
    name = FORBIDDEN.sub("_", name).strip().lstrip(".").rstrip(". ").strip()
    if RESERVED.match(name):
        name = f"_{name}"
    stem, dot, suffix = name.rpartition(".")
    if not stem:
        stem, dot, suffix = name, "", ""
    while len(f"{stem}{dot}{suffix}".encode()) > NAME_BYTES:
        stem, suffix = (stem[:-1], suffix) if len(stem) > 1 else (stem, suffix[:-1])
    return f"{stem}{dot}{suffix}" or "file"


def numbered(name: str) -> Iterator[str]:
    """`rows.jsonl.gz`, `rows-2.jsonl.gz`, and so on."""
    stem, dot, endings = name.partition(".")
    yield name
    yield from (f"{stem}-{number}{dot}{endings}" for number in itertools.count(2))


class Incoming:
    """A file while it comes. Nobody sees it before it is whole; left before `keep`, it leaves nothing.

    Args:
        folder: made where it is missing.
        most_bytes: how large it may become; announced_bytes: how large its sender says that it is, 0 for nothing.
    """

    def __init__(self, folder: Path, name: str, most_bytes: int, announced_bytes: int = 0) -> None:
        self._folder, self._name, self._most = folder, safe_name(name), most_bytes
        self._announced, self.bytes = announced_bytes, 0

    def __enter__(self) -> Self:
        """Raises:
        RunError: it is too large, there is no room, or the folder refuses.
        """
        self._judge(self._announced)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._announced > free_bytes(self._folder):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._path = self._folder / f"{UNFINISHED}{secrets.token_hex(8)}"
            self._file = open(self._path, "xb")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise self._refused(error) from error
        return self

    def write(self, data: bytes) -> None:
        """Raises:
        RunError: it becomes too large, or there is no room.
        """
        self._judge(self.bytes + len(data))
        try:
            self._file.write(data)
        except OSError as error:
            raise self._refused(error) from error
        self.bytes += len(data)

    def keep(self) -> Path:
        """Give it its name, or the first numbered one that is free.

        Raises:
            RunError: there is no room for its last bytes.
        """
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._placed()
        except OSError as error:
            raise self._refused(error) from error

    def _placed(self) -> Path:
        for name in numbered(self._name):
            path = self._folder / name
            try:  # whoever makes the name has it; two senders of one name cannot both
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                continue
            try:
                os.replace(self._path, path)
            except OSError:
                path.unlink(missing_ok=True)
                raise
            return path
        raise AssertionError("there is always a number more")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # what is buffered may find no room, and is given up anyway
            self._file.close()
        self._path.unlink(missing_ok=True)

    def _judge(self, num_bytes: int) -> None:
        if num_bytes > self._most:
            raise RunError(Problem("web.upload_too_large", value=self._name, values={"most": size(self._most)}))

    def _refused(self, error: OSError) -> RunError:
        values = {"free": size(free_bytes(self._folder)), "reason": error.strerror or str(error)}
        id = "web.upload_no_room" if error.errno in NO_ROOM else "web.upload_refused"
        return RunError(Problem(id, str(self._folder), value=self._name, values=values))


def tidy(folder: Path) -> None:
    """Take away what servers that were killed left unfinished."""
    for path in folder.glob(f"{UNFINISHED}*"):
        if not lock.held(path):
            path.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------- what is taken out


class _Outlet:
    """What a ZIP is written to: kept until it is taken away. It can tell no place, so that sizes come after each file,
    and a file that grows meanwhile breaks nothing."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def zipped(folder: Path, allowed: Callable[[Path], bool]) -> Iterator[bytes]:
    """A folder as ZIP, a piece at a time. Files are stored as they are: weights do not get smaller.

    Args:
        allowed: judges where links really lead; what it refuses is left out.
    """
    outlet = _Outlet()
    with zipfile.ZipFile(outlet, "w", zipfile.ZIP_STORED) as made:  # type: ignore[call-overload]
        for path in _files(folder, allowed):
            name = f"{folder.name}/{path.relative_to(folder)}"
            with contextlib.suppress(FileNotFoundError):  # a run that goes on takes old checkpoints away
                info = zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
                with open(path, "rb") as source, made.open(info, "w", force_zip64=True) as target:
                    while piece := source.read(PIECE_BYTES):
                        target.write(piece)
                        yield outlet.take()
    yield outlet.take()


def _files(folder: Path, allowed: Callable[[Path], bool]) -> Iterator[Path]:
    for parent, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent) / name
            if not name.startswith(".") and _is_text(name) and path.is_file() and allowed(path):
                yield path
