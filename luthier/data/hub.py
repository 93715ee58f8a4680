"""The one door to data sets of a hub, through the `datasets` library (the extra `hub`).

What goes in: `hub:org/name`, and which subset, split and revision of it. What comes out: the Arrow files on this
machine that hold its rows, and the commit they are of where that is known. A folder in place of the name is read as the
library reads it, without a network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from luthier.data.strict_json import shorten
from luthier.errors import DataError, Problem

PREFIX = "hub:"
SPLIT = re.compile(r"\w+(?:\.\w+)*")
"""The name of a split; anything else is a slice or a sum of splits."""
_COMMIT = re.compile(r"@([0-9a-f]{40})(?:/|$)")
_SECRET = re.compile(r"hf_[A-Za-z0-9]{8,}|://[^/@\s]*@")


@dataclass(frozen=True)
class Origin:
    """Where rows come from: the data set and what of it, as asked for, and the commit that the hub gave; None where it
    is not known (a folder on disk)."""

    source: str
    subset: str | None
    split: str
    revision: str | None
    commit: str | None


@dataclass(frozen=True)
class Fetched:
    """Attributes:
    note: what was fetched, for the report.
    """

    files: tuple[str, ...]
    origin: Origin
    note: Problem


def is_hub(path: str) -> bool:
    return path.startswith(PREFIX)


def fetch(path: str, subset: str | None, split: str, revision: str | None) -> Fetched:
    """The files of one split, downloaded and converted unless they are there already.

    Raises:
        DataError: the extra is missing, the hub does not give the data set, or it has no such subset or split.
    """
    name = path.removeprefix(PREFIX)
    if not SPLIT.fullmatch(split):
        # A slice, or a sum of splits, would be forgotten: its files hold the whole splits.
        raise DataError(Problem("data.hub_split", path, "split", split))
    try:
        import datasets
        import datasets.exceptions
    except ImportError as error:
        raise DataError(Problem("data.hub_extra", path)) from error
    try:
        rows = datasets.load_dataset(name, subset, split=split, revision=revision, keep_in_memory=False)
    except (OSError, ValueError, NotImplementedError, datasets.exceptions.DatasetsError) as error:
        reason = shorten(_SECRET.sub("***", str(error)), 300)
        raise DataError(Problem("data.hub_refused", path, values={"reason": reason})) from error
    commit = _commit(rows.info) or (revision if revision and re.fullmatch(r"[0-9a-f]{40}", revision) else None)
    files = tuple(each["filename"] for each in rows.cache_files)
    values = {"split": split, "rows": rows.num_rows, "files": len(files), "commit": commit or "-"}
    origin = Origin(path, subset, split, revision, commit)
    return Fetched(files, origin, Problem("data.hub_read", path, values=values))


def _commit(info: Any) -> str:
    """The commit in the addresses of what was downloaded."""
    found = (_COMMIT.search(address) for address in info.download_checksums or ())
    return next((match.group(1) for match in found if match), "")
