"""`luthier runs verify`: every hash and every check of a run that needs no weights, made again.

What goes in: a run folder, and from the caller the checks that need torch. What comes out: one `Check` per promise:
pass, fail, or not run where something is gone that it would need.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from luthier.errors import UserError
from luthier.runs import events, files, manifest, receipt, receipt_page, slots
from luthier.runs.receipt import Check
from luthier.runs.store import RunFolder
from luthier.runs.tables import Answer
from luthier.text import say


def verify(run: RunFolder, others: Mapping[str, Callable[[], Check]] | None = None) -> Answer:
    """Recompute every hash and every check of a run that needs no weights, and report each.

    Args:
        others: name -> a function that makes a further check (those that need torch); they run last. What they cannot
            use (a `UserError`) is their finding.
    """
    with run.at_home() as there:
        made = [_made(name, partial(check, there)) for name, check in VERIFIED.items()]
    made += [_made(name, check) for name, check in (others or {}).items()]
    failed = sum(check.status == "fail" for check in made)
    verdict = say("runs.verify.bad", count=failed) if failed else say("runs.verify.good")
    value = {"run": run.name, "failed": failed, "checks": [dataclasses.asdict(check) for check in made]}
    return Answer(files.plain(value), (*receipt_page.check_lines(made), "", verdict), good=not failed)


def _made(name: str, check: Callable[[], Check]) -> Check:
    """The check; where it finds something that cannot be used, that is what it found, and the others go on."""
    try:
        return check()
    except UserError as error:
        gone = all(problem.id in GONE or problem.id.startswith("hub.") for problem in error.problems)
        evidence = "; ".join(str(problem).splitlines()[0] for problem in error.problems)
        return Check(name, "not run" if gone else "fail", "", evidence)


GONE = frozenset(
    {
        "models.adapter_no_weights",
        "models.no_adapter",
        "models.no_config",
        "models.no_folder",
        "models.no_weights",
        "models.shard_missing",
        "runs.file_missing",
        "runs.no_result",
        "templates.tokenizer_missing",
    }
)
"""Problems that say that something is not there, so that nobody can tell; so do all of a model hub. Others say that it
is not what it was."""


def _verify_data(run: RunFolder) -> Check:
    """Where rows came from a hub, with the commit to fetch them at again."""
    given = manifest.load(run) if run.has("manifest.json") else None
    check = _compare_files("data_unchanged", {f.path: f.sha256 for f in given.data} if given else {})
    origins = [f.origin for f in given.data if f.origin] if given else []
    told = dict.fromkeys(say("runs.evidence.origin", **{**each, "commit": each["commit"] or "-"}) for each in origins)
    return dataclasses.replace(check, evidence="; ".join((check.evidence, *told)))


def _verify_plugins(run: RunFolder) -> Check:
    given = manifest.load(run) if run.has("manifest.json") else None
    return _compare_files("plugins", {p["path"]: p["sha256"] for p in given.plugins.values()} if given else {})


def _compare_files(name: str, expected: Mapping[str, str]) -> Check:
    """Fail where a file differs; not run where one is gone, because then nobody can tell."""
    bound = say("runs.bound.same_hash")
    there = {path: digest for path, digest in expected.items() if Path(path).is_file()}
    changed = [path for path, digest in there.items() if files.fingerprint(Path(path))["sha256"] != digest]
    if changed:
        return Check(name, "fail", bound, say("runs.evidence.differ", names=", ".join(changed)))
    gone = [path for path in expected if path not in there]
    if gone:
        return Check(name, "not run", bound, say("runs.evidence.missing", names=", ".join(gone)))
    if not expected:
        return Check(name, "not run", bound, say("runs.evidence.absent"))
    return Check(name, "pass", bound, say("runs.evidence.counted", good=len(there), all=len(expected)))


def _verify_rows(run: RunFolder) -> Check:
    if not run.has("manifest.json"):
        return Check("rows_counted", "not run", say("runs.bound.rows"), say("runs.evidence.absent"))
    return receipt.check_rows(run, manifest.load(run))


def _verify_events(run: RunFolder) -> Check:
    bad = events.damage(run.path / "events.jsonl")
    found = say("runs.evidence.events", count=len(run.events()))
    if bad:
        found = say("runs.evidence.lines", lines=", ".join(map(str, bad[:10])))
    return Check("events", "fail" if bad else "pass", say("runs.bound.same"), found)


def _verify_checkpoints(run: RunFolder) -> Check:
    """Every checkpoint, and the best weights, against the hashes they were written with."""
    folders = [run.checkpoint_dir(step) for step in run.checkpoints()]
    folders += [run.best_dir(step) for step in run.bests()]
    bound = say("runs.bound.same_hash")
    if not folders:
        return Check("checkpoints", "not run", bound, say("runs.evidence.absent"))
    bad = [folder.name for folder in folders if slots.verify_folder(folder)]
    if bad:
        return Check("checkpoints", "fail", bound, say("runs.evidence.differ", names=", ".join(bad)))
    return Check("checkpoints", "pass", bound, say("runs.evidence.counted", good=len(folders), all=len(folders)))


def _verify_outputs(run: RunFolder) -> Check:
    """Adapter, model, best weights, manifest, plan and recipe against the hashes on the receipt."""
    written, bound = receipt.load(run), say("runs.bound.same_hash")
    if written is None:
        return Check("outputs", "not run", bound, say("runs.evidence.absent"))
    now = receipt.output_hashes(run.path)
    bad = [name for name in {**written.hashes, **now} if written.hashes.get(name) != now.get(name)]
    if bad:
        return Check("outputs", "fail", bound, say("runs.evidence.differ", names=", ".join(bad)))
    return Check("outputs", "pass", bound, say("runs.evidence.counted", good=len(now), all=len(now)))


def _verify_receipt(run: RunFolder) -> Check:
    """The receipt built anew says the same as the one that was written, file hashes aside (`outputs` names those)."""
    written, bound = receipt.load(run), say("runs.bound.same")
    if written is None:
        return Check("receipt", "not run", bound, say("runs.evidence.absent"))
    if run.state == "running":
        return Check("receipt", "not run", bound, say("runs.evidence.running"))
    old, new = written.to_json(), receipt.build(run).to_json()
    bad = [name for name in new if name != "hashes" and not _same(name, old[name], new[name])]
    if bad:
        return Check("receipt", "fail", bound, say("runs.evidence.differ", names=", ".join(bad)))
    return Check("receipt", "pass", bound, say("runs.evidence.counted", good=len(new), all=len(new)))


def _same(name: str, old: Any, new: Any) -> bool:
    """Whether a part of the receipt is still the same. Checks without their wording, which may be in the other
    language; of the recipe the fields that the old one knows, because a newer version has more."""
    if name == "checks":
        return [(each["name"], each["status"]) for each in old] == [(each["name"], each["status"]) for each in new]
    if name == "recipe":
        return _within(old, new)
    return bool(old == new)


def _within(old: Any, new: Any) -> bool:
    """Whether `new` says all that `old` says; it may know more fields."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return all(name in new and _within(value, new[name]) for name, value in old.items())
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        return len(old) == len(new) and all(map(_within, old, new))
    return bool(old == new)


def _verify_source(run: RunFolder) -> Check:
    """Not a failure when it differs: a newer Luthier may look at an older run."""
    given = manifest.load(run) if run.has("manifest.json") else None
    bound = say("runs.bound.same_hash")
    if given is None:
        return Check("source", "not run", bound, say("runs.evidence.absent"))
    now, then = manifest.code_revision()["source_sha256"], given.code.get("source_sha256")
    if now != then:
        return Check("source", "not run", bound, say("runs.evidence.differ", names="luthier"))
    return Check("source", "pass", bound, say("runs.evidence.counted", good=1, all=1))


VERIFIED: dict[str, Callable[[RunFolder], Check]] = {
    "data_unchanged": _verify_data,
    "plugins": _verify_plugins,
    "rows_counted": _verify_rows,
    "events": _verify_events,
    "checkpoints": _verify_checkpoints,
    "outputs": _verify_outputs,
    "receipt": _verify_receipt,
    "source": _verify_source,
}
