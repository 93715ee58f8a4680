"""GGUF files of a model, all wanted types in one pass over its weights.

What goes in: a `Source` (base and adapters, a tensor at a time) and the types wanted. What comes out: one GGUF file for
each. Nothing but the tensor in hand is in memory, and no merged copy lies on the disk. The folder is the caller's, who
makes it appear whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, LlamaFileType
from torch import Tensor

from luthier.arch.spec import DecoderSpec
from luthier.errors import ModelError, Problem
from luthier.export.gguf import architectures, native, quants, recipe, vocabulary
from luthier.export.weights import Source

PLAIN: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16)}
HEAD_BYTES = 64 * 2**20
"""Room for metadata: the vocabulary of a model of 256 thousand tokens with its merges is about 10 MB."""
Progress = Callable[[int, int], None]


class Plan(NamedTuple):
    """kind: llama.cpp's architecture; names: of the checkpoint -> of GGUF; shapes: (GGUF name, shape), in the order of
    the checkpoint; types: type wanted -> GGUF name -> the tensor's type."""

    kind: gguf.MODEL_ARCH
    names: Mapping[str, str]
    shapes: Sequence[tuple[str, tuple[int, ...]]]
    types: Mapping[str, Mapping[str, str]]
    quantiser: native.Native | None

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(recipe.num_bytes(types, self.shapes) + HEAD_BYTES for types in self.types.values())


def plan(source: Source, wanted: Sequence[str]) -> Plan:
    """What will be written, before anything is.

    Raises:
        ModelError: there is no such type, or llama.cpp does not have the family.
    """
    where = str(source.folder)
    kind = architectures.architecture_of(source.arch, where)
    quantiser = native.find(torch.get_num_threads())
    check_types(wanted, quantiser is not None)
    names = architectures.tensor_names(source.arch, kind, where)
    shapes = [(names[each], tuple(source.shapes[each])) for each in source.names]
    types = {each: architectures.tensor_types(source.arch, kind, each, shapes) for each in wanted}
    return Plan(kind, names, shapes, types, quantiser)


def write(
    source: Source, planned: Plan, paths: Mapping[str, Path], *, name: str, on_progress: Progress | None = None
) -> None:
    """Write one file for each type of the plan.

    Args:
        paths: type -> file.
        name: `general.name` in the files.
        on_progress: called with (tensors done, tensors in all).

    Raises:
        ModelError: llama.cpp does not have the tokenizer or the rope, or a value does not fit the type.
        OSError: the operating system refuses.
    """
    with ExitStack() as at_end:
        writers = {}
        for wanted, path in paths.items():
            types = planned.types[wanted]
            writer, first = _begin(source, planned.kind, wanted, name, [(n, s, types[n]) for n, s in planned.shapes])
            at_end.callback(writer.close)
            writers[wanted] = writer
            _open(writer, path, first)
        for done, each in enumerate(source.names, 1):
            values = as_ggml(source.tensor(each), each, source.arch.spec, planned.kind)
            if len(writers) > 1 and values.numel() <= quants.SLAB_VALUES:
                values = values.float()  # once for all types
            for wanted, writer in writers.items():
                kind = planned.types[wanted][planned.names[each]]
                writer.write_tensor_data(_encoded(values, kind, planned.quantiser, each))
            if on_progress is not None:
                on_progress(done, len(source.names))


def check_types(wanted: Sequence[str], has_native: bool) -> None:
    """Raises ModelError for a type that there is not, or not without the extra."""
    for each in wanted:
        if each not in recipe.BASE:
            raise ModelError(Problem("gguf.type", "--gguf", value=each, values={"known": ", ".join(recipe.BASE)}))
        if recipe.BASE[each] in native.ONLY_NATIVE and not has_native:
            raise ModelError(Problem("gguf.needs_native", "--gguf", value=each))


def _begin(
    source: Source, kind: gguf.MODEL_ARCH, wanted: str, name: str, tensors: Sequence[tuple[str, tuple[int, ...], str]]
) -> tuple[gguf.GGUFWriter, list[Any]]:
    """A writer that knows what will come, and the tensors that come first."""
    where = str(source.folder)
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[kind])
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(_file_type(wanted))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    rows = next(shape[0] for each, shape, _ in tensors if each == "token_embd.weight")
    renderer = source.renderer
    architectures.add_numbers(writer, source.arch.spec, max(rows, renderer.vocab_size))
    extra = architectures.add_rope(writer, source.arch.spec, where)
    if renderer.vocab_size > rows:
        values = {"tokens": renderer.vocab_size, "rows": rows}
        raise ModelError(Problem("gguf.too_few_rows", where, values=values))
    vocabulary.add_vocabulary(writer, renderer.folder, renderer, rows)
    for each, factors in extra.items():
        writer.add_tensor_info(each, factors.shape, factors.dtype, factors.nbytes)
    for each, shape, ggml in tensors:
        if ggml in PLAIN:
            writer.add_tensor_info(each, shape, PLAIN[ggml], int(np.prod(shape)) * PLAIN[ggml].itemsize)
        else:
            packed = (*shape[:-1], recipe.row_bytes(shape[-1], ggml))
            raw = GGMLQuantizationType[ggml]
            writer.add_tensor_info(each, packed, np.dtype(np.uint8), int(np.prod(packed)), raw_dtype=raw)
    return writer, list(extra.values())


def _open(writer: gguf.GGUFWriter, path: Path, first: Sequence[Any]) -> None:
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for values in first:
        writer.write_tensor_data(values)


def _file_type(wanted: str) -> LlamaFileType:
    names = {"f32": "ALL_F32", "q4_k_m": "MOSTLY_Q4_K_M", "q5_k_m": "MOSTLY_Q5_K_M"}
    return LlamaFileType[names.get(wanted, f"MOSTLY_{wanted.upper()}")]


def as_ggml(values: Tensor, name: str, spec: DecoderSpec, kind: gguf.MODEL_ARCH) -> Tensor:
    """Rows of q and k in the order in which the graph rotates them: pairs side by side, not in halves. Norms as what
    they multiply by."""
    if spec.norm_plus_one and name.endswith("norm.weight"):
        return values.float() + 1
    if kind in architectures.INTERLEAVED:
        mixer = spec.layers[0].mixer
        for part, heads in ((".q_proj.", mixer.heads), (".k_proj.", mixer.kv_heads)):
            if part in name:
                halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
                return halves.swapaxes(1, 2).reshape(values.shape)
    return values


def _encoded(values: Tensor, ggml: str, quantiser: native.Native | None, name: str) -> Any:
    rows = values.reshape(-1, values.shape[-1]).contiguous()
    packed = quants.quantise(rows, ggml, native=None if ggml in (*PLAIN, "BF16") else quantiser, name=name)
    return np.ascontiguousarray(packed)
