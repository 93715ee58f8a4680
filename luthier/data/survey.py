"""What training says of its rows, and which of them a split keeps together.

What goes in: the recipe's files, tokenised. What comes out: `Surveyed`: findings that need no tokens, and rows that are
nearly the same. Rows are read once more for it, at most `MOST_ROWS`; the result is kept beside the tokens of the first
file, so that a later run on the same files reads none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luthier.data.check import Given, Rows
from luthier.data.findings import Finding, Findings
from luthier.data.near import SAMPLE_ROWS, Pairs
from luthier.data.tokens import Built
from luthier.errors import Problem

MOST_ROWS = SAMPLE_ROWS
"""Rows that are looked at before training, in the proportion of the files; `luthier data check` looks at all. It takes
some 100 microseconds a row, so that no start waits longer than about 20 s for it."""
FORMAT = 1
"""Version of what is kept."""


@dataclass(frozen=True)
class Surveyed:
    """Attributes:
    rows, looked: how many there are, and at how many was looked.
    findings: the worst first. Which of the rows that a split holds out leak is not among them.
    alike: rows that are nearly the same (see `check.judge`), of those looked at.
    """

    rows: int
    looked: int
    findings: tuple[Finding, ...]
    alike: Pairs

    def to_json(self) -> dict[str, Any]:
        findings = [[each.severity, each.rows, dataclasses.asdict(each.problem)] for each in self.findings]
        pairs = [self.alike.earlier.tolist(), self.alike.later.tolist(), self.alike.compared, self.alike.sampled]
        return {"rows": self.rows, "looked": self.looked, "findings": findings, "alike": pairs}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Surveyed:
        """What `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        findings = tuple(Finding(severity, Problem(**problem), rows) for severity, rows, problem in value["findings"])
        *sides, compared, sampled = value["alike"]
        earlier, later = (np.asarray(side, dtype=np.int64) for side in sides)
        return cls(value["rows"], value["looked"], findings, Pairs(earlier, later, compared, sampled))


def survey(built: Sequence[Built]) -> Surveyed | None:
    """What there is to say of the rows of all files, in the order in which `check.judge` takes them; None where a file
    is at fault, so that nothing will be trained.

    Raises:
        DataError: a file has changed since it was tokenised.
    """
    stores = [each.store for each in built if each.store is not None]
    if not stores or len(stores) < len(built):
        return None
    files = [each.given for each in built]
    # The store's key speaks of the file's bytes, how they are read, the code and the language.
    decides = [FORMAT, [[store.key, file.role, file.path] for store, file in zip(stores, files, strict=True)]]
    key = hashlib.sha256(json.dumps(decides).encode()).hexdigest()
    place = stores[0].path / f"survey-{key[:16]}.json"
    known = _read(place)
    if known is None:
        known = _look(files)
        _write(place, known)
    return known


def _look(files: Sequence[Given]) -> Surveyed:
    rows = sum(len(file.table) for file in files)
    share = min(1.0, MOST_ROWS / max(rows, 1))
    chosen = [np.arange(int(share * len(file.table))) for file in files]
    findings = Findings()
    for file, places in zip(files, chosen, strict=True):
        some = Rows((file,), (places,))
        for item, content in zip(some, some.hashes(), strict=True):
            findings.see(item.where, item.path, file.role, item.example, content)
    looked = sum(map(len, chosen))
    alike = findings.alike(item.example for item in Rows(tuple(files), tuple(chosen))).joined(looked)
    found, _ = findings.finish()
    return Surveyed(rows, looked, found, alike)


def _read(path: Path) -> Surveyed | None:
    """None where there is none that can be read."""
    try:
        return Surveyed.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, surveyed: Surveyed) -> None:
    """A cache that may not be written to is no fault: the rows are then looked at again each time."""
    temp = path.with_name(f".{path.name}-{os.getpid()}")
    with contextlib.suppress(OSError):
        temp.write_text(json.dumps(surveyed.to_json()), encoding="utf-8")
        temp.replace(path)
