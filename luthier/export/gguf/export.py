"""`luthier export --gguf`: files, checks and receipt.

What goes in: a run or a model and the types wanted. What comes out: GGUF files in a folder with their receipt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from luthier.export import receipt as receipts
from luthier.export.gguf import verify, write
from luthier.export.receipt import ExportReceipt
from luthier.export.weights import open_source
from luthier.runs import files
from luthier.session import open_session


def export(
    target: str | Path,
    types: Sequence[str],
    folder: Path | None = None,
    *,
    check: bool = True,
    on_progress: write.Progress | None = None,
) -> tuple[Path, ExportReceipt]:
    """Write GGUF files and hold each against the tuned model.

    Args:
        folder: by default the target's name with -gguf, in the current folder.
    """
    source, name = open_source([(target, 1.0)]), Path(target).name
    out = folder or Path(f"{name}-gguf")
    paths = {each: out / f"{name}-{each}.gguf" for each in dict.fromkeys(types)}
    write.convert(source, paths, name=name, on_progress=on_progress)
    found = []
    if check:
        session = open_session(target, device="cpu")
        found = [each for wanted, path in paths.items() for each in verify.checks(session, path, wanted)]
    written = {path.name: files.fingerprint(path) for path in paths.values()}
    made = receipts.build("gguf", source, found, written)
    receipts.write(out, made)
    return out, made
