"""`luthier export --gguf`: files, checks and receipt.

What goes in: a run or a model and the types wanted. What comes out: GGUF files in a folder with their receipt, and
Modelfiles where they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from luthier.errors import Problem, RunError
from luthier.export import ollama as modelfiles
from luthier.export import receipt as receipts
from luthier.export.gguf import verify, write
from luthier.export.ollama import Modelfile
from luthier.export.receipt import ExportReceipt
from luthier.export.weights import Source, open_source
from luthier.runs import files
from luthier.session import open_session


def export(
    target: str | Path,
    types: Sequence[str],
    folder: Path | None = None,
    *,
    check: bool = True,
    ollama: bool = False,
    on_progress: write.Progress | None = None,
) -> tuple[Path, ExportReceipt]:
    """Write GGUF files and hold each against the tuned model.

    Args:
        folder: by default the target's name with -gguf, in the current folder.
        ollama: write a Modelfile for each file too.

    Raises:
        ModelError: the model, its tokenizer or (for Ollama) its chat template cannot be written in these formats.
        RunError: a file is in the way, there is too little room, or the operating system refuses.
    """
    source, name = open_source([(target, 1.0)]), Path(target).name
    out = folder or Path(f"{name}-gguf")
    paths = {each: out / f"{name}-{each}.gguf" for each in dict.fromkeys(types)}
    beside = _modelfiles(source, paths) if ollama else {}
    write.convert(source, paths, name=name, on_progress=on_progress)
    found = []
    if check:
        session = open_session(target, device="cpu")
        found = [each for wanted, path in paths.items() for each in verify.checks(session, path, wanted)]
    for path, (label, modelfile) in beside.items():
        files.write_text(path, modelfile.text)
        found += modelfiles.checks(modelfile, label, run=check)
    written = {path.name: files.fingerprint(path) for path in (*paths.values(), *beside)}
    made = receipts.build("gguf", source, found, written)
    receipts.write(out, made)
    return out, made


def _modelfiles(source: Source, paths: Mapping[str, Path]) -> dict[Path, tuple[str, Modelfile]]:
    """`Modelfile`, or one for each type, with its name; before anything is written, as a template may be refused."""
    made = {}
    for wanted, path in paths.items():
        name = "Modelfile" if len(paths) == 1 else f"Modelfile-{wanted}"
        target = path.with_name(name)
        if target.exists():
            raise RunError(Problem("gguf.in_the_way", str(target)))
        made[target] = name, modelfiles.modelfile(source.renderer, path.name)
    return made
