"""What llama.cpp calls a family, and the numbers that it wants to know of a model.

What goes in: the `Architecture` of a model. What comes out: its name in GGUF, its tensors' names there, the metadata,
and the tensors that rope scaling is written as. What llama.cpp would compute differently is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import gguf
import numpy as np
from numpy.typing import NDArray

from luthier.arch.spec import Architecture, DecoderSpec, Rope
from luthier.errors import ModelError, Problem
from luthier.export.gguf import recipe

ARCHITECTURES: dict[str, gguf.MODEL_ARCH] = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "granite": gguf.MODEL_ARCH.GRANITE,
}
"""Family -> architecture of llama.cpp. Mistral is Llama with a window, and llama.cpp runs it as such."""
INTERLEAVED = (gguf.MODEL_ARCH.LLAMA, gguf.MODEL_ARCH.GRANITE)
"""Architectures whose graphs rotate neighbouring features, not halves: rows of q and k change places."""
PERIODS: dict[gguf.MODEL_ARCH, int] = {gguf.MODEL_ARCH.GEMMA2: 2, gguf.MODEL_ARCH.GEMMA3: 6}
"""Architectures with layers that slide: all but each so-manieth, built in."""
LARGEST: dict[gguf.MODEL_ARCH, int] = {gguf.MODEL_ARCH.GEMMA2: 46, gguf.MODEL_ARCH.GEMMA3: 62}
"""Layers of Gemma's 27B, which divides scores by sqrt(hidden size / heads), as llama.cpp has built in."""
TANH = (gguf.MODEL_ARCH.GEMMA, *PERIODS)
"""Architectures whose activation is GELU in its tanh form; all others have SiLU."""


def architecture_of(arch: Architecture, where: str) -> gguf.MODEL_ARCH:
    """Raises ModelError where llama.cpp has no such architecture, or not with this activation."""
    family = arch.spec.family
    if family not in ARCHITECTURES:
        values = {"known": ", ".join(ARCHITECTURES)}
        raise ModelError(Problem("gguf.unknown_family", where, "model_type", family, values))
    kind = ARCHITECTURES[family]
    acts = {layer.ffn.act for layer in arch.spec.layers} - {"gelu_tanh" if kind in TANH else "silu"}
    if acts:
        raise ModelError(Problem("gguf.activation", where, "hidden_act", ", ".join(sorted(acts))))
    problems = [Problem("gguf.built_in", where, field, value) for field, value in _other(arch.spec, kind)]
    if problems:
        raise ModelError(problems)
    return kind


def _other(spec: DecoderSpec, kind: gguf.MODEL_ARCH) -> Iterator[tuple[str, str]]:
    """Fields and values that llama.cpp has built in otherwise."""
    mixer, windows = spec.layers[0].mixer, [layer.mixer.window for layer in spec.layers]
    if kind in PERIODS:
        slides = [(index + 1) % PERIODS[kind] != 0 for index in range(len(windows))]
        if slides != [window is not None for window in windows]:
            yield "layer_types", ", ".join("full" if window is None else "sliding" for window in windows)
        width = spec.d // mixer.heads if len(windows) == LARGEST[kind] else mixer.head_dim
        if mixer.scale is not None and not math.isclose(mixer.scale, width**-0.5, rel_tol=1e-6):
            yield "query_pre_attn_scalar", f"{mixer.scale**-2:g}"
    if kind == gguf.MODEL_ARCH.GEMMA2 and mixer.softcap is None:
        yield "attn_logit_softcapping", "null"
    if kind == gguf.MODEL_ARCH.GEMMA2 and spec.logit_softcap is None:
        yield "final_logit_softcapping", "null"
    if kind in TANH and not spec.tied:
        yield "tie_word_embeddings", "false"


def tensor_names(arch: Architecture, kind: gguf.MODEL_ARCH, where: str) -> dict[str, str]:
    """Checkpoint name -> GGUF name, of every tensor.

    Raises:
        ModelError: llama.cpp has no place for one.
    """
    names = gguf.get_tensor_name_map(kind, len(arch.spec.layers))
    found = {name: names.get_name(name, try_suffixes=(".weight", ".bias")) for name in arch.tensors}
    missing = [name for name, there in found.items() if there is None]
    if missing:
        raise ModelError(Problem("gguf.unknown_tensor", where, value=missing[0]))
    return {name: str(there) for name, there in found.items()}


