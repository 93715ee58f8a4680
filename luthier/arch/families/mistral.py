"""Mistral 7B and relatives: Llama's layout with grouped heads and, in the first release, a sliding window.

What goes in: the `config.json` of a `MistralForCausalLM`. What comes out: its `Architecture`. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.arch.families import gated
from luthier.arch.families.fields import Fields
from luthier.arch.spec import Architecture

DEFAULT_WINDOW = 4096
DEFAULT_KV_HEADS = 8
DEFAULT_POSITIONS = 4096 * 32
"""What transformers means by an absent field; the released files name all three."""


def architecture(config: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """Raises ModelError naming every field that cannot be used. `sliding_window: null` is no window."""
    fields = Fields(config, where)
    windowed = fields.has("sliding_window") or "sliding_window" not in config
    window = fields.integer("sliding_window", DEFAULT_WINDOW) if windowed else None
    return gated.architecture(
        fields,
        "mistral",
        gated.Differences(default_positions=DEFAULT_POSITIONS, windows=window, default_kv_heads=DEFAULT_KV_HEADS),
    )
