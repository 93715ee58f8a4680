"""Phi-3 and Phi-4: Llama's layout with q, k and v in one module, and gate and up.

What goes in: the `config.json` of a `Phi3ForCausalLM`. What comes out: its `Architecture`. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.arch.families import gated
from luthier.arch.families.fields import Fields
from luthier.arch.spec import Architecture

DEFAULT_POSITIONS = 4096
DEFAULT_EPS = 1e-5
"""What transformers means by an absent field."""


def architecture(config: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """Raises ModelError naming every field that cannot be used: releases for long texts have a rotary embedding that
    depends on the length of the text."""
    fields = Fields(config, where)
    window = fields.integer("sliding_window") if fields.has("sliding_window") else None
    return gated.architecture(
        fields,
        "phi3",
        gated.Differences(default_positions=DEFAULT_POSITIONS, windows=window, fused=True, default_eps=DEFAULT_EPS),
    )
