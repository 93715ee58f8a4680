"""Types and bytes of GGUF files against llama.cpp's own `llama_model_quantize`, on tensors of several architectures.

Needs xllamacpp (our native quantiser) and cyllama 0.2.18 (15 MB; `pip install --no-deps cyllama==0.2.18`), whose
`model_quantize` is llama.cpp's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import pytest
import torch

from luthier.export.gguf import native, quants, recipe

FILE_TYPES = {
    **{"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k_s": 11},
    **{"q3_k_m": 12, "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18},
    **{"iq4_nl": 25, "iq4_xs": 30, "bf16": 32},
}
"""llama_ftype of each quantisation."""


class Shape(NamedTuple):
    """A model on paper: nothing but what llama.cpp needs to know to quantise it."""

    arch: str
    layers: int = 9
    width: int = 256
    inner: int = 512
    heads: int = 4
    kv_heads: int = 2
    experts: int = 0
    tied: bool = False
    fused: bool = False


SHAPES: dict[str, Shape] = {
    "llama": Shape("llama"),
    "llama of 17 layers": Shape("llama", layers=17, inner=256),
    "llama, tied, rows of 320": Shape("llama", width=320, inner=640, heads=5, kv_heads=5, tied=True),
    "llama, rows of 336": Shape("llama", inner=336),
    "llama of 80 layers, grouped": Shape("llama", layers=80, inner=256, heads=8, kv_heads=1),
    "llama of 80 layers": Shape("llama", layers=80, inner=256, heads=4, kv_heads=4),
    "qwen2 of 80 layers": Shape("qwen2", layers=80, inner=256, heads=4, kv_heads=4),
    "mixtral": Shape("llama", experts=8),
    "qwen3": Shape("qwen3", heads=8, kv_heads=2, tied=True),
    "qwen3moe of 8": Shape("qwen3moe", experts=8),
    "qwen3moe of 16": Shape("qwen3moe", experts=16),
    "gemma2": Shape("gemma2", tied=True),
    "phi3": Shape("phi3", kv_heads=4, fused=True),
    "falcon": Shape("falcon", layers=17, kv_heads=1, fused=True),
    "olmo2": Shape("olmo2"),
    "granite": Shape("granite", tied=True),
}


def tensors_of(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner, head = shape.width, shape.inner, shape.width // shape.heads
    values = head * shape.kv_heads
    yield "token_embd.weight", (64, width)
    yield "output_norm.weight", (width,)
    if not shape.tied:
        yield "output.weight", (64, width)
    for layer in range(shape.layers):
        at = f"blk.{layer}."
        yield at + "attn_norm.weight", (width,)
        if shape.fused:
            yield at + "attn_qkv.weight", (width + 2 * values, width)
        else:
            yield at + "attn_q.weight", (width, width)
            yield at + "attn_k.weight", (values, width)
            yield at + "attn_v.weight", (values, width)
        yield at + "attn_output.weight", (width, width)
        yield at + "ffn_norm.weight", (width,)
        if shape.experts:
            yield at + "ffn_gate_inp.weight", (shape.experts, width)
            yield at + "ffn_gate_exps.weight", (shape.experts, inner, width)
            yield at + "ffn_up_exps.weight", (shape.experts, inner, width)
            yield at + "ffn_down_exps.weight", (shape.experts, width, inner)
        else:
            if not shape.fused:
                yield at + "ffn_gate.weight", (inner, width)
            yield at + "ffn_up.weight", ((1 + (shape.arch == "phi3")) * inner, width)
            yield at + "ffn_down.weight", (width, inner)


def write(shape: Shape, path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """A float32 file of random weights; they are returned."""
    writer = gguf.GGUFWriter(path, shape.arch)
    writer.add_block_count(shape.layers)
    writer.add_context_length(128)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(64)
    writer.add_sliding_window(64)
    writer.add_logit_scale(1.0)
    writer.add_residual_scale(1.0)
    writer.add_embedding_scale(1.0)
    writer.add_attention_scale(1.0)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(shape.inner)
    rng = np.random.default_rng(0)
    tensors = {name: 0.1 * rng.standard_normal(size, dtype=np.float32) for name, size in tensors_of(shape)}
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.mark.long
@pytest.mark.parametrize("name", SHAPES)
def test_types_and_bytes_are_those_of_llama_cpp(name: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("cyllama.llama.llama_cpp")
    ours = native.find(1)
    if ours is None:
        pytest.skip("needs xllamacpp")
    llama_cpp.disable_logging()
    shape = SHAPES[name]
    tensors = write(shape, tmp_path / "f32.gguf")
    for quant, number in FILE_TYPES.items():
        if shape.inner % 32 and recipe.BASE[quant] in recipe.BLOCK and recipe.BASE[quant] not in recipe.FALLBACK:
            continue  # llama.cpp gives up on such rows; the rules here make them F16
        wanted = tmp_path / "theirs.gguf"
        params = llama_cpp.LlamaModelQuantizeParams()
        params.ftype, params.nthread = number, 1
        llama_cpp.model_quantize(str(tmp_path / "f32.gguf"), str(wanted), params)
        theirs = {each.name: each for each in gguf.GGUFReader(wanted).tensors}
        types = recipe.tensor_types(
            shape.arch,
            quant,
            [(key, values.shape) for key, values in tensors.items()],
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            experts=shape.experts,
        )
        assert theirs.keys() == types.keys()
        kinds = {key: each.tensor_type.name for key, each in theirs.items()}
        assert types == kinds, (quant, {key: (types[key], kinds[key]) for key in types if types[key] != kinds[key]})
        for key, values in tensors.items():
            rows = torch.from_numpy(values).reshape(-1, values.shape[-1])
            made = quants.quantise(rows, types[key], native=ours)
            assert made.tobytes() == theirs[key].data.tobytes(), (quant, key, types[key])
            COUNTED["tensors"] += 1
        COUNTED["files"] += 1
        wanted.unlink()
    print(f"{name}: so far {COUNTED['files']} files, {COUNTED['tensors']} tensors equal")


COUNTED = dict.fromkeys(("files", "tensors"), 0)


def test_every_quantisation_is_compared() -> None:
    assert FILE_TYPES.keys() == recipe.BASE.keys()
    kinds = {
        kind for shape, quant in itertools.product(SHAPES.values(), recipe.BASE) for kind in kinds_of(shape, quant)
    }
    assert {*native.KINDS, *quants.PLAIN} == kinds


def kinds_of(shape: Shape, quant: str) -> set[str]:
    found = recipe.tensor_types(shape.arch, quant, [*tensors_of(shape)], heads=shape.heads, kv_heads=shape.kv_heads)
    return {*found.values()}
