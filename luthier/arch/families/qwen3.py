"""Qwen3 (dense): Llama's layout with a norm on each query and key head, and a head size of its own.

What goes in: the `config.json` of a `Qwen3ForCausalLM`. What comes out: its `Architecture`. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.arch.families import gated
from luthier.arch.families.fields import Fields
from luthier.arch.families.qwen2 import DEFAULT_KV_HEADS, DEFAULT_POSITIONS, layer_windows
from luthier.arch.spec import Architecture

DEFAULT_HEAD_DIM = 128
"""What transformers means by an absent field."""


def architecture(config: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """Raises ModelError naming every field that cannot be used."""
    fields = Fields(config, where)
    bias = fields.flag("attention_bias")
    return gated.architecture(
        fields,
        "qwen3",
        gated.Differences(
            default_positions=DEFAULT_POSITIONS,
            qkv_bias=bias,
            o_bias=bias,
            qk_norm="head",
            windows=layer_windows(fields),
            default_kv_heads=DEFAULT_KV_HEADS,
            default_head_dim=DEFAULT_HEAD_DIM,
        ),
    )
