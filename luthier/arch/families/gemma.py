"""Gemma 1, 2 and 3 (text): Llama's layout with scaled embeddings and norms that multiply by 1 + weight.

Gemma 2 norms what comes out of attention and MLP as well, caps scores and logits, and lets every other layer slide.
Gemma 3 norms queries and keys in place of the caps; of six layers five slide, with a rotary embedding of their own.

What goes in: the `config.json` of a `GemmaForCausalLM`, `Gemma2ForCausalLM` or `Gemma3ForCausalLM`. What comes out: its
`Architecture`. Torch-free.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from luthier.arch.families import gated
from luthier.arch.families.fields import Fields
from luthier.arch.families.gated import Differences
from luthier.arch.families.qwen2 import listed_windows
from luthier.arch.families.rotary import rope
from luthier.arch.spec import Architecture, Norms, Rope

DEFAULT_HEAD_DIM = 256
DEFAULT_POSITIONS, DEFAULT_POSITIONS_3 = 8192, 131072
DEFAULT_KV_HEADS, DEFAULT_KV_HEADS_1 = 4, 16
DEFAULT_WINDOW = 4096
DEFAULT_SCALAR = 256.0
DEFAULT_ATTENTION_CAP, DEFAULT_LOGIT_CAP = 50.0, 30.0
DEFAULT_PERIOD = 6
GLOBAL_THETA, LOCAL_THETA = 1e6, 1e4
"""What transformers means by an absent field."""

NORMS = Norms("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


def gemma(config: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """Raises ModelError naming every field that cannot be used. `hidden_act: gelu`, as the first files have it, has
    always meant the tanh form."""
    fields = Fields(config, where)
    made = _common(fields)
    act = made.act if config.get("hidden_act") in (None, "gelu") else gated.activation(fields)
    made = dataclasses.replace(made, default_positions=DEFAULT_POSITIONS, default_kv_heads=DEFAULT_KV_HEADS_1, act=act)
    return gated.architecture(fields, "gemma", made)


def gemma2(config: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """Raises ModelError naming every field that cannot be used. `..._softcapping: null` is no cap."""
    fields = Fields(config, where)
    made = _common(fields)
    made = dataclasses.replace(
        made,
        **_later(fields, period=2),
        softcap=_cap(fields, "attn_logit_softcapping", DEFAULT_ATTENTION_CAP),
        model={**made.model, "logit_softcap": _cap(fields, "final_logit_softcapping", DEFAULT_LOGIT_CAP)},
    )
    return gated.architecture(fields, "gemma2", made)


def gemma3(config: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """Raises ModelError naming every field that cannot be used."""
    fields = Fields(config, where)
    if fields.has("attn_logit_softcapping"):
        fields.refuse("models.no_such_cap", "attn_logit_softcapping")
    made = _common(fields)
    later = _later(fields, period=fields.integer("sliding_window_pattern", DEFAULT_PERIOD))
    positions = fields.integer("max_position_embeddings", DEFAULT_POSITIONS_3)
    made = dataclasses.replace(
        made,
        **{**later, "default_positions": DEFAULT_POSITIONS_3},
        qk_norm="head",
        ropes=_ropes(fields, later["windows"], positions),
        model={**made.model, "logit_softcap": _cap(fields, "final_logit_softcapping", None)},
    )
    return gated.architecture(fields, "gemma3_text", made)


def _common(fields: Fields) -> Differences:
    """Of all three."""
    if fields.flag("use_bidirectional_attention"):
        fields.refuse("models.bidirectional", "use_bidirectional_attention")
    bias, width = fields.flag("attention_bias"), fields.integer("hidden_size")
    return Differences(
        default_positions=DEFAULT_POSITIONS,
        qkv_bias=bias,
        o_bias=bias,
        act="gelu_tanh",
        model={"embed_scale": math.sqrt(width), "norm_plus_one": True},
        default_kv_heads=DEFAULT_KV_HEADS,
        default_head_dim=DEFAULT_HEAD_DIM,
        default_tied=True,
    )


def _later(fields: Fields, period: int) -> dict[str, Any]:
    """What Gemma 2 and 3 share: four norms, a scale of their own, and one layer in `period` that does not slide."""
    count, window = gated.num_layers(fields), fields.integer("sliding_window", DEFAULT_WINDOW)
    slides = tuple(window if (index + 1) % period else None for index in range(count))
    return {
        "norms": NORMS,
        "scale": fields.number("query_pre_attn_scalar", DEFAULT_SCALAR) ** -0.5,
        "windows": listed_windows(fields, window, slides),
        "act": gated.activation(fields, "hidden_activation") if fields.has("hidden_activation") else "gelu_tanh",
    }


def _cap(fields: Fields, name: str, default: float | None) -> float | None:
    if name not in fields.config:
        return default
    return fields.number(name) if fields.has(name) else None


def _ropes(fields: Fields, windows: tuple[int | None, ...], positions: int) -> tuple[Rope, ...]:
    """transformers 4 wrote `rope_theta`, `rope_scaling` and `rope_local_base_freq`; transformers 5 writes one object
    for each kind of layer."""
    head_dim = fields.integer("head_dim", DEFAULT_HEAD_DIM)
    both = fields.config.get("rope_parameters")
    if isinstance(both, Mapping) and ("full_attention" in both or "sliding_attention" in both):
        of_all, of_sliding = both.get("full_attention") or {}, both.get("sliding_attention") or {}
    else:
        of_all, of_sliding = fields.config.get("rope_scaling") or {}, {}
    whole = {"rope_theta": fields.number("rope_theta", GLOBAL_THETA), **dict(of_all)}
    local = {"rope_theta": fields.number("rope_local_base_freq", LOCAL_THETA), **dict(of_sliding)}
    full, sliding = (
        rope(Fields({"rope_parameters": each}, fields.where, fields.prefix, fields.problems), head_dim, positions)
        for each in (whole, local)
    )
    return tuple(full if window is None else sliding for window in windows)