def tensor_types(
    arch: Architecture, kind: gguf.MODEL_ARCH, wanted: str, tensors: Sequence[tuple[str, tuple[int, ...]]]
) -> dict[str, str]:
    """The type of each tensor of a file of type `wanted`; see `recipe.tensor_types`."""
    mixer = arch.spec.layers[0].mixer
    name = gguf.MODEL_ARCH_NAMES[kind]
    return recipe.tensor_types(name, wanted, tensors, heads=mixer.heads, kv_heads=mixer.kv_heads)


def add_numbers(writer: gguf.GGUFWriter, spec: DecoderSpec, vocab: int) -> None:
    """Write the model's shape. Where llama.cpp knows of no window, a context that is no longer than it is the same."""
    layer = spec.layers[0]
    windows = [each.mixer.window for each in spec.layers if each.mixer.window is not None]
    writer.add_vocab_size(vocab)
    slides = ARCHITECTURES[spec.family] in PERIODS
    writer.add_context_length(spec.max_positions if slides else min([spec.max_positions, *windows]))
    if slides and windows:
        writer.add_sliding_window(windows[0])
    writer.add_embedding_length(spec.d)
    writer.add_block_count(len(spec.layers))
    writer.add_feed_forward_length(layer.ffn.width)
    writer.add_head_count(layer.mixer.heads)
    writer.add_head_count_kv(layer.mixer.kv_heads)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_key_length(layer.mixer.head_dim)
    writer.add_value_length(layer.mixer.head_dim)
    if layer.mixer.softcap is not None:
        writer.add_attn_logit_softcapping(layer.mixer.softcap)
    if spec.logit_softcap is not None:
        writer.add_final_logit_softcapping(spec.logit_softcap)
    if spec.family == "granite":
        writer.add_attention_scale(layer.mixer.scale or layer.mixer.head_dim**-0.5)
        writer.add_embedding_scale(spec.embed_scale)
        writer.add_residual_scale(layer.residual)
        writer.add_logit_scale(1 / spec.logit_scale)


def add_rope(writer: gguf.GGUFWriter, spec: DecoderSpec, where: str) -> dict[str, NDArray[np.float32]]:
    """Write the rotary embedding; the tensors that go with it.

    Raises:
        ModelError: a scaling that is not known here.
    """
    ropes = {layer.mixer.window is None: layer.mixer.rope for layer in spec.layers}
    rope, local = ropes.get(True), ropes.get(False)
    rope = local if rope is None else rope
    assert rope is not None
    scaling = dict(rope.scaling)
    if local is not None and ARCHITECTURES[spec.family] == gguf.MODEL_ARCH.GEMMA3:
        if local.kind != "default":
            raise ModelError(Problem("gguf.rope", where, "rope_parameters.sliding_attention", local.kind))
        writer.add_rope_freq_base_swa(local.theta)
    writer.add_rope_freq_base(rope.theta)
    writer.add_rope_dimension_count(rope.dim)
    if rope.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    elif rope.kind == "yarn":
        for key, value in _yarn_fixed(scaling["factor"]).items():
            if not math.isclose(scaling[key], value, rel_tol=1e-6):
                raise ModelError(Problem("gguf.rope", where, f"rope_scaling.{key}", f"{scaling[key]:g}"))
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(int(scaling["original_max_position_embeddings"]))
    elif rope.kind == "llama3":
        return {"rope_freqs.weight": _llama3(rope)}
    elif rope.kind != "default":
        raise ModelError(Problem("gguf.rope", where, "rope_scaling", rope.kind))
    return {}


def _yarn_fixed(factor: float) -> dict[str, float]:
    """YaRN's numbers that llama.cpp has built in."""
    warmth = 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1.0
    return {"beta_fast": 32, "beta_slow": 1, "truncate": 1, "attention_factor": warmth}


def _llama3(rope: Rope) -> NDArray[np.float32]:
    """What each frequency is divided by (Llama 3.1): 1 for short waves, `factor` for long ones, a blend between."""
    scaling = dict(rope.scaling)
    frequency = 1.0 / (rope.theta ** (np.arange(0, rope.dim, 2, dtype=np.float64) / rope.dim))
    wave, trained = 2 * math.pi / frequency, scaling["original_max_position_embeddings"]
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    smooth = (trained / wave - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    kept = np.where(wave < trained / high, 1.0, np.where(wave > trained / low, factor, between))
    return np.asarray(kept, dtype=np.float32)
