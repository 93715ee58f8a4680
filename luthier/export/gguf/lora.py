"""An adapter alone as a GGUF file, for a llama.cpp that has the base already: `luthier export --lora-gguf`.

What goes in: a run or a folder with a PEFT adapter, and f16 or f32. What comes out: one file with `lora_a` and `lora_b`
of every weight it changes, its receipt, and a check against the tuned model where a GGUF file of the base is at hand.
llama.cpp adds alpha / rank * B(A(x)), with one alpha for the whole file and the rank of each pair; what that cannot say
is worked into B.

Shape legend: I in, O out, R rank.
"""

from __future__ import annotations

import importlib.util
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
from luthier.export import receipt as receipts
from luthier.export.gguf import architectures, quants, recipe, verify, write
from luthier.export.receipt import ExportReceipt
from luthier.export.weights import Source, open_source
from luthier.models import adapters, weights
from luthier.models.adapters import AdapterFile
from luthier.proof import next_token_logits
from luthier.runs import files
from luthier.runs.receipt import Check
from luthier.text import say

TYPES: dict[str, gguf.LlamaFileType] = {
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "f32": gguf.LlamaFileType.ALL_F32,
}
PROMPTS, ANSWER = 6, 8
"""Beginnings that both models go on from, and tokens that llama.cpp writes after each."""
UNROUNDED = ("F32", "F16", "BF16")
"""Types of a base with which llama.cpp has to choose the tuned model's token everywhere."""


def export(
    target: str | Path,
    wanted: str,
    folder: Path | None = None,
    *,
    base_gguf: Path | None = None,
    check: bool = True,
) -> tuple[Path, ExportReceipt]:
    """Write the adapter and hold it to the tuned model.

    Args:
        wanted: key of `TYPES`.
        folder: by default the target's name with -gguf, in the current folder.
        base_gguf: of the adapter's base, in any type; without it nothing is checked, and the receipt says so.

    Raises:
        ModelError: there is no adapter, or the file cannot hold what it changes; `base_gguf` is no GGUF model.
        RunError: a file is in the way, there is too little room, or the operating system refuses.
    """
    if wanted not in TYPES:
        raise ModelError(Problem("gguf.type", "--lora-gguf", value=wanted, values={"known": ", ".join(TYPES)}))
    quant = None if base_gguf is None else quant_of(base_gguf)
    source, name = open_source([(target, 1.0)]), Path(target).name
    out = folder or Path(f"{name}-gguf")
    path = out / f"{name}-lora-{wanted}.gguf"
    write_adapter(source, path, wanted, name=name)
    found = []
    if check:
        asked = None if base_gguf is None or quant is None else (base_gguf, quant)
        found.append(_check(source, path, wanted, asked))
    made = receipts.build("lora-gguf", source, found, {path.name: files.fingerprint(path)})
    receipts.write(out, made, f"receipt-lora-{wanted}")
    return out, made


def write_adapter(source: Source, path: Path, wanted: str, *, name: str) -> None:
    """Write the file, whole or not at all.

    Raises:
        ModelError: the source is not one adapter on a base; llama.cpp has no place for what it changes; a value does
            not fit the type.
        RunError: the file is in the way, there is too little room, or the operating system refuses.
    """
    file = _holdable(source)
    arch, where = source.base.arch, str(source.folder)
    kind = architectures.architecture_of(arch, where)
    names = architectures.tensor_names(arch, kind, where)
    alpha, pairs = with_one_alpha(file)
    mixer = arch.spec.layers[0].mixer

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for unit, (a_RI, b_OR) in pairs.items():
            weight = f"{unit}.weight"
            yield f"{names[weight]}.lora_a", a_RI
            yield f"{names[weight]}.lora_b", write.as_ggml(b_OR, weight, mixer, kind)

    dtype = write.PLAIN[recipe.BASE[wanted]]
    needed = sum(each.numel() for pair in pairs.values() for each in pair) * dtype.itemsize + write.HEAD_BYTES
    with write.atomically({wanted: path}, needed) as temps:
        writer = _begin(kind, wanted, name, alpha)
        try:
            for key, values in tensors():
                encoded = quants.quantise(values.contiguous(), recipe.BASE[wanted], name=key).view(dtype)
                writer.add_tensor(key, np.ascontiguousarray(encoded))
            writer.write_header_to_file(temps[wanted])
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


def _check(source: Source, path: Path, wanted: str, base: tuple[Path, str] | None) -> Check:
    """What llama.cpp writes with base and file, token by token beside what the tuned model would have written."""
    kind = recipe.BASE.get(base[1], base[1]) if base is not None else "F16"
    top1_bound = 1.0 if kind in UNROUNDED else verify.TOP1.get(kind, verify.COARSE_TOP1)
    kl_bound = verify.KL.get(kind, verify.COARSE_KL)

    def found(status: Any, evidence: str) -> Check:
        bound = say("gguf.bound.lora", kl=kl_bound, top1=top1_bound)
        return Check(f"gguf_lora_{wanted}", status, bound, evidence, say("gguf.check.lora", file=path.name))

    if base is None:
        return found("not run", say("gguf.evidence.no_base"))
    if importlib.util.find_spec("xllamacpp") is None:
        return found("not run", say("gguf.evidence.no_llama"))
    longest = source.base.arch.spec.max_positions - ANSWER
    prompts = [each[:longest] for each in agreement.beginnings(source)[:PROMPTS]]
    asked = {"file": str(base[0]), "adapter": str(path), "texts": [], "messages": [], "prompts": prompts}
    told, reason = verify.ask({**asked, "top": verify.TOP, "tokens": ANSWER})
    if told is None:
        return found("fail", say("gguf.evidence.broken", reason=reason))
    places = [
        [*prompt, *answer[:end]]
        for prompt, answer in zip(prompts, told["answers"], strict=True)
        for end in range(len(answer))
    ]
    measured = _measure(source, places, told["tops"])
    evidence = say("gguf.evidence.lora", **measured._asdict(), places=len(places), base=base[0].name)
    if measured.kl > kl_bound or measured.top1 < top1_bound:
        return found("fail", evidence)
    # An adapter that changes less than llama.cpp rounds away would be no worse if it were left out.
    return found("pass" if measured.kl <= measured.effect / 2 else "not run", evidence)


class _Measured(NamedTuple):
    """kl: mean KL(tuned || llama.cpp) in nats; effect: mean KL(tuned || base); top1: share of the places with the same
    likeliest token, near-ties counted as the same."""

    kl: float
    effect: float
    top1: float


def _measure(source: Source, places: list[list[int]], tops: list[list[tuple[int, float]]]) -> _Measured:
    decoder = weights.load(source.folder, source.base.arch, dtype=torch.float32)
    adapters.load_adapter(decoder, source.base.arch, source.voices[0].folder, agreement.NAME)
    tuned, base = (
        torch.from_numpy(next_token_logits(decoder, places, name)).double().log_softmax(-1)
        for name in (agreement.NAME, None)
    )
    kl, _ = verify.agreement(tuned, tops)
    leads = [float(mine.max() - mine[top[0][0]]) for mine, top in zip(tuned, tops, strict=True)]
    same = sum(lead <= agreement.ROUNDED_TIE for lead in leads) / len(leads)
    return _Measured(kl, float((tuned.exp() * (tuned - base)).sum(-1).mean()), same)
