"""`luthier export --gguf`: files, checks and receipt.

What goes in: a run, an adapter's folder or a model, and the types wanted. What comes out: a folder with a GGUF file for
each type and their receipt, complete or not at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from luthier.errors import ModelError, Problem
from luthier.export import receipt as receipts
from luthier.export.gguf import verify, write
from luthier.export.receipt import ExportReceipt
from luthier.export.weights import Source, open_source
from luthier.models import shards
from luthier.runs import files
from luthier.runs.receipt import Check


@dataclasses.dataclass(frozen=True)
class Exported:
    """A folder that was written, and the receipt that lies in it."""

    path: Path
    receipt: ExportReceipt


def export(
    target: str | Path,
    types: Sequence[str],
    out: str | Path | None = None,
    *,
    base: str | None = None,
    check: bool = True,
    on_progress: write.Progress | None = None,
) -> Exported:
    """Write GGUF files and hold each to the tuned model in llama.cpp.

    Args:
        target: a run, an adapter's folder or a model.
        types: keys of `recipe.BASE`.
        out: the folder to write; must be missing or empty. None takes the target's own name with `-gguf`, beside the
            run or adapter; for a model, in the current folder.
        base: of an adapter that no run made, where its settings do not name the right one.
        check: whether llama.cpp is asked at all.

    Raises:
        ModelError: no such type, what llama.cpp does not have, or a folder that holds something or is being written.
        RunError: a run without a result, no room, or a refusal of the operating system.
    """
    types = list(dict.fromkeys(types))
    if not types:
        raise ModelError(Problem("gguf.no_type", "--gguf"))
    source = open_source([(target, 1.0)], base)
    place = _place(source, target)
    planned = write.plan(source, types)
    folder = Path(out) if out is not None else place.with_name(f"{place.name}-gguf")
    with shards.fresh_folder(folder, planned.num_bytes) as fresh:
        paths = {each: fresh / f"{place.name}-{each}.gguf" for each in types}
        write.write(source, planned, paths, name=place.name, on_progress=on_progress)
        made = receipts.build("gguf", source, _checks(source, paths, check), files.fingerprints(fresh))
        receipts.write(fresh, made)
    return Exported(folder, made)


def _checks(source: Source, paths: dict[str, Path], wanted: bool) -> list[Check]:
    reason = "gguf.evidence.unasked" if not wanted else "" if verify.can_run() else "gguf.evidence.no_llama"
    if reason:
        return [each for name, path in paths.items() for each in verify.not_run(source, path, name, reason)]
    expected = verify.reference(source)
    return [each for name, path in paths.items() for each in verify.checks(source, expected, path, name)]


def _place(source: Source, target: str | Path) -> Path:
    """The run's or adapter's own path; of a model, its name in the current folder."""
    for voice in source.voices:
        return voice.run or voice.folder.absolute()
    return source.run or Path(Path(target).name or source.folder.resolve().name)
