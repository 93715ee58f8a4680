"""Low-rank adapters: put on, saved and loaded, in PEFT's file format.

What goes in: a decoder and a `Lora` section, or an adapter folder that PEFT or Luthier wrote. What comes out: deltas on
the decoder's units that train in float32 beside a base that never changes; folders that `PeftModel.from_pretrained`
reads; the tensors of such a folder, to be merged (`luthier.export.weights`). Nothing is matched loosely: every tensor
of a file has its place or the file is refused.

Shape legend: I in, O out, R rank.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from luthier.arch import adapter_config
from luthier.arch.count import saved_modules, scale_of, select_units
from luthier.arch.spec import EMBEDDING, HEAD, Architecture
from luthier.arch.tokens import token_modules
from luthier.arch.values import SCORE
from luthier.config.schema import Lora
from luthier.disk import write_json
from luthier.errors import ModelError, Problem
from luthier.models import shards
from luthier.models.decoder import AdapterLinear, Copy, Decoder, Delta, TokenRows, Weighted
from luthier.models.shards import listed
from luthier.models.weights import Sample, draw, mean_row

WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT's wrapper puts before every module name."""
ROWS = "token_adapter.trainable_tokens_delta"
"""What PEFT calls the rows of single tokens. They replace the base's rows, whatever the name says."""
MAGNITUDES = "lora_magnitude_vector"
"""What PEFT calls the length that DoRA gives each row of an adapted weight."""


def attach(
    decoder: Decoder, arch: Architecture, lora: Lora, *, name: str = "default", seed: int = 0, trainable: bool = True
) -> None:
    """Put a new adapter on the chosen units: A uniform in +-1/sqrt(I) (what PEFT's Kaiming initialisation with a =
    sqrt(5) amounts to), B zero, so that the model starts as it was. Each A is drawn from a stream of its own, keyed by
    (seed, unit name). Modules to save start as float32 copies of the base's, rows of new tokens as the mean of the
    rows there are.

    Args:
        name: any text, dots included.
        trainable: whether it is going to be trained, or only used.

    Raises:
        ModelError: a target matches nothing, or an adapter of this name is there already.
    """
    _put_on(decoder, arch, lora, name, trainable)
    with torch.no_grad():
        for unit, _, _ in select_units(arch, lora):
            delta = decoder.units[unit.name].deltas[name]
            draw(delta.A, seed, unit.name, _uniform(1.0 / math.sqrt(unit.in_features)))
            delta.B.zero_()


def add_score(decoder: Decoder, name: str) -> None:
    """Give an adapter a scalar head that trains, where it has none: it starts at 0."""
    head = decoder.weighted[SCORE]
    if name not in head.copies:
        head.copies[name] = Copy(head.weight.detach().to(torch.float32, copy=True)).requires_grad_(True)


def save_adapter(decoder: Decoder, folder: Path, lora: Lora, base: str, name: str = "default") -> None:
    """Write an adapter as PEFT does: `adapter_config.json` and `adapter_model.safetensors`, in float32; complete or not
    at all.

    Args:
        folder: must be missing or empty.
        lora: the settings it was attached or loaded with.
        base: hub id or folder of the base model, for `base_model_name_or_path`.

    Raises:
        ModelError: `folder` holds something; RunError: no space, or the operating system refuses.
    """
    arch = _with_rows(decoder, name)
    tensors = _file_tensors(decoder, arch, lora, name)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    needed = sum(math.prod(shape) for shape in shapes.values()) * torch.float32.itemsize
    with shards.fresh_folder(folder, needed) as fresh:
        write_json(fresh / adapter_config.CONFIG_FILE, adapter_config.to_json(arch, lora, base))
        shards.write_file(fresh / WEIGHTS_FILE, shapes, torch.float32, iter(tensors.values()))


