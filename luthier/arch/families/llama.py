"""Llama 1 to 3.x and what uses its class: Yi, SmolLM, SmolLM2, TinyLlama and many more.

What goes in: the `config.json` of a `LlamaForCausalLM`. What comes out: its `Architecture`. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.arch.families import gated
from luthier.arch.families.fields import Fields
from luthier.arch.spec import Architecture

DEFAULT_POSITIONS = 2048
"""What transformers means by an absent `max_position_embeddings`: the context of the first Llama."""


def architecture(config: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """Raises ModelError naming every field that cannot be used."""
    fields = Fields(config, where)
    bias = fields.flag("attention_bias")
    return gated.architecture(
        fields,
        "llama",
        gated.Differences(
            default_positions=DEFAULT_POSITIONS, qkv_bias=bias, o_bias=bias, mlp_bias=fields.flag("mlp_bias")
        ),
    )
