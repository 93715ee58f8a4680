"""The weights that leave the house: base and adapters as one checkpoint, a tensor at a time.

What goes in: a run, a folder with a PEFT adapter, several of either with strengths, or a plain model. What comes out:
a `Source` that names every tensor of the checkpoint and gives each when it is asked for, base + sum of strength times
what an adapter changes, formed in float32 and rounded once to the dtype that the base has it in. Nothing of the base is
held in memory but the tensor that is asked for, and no more than a strip of it in float32.

Shape legend: I in, O out, R rank, V vocabulary, D hidden, T new tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from luthier.arch import adapter_config, families
from luthier.arch.spec import Architecture
from luthier.arch.tokens import widened
from luthier.arch.values import SCORE, is_valued, valued
from luthier.config.schema import ModelSection
from luthier.data.template_files import TOKENIZER_FILES
from luthier.data.templates import Renderer
from luthier.errors import ModelError, Problem
from luthier.models import adapters, shards
from luthier.models.adapters import AdapterFile
from luthier.models.shards import Stored
from luthier.models.weights import mean_row, misfits
from luthier.runs.store import RunFolder
from luthier.session import Base, find_base, output_folder, run_base, run_path

STRIP_ELEMENTS = 2**22
"""Elements of a tensor that are summed in float32 at once: 16 MB, or one row where that is more. Rows do not depend on
each other, so that the result does not depend on it."""
DTYPES = {name: dtype for dtype, name in shards.DTYPE_NAMES.items()}

_SCORE = f"{SCORE}.weight"
"""The one tensor that a base may lack: it begins with 0."""

Change = Callable[[Tensor, slice], Tensor]
"""(the base's rows in float32, which rows they are) -> the rows as an adapter has them."""


@dataclasses.dataclass(frozen=True)
class Voice:
    """One adapter that goes in. target: as the user named it; strength: what its change of the base is multiplied
    by; run: the folder of the run that made it, None for an adapter that came by itself."""

    target: str
    folder: Path
    strength: float
    run: Path | None = None


class Source:
    """A checkpoint that is made as it is read. `merged` and `open_source` make one.

    Attributes:
        folder: the base's, with its config.json; base: the base; arch: of the result, new tokens included.
        voices: what goes into the base; empty where the folder already is the result.
        shapes, dtypes: of every tensor, in the checkpoint's order.
    """

    def __init__(self, base: Base, voices: Sequence[Voice] = (), run: Path | None = None) -> None:
        """Args:
            run: the folder of the run that tuned the base's own weights.

        Raises:
            ModelError: the weights are not all there or do not fit, or an adapter is none, or is for another model.
        """
        self.base, self.folder, self.voices, self.run = base, base.folder, tuple(voices), run
        self._stored = shards.index(base.folder)
        problems = misfits(base.arch, self._stored, base.folder)
        if problems:
            raise ModelError(problems)
        given = [(adapters.read_file(each.folder, base.arch, dora=True), each.strength) for each in voices]
        self._parts = [(file, strength) for file, strength in given if strength != 0]
        ids = sorted({each for file, _ in given for each in file.arch.new_ids})
        self.arch: Architecture = widened(base.arch, ids)
        self.shapes: Mapping[str, tuple[int, ...]] = self.arch.tensors
        stored = {name: DTYPES[self._stored[name].dtype] for name in self.shapes if name in self._stored}
        self.dtypes: Mapping[str, torch.dtype] = stored | ({_SCORE: torch.float32} if is_valued(self.arch) else {})
        self._changes: dict[str, list[tuple[Change, float]]] = {}
        self._rows: dict[str, list[tuple[tuple[int, ...], Tensor, float]]] = {}
        for file, strength in self._parts:
            self._take(file, strength)

    @property
    def place(self) -> Path | None:
        """Beside which results are written where nothing else is said: the run, or the first adapter's own folder; None
        for a model by itself."""
        return next((each.run or each.folder.absolute() for each in self.voices), self.run)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    @property
    def num_bytes(self) -> int:
        """Of all tensors, as they will lie in a file."""
        return sum(math.prod(shape) * self.dtypes[name].itemsize for name, shape in self.shapes.items())

    @cached_property
    def renderer(self) -> Renderer:
        """Tokenizer, template and stop tokens: the adapters' own where they bring them, else the base's.

        Raises:
            ModelError: there is no tokenizer, or the adapters do not agree on it.
        """
        own = [each for each in self.voices if any((each.folder / name).is_file() for name in TOKENIZER_FILES)]
        found = [Renderer.load(each.folder) for each in own] or [Renderer.load(self.folder)]
        for each, other in zip(own[1:], found[1:], strict=True):
            if _speech(other) != _speech(found[0]):
                values = {"other": own[0].target}
                raise ModelError(Problem("export.templates_differ", where=str(each.folder), values=values))
        return found[0]

    def changed(self, name: str) -> bool:
        """Whether a tensor is another than the base's."""
        return name in self._changes or name in self._rows

    @torch.no_grad()
    def tensor(self, name: str) -> Tensor:
        """One tensor of the checkpoint, in its own dtype. One that no adapter touches is mapped from the file.

        Raises:
            ModelError: the sum is too large for float16.
        """
        there = name in self._stored
        base = mapped(self._stored[name]) if there else torch.zeros(self.shapes[name], dtype=self.dtypes[name])
        if not self.changed(name):
            return base
        made = torch.empty(self.shapes[name], dtype=base.dtype)
        changes, rows = self._changes.get(name, []), self._rows.get(name, [])
        step = max(STRIP_ELEMENTS // max(math.prod(base.shape[1:]), 1), 1)
        for start in range(0, len(base), step):
            strip = slice(start, min(start + step, len(base)))
            made[strip] = _sum(base[strip].float(), strip, changes)
        if rows:
            ids = sorted({each for owned, _, _ in rows for each in owned})
            made[ids] = self._token_rows(base, ids, rows).to(made.dtype)
        if made.dtype == torch.float16 and not bool(made.isfinite().all()):
            raise ModelError(Problem("models.overflow", str(self.folder), values={"names": name}))
        return made

    def _take(self, file: AdapterFile, strength: float) -> None:
        for unit, a_RI, b_OR, scale, magnitudes_O in file.deltas():
            change = _low_rank(
                a_RI.float(), b_OR.float(), scale, None if magnitudes_O is None else magnitudes_O.float()
            )
            self._changes.setdefault(f"{unit}.weight", []).append((change, strength))
        for module, weight in file.copies().items():
            self._changes.setdefault(f"{module}.weight", []).append((_copy(weight), strength))
        for module, rows_TD in file.rows().items():
            self._rows.setdefault(f"{module}.weight", []).append((file.arch.new_ids, rows_TD, strength))

    def _token_rows(
        self, base_VD: Tensor, ids: Sequence[int], rows: Sequence[tuple[tuple[int, ...], Tensor, float]]
    ) -> Tensor:
        """The rows of tokens that adapters have values of their own for, float32 [len(ids), D]. What an adapter changed
        counts from the base's row, or from where training starts the row of a token that the base does not have."""
        arch = dataclasses.replace(self.base.arch, new_ids=tuple(ids))
        fresh_D = mean_row(base_VD, arch) if ids[-1] >= len(base_VD) else None
        made = []
        for identity in ids:
            start_D = base_VD[identity].float() if identity < len(base_VD) else fresh_D
            assert start_D is not None
            changes = [
                (_copy(rows_TD[owned.index(identity)]), strength)
                for owned, rows_TD, strength in rows
                if identity in owned
            ]
            made.append(_sum(start_D, slice(None), changes))
        return torch.stack(made)


def merged(base: Base, voices: Sequence[tuple[Path, float]]) -> Source:
    """Base and adapter folders, each with its strength, as one checkpoint.

    Raises:
        ModelError: the base's weights are not all there or do not fit; an adapter is none, or is for another model.
    """
    return Source(base, [Voice(str(folder), adapter_config.adapter_folder(folder), each) for folder, each in voices])


def open_source(targets: Sequence[tuple[str | Path, float]], base: str | None = None) -> Source:
    """What the user named, as one checkpoint: runs and adapter folders, each with its strength; or one run that tuned
    whole weights, or one plain model, unchanged.

    Args:
        base: the base of adapter folders, where their own settings do not name the right one.

    Raises:
        ModelError: something is not there or does not fit; a base is not the one that a run was trained on, or not the
            same for all; a model beside others, or with a strength.
        RunError: a run has no result yet.
    """
    found = [_open(str(target), strength, base) for target, strength in targets]
    if len(found) == 1 and found[0][1] is None and found[0][2].strength == 1:
        only, _, voice = found[0]
        return Source(only, run=voice.run)
    whole = [voice.target for _, fingerprint, voice in found if fingerprint is None]
    if whole:
        raise ModelError(Problem("export.whole_model", value=", ".join(whole)))
    for _, fingerprint, voice in found[1:]:
        if fingerprint != found[0][1]:
            values = {"other": found[0][2].target}
            raise ModelError(Problem("export.bases_differ", value=voice.target, values=values))
    return Source(found[0][0], [voice for _, _, voice in found])


def mapped(stored: Stored) -> Tensor:
    """A tensor whose bytes stay in the file until they are looked at. Nobody may write into it."""
    dtype = DTYPES[stored.dtype]
    if stored.begin == stored.end:
        return torch.empty(stored.shape, dtype=dtype)
    # Mode "c" because torch wants memory that it could write; such a write would not reach the file.
    raw = np.memmap(stored.file, dtype=np.uint8, mode="c", offset=stored.begin, shape=(stored.end - stored.begin,))
    if stored.begin % dtype.itemsize:  # the format allows it, torch does not
        raw = raw.copy()
    return torch.from_numpy(raw).view(dtype).view(stored.shape)


def _open(target: str, strength: float, base: str | None) -> tuple[Base, str | None, Voice]:
    """(base, a mark that tells bases apart, voice); the mark is None where the target is a whole model."""
    path = run_path(target)
    if path is not None:
        with RunFolder.open(path).at_home() as run:
            output = output_folder(run).absolute()
            voice = Voice(target, output, strength, path.absolute())
            if output.name == "model":
                return _model(output), None, voice
            of_run = run_base(run)
            of_run = dataclasses.replace(of_run, folder=of_run.folder.absolute())
            return of_run, _mark(of_run), voice
    folder = adapter_config.adapter_folder(Path(target))
    if (folder / adapter_config.CONFIG_FILE).is_file():
        named = base or adapter_config.named_base(folder)
        if named is None:
            raise ModelError(Problem("export.no_base", where=str(folder)))
        of_adapter = find_base(ModelSection(path=named))
        if adapter_config.is_judge(folder) and not is_valued(of_adapter.arch):
            of_adapter = dataclasses.replace(of_adapter, arch=valued(of_adapter.arch))
        return of_adapter, _mark(of_adapter), Voice(target, folder, strength)
    model = find_base(ModelSection(path=target))
    return model, None, Voice(target, model.folder, strength)


def _model(folder: Path) -> Base:
    return Base(str(folder), folder, None, None, families.read(folder))


def _mark(base: Base) -> str:
    """Where the base lies: runs hold their own base to its fingerprint, so that the same place is the same base."""
    return str(base.folder.resolve())


def _speech(renderer: Renderer) -> tuple[object, ...]:
    """What has to be the same for two adapters to understand one prompt."""
    return renderer.vocabulary.fingerprint, renderer.template_source, renderer.system, renderer.stop_ids


def _sum(base: Tensor, rows: slice, changes: Sequence[tuple[Change, float]]) -> Tensor:
    """base + sum of strength * (changed - base), in float32. One change at full strength is taken as it is."""
    if len(changes) == 1 and changes[0][1] == 1:
        return changes[0][0](base, rows)
    total = base.clone()
    for change, strength in changes:
        total += strength * (change(base, rows) - base)
    return total


def _low_rank(a_RI: Tensor, b_OR: Tensor, scale: float, magnitudes_O: Tensor | None) -> Change:
    def change(base: Tensor, rows: slice) -> Tensor:
        made = torch.addmm(base, b_OR[rows], a_RI, alpha=scale)
        if magnitudes_O is not None:
            made *= (magnitudes_O[rows] / made.norm(dim=1))[:, None]
        return made

    return change


def _copy(weight: Tensor) -> Change:
    return lambda _, rows: weight[rows].float()
