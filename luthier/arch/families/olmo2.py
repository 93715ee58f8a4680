"""OLMo 2: Llama's parts, with norms behind attention and MLP instead of in front, and on all queries and keys together.

What goes in: the `config.json` of an `Olmo2ForCausalLM`. What comes out: its `Architecture`. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.arch.families import gated
from luthier.arch.families.fields import Fields
from luthier.arch.spec import Architecture, Norms

DEFAULT_POSITIONS = 2048
DEFAULT_EPS = 1e-5
"""What transformers means by an absent field."""
NORMS = Norms(None, "post_attention_layernorm", None, "post_feedforward_layernorm")


def architecture(config: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """Raises ModelError naming every field that cannot be used."""
    fields = Fields(config, where)
    bias = fields.flag("attention_bias")
    return gated.architecture(
        fields,
        "olmo2",
        gated.Differences(
            default_positions=DEFAULT_POSITIONS,
            qkv_bias=bias,
            o_bias=bias,
            qk_norm="whole",
            norms=NORMS,
            default_eps=DEFAULT_EPS,
        ),
    )
