"""Files that survive a crash: atomic writes, hashes, and errors a person can act on.

What goes in: a path and text or JSON values. What comes out: a file that holds either its old or its new content,
whatever moment the machine stops at, or a `RunError` that says what the disk refused. Secrets are cut out of all text
on its way to the disk.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.disk import free_bytes, fsync_folder
from luthier.errors import Problem, RunError
from luthier.runs.tables import size

FORMAT = 1
"""Version of every JSON file in a run folder."""
TEMP_MARK = ".tmp-"
"""A name that starts with a dot and holds this mark is unfinished work of the process whose number follows."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NOT_A_FOLDER = frozenset({errno.ENOTDIR, errno.EEXIST})
NO_ROOM_TEXT = re.compile(r"No space left on device|os error (28|122|27)\b")
"""How libraries written in Rust spell the three errors above (safetensors raises its own exception type)."""
SECRETS = (
    # Each pattern is wide enough for the tokens that exist and narrow enough to miss names, hashes and paths.
    (re.compile(r"\bhf_[A-Za-z0-9]{30,}"), "hf_***"),
    (re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"), "gh_***"),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"), "sk-***"),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), "AKIA***"),
    (re.compile(r"(?i)\bbearer\s+[A-Za-z0-9._~+/=-]{8,}"), "Bearer ***"),
    (re.compile(r"://[^/\s:@\"']+:[^/\s@\"']+@"), "://***@"),
    (re.compile(r"(?i)([?&](?:\w*token|api_?key|key|signature|x-amz-\w+)=)[^&\s\"']+"), r"\1***"),
)


def redact(text: str) -> str:
    """The text without access tokens, keys and passwords in addresses."""
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    return text


# ---------------------------------------------------------------------------------------------------- errors


def trouble(error: BaseException, where: Path, needed_bytes: int = 0) -> RunError | None:
    """The `RunError` for what the operating system refused; None where the error is of another kind.

    Args:
        where: the file or folder being written.
        needed_bytes: how much was to be written, where known.
    """
    number = error.errno if isinstance(error, OSError) else None
    free = free_bytes(where)
    if number in NO_ROOM or (number is None and NO_ROOM_TEXT.search(str(error))):
        reason = os.strerror(number) if number else os.strerror(errno.ENOSPC)
        needed, left = size(needed_bytes), size(free)
        # What is known to be needed may be less than what is free: then only the attempt shows that it is more.
        known = needed_bytes > free and needed != left
        values = {"needed": needed, "free": left, "reason": reason}
        if known:
            return RunError(Problem("runs.no_room", where=str(where), values=values))
        return RunError(Problem("runs.no_room_left", where=str(where), values=values))
    in_the_way = next((each for each in (where, *where.parents) if os.path.isfile(each)), None)
    if number in NOT_A_FOLDER and in_the_way is not None:
        return RunError(Problem("runs.not_a_folder", where=str(in_the_way)))
    if isinstance(error, OSError):
        return RunError(Problem("runs.refused", where=str(where), values={"reason": error.strerror or str(error)}))
    return None


@contextlib.contextmanager
def user_errors(where: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Turn what the operating system refuses inside the block into a `RunError`."""
    try:
        yield
    except OSError as error:
        found = trouble(error, where, needed_bytes)
        assert found is not None
        raise found from error


# ---------------------------------------------------------------------------------------------------- writing


def temp_name(path: Path) -> Path:
    """The unfinished twin of a path, in the same folder so that a rename suffices."""
    return path.with_name(f".{path.name}{TEMP_MARK}{os.getpid()}")


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole: written beside it, forced to the disk, renamed over it.

    Raises:
        RunError: no room, no permission, or another refusal of the operating system; the old file is untouched.
    """
    content, temp = redact(text).encode(), temp_name(path)
    with user_errors(path, len(content)):
        try:
            with open(temp, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temp, path)
        except OSError:
            temp.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """`write_text` of an object, with the format's version first and a line end last."""
    write_text(path, json.dumps({"format": FORMAT, **plain(value)}, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """`write_text` of one JSON object per line."""
    write_text(path, "".join(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in rows))


def plain(value: Any) -> Any:
    """The value with everything that strict JSON can hold: floats that are not finite become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


# ---------------------------------------------------------------------------------------------------- reading


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object written by `write_json`, with its `format`.

    Raises:
        RunError: missing, damaged, or of a version that this Luthier does not know.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(Problem("runs.file_missing", where=str(path))) from error
    except ValueError as error:  # both bad UTF-8 and bad JSON
        raise RunError(Problem("runs.file_damaged", where=str(path), values={"reason": str(error)})) from error
    except OSError as error:
        raise RunError(Problem("runs.refused", where=str(path), values={"reason": error.strerror})) from error
    if not isinstance(value, dict) or not isinstance(value.get("format"), int):
        raise RunError(Problem("runs.file_damaged", where=str(path), values={"reason": "no format number"}))
    if value["format"] > FORMAT:
        raise RunError(Problem("runs.format_newer", where=str(path), values={"format": value["format"]}))
    return value


def fingerprint(path: Path) -> dict[str, Any]:
    """{sha256, bytes} of a file, read once in pieces.

    Raises:
        RunError: it cannot be read.
    """
    with user_errors(path), open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"sha256": digest, "bytes": file.tell()}


def fingerprints(folder: Path, pattern: str = "*", skip: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Relative name -> fingerprint of every file below a folder, by name."""
    paths = sorted(path for path in folder.rglob(pattern) if path.is_file() and path.name not in skip)
    return {path.relative_to(folder).as_posix(): fingerprint(path) for path in paths}
