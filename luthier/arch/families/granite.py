"""Granite 3: Llama's layout with factors on embeddings, scores, branches and logits.

What goes in: the `config.json` of a `GraniteForCausalLM`. What comes out: its `Architecture`. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.arch.families import gated
from luthier.arch.families.fields import Fields
from luthier.arch.spec import Architecture

DEFAULT_POSITIONS = 2048
"""What transformers means by an absent field."""


def architecture(config: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """Raises ModelError naming every field that cannot be used."""
    fields = Fields(config, where)
    bias = fields.flag("attention_bias")
    return gated.architecture(
        fields,
        "granite",
        gated.Differences(
            default_positions=DEFAULT_POSITIONS,
            qkv_bias=bias,
            o_bias=bias,
            mlp_bias=fields.flag("mlp_bias"),
            residual=fields.number("residual_multiplier", 1.0),
            scale=fields.number("attention_multiplier", 1.0),
            model={
                "embed_scale": fields.number("embedding_multiplier", 1.0),
                "logit_scale": 1 / fields.number("logits_scaling", 1.0),
            },
        ),
    )
