"""An adapter alone as a GGUF file, for a llama.cpp that has the base already: `luthier export --lora-gguf`.

What goes in: a run or a folder with a PEFT adapter, and f16 or f32. What comes out: one file with `lora_a` and `lora_b`
of every weight it changes, and a check against the tuned model where a GGUF file of the base is at hand.
llama.cpp adds alpha / rank * B(A(x)), with one alpha for the whole file and the rank of each pair; what that cannot say
is worked into B.

Shape legend: I in, O out, R rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
from torch import Tensor

from luthier.arch.count import saved_modules
from luthier.errors import ModelError, Problem
from luthier.export import agreement
from luthier.export.agreement import Bounds
from luthier.export.gguf import architectures, quants, recipe, verify, write
from luthier.export.weights import Source
from luthier.models import adapters
from luthier.models.adapters import AdapterFile
from luthier.runs.receipt import Check
from luthier.text import say

TYPES: dict[str, gguf.LlamaFileType] = {
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "f32": gguf.LlamaFileType.ALL_F32,
}
PROMPTS, ANSWER = 6, 8
"""Beginnings that both models go on from, and tokens that llama.cpp writes after each."""
UNROUNDED: dict[str, Bounds] = {
    "F32": Bounds(1e-3, agreement.ROUNDED_TIE, 1.0),
    "F16": Bounds(1e-3, agreement.ROUNDED_TIE, 1.0),
    "BF16": Bounds(2e-3, agreement.ROUNDED_TIE, 1.0),
}
"""Types of a base with which llama.cpp has to choose the tuned model's token everywhere; with others a file may differ
as much as one of the whole model in that type."""


class Wanted(NamedTuple):
    """type: key of `TYPES`; base: GGUF file of the adapter's base, in any type, to check on; without it nothing is
    checked, and the receipt says so."""

    type: str
    base: Path | None = None


class Plan(NamedTuple):
    """kind: llama.cpp's architecture; names: of the checkpoint -> of GGUF; quant: what the base's file is in."""

    wanted: Wanted
    kind: gguf.MODEL_ARCH
    names: Mapping[str, str]
    file: AdapterFile
    quant: str | None

    @property
    def dtype(self) -> np.dtype[Any]:
        return write.PLAIN[recipe.BASE[self.wanted.type]]

    @property
    def num_bytes(self) -> int:
        values = sum(a_RI.numel() + b_OR.numel() for _, a_RI, b_OR, _, _ in self.file.deltas())
        return values * self.dtype.itemsize + write.HEAD_BYTES


def plan(source: Source, wanted: Wanted) -> Plan:
    """What will be written, before anything is.

    Raises:
        ModelError: no such type; the source is not one adapter on a base; llama.cpp has no place for what it changes;
            the base's file is none.
    """
    if wanted.type not in TYPES:
        raise ModelError(Problem("gguf.type", "--lora-gguf", value=wanted.type, values={"known": ", ".join(TYPES)}))
    quant = None if wanted.base is None else quant_of(wanted.base)
    file = _holdable(source)
    arch, where = source.base.arch, str(source.folder)
    kind = architectures.architecture_of(arch, where)
    return Plan(wanted, kind, architectures.tensor_names(arch, kind, where), file, quant)


def write_file(planned: Plan, path: Path, *, name: str) -> None:
    """Write the file.

    Args:
        name: `general.name` in it.

    Raises:
        ModelError: a value does not fit the type.
        OSError: the operating system refuses.
    """
    kind, dtype = planned.kind, recipe.BASE[planned.wanted.type]
    alpha, pairs = with_one_alpha(planned.file)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for unit, (a_RI, b_OR) in pairs.items():
            weight = f"{unit}.weight"
            yield f"{planned.names[weight]}.lora_a", a_RI
            yield f"{planned.names[weight]}.lora_b", write.as_ggml(b_OR, weight, planned.file.arch.spec, kind)

    writer = _begin(kind, planned.wanted.type, name, alpha)
    try:
        for key, values in tensors():
            encoded = quants.quantise(values.contiguous(), dtype, name=key).view(planned.dtype)
            writer.add_tensor(key, np.ascontiguousarray(encoded))
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def with_one_alpha(file: AdapterFile) -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
    """(alpha, unit -> (A, B)) so that alpha / rank is the scale of every pair: the alpha of most of them, and of the
    others B with the rest worked in. rsLoRA's alpha / sqrt(rank) is such an alpha too. Zero is none: llama.cpp takes it
    for a file that does not say."""
    deltas = list(file.deltas())
    alphas = Counter(scale * len(a_RI) for _, a_RI, _, scale, _ in deltas if scale)
    alpha = float(np.float32(alphas.most_common(1)[0][0])) if alphas else 1.0
    pairs = {}
    for unit, a_RI, b_OR, scale, _ in deltas:
        factor = scale * len(a_RI) / alpha
        # float32 rounds an alpha that is no round number; that is no reason to touch B.
        exact = abs(factor - 1) < torch.finfo(torch.float32).eps
        pairs[unit] = a_RI.float(), b_OR.float() if exact else b_OR.float() * factor
    return alpha, pairs


def quant_of(path: Path) -> str:
    """What the weights of a GGUF model are in, as `recipe.BASE` calls it.

    Raises:
        ModelError: it is not there, or no GGUF file of a model.
    """
    try:
        fields = gguf.GGUFReader(path).fields
        number = fields[gguf.Keys.General.FILE_TYPE].contents()
        of_model = fields[gguf.Keys.General.TYPE].contents() == gguf.GGUFType.MODEL
        named = str(gguf.LlamaFileType(number).name).removeprefix("MOSTLY_").removeprefix("ALL_").lower()
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(Problem("gguf.lora_base", "--base-gguf", value=str(path))) from error
    if not of_model:
        raise ModelError(Problem("gguf.lora_base", "--base-gguf", value=str(path)))
    return named


def _holdable(source: Source) -> AdapterFile:
    """The adapter, if low-rank pairs are all it has."""
    if len(source.voices) != 1:
        raise ModelError(Problem("gguf.lora_whole", where=str(source.folder)))
    folder, arch = source.voices[0].folder, source.base.arch
    file = adapters.read_file(folder, arch, dora=True)
    held: Mapping[str, Any] = {
        "gguf.lora_dora": "DoRA" if file.dora else None,
        "gguf.lora_saved": ", ".join(saved_modules(arch, file.lora)),
        "gguf.lora_tokens": ", ".join(map(str, file.arch.new_ids)),
    }
    problems = [Problem(each, where=str(folder), value=value) for each, value in held.items() if value]
    if problems:
        raise ModelError(problems)
    return file


def _begin(kind: gguf.MODEL_ARCH, wanted: str, name: str, alpha: float) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[kind])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_name(name)
    writer.add_file_type(TYPES[wanted])
    return writer


# ------------------------------------------------------------------------------------------------------- checked


def check(source: Source, planned: Plan, path: Path, *, asked: bool = True) -> Check:
    """What llama.cpp writes with base and file, token by token beside what the tuned model would have written.

    Args:
        asked: whether llama.cpp is asked at all.
    """
    base, bounds = planned.wanted.base, _bounds(planned.quant)

    def found(status: Any, evidence: str) -> Check:
        text = say("gguf.check.lora", file=path.name)
        return Check(f"gguf_lora_{planned.wanted.type}", status, agreement.bound_text(bounds), evidence, text)

    reason = "gguf.evidence.no_base" if asked and base is None else verify.why_not(asked)
    if reason or base is None:
        return found("not run", say(reason))
    longest = source.base.arch.spec.max_positions - ANSWER
    prompts = [each[:longest] for each in agreement.beginnings(source)[:PROMPTS]]
    question = {"file": str(base), "adapter": str(path), "texts": [], "messages": [], "prompts": prompts}
    told = verify.ask({**question, "top": verify.TOP, "tokens": ANSWER})
    if isinstance(told, str):
        return found("fail", say("gguf.evidence.broken", reason=told))
    places = [
        [*prompt, *answer[:end]]
        for prompt, answer in zip(prompts, told["answers"], strict=True)
        for end in range(len(answer))
    ]
    expected = verify.reference(source, places)
    measured = agreement.compare(source, expected, verify.whole(expected.tuned_BV, told["tops"]), bounds)
    evidence = say(
        "gguf.evidence.lora",
        base=base.name,
        kl=measured.mean_kl,
        effect=measured.effect_kl,
        top1=measured.top1,
        places=measured.positions,
    )
    if not measured.good:
        return found("fail", evidence)
    # An adapter that changes less than llama.cpp rounds away would be no worse if it were left out.
    return found("pass" if measured.mean_kl <= measured.effect_kl / 2 else "not run", evidence)


def _bounds(quant: str | None) -> Bounds:
    kind = recipe.BASE.get(quant, quant) if quant is not None else "F16"
    return UNROUNDED.get(kind) or verify.BOUNDS.get(kind, verify.COARSE)
