"""Which tensor of a GGUF file gets which type: llama.cpp's own rules, without an importance matrix.

What goes in: the architecture's name in GGUF, a quantisation (`q4_k_m`), the tensors' names and shapes, and the model's
heads and experts. What comes out: the type of every tensor. `tests/test_gguf_golden.py` holds the rules to files that
llama.cpp itself wrote. The rules look odd because they grew by trial on the models of their day.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import gguf

BASE: dict[str, str] = {
    "q2_k": "Q2_K",
    "q3_k_s": "Q3_K",
    "q3_k_m": "Q3_K",
    "q3_k_l": "Q3_K",
    "q4_0": "Q4_0",
    "q4_1": "Q4_1",
    "q4_k_s": "Q4_K",
    "q4_k_m": "Q4_K",
    "q5_0": "Q5_0",
    "q5_1": "Q5_1",
    "q5_k_s": "Q5_K",
    "q5_k_m": "Q5_K",
    "q6_k": "Q6_K",
    "q8_0": "Q8_0",
    "iq4_nl": "IQ4_NL",
    "iq4_xs": "IQ4_XS",
    "f16": "F16",
    "bf16": "BF16",
    "f32": "F32",
}
"""Quantisation as people ask for it -> the type of what no rule speaks of."""
BLOCK: dict[str, int] = {
    **dict.fromkeys(("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"), 256),
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"), 32),
}
"""Values of a row that share a scale; a row holds whole blocks. Types that are not here take any row."""
FALLBACK: dict[str, str] = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ4_XS": "IQ4_NL",
}
"""For rows that are not whole blocks of 256; rows that are not whole blocks of 32 either become F16."""
SEVENTY_LAYERS: dict[str, int] = {"llama": 80, "qwen2": 80, "deci": 80, "jais2": 68}
"""Layers by which llama.cpp knows a model of 70B, whose small `attn_v` gets more bits."""
KEPT = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|altup|laurel|per_layer_model_proj|ssm_conv1d|shortconv\.conv\.weight"
    r"|attn_rel_b\.weight|^position_embd\.weight$|^token_types\.weight$"
)
"""Matrices that llama.cpp never quantises: routers, norms, small convolutions."""
_LAYER = re.compile(r"blk\.(\d+)\.")
_EIGHT_EXPERTS_OUTPUT = ("q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m", "iq4_nl", "iq4_xs")


class _Model(NamedTuple):
    """What the rules ask of a model. `values`: how many attn_v, attn_qkv and attn_kv_b tensors it has."""

    quant: str
    layers: int
    values: int
    groups: int
    experts: int
    falcon: bool
    seventy: bool


def tensor_types(
    architecture: str,
    quant: str,
    tensors: Sequence[tuple[str, tuple[int, ...]]],
    *,
    heads: int = 1,
    kv_heads: int = 1,
    experts: int = 0,
) -> dict[str, str]:
    """The type of each tensor, as `llama-quantize` chooses it.

    Args:
        architecture: `general.architecture` of the file: llama, qwen3moe, phi3, ...
        quant: a key of `BASE`.
        tensors: GGUF name and shape, rows before columns as in torch. A model without `output.weight` is tied.
        heads, kv_heads: of the first layer. experts: experts of a layer, 0 where it has none.

    Returns:
        name -> a type that `quants.quantise` takes. What is never quantised is F32.
    """
    base = BASE[quant]
    quantised = base in BLOCK
    names = {name for name, _ in tensors}
    model = _Model(
        quant=quant,
        layers=1 + max((layer_of(name) for name in names), default=-1),
        values=sum(part_of(name) == "values" for name in names),
        groups=heads // max(kv_heads, 1),
        experts=experts,
        falcon=architecture == "falcon",
        seventy=_is_seventy(architecture, 1 + max((layer_of(name) for name in names), default=-1), heads, kv_heads),
    )
    tied = "output.weight" not in names
    seen = {"values": 0, "down": 0}
    types = {}
    # In the order in which llama.cpp meets them: by layer, then by name. Its rules count what came before.
    for name, shape in sorted(tensors, key=lambda each: (layer_of(each[0]), each[0])):
        part = part_of(name)
        if len(shape) < 2 or not name.endswith("weight") or KEPT.search(name):
            types[name] = "F32"
            continue
        kind = base
        if quantised:
            kind = _chosen(model, base, name, shape[-1], _Place(part, tied, seen))
        types[name] = fitting(kind, shape[-1])
        if part in seen:
            seen[part] += 1
    return {name: types[name] for name, _ in tensors}


def row_bytes(columns: int, kind: str) -> int:
    """Bytes of a row of `columns` values."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    assert columns % block == 0, f"a row of {columns} is not whole blocks of {kind}"
    return int(columns // block * size)


def num_bytes(types: Mapping[str, str], tensors: Sequence[tuple[str, tuple[int, ...]]]) -> int:
    """Of all tensors of a file, by what `tensor_types` gives them."""
    return sum(row_bytes(shape[-1], types[name]) * math.prod(shape[:-1]) for name, shape in tensors)


def layer_of(name: str) -> int:
    """The layer that a tensor belongs to; -1 where it belongs to none."""
    found = _LAYER.match(name)
    return int(found[1]) if found else -1


def part_of(name: str) -> str:
    """What a tensor is to the rules; they look for pieces of names, so `ffn_down_exps` is a `down` too."""
    if name == "output.weight":
        return "head"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "embedding"
    for part, pieces in _PARTS.items():
        if any(piece in name for piece in pieces):
            return part
    return "other"


_PARTS: dict[str, tuple[str, ...]] = {
    "values": ("attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight"),
    "keys": ("attn_k.weight",),
    "attention": ("attn_output.weight",),
    "down": ("ffn_down",),
}


def fitting(kind: str, columns: int) -> str:
    """The type itself, or what llama.cpp takes instead where a row of `columns` is not whole blocks of it."""
    if columns % BLOCK.get(kind, 1):
        kind = FALLBACK.get(kind, "F16")
    return "F16" if columns % BLOCK.get(kind, 1) else kind


class _Place(NamedTuple):
    part: str
    tied: bool
    seen: dict[str, int]


def _is_seventy(architecture: str, layers: int, heads: int, kv_heads: int) -> bool:
    # Llama's 80 layers without grouped heads are the 65B of the first generation.
    return SEVENTY_LAYERS.get(architecture) == layers and not (architecture == "llama" and heads == kv_heads)


def _chosen(model: _Model, base: str, name: str, columns: int, place: _Place) -> str:
    part = place.part
    if part == "head" or (part == "embedding" and place.tied):
        return "Q8_0" if base == "Q8_0" or model.falcon or columns % BLOCK[base] else "Q6_K"
    if part == "values":
        return _values(model, base, place.seen["values"])
    if part == "keys":
        return "Q8_0" if model.experts == 8 else base
    if part == "attention":
        return _attention(model, base)
    if part == "down":
        return _down(model, base, layer_of(name) if model.experts > 1 else place.seen["down"])
    return base


def _more_bits(index: int, count: int) -> bool:
    """The first and the last eighth, and every third between."""
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2


def _values(model: _Model, base: str, index: int) -> str:
    kind, quant = base, model.quant
    if quant == "q2_k":
        kind = "Q4_K" if model.groups >= 4 else "Q3_K"
    elif quant == "q3_k_m":
        kind = "Q5_K" if index < 2 else "Q4_K"
    elif quant == "q3_k_l" or (quant in ("iq4_nl", "iq4_xs") and model.groups >= 4):
        kind = "Q5_K"
    elif quant in ("q4_k_m", "q5_k_m") and _more_bits(index, model.values):
        kind = "Q6_K"
    elif quant == "q4_k_s" and index < 4:
        kind = "Q5_K"
    if model.seventy and kind in ("Q3_K", "Q4_K"):
        kind = "Q5_K"
    return "Q8_0" if model.experts == 8 else kind


def _attention(model: _Model, base: str) -> str:
    quant = model.quant
    if model.falcon:
        return "Q4_K" if quant == "q3_k_l" else base
    if model.experts == 8:
        return "Q5_K" if quant in _EIGHT_EXPERTS_OUTPUT else base
    return {"q2_k": "Q3_K", "q3_k_m": "Q4_K", "q3_k_l": "Q5_K"}.get(quant, base)


def _down(model: _Model, base: str, index: int) -> str:
    if model.falcon:
        return _down_of_falcon(model, base, index)
    quant, early, more = model.quant, index < model.layers // 8, _more_bits(index, model.layers)
    if quant == "q2_k":
        return "Q3_K"
    if quant == "q3_k_m":
        return "Q5_K" if index < model.layers // 16 else "Q4_K"
    if quant == "q3_k_l" or (quant in ("iq4_nl", "iq4_xs", "q4_k_s") and early):
        return "Q5_K"
    return "Q6_K" if quant in ("q4_k_m", "q5_k_m") and more else base


def _down_of_falcon(model: _Model, base: str, index: int) -> str:
    first, more = index < model.layers // 16, _more_bits(index, model.layers)
    rules = {
        "q2_k": "Q3_K",
        "q3_k_m": "Q5_K" if first else "Q4_K" if more else "Q3_K",
        "q3_k_l": "Q4_K",
        "q4_k_m": "Q6_K" if first else "Q5_K" if more else "Q4_K",
        "q5_k_m": "Q6_K" if more else base,
    }
    if model.quant in ("iq4_nl", "iq4_xs") and index < model.layers // 8:
        return "Q5_K"
    return rules.get(model.quant, base)