def load_adapter(
    decoder: Decoder,
    arch: Architecture,
    folder: Path,
    name: str = "default",
    *,
    trainable: bool = False,
    dropout: float | None = None,
    dora: bool = False,
) -> Lora:
    """Put an adapter on from its files, made by Luthier or by PEFT.

    Args:
        folder: an adapter folder, or a run.
        trainable: whether it is going to be trained further, or only used.
        dropout: of the further training; None takes the file's.
        dora: whether a DoRA adapter is welcome. It costs a copy of each weight that it adapts, and cannot be trained.

    Returns:
        its settings, in canonical form; with them `save_adapter` writes an equal adapter.

    Raises:
        ModelError: not an adapter, a feature that is not supported (by name), tensors missing, unexpected or of the
            wrong shape, a damaged file, or a name that is taken.
    """
    file = read_file(folder, arch, dora=dora)
    lora, stored, ids = file.lora, file.arch, file.arch.new_ids
    if dropout is not None:
        lora = lora.model_copy(update={"dropout": dropout})
    if trainable and ids and ids != arch.new_ids:
        raise ModelError(Problem("models.adapter_tokens_differ", str(file.folder), values={"count": len(ids)}))
    _put_on(decoder, stored if ids else arch, lora, name, trainable)
    with torch.no_grad():
        for key, tensor in _file_tensors(decoder, stored, lora, name).items():
            tensor.copy_(file.tensors[key])
    if file.dora:
        _scale_rows(decoder, file, name)
    return lora


@torch.no_grad()
def _scale_rows(decoder: Decoder, file: AdapterFile, name: str) -> None:
    """DoRA: c * (W x + scale * B A x), with c the magnitude of each row over its length with the low-rank part."""
    for unit_name, a_RI, b_OR, scale, magnitudes_O in file.deltas():
        assert magnitudes_O is not None
        unit, place = decoder.units[unit_name], decoder.device
        weight_OI, a_RI, b_OR = unit.weight.float(), a_RI.to(place).float(), b_OR.to(place).float()
        lengths_O = torch.linalg.vector_norm(weight_OI + scale * (b_OR @ a_RI), dim=1)
        c_O1 = (magnitudes_O.to(place).float() / lengths_O)[:, None]
        copied = nn.Parameter((c_O1 * weight_OI).to(unit.weight.dtype), requires_grad=False)
        unit.copies[name] = Copy(copied)
        unit.deltas[name].B.mul_(c_O1)


def blend(decoder: Decoder, name: str, strengths: Mapping[str, float]) -> str | None:
    """Put a further adapter on that is the weighted sum of adapters that are there: base + sum(strength * (adapter -
    base)), for the deltas, the modules saved whole and the rows of new tokens alike. One adapter shares its tensors
    with the blend, so that another strength costs no memory; at strength 1 the arithmetic is the adapter's own.

    Args:
        name: of the blend; must be free.
        strengths: attached adapter -> strength.

    Returns:
        `name`, or None where nothing is left of any adapter: that is the base itself, and nothing is put on.

    Raises:
        ModelError: `name` is taken, or one of the adapters is not there.
    """
    absent = sorted(strengths.keys() - decoder.adapters)
    if absent:
        raise ModelError(Problem("models.adapter_absent", value=absent[0], values={"there": listed(decoder.adapters)}))
    if name in decoder.adapters:
        raise ModelError(Problem("models.adapter_loaded_twice", value=name))
    parts = {each: strength for each, strength in strengths.items() if strength}
    with torch.no_grad():
        for unit in decoder.units.values() if parts else ():
            deltas = [(unit.deltas[each], strength) for each, strength in parts.items() if each in unit.deltas]
            if deltas:
                unit.deltas[name] = _sum_of_deltas(deltas).requires_grad_(False)
        for module in decoder.weighted.values() if parts else ():
            # Rows first: they look at the copies of the adapters that are blended, not at the blend's.
            if any(each in module.rows for each in parts):
                module.rows[name] = _sum_of_rows(module, parts, decoder.arch).requires_grad_(False)
            if any(each in module.copies for each in parts):
                module.copies[name] = _sum_of_copies(module, parts).requires_grad_(False)
    return name if parts else None


