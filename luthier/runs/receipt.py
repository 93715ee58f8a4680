"""The receipt: what was trained on what, and which promises were checked, with evidence.

What goes in: a run folder with its manifest, events, plan and `checks.json`, and the files of its results. What comes
out: `receipt.json`, and the facts that `receipt_page` turns into `receipt.md`. A check that nobody made is on the
receipt as not run; building the receipt twice from one folder gives the same receipt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luthier.config import load as config_load
from luthier.errors import Problem, RunError
from luthier.runs import files, manifest
from luthier.runs.events import Event, effective
from luthier.runs.history import Attempt, Summary, summarise
from luthier.runs.store import RunFolder
from luthier.text import say

Status = Literal["pass", "fail", "not run"]
CHECKS = (
    # Every receipt lists these, in this order; each has a line `runs.check.<name>` in the message table.
    "rows_counted",
    "prompt_law",
    "stop_token",
    "memory_plan",
    "base_untouched",
    "adapter_reload",
    "effect",
    "validation",
)
"""Checks may have other names too (`text` then says what they mean); these ones are missed when nobody made them."""
OUTPUTS = ("adapter", "model", "best")
NOTES = ("note", "alarm")
"""Events whose text a reader of the receipt should know."""
HASHED = ("recipe.yaml", "manifest.json", "plan.json", "excluded.jsonl")
"""Files of the run whose content the receipt vouches for."""


@dataclass(frozen=True)
class Check:
    """One promise and what became of it.

    Attributes:
        name: a name of CHECKS, or another.
        status: pass, fail, or not run.
        bound: what had to hold, in numbers where there are any: `max difference 1e-5`.
        evidence: what was found: `2.1e-07 over 64 prompts`.
        text: the promise as a sentence; empty takes the one of the message table.
    """

    name: str
    status: Status
    bound: str = ""
    evidence: str = ""
    text: str = ""

    @property
    def sentence(self) -> str:
        return self.text or say(f"runs.check.{self.name}")


@dataclass(frozen=True)
class Receipt:
    """Everything on the receipt.

    Attributes (those whose names do not say it):
        left_out: reason -> the first row that was left out for it, and why, in words.
        data, model: what the events of these kinds say; plan: `plan.json`.
        hashes: file of the run or of its results -> {sha256, bytes}.
        measures: name -> [before, after] of what was measured on the rows held out, each {mean, count, low, high};
            after is of the weights that ship.
    """

    run: str
    state: str
    recipe: Mapping[str, Any]
    manifest: Mapping[str, Any] | None
    left_out: Mapping[str, str]
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    plan: Mapping[str, Any]
    summary: Summary
    revisions: tuple[Mapping[str, Any], ...]
    faults: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]
    checks: tuple[Check, ...]
    hashes: Mapping[str, Mapping[str, Any]]
    measures: Mapping[str, Sequence[Mapping[str, Any]]] = dataclasses.field(default_factory=dict)

    @property
    def passed(self) -> int:
        return sum(check.status == "pass" for check in self.checks)

    @property
    def failed(self) -> int:
        return sum(check.status == "fail" for check in self.checks)

    @property
    def not_run(self) -> int:
        return sum(check.status == "not run" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """As plain values; `from_json` reads them back."""
        return {"format": files.FORMAT, **files.plain(dataclasses.asdict(self))}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Receipt:
        """The receipt that `to_json` wrote.

        Raises:
            KeyError, TypeError: it is none.
        """
        fields = {key: item for key, item in value.items() if key != "format"}
        summary = dict(fields["summary"])
        summary["attempts"] = tuple(Attempt(**attempt) for attempt in summary["attempts"])
        summary["validation"] = tuple((step, loss) for step, loss in summary["validation"])
        summary["best"] = tuple(summary["best"]) if summary["best"] else None
        return cls(
            **{
                **fields,
                "summary": Summary(**summary),
                "revisions": tuple(fields["revisions"]),
                "faults": tuple(fields["faults"]),
                "notes": tuple(fields["notes"]),
                "checks": tuple(Check(**check) for check in fields["checks"]),
            }
        )


# ---------------------------------------------------------------------------------------------------- checks


def record(run: RunFolder, *checks: Check) -> None:
    """Put results into the run's `checks.json`; a check of the same name takes the place of the old one."""
    kept = {check.name: check for check in (*recorded(run), *checks)}
    run.write_json("checks.json", {"checks": [dataclasses.asdict(check) for check in kept.values()]})


def recorded(run: RunFolder) -> list[Check]:
    """The results in `checks.json`; an absent file has none.

    Raises:
        RunError: the file is damaged.
    """
    if not run.has("checks.json"):
        return []
    try:
        return [Check(**check) for check in run.read_json("checks.json")["checks"]]
    except (KeyError, TypeError) as error:
        where = str(run.path / "checks.json")
        raise RunError(Problem("runs.file_damaged", where=where, values={"reason": str(error)})) from error


