"""What a run can be exported as, and how large each would be, before any weight is loaded.

What goes in: a run with its result. What comes out: bytes of the adapter, of a merged model and of a GGUF file of each
type, by `config.json` and the manifest; what cannot be made, with the reason. Torch-free.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

from luthier import disk
from luthier.arch import adapter_config, families
from luthier.arch.count import trained_shapes
from luthier.arch.spec import Architecture
from luthier.arch.tokens import widened
from luthier.config.load import environment
from luthier.errors import ModelError, Problem, RunError
from luthier.export.gguf import architectures, native, recipe
from luthier.models import hub
from luthier.runs import manifest
from luthier.runs.store import RunFolder

LORA_TYPES: dict[str, int] = {"f16": 2, "f32": 4}
"""Of an adapter alone -> bytes of a value."""
NO_LORA = {
    adapter_config.DORA: "gguf.lora_dora",
    "modules_to_save": "gguf.lora_saved",
    "trainable_token_indices": "gguf.lora_tokens",
}
"""What a file of the adapter alone has no place for."""
TOKENIZER = "tokenizer.json"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """In bytes; None where it cannot be made.

    Attributes:
        adapter, model: the run's own result, whichever it has.
        merged: the base with the adapter in it.
        gguf: type -> a file of the whole model; lora_gguf: type -> the adapter alone.
        native: whether llama.cpp is installed; needs_native: types of `gguf` that cannot be written, as it is not.
        free_bytes: of the disk that the run lies on.
        problems: why there is no `gguf` or `lora_gguf`, or no `merged`.
    """

    adapter: int | None
    model: int | None
    merged: int | None
    gguf: Mapping[str, int]
    lora_gguf: Mapping[str, int]
    native: bool
    needs_native: tuple[str, ...]
    free_bytes: int
    problems: tuple[Problem, ...]


def sizes(run: RunFolder) -> Sizes:
    """Sizes of everything that can be made of a run.

    Raises:
        RunError: it has no result yet, or its manifest cannot be read.
    """
    adapter, model = run.path / "adapter", run.path / "model"
    whole = model.is_dir()
    if not whole and not adapter.is_dir():
        raise RunError(Problem("runs.no_result", where=str(run.path), values={"name": run.name, "state": run.state}))
    problems: list[Problem] = []
    merged, gguf, lora = None, {}, {}
    try:
        folder = model if whole else _base(run)
        arch = families.read(folder)
        if not whole:
            merged = sum(entry["bytes"] for entry in manifest.load(run).base["files"].values())
            lora = _lora(adapter, arch, problems)
            arch = widened(arch, adapter_config.token_ids(adapter, arch))
        gguf = _gguf(arch, folder)
    except ModelError as error:
        problems += error.problems
    has_native = native.installed()
    missing = native.ONLY_NATIVE if not has_native else ()
    return Sizes(
        adapter=_bytes_of(adapter),
        model=_bytes_of(model),
        merged=merged,
        gguf=gguf,
        lora_gguf=lora,
        native=has_native,
        needs_native=tuple(each for each in gguf if recipe.BASE[each] in missing),
        free_bytes=disk.free_bytes(run.path),
        problems=tuple(problems),
    )


def _base(run: RunFolder) -> Path:
    """Where the base's configuration lies; one from a hub at the commit that the run was trained on, which needs no
    network."""
    given = manifest.load(run).base
    return hub.resolve(run.base, given.get("commit") or given.get("revision"), environment(), weights=False).folder


def _gguf(arch: Architecture, folder: Path) -> dict[str, int]:
    """By the tensors, which make up nearly all of a file; the vocabulary takes about what it does in the tokenizer."""
    where = str(folder)
    kind = architectures.architecture_of(arch, where)
    names = architectures.tensor_names(arch, kind, where)
    tensors = [(names[name], shape) for name, shape in arch.tensors.items()]
    words = (folder / TOKENIZER).stat().st_size if (folder / TOKENIZER).is_file() else 0
    return {
        each: words + recipe.num_bytes(architectures.tensor_types(arch, kind, each, tensors), tensors)
        for each in recipe.BASE
    }


def _lora(adapter: Path, arch: Architecture, problems: list[Problem]) -> dict[str, int]:
    architectures.architecture_of(arch, str(adapter))
    beyond = [Problem(NO_LORA[each], where=str(adapter)) for each in adapter_config.beyond_low_rank(adapter)]
    if beyond:
        problems += beyond
        return {}
    tune = adapter_config.read_settings(adapter, arch)
    values = sum(math.prod(shape) for shape in trained_shapes(arch, tune).values())
    return {name: values * size for name, size in LORA_TYPES.items()}


def _bytes_of(folder: Path) -> int | None:
    if not folder.is_dir():
        return None
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