def remove(decoder: Decoder, name: str) -> None:
    """Take an adapter off. What was blended from it stays.

    Raises:
        ModelError: it is not there.
    """
    if name not in decoder.adapters:
        raise ModelError(Problem("models.adapter_absent", value=name, values={"there": listed(decoder.adapters)}))
    for module in decoder.weighted.values():
        if name in module.copies:
            del module.copies[name]
        if name in module.rows:
            del module.rows[name]
        if isinstance(module, AdapterLinear) and name in module.deltas:
            del module.deltas[name]


def fingerprint(decoder: Decoder, name: str | None) -> str:
    """One hash of an adapter's values as they are applied, its strength included; of none, for the base."""
    found = hashlib.sha256()
    if name is None:
        return found.hexdigest()
    for module_name, module in sorted(decoder.weighted.items()):
        held: list[tuple[str, Tensor]] = []
        if name in module.copies:
            held.append(("copy", module.copies[name].weight))
        if name in module.rows:
            rows = module.rows[name]
            held += [("ids", torch.as_tensor(rows.ids)), ("rows", rows.weight)]
        if isinstance(module, AdapterLinear) and name in module.deltas:
            delta = module.deltas[name]
            held += [("A", delta.A), (f"B {delta.scale!r}", delta.B)]
        for part, tensor in held:
            found.update(f"{module_name} {part} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _sum_of_deltas(parts: Sequence[tuple[Delta, float]]) -> Delta:
    """Side by side, each with its own scale worked into B; a single one keeps its tensors."""
    if len(parts) == 1:
        ((delta, strength),) = parts
        return Delta(delta.A.detach(), delta.B.detach(), strength * delta.scale)
    a_RI = torch.cat([delta.A for delta, _ in parts])
    b_OR = torch.cat([delta.B * (strength * delta.scale) for delta, strength in parts], 1)
    return Delta(a_RI, b_OR, 1.0)


def _sum_of_copies(module: Weighted, parts: Mapping[str, float]) -> Copy:
    held = [(module.copies[each].weight, strength) for each, strength in parts.items() if each in module.copies]
    if len(held) == 1 and held[0][1] == 1:
        return Copy(held[0][0].detach())
    base = module.weight.detach().float()
    return Copy(base + sum(strength * (weight - base) for weight, strength in held))


def _sum_of_rows(module: Weighted, parts: Mapping[str, float], arch: Architecture) -> TokenRows:
    """Rows of the tokens that any of the adapters has one for; where there is no row yet, the mean of the rows is what
    such a token starts as."""
    with_rows = [each for each in parts if each in module.rows]
    if len(parts) == 1 and parts[with_rows[0]] == 1:
        only = module.rows[with_rows[0]]
        return TokenRows(only.ids.tolist(), only.weight.detach())
    ids = np.unique(np.concatenate([module.rows[each].ids for each in with_rows]))
    within = int(np.searchsorted(ids, len(module.weight)))
    first_new = dataclasses.replace(arch, new_ids=tuple(map(int, ids)))
    start_TD = mean_row(module.weight, first_new).expand(len(ids), -1).clone()
    start_TD[:within] = module.weight.detach()[torch.from_numpy(ids[:within]).to(start_TD.device)].float()
    made_TD = start_TD.clone()
    for each, strength in parts.items():
        made_TD += strength * (_own_rows(module, each, ids, start_TD) - start_TD)
    return TokenRows(ids.tolist(), made_TD)


def _own_rows(module: Weighted, name: str, ids: NDArray[np.int64], start_TD: Tensor) -> Tensor:
    """What an adapter says of some tokens: its own rows, else those of its copy, else what they start as."""
    own_TD = start_TD.clone()
    copy, rows = module.copies.get(name), module.rows.get(name)
    if copy is not None:
        within = int(np.searchsorted(ids, len(copy.weight)))
        own_TD[:within] = copy.weight[torch.from_numpy(ids[:within]).to(own_TD.device)]
    if rows is not None:
        own_TD[torch.from_numpy(np.searchsorted(ids, rows.ids)).to(own_TD.device)] = rows.weight
    return own_TD


@dataclasses.dataclass(frozen=True)
class AdapterFile:
    """An adapter as its files hold it.

    arch: the base's, with the tokens that the adapter has rows for; lora: its settings, in canonical form; dora:
    whether it has a magnitude for each row of its units; tensors: PEFT's key -> values, mapped into memory, all there
    and of the right shapes.
    """

    folder: Path
    arch: Architecture
    lora: Lora
    dora: bool
    tensors: Mapping[str, Tensor]

    def deltas(self) -> Iterator[tuple[str, Tensor, Tensor, float, Tensor | None]]:
        """Of each unit: (name, A [R, I], B [O, R], scale, magnitudes [O] or None)."""
        for unit, rank, alpha in select_units(self.arch, self.lora):
            a_RI, b_OR = (self.tensors[f"{PREFIX}{unit.name}.lora_{each}.weight"] for each in "AB")
            magnitudes_O = self.tensors[f"{PREFIX}{unit.name}.{MAGNITUDES}"] if self.dora else None
            yield unit.name, a_RI, b_OR, scale_of(self.lora, rank, alpha), magnitudes_O

    def copies(self) -> dict[str, Tensor]:
        """Module -> the weight that stands in place of the base's."""
        return {source: self.tensors[f"{PREFIX}{module}.weight"] for module, source in _stored(self.arch, self.lora)}

    def rows(self) -> dict[str, Tensor]:
        """Module -> the rows [T, D] of the tokens `arch.new_ids`."""
        if not self.arch.new_ids:
            return {}
        return {module: self.tensors[f"{PREFIX}{module}.{ROWS}"] for module in token_modules(self.arch)}


def read_file(folder: Path, arch: Architecture, *, dora: bool = False) -> AdapterFile:
    """An adapter's files, made by Luthier or by PEFT, held to the base they are for.

    Args:
        folder: an adapter folder, or a run.
        arch: of the base.
        dora: whether a DoRA adapter is welcome.

    Raises:
        ModelError: not an adapter, a feature that is not supported (by name), tensors missing, unexpected or of the
            wrong shape, or a damaged file.
    """
    folder = adapter_config.adapter_folder(folder)
    lora = adapter_config.read_settings(folder, arch, dora=dora)
    stored = dataclasses.replace(arch, new_ids=adapter_config.token_ids(folder, arch))
    given = _read_tensors(folder)
    if arch.spec.tied and EMBEDDING in saved_modules(arch, lora):
        _join_halves(given, folder)
    has_magnitudes = adapter_config.is_dora(folder)
    _check_tensors(_file_shapes(stored, lora, has_magnitudes), given, folder)
    return AdapterFile(folder, stored, lora, has_magnitudes, given)


def _uniform(bound: float) -> Sample:
    def sample(stream: np.random.Generator, count: int) -> NDArray[np.float32]:
        return (stream.random(count, dtype=np.float32) * 2 - 1) * np.float32(bound)

    return sample


def _put_on(decoder: Decoder, arch: Architecture, lora: Lora, name: str, trainable: bool) -> None:
    """Deltas without values yet on the chosen units, and copies of the modules to save."""
    chosen, modules = select_units(arch, lora), saved_modules(arch, lora)
    weighted = decoder.weighted
    if any(name in unit.deltas for unit in decoder.units.values()) or any(name in w.copies for w in weighted.values()):
        raise ModelError(Problem("models.adapter_loaded_twice", value=name))
    for unit, rank, alpha in chosen:
        a_RI, b_OR = (
            torch.empty(shape, dtype=torch.float32, device=decoder.device)
            for shape in ((rank, unit.in_features), (unit.out_features, rank))
        )
        delta = Delta(a_RI, b_OR, scale_of(lora, rank, alpha), lora.dropout)
        decoder.units[unit.name].deltas[name] = delta.requires_grad_(trainable)
    for module in modules:
        # The copy is asked for, because `to` gives the same memory where the base is in float32 already.
        copied = Copy(weighted[module].weight.detach().to(torch.float32, copy=True))
        weighted[module].copies[name] = copied.requires_grad_(trainable)

    for module in token_modules(arch) if arch.new_ids else ():
        start_TD = mean_row(weighted[module].weight, arch).expand(len(arch.new_ids), -1).clone()
        weighted[module].rows[name] = TokenRows(arch.new_ids, start_TD).requires_grad_(trainable)


def _with_rows(decoder: Decoder, name: str) -> Architecture:
    """The decoder's architecture with the tokens that an adapter has rows for."""
    rows = decoder.weighted[EMBEDDING].rows.get(name)
    return dataclasses.replace(decoder.arch, new_ids=() if rows is None else tuple(map(int, rows.ids)))


def _file_shapes(arch: Architecture, lora: Lora, dora: bool = False) -> dict[str, tuple[int, ...]]:
    """Keys of the weights file, as PEFT forms them, with shapes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for unit, rank, _ in select_units(arch, lora):
        shapes[f"{PREFIX}{unit.name}.lora_A.weight"] = (rank, unit.in_features)
        shapes[f"{PREFIX}{unit.name}.lora_B.weight"] = (unit.out_features, rank)
        if dora:
            shapes[f"{PREFIX}{unit.name}.{MAGNITUDES}"] = (unit.out_features,)
    for module, source in _stored(arch, lora):
        shapes[f"{PREFIX}{module}.weight"] = arch.tensors[source + ".weight"]
    for module in token_modules(arch) if arch.new_ids else ():
        shapes[f"{PREFIX}{module}.{ROWS}"] = (len(arch.new_ids), arch.spec.d)
    return shapes


def _file_tensors(decoder: Decoder, arch: Architecture, lora: Lora, name: str) -> dict[str, Tensor]:
    """The same keys with the decoder's own tensors."""
    tensors: dict[str, Tensor] = {}
    weighted = decoder.weighted
    for unit, _, _ in select_units(arch, lora):
        delta = decoder.units[unit.name].deltas[name]
        tensors[f"{PREFIX}{unit.name}.lora_A.weight"] = delta.A
        tensors[f"{PREFIX}{unit.name}.lora_B.weight"] = delta.B
    for module, source in _stored(arch, lora):
        tensors[f"{PREFIX}{module}.weight"] = weighted[source].copies[name].weight
    for module in token_modules(arch) if arch.new_ids else ():
        tensors[f"{PREFIX}{module}.{ROWS}"] = weighted[module].rows[name].weight
    return tensors


def _stored(arch: Architecture, lora: Lora) -> list[tuple[str, str]]:
    """(module in the file, module it is a copy of): the two halves of a shared embedding have one source."""
    saved = saved_modules(arch, lora)
    both = [(HEAD, EMBEDDING)] if arch.spec.tied and EMBEDDING in saved else []
    return [*((module, module) for module in saved), *both]


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        only_bin = (folder / "adapter_model.bin").is_file()
        raise ModelError(Problem("models.adapter_only_bin" if only_bin else "models.adapter_no_weights", str(folder)))
    shards.header(path)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(Problem("models.damaged", str(path), values={"reason": str(error)})) from error


def _join_halves(given: dict[str, Tensor], folder: Path) -> None:
    """Hold the two copies of a shared embedding to being equal; a file made with tied weights holds only one."""
    embedding, head = f"{PREFIX}{EMBEDDING}.weight", f"{PREFIX}{HEAD}.weight"
    one = given.get(embedding, given.get(head))
    if one is None:
        return
    given.setdefault(embedding, one)
    given.setdefault(head, one)
    if not torch.equal(given[embedding], given[head]):
        raise ModelError(Problem("models.adapter_halves_differ", str(folder / WEIGHTS_FILE)))


def _check_tensors(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, Tensor], folder: Path) -> None:
    wrong = [
        f"{key} {list(given[key].shape)} (should be {list(shape)})"
        for key, shape in expected.items()
        if key in given and tuple(given[key].shape) != shape
    ]
    problems = [
        Problem(message, str(folder / WEIGHTS_FILE), values={"count": len(names), "names": listed(names)})
        for message, names in (
            ("models.adapter_missing_tensors", [key for key in expected if key not in given]),
            ("models.adapter_unexpected_tensors", sorted(given.keys() - expected.keys())),
            ("models.adapter_wrong_shapes", wrong),
        )
        if names
    ]
    if problems:
        raise ModelError(problems)