def check_rows(run: RunFolder, given: manifest.Manifest) -> Check:
    """kept + left out = read, for every file; and `excluded.jsonl` has one line for each row left out."""
    wrong = [file.path for file in given.data if file.kept + sum(file.excluded.values()) != file.read]
    left_out = sum(given.excluded.values())
    path = run.path / "excluded.jsonl"
    lines = path.read_bytes().count(b"\n") if path.is_file() else 0
    evidence = say("runs.evidence.rows", kept=given.kept, excluded=left_out, read=given.read, lines=lines)
    good = not wrong and lines == left_out
    return Check("rows_counted", "pass" if good else "fail", say("runs.bound.rows"), evidence)


def check_validation(summary: Summary) -> Check:
    """The weights that are shipped predict the rows held out better than the base did."""
    losses = [loss for _, loss in summary.validation if loss is not None]
    if summary.best is None or len(losses) < 2:
        return Check("validation", "not run", say("runs.bound.validation"), say("runs.evidence.no_validation"))
    step, best = summary.best
    evidence = say("runs.evidence.validation", before=losses[0], after=best, step=step)
    return Check("validation", "pass" if best < losses[0] else "fail", say("runs.bound.validation"), evidence)


# ---------------------------------------------------------------------------------------------------- building


def build(run: RunFolder) -> Receipt:
    """The receipt of a run as its folder stands, finished or not.

    Raises:
        RunError: a file that is there cannot be read.
    """
    everything = run.events()
    kept = effective(everything)
    summary = summarise(everything)
    given = manifest.load(run) if run.has("manifest.json") else None
    results = {check.name: check for check in recorded(run)}
    if given is not None:
        results.setdefault("rows_counted", check_rows(run, given))
    results.setdefault("validation", check_validation(summary))
    missing = {name: Check(name, "not run") for name in CHECKS}
    return Receipt(
        run=run.name,
        state=run.state_of(summary.ended),
        recipe=config_load.resolved(run.config()),
        manifest=files.plain(given.to_json()) if given is not None else None,
        left_out=_first_left_out(run.path / "excluded.jsonl"),
        data=_last(kept, "data"),
        model=_last(kept, "model"),
        plan=run.read_json("plan.json") if run.has("plan.json") else {},
        summary=summary,
        revisions=tuple(event.data for event in everything if event.kind == "revised"),
        faults=tuple({"step": event.step, **event.data} for event in kept if event.kind == "fault"),
        notes=tuple(dict.fromkeys(str(each.data.get("text", "")) for each in everything if each.kind in NOTES)),
        checks=tuple({**missing, **results}.values()),
        hashes=output_hashes(run.path),
        measures=_measures(kept, summary),
    )


def _measures(kept: Sequence[Event], summary: Summary) -> dict[str, list[Mapping[str, Any]]]:
    """What was measured on the rows held out, before and after."""
    found = {event.step or 0: event.data.get("measures") or {} for event in kept if event.kind == "validation"}
    shipped = summary.best[0] if summary.best else max(found, default=0)
    before, after = found.get(0, {}), found.get(shipped, {})
    return {name: [before[name], after[name]] for name in before if name in after and shipped}


def write(run: RunFolder, receipt: Receipt, page: Sequence[str]) -> None:
    """Write `receipt.json` and, from the lines of its page, `receipt.md`."""
    run.write_json("receipt.json", receipt.to_json())
    run.write_text("receipt.md", "\n".join(page) + "\n")


def load(run: RunFolder) -> Receipt | None:
    """The receipt as written; None where there is none yet.

    Raises:
        RunError: the file is damaged.
    """
    if not run.has("receipt.json"):
        return None
    try:
        return Receipt.from_json(run.read_json("receipt.json"))
    except (KeyError, TypeError, ValueError) as error:
        where = str(run.path / "receipt.json")
        raise RunError(Problem("runs.file_damaged", where=where, values={"reason": str(error)})) from error


def output_hashes(folder: Path) -> dict[str, dict[str, Any]]:
    """Relative name -> {sha256, bytes} of the files the receipt vouches for: HASHED, and all in OUTPUTS."""
    found = {name: files.fingerprint(folder / name) for name in HASHED if (folder / name).is_file()}
    for output in OUTPUTS:
        if (folder / output).is_dir():
            found.update({f"{output}/{name}": entry for name, entry in files.fingerprints(folder / output).items()})
    return found


def _first_left_out(path: Path) -> dict[str, str]:
    """Of each reason the first row: `rows.jsonl:17: 2,311 tokens...`. Lines that are no rows are none of ours."""
    found: dict[str, str] = {}
    if not path.is_file():
        return found
    with files.user_errors(path), open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                where = row.get("where") or f"{row['path']}:{row['number']}"
                found.setdefault(row["reason_id"], f"{where}: {row['reason']}")
    return found


def _last(kept: Sequence[Event], kind: str) -> dict[str, Any]:
    return next((event.data for event in reversed(kept) if event.kind == kind), {})
