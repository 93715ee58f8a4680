"""`luthier export`: GGUF files, what goes with them, checks and receipt.

What goes in: a run, an adapter's folder or a model, and what is wanted: types of the whole model, the adapter alone,
Modelfiles. What comes out: one folder with all of it and the receipt, complete or not at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from luthier.errors import ModelError, Problem
from luthier.export import ollama as modelfiles
from luthier.export import receipt as receipts
from luthier.export.gguf import lora, verify, write
from luthier.export.ollama import Modelfile
from luthier.export.receipt import ExportReceipt
from luthier.export.weights import Source, open_source
from luthier.models import shards
from luthier.runs import files
from luthier.runs.receipt import Check
from luthier.session import writes


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
    adapter: lora.Wanted | None = None,
    check: bool = True,
    ollama: bool = False,
    on_progress: write.Progress | None = None,
) -> Exported:
    """Write GGUF files and hold each to the tuned model in llama.cpp.

    Args:
        target: a run, an adapter's folder or a model.
        types: keys of `recipe.BASE`; none where only the adapter is wanted.
        out: the folder to write; must be missing or empty. None takes the target's own name with `-gguf`, beside the
            run or adapter; for a model, in the current folder.
        base: of an adapter that no run made, where its settings do not name the right one.
        adapter: what the adapter alone is written as; None leaves it out.
        check: whether llama.cpp and Go are asked at all.
        ollama: write a Modelfile for each type too.

    Raises:
        ModelError: no such type, what llama.cpp or Ollama does not have, a folder that holds something or is being
            written, or no adapter that such a file can hold.
        RunError: a run without a result, no room, or a refusal of the operating system.
    """
    types = list(dict.fromkeys(types))
    if not types and adapter is None:
        raise ModelError(Problem("gguf.nothing_wanted", str(target)))
    source = open_source([(target, 1.0)], base)
    writes(source.arch, target)
    place = source.place or Path(Path(target).name or source.folder.resolve().name)
    planned = write.plan(source, types)
    alone = lora.plan(source, adapter) if adapter is not None else None
    names = {each: f"{place.name}-{each}.gguf" for each in types}
    beside = _modelfiles(source, names) if ollama else {}
    folder = Path(out) if out is not None else place.with_name(f"{place.name}-gguf")
    with shards.fresh_folder(folder, planned.num_bytes + (alone.num_bytes if alone is not None else 0)) as fresh:
        paths = {each: fresh / name for each, name in names.items()}
        if paths:
            write.write(source, planned, paths, name=place.name, on_progress=on_progress)
        for name, made in beside.items():
            files.write_text(fresh / name, made.text)
        if alone is not None:
            path = fresh / f"{place.name}-lora-{alone.wanted.type}.gguf"
            lora.write_file(alone, path, name=place.name)
        found = _checks(source, paths, check)
        found += [each for name, made in beside.items() for each in modelfiles.checks(made, name, run=check)]
        if alone is not None:
            found.append(lora.check(source, alone, path, asked=check))
        receipt = receipts.build("gguf" if types else "lora-gguf", source, found, files.fingerprints(fresh))
        receipts.write(fresh, receipt)
    return Exported(folder, receipt)


def _modelfiles(source: Source, names: Mapping[str, str]) -> dict[str, Modelfile]:
    """`Modelfile`, or one for each type, by its name; before anything is written, as a template may be refused."""
    only = len(names) == 1
    return {
        "Modelfile" if only else f"Modelfile-{wanted}": modelfiles.modelfile(source.renderer, name)
        for wanted, name in names.items()
    }


def _checks(source: Source, paths: Mapping[str, Path], wanted: bool) -> list[Check]:
    if not paths:
        return []
    reason = verify.why_not(wanted)
    if reason:
        return [each for name, path in paths.items() for each in verify.not_run(source, path, name, reason)]
    expected = verify.reference(source)
    return [each for name, path in paths.items() for each in verify.checks(source, expected, path, name)]
